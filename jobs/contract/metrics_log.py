"""How long before its time limit a job must be asked to save, from how long saves and steps take.
Standard library only: the login node plans with it, a node measures with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jobs.contract import rundir
from jobs.contract.files import read_lines

SAVE_FACTOR = 1.5
"""Factor on the slow saves, because shared storage varies (a guess)."""
EARLY_SECONDS = 60
"""Slurm may send the signal up to this much early (sbatch(1), ``--signal``)."""
MARGIN_SECONDS = 30
"""For the ranks to exit and the supervisor to record it (a guess)."""
SLOW = 0.95
"""The quantile of save and step times that counts."""
NEWEST_SAVES = 20
NEWEST_STEPS = 200
"""How many of the newest count: storage and layout may have changed."""


@dataclass(frozen=True)
class StepTimes:
    """Times of a training's saves and steps in seconds: the 95th percentile of each."""

    save_seconds: float
    step_seconds: float | None
    """None where it is not known."""

    @property
    def lead_seconds(self) -> int:
        """Return the signal lead time: a save, a step, and the margins."""
        return math.ceil(self.leave_seconds + EARLY_SECONDS + MARGIN_SECONDS)

    @property
    def leave_seconds(self) -> float:
        """From a stop request to the end of the save it leads to: the step that is going on ends
        first.
        """
        return SAVE_FACTOR * self.save_seconds + (self.step_seconds or 0.0)


def measured_step_times(run: rundir.RunDir, stage: str) -> StepTimes | None:
    """Return the step times of a run's training; None before its first save and its first step."""
    return step_times(read_lines(run.metrics(stage)))


def step_times(lines: Iterable[Mapping[str, Any]]) -> StepTimes | None:
    """The pace that metric lines tell, oldest first: ``save`` and ``seconds`` hold the times."""
    saves: list[float] = []
    steps: list[float] = []
    for line in lines:
        if "save" in line:
            saves.append(float(line["save"]))
        elif "seconds" in line:
            steps.append(float(line["seconds"]))
    if not saves or not steps:
        return None
    newest = quantile(saves[-NEWEST_SAVES:], SLOW), quantile(steps[-NEWEST_STEPS:], SLOW)
    return StepTimes(*newest)


def quantile(values: Iterable[float], share: float) -> float:
    """The least value that a share of all do not exceed (nearest rank); of a few, the largest."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


Line = dict[str, Any]


class CountedSteps(NamedTuple):
    """The steps that the newest attempt builds on, each once."""

    trained: list[Line]
    """Lines with a training loss, by step."""
    validated: list[Line]
    """Lines with a validation loss, by step."""


def counted_steps(lines: Iterable[Line]) -> CountedSteps:
    """Leave out what was done again, or undone by going back to an older checkpoint.

    A training step that does not follow the ones before it shows that an attempt went back to the
    checkpoint before that step: nothing told earlier about this step and later ones counts.

    Args:
        lines: of ``metrics.jsonl``, oldest first.
    """
    trained: dict[int, Line] = {}
    validated: dict[int, Line] = {}
    for line in lines:
        if "validation_loss" in line:
            validated[line["step"]] = line
        elif "loss" in line:
            if trained and line["step"] <= next(reversed(trained)):
                trained = _before(trained, line["step"])
                validated = _before(validated, line["step"])
            trained[line["step"]] = line
    return CountedSteps(list(trained.values()), [validated[step] for step in sorted(validated)])


def _before(lines: dict[int, Line], step: int) -> dict[int, Line]:
    return {number: line for number, line in lines.items() if number < step}
