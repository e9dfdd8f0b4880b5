"""Units of measure. Standard library only."""

GIB = 2**30
"""Bytes. Every size named ``_gb`` is in this unit."""
