"""The scheduler's job that a process belongs to. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

LOCAL_JOB = "MEDITRON_LOCAL_JOB"
"""Variable that names the local scheduler's process (``local:<host>:<pid>:<start>``)."""


@dataclass(frozen=True)
class Job:
    """The scheduler's job that this process belongs to."""

    job_id: str
    """``ARRAY_INDEX`` for an array task, as Slurm's tools show it; empty outside any job."""
    restarts: int = 0
    """The number of requeues so far."""
    nodes: tuple[str, ...] = ()

    @staticmethod
    def current(environ: Mapping[str, str], nodes: tuple[str, ...] = ()) -> Job:
        """Return the job named in the environment (sbatch(1), OUTPUT ENVIRONMENT VARIABLES).

        The id of a local job is the name of its scheduler's process.
        """
        array, element = (environ.get(f"SLURM_ARRAY_{part}_ID", "") for part in ("JOB", "TASK"))
        name = f"{array}_{element}" if array and element else environ.get("SLURM_JOB_ID", "")
        restarts = int(environ.get("SLURM_RESTART_COUNT") or 0)
        return Job(name or environ.get(LOCAL_JOB, ""), restarts, nodes or (node_name(environ),))


def node_name(environ: Mapping[str, str]) -> str:
    """Return this node's name in Slurm, else its host name."""
    return environ.get("SLURMD_NODENAME") or os.uname().nodename


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0))
