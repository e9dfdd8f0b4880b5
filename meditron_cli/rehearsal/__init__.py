"""Rehearse a run in miniature on this machine's CPUs."""
