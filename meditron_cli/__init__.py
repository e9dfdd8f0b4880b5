"""meditron: the login node's side."""

__version__ = "0.1.0"
