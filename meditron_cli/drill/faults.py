"""What a drill can do to a training, and what it then expects. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.contract.outcomes import RootCause
from meditron_cli.errors import ConfigError


@dataclass(frozen=True)
class Fault:
    """Something that befalls a training."""

    name: str
    does: str
    """For people, before it is done."""
    causes: tuple[RootCause, ...]
    """As which the attempt's exit record may name it."""
    needs_slurm: bool = False
    steps: int = 100
    """That training needs for it: two checkpoints before, and what passes until it strikes. Guess.
    """


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(
            "preempt",
            "have Slurm queue the job again, as a preemption does, but with no grace time to save",
            (RootCause.PREEMPTED,),
            needs_slurm=True,
        ),
        Fault(
            "time-limit",
            "lower the running job's time limit, so that it comes to it",
            (RootCause.TIME_LIMIT,),
            needs_slurm=True,
            steps=450,  # Slurm looks at limits every half a minute
        ),
        Fault("kill-rank", "kill the last rank", (RootCause.CRASH,)),
        Fault("freeze-rank", "stop the last rank without ending it", (RootCause.HANG,)),
        Fault(
            "damage-checkpoint",
            "cut a file of the newest checkpoint in half, then kill the last rank",
            (RootCause.CRASH,),
        ),
    )
}


def choose(text: str, scheduler: str) -> tuple[Fault, ...]:
    """The faults of a comma-separated list, in its order; of an empty one all that the scheduler
    has.

    Raises:
        ConfigError: no such fault, or one that this scheduler does not have.
    """
    if not text:
        return tuple(f for f in FAULTS.values() if scheduler == "slurm" or not f.needs_slurm)
    found = []
    for name in text.split(","):
        fault = FAULTS.get(name.strip())
        if fault is None:
            raise ConfigError(f"no fault is called {name!r}", hint=f"there are {', '.join(FAULTS)}")
        if fault.needs_slurm and scheduler != "slurm":
            raise ConfigError(
                f"{fault.name} needs Slurm, and this cluster's scheduler is local",
                hint="leave it out of --faults, or name a cluster with Slurm",
            )
        found.append(fault)
    return tuple(found)
