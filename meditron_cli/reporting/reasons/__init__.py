"""Reasons for which a run does not continue, and what its user can do."""
