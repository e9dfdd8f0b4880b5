"""What is said to Slurm for a run, from the login node and from inside its jobs.

Standard library, and submitit inside the one function that submits.
"""
