"""Verification: the logits of a Hugging Face folder beside those of our checkpoint."""
