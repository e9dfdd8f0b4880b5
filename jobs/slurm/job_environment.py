"""Environment variables of submitted jobs and of Slurm's commands.

The same on a login node and inside a job; the local scheduler uses it too.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "SLURM_CONF")
"""Variables of the submitting process that every job needs."""
MODULE_PREFIXES = ("LMOD_", "MODULE", "BASH_ENV", "BASH_FUNC_module", "BASH_FUNC_ml", "__LMOD")
"""Variables that the ``module`` command needs in a batch shell."""
OUTER_PREFIXES = (
    "SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SALLOC_", "SUBMITIT_", "PMI_", "PMIX_", "OMPI_",
)  # fmt: skip
OUTER_NAMES = frozenset(
    {
        "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
        "MEDITRON_ATTEMPT",
    }
)  # fmt: skip
"""Of a surrounding job: each would change the job that is submitted from inside it."""
COMMAND_PREFIXES = ("SLURM_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_")
"""Settings of a person or of a surrounding job that change the output of Slurm's commands."""


def job_environment(allowed: Collection[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a job: a few variables that every program needs, the module
    system's, and the profile's allow-list.

    Everything else is dropped, above all the variables of a surrounding job.
    """
    names = {*KEPT, *allowed}
    return {
        name: value
        for name, value in environ.items()
        if (name in names or name.startswith(MODULE_PREFIXES)) and not is_outer(name)
    }


def is_outer(name: str) -> bool:
    """Return whether a variable belongs to a surrounding job; SLURM_CONF names the cluster."""
    return name != "SLURM_CONF" and (name in OUTER_NAMES or name.startswith(OUTER_PREFIXES))


def without_code(environ: Mapping[str, str], code: Path) -> dict[str, str]:
    """Return the environment without the run's own code on PYTHONPATH.

    Every batch script prepends it; it would pile up from job to job.
    """
    kept = dict(environ)
    others = [part for part in kept.pop("PYTHONPATH", "").split(os.pathsep) if part != str(code)]
    if any(others):
        kept["PYTHONPATH"] = os.pathsep.join(others)
    return kept


def command_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of Slurm's commands: without variables that change their output."""
    return {
        name: value
        for name, value in environ.items()
        if name == "SLURM_CONF" or not name.startswith(COMMAND_PREFIXES)
    }


@contextmanager
def only_environment(environ: Mapping[str, str]) -> Iterator[None]:
    """Run a block with exactly these environment variables; submitit passes ours to sbatch."""
    saved = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)
