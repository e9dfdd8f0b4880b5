"""``meditron drill``: a tiny training that is hit on purpose, beside one that is left alone."""
