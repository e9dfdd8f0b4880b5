"""Profiles of training steps on selected ranks."""
