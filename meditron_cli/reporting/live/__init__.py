"""The live view of ``status --watch``: readers of files and schedulers, pages, and the terminal."""
