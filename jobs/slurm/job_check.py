"""Ask sbatch about a job without submitting it (``sbatch --test-only``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.slurm.client import Client


@dataclass(frozen=True)
class JobCheck:
    """sbatch's answer about a job."""

    accepted: bool
    lines: tuple[str, ...]
    """Its output without empty lines."""


def check_job(client: Client, options: Sequence[str]) -> JobCheck | None:
    """Return sbatch's answer about a job; None when sbatch is missing or does not answer."""
    result = client.run(["sbatch", "--test-only", *options, "--wrap=true"])
    if result is None:
        return None
    output = result.stdout + result.stderr
    lines = tuple(line.strip() for line in output.splitlines() if line.strip())
    return JobCheck(result.returncode == 0, lines)
