"""The faults that a drill can inject, and the root causes it expects. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.contract.outcomes import RootCause
from meditron_cli.errors import ConfigError


@dataclass(frozen=True)
class Fault:
    """A fault to inject into a training."""

    name: str
    description: str
    """A sentence for the user, printed before the injection."""
    causes: tuple[RootCause, ...]
    """The root causes that the attempt's exit record may have."""
    needs_slurm: bool = False
    steps: int = 100
    """Training steps that it needs: two checkpoints before, and its delay. Guessed."""


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(
            "preempt",
            "requeue the job, as a preemption does, without a grace period to save",
            (RootCause.PREEMPTED,),
            needs_slurm=True,
        ),
        Fault(
            "time-limit",
            "lower the running job's time limit, so that it expires",
            (RootCause.TIME_LIMIT,),
            needs_slurm=True,
            steps=450,  # Slurm checks limits every half a minute
        ),
        Fault("kill-rank", "kill the last rank", (RootCause.CRASH,)),
        Fault("freeze-rank", "freeze the last rank (SIGSTOP)", (RootCause.HANG,)),
        Fault(
            "damage-checkpoint",
            "truncate a file of the newest checkpoint, then kill the last rank",
            (RootCause.CRASH,),
        ),
    )
}


def choose(text: str, scheduler: str) -> tuple[Fault, ...]:
    """Parse a comma-separated list of faults; an empty one means all that the scheduler supports.

    Raises:
        ConfigError: no such fault, or one that this scheduler does not support.
    """
    if not text:
        return tuple(f for f in FAULTS.values() if scheduler == "slurm" or not f.needs_slurm)
    chosen = []
    for name in text.split(","):
        fault = FAULTS.get(name.strip())
        if fault is None:
            raise ConfigError(f"no fault is called {name!r}", hint=f"there are {', '.join(FAULTS)}")
        if fault.needs_slurm and scheduler != "slurm":
            raise ConfigError(
                f"{fault.name} needs Slurm, and this cluster's scheduler is local",
                hint="leave it out of --faults, or name a cluster with Slurm",
            )
        chosen.append(fault)
    return tuple(chosen)
