"""Verification: what a Hugging Face folder computes beside what our checkpoint computes."""
