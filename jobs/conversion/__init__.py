"""Conversion of weights between Hugging Face folders and our checkpoints."""
