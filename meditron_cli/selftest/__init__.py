"""Confirm or refute on a cluster's nodes what is claimed of training."""
