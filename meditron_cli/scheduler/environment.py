"""What a job inherits of the shell that submits it, the same on Slurm and on this machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping

KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "SLURM_CONF")
"""Variables of the submitting shell that every job needs."""
MODULE_PREFIXES = ("LMOD_", "MODULE", "BASH_ENV", "BASH_FUNC_module", "BASH_FUNC_ml", "__LMOD")
"""What the ``module`` command needs in a batch shell."""


def job_environment(allowed: Collection[str], environ: Mapping[str, str]) -> dict[str, str]:
    """A few variables every program needs, the module system's, and the profile's allow-list.

    Everything else stays behind, above all an outer job's SLURM_*, PMI_* and MASTER_*.
    """
    names = {*KEPT, *allowed}
    return {
        name: value
        for name, value in environ.items()
        if name in names or name.startswith(MODULE_PREFIXES)
    }
