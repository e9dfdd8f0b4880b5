"""Profiles of training steps, read from the traces of ranks."""
