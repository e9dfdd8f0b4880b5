"""A library that is not installed, whatever this machine has."""

raise ModuleNotFoundError("No module named 'wandb'", name="wandb")
