"""Cost of the interruptions of a run: steps redone, time to detect, time to resume. Pure."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meditron_cli.reporting import goodput
from meditron_cli.reporting.attempts import Attempt
from meditron_cli.reporting.goodput import STEPS, Work

ANNOUNCED = ("preempted", "time_limit", "stopped", "cancelled")
"""Root causes that need no detection: the ranks are requested to exit."""


@dataclass(frozen=True)
class Interruption:
    """An attempt that ended before its task was done."""

    attempt: Attempt
    step: int | None
    """The last step; None without steps."""
    steps_redone: int | None
    """Its steps that were lost; None for stages without steps."""
    detect_s: float | None
    """Seconds from the last heartbeat to the detection; None where unknown or announced."""
    resume_s: float | None
    """Seconds from the failure to the first new step; None before that."""

    def to_json(self) -> dict[str, Any]:
        """Return the interruption as ``--json`` prints it."""
        attempt = self.attempt
        names = ("stage", "job_id", "node", "cause", "action", "ended")
        return {
            **{name: getattr(attempt, name) for name in names},
            "task": attempt.index,
            "attempt": attempt.number,
            "reason": attempt.sentence,
            "step": self.step,
            "steps_redone": self.steps_redone,
            "detect_s": self.detect_s,
            "resume_s": self.resume_s,
        }


def find(
    attempts: Iterable[Attempt], work: Mapping[tuple[str, int], Sequence[Work]]
) -> list[Interruption]:
    """Return the attempts that ended early, with their cost.

    Args:
        attempts: of all stages; with their corrected ends (``goodput.with_ends``).
        work: of each training, by stage and index; other tasks have no steps.
    """
    interrupted = [attempt for attempt in attempts if attempt.interrupted]
    trainings = {task: TrainingSteps.of(items) for task, items in work.items()}
    return [
        cost_of(attempt, trainings.get((attempt.stage, attempt.index))) for attempt in interrupted
    ]


@dataclass(frozen=True)
class TrainingSteps:
    """Steps of one training by the number of the attempt, from its metric lines."""

    last: Mapping[int, int]
    """Last steps."""
    signs: Mapping[int, float]
    """Times of the last metric lines."""
    lost: Counter[int]
    """Numbers of steps that were redone."""
    new: list[tuple[int, float]]
    """As ``first_new_steps`` returns them."""

    @classmethod
    def of(cls, work: Sequence[Work]) -> TrainingSteps:
        """Collect them."""
        steps = [item for item in work if item.bucket in STEPS]
        lost = Counter(item.attempt for item in steps if item.bucket == "redone")
        last, signs = goodput.last_steps(steps), goodput.last_signs(work)
        return cls(last, signs, lost, first_new_steps(steps))


def cost_of(attempt: Attempt, training: TrainingSteps | None) -> Interruption:
    """Return the cost of an attempt that ended early; ``training`` is None for other stages."""
    number = attempt.number
    detected = detected_after(attempt, training.signs.get(number) if training else None)
    if training is None:
        return Interruption(attempt, None, None, detected, None)
    return Interruption(
        attempt,
        step=training.last.get(number, attempt.end.last_step if attempt.end else None),
        steps_redone=training.lost[number],
        detect_s=detected,
        resume_s=resumed_after(attempt, detected, training.new),
    )


def detected_after(attempt: Attempt, sign: float | None) -> float | None:
    """Return the seconds from the last heartbeat to the end of an attempt.

    Recorded, or else from its last metric line, which is an upper bound. None where that line is
    all that is known of the end.
    """
    recorded = attempt.end.detect_s if attempt.end else None
    if recorded is not None or sign is None or attempt.cause in ANNOUNCED:
        return recorded
    return max(0.0, (attempt.ended or 0.0) - sign) or None


def first_new_steps(steps: Iterable[Work]) -> list[tuple[int, float]]:
    """Return attempt numbers and times of the first step beyond all earlier ones, by number."""
    highest = 0
    first: dict[int, float] = {}
    for item in steps:
        if item.step > highest:
            highest = item.step
            first.setdefault(item.attempt, item.ended)
    return sorted(first.items())


def resumed_after(
    attempt: Attempt, detected: float | None, new_steps: Sequence[tuple[int, float]]
) -> float | None:
    """Return the seconds from a failure to the first new step after it."""
    failed = (attempt.ended or 0.0) - (detected or 0.0)
    place = bisect.bisect(new_steps, (attempt.number, math.inf))
    return max(0.0, new_steps[place][1] - failed) if place < len(new_steps) else None
