"""Copies of a training's metrics in experiment trackers, made from the login node."""
