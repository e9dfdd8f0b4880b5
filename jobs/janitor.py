"""A small job behind each stage: goes on with tasks whose supervisor could not see to it itself."""

from __future__ import annotations


def run_janitor(run_dir: str, stage: str, attempt: str) -> None:
    """Wait until Slurm says how the stage's jobs ended, and go on with what is unfinished."""
