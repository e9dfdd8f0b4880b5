"""Why a run does not go on, and what its user can do."""
