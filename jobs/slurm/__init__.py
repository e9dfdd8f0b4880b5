"""Slurm's commands for a run, called from the login node and from inside its jobs.

Standard library, and submitit inside the one function that submits.
"""
