"""Evaluate a drill: recovery from each fault, and equality of the two trainings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.contract.exit_record import ExitRecord
from jobs.contract.metrics_log import MetricLine, StepLine, counted_steps
from jobs.contract.outcomes import RootCause
from meditron_cli.drill.faults import Fault

TOLERANCE = {"cpu": 0.0, "cuda": 1e-3}
"""Largest difference of losses. On CPUs the order of additions is fixed; GPU kernels with atomic
additions have no fixed order (PyTorch documentation, Reproducibility).
"""


@dataclass(frozen=True)
class InjectedFault:
    """A fault that was injected."""

    fault: Fault
    attempt: int
    """The attempt into which it was injected."""
    step: int
    """The last step logged before."""
    time: float


@dataclass(frozen=True)
class FaultRow:
    """The recovery from one fault."""

    fault: str
    step: int | None
    cause: str
    """The root cause in the attempt's exit record."""
    detect_s: float | None
    """From the fault to the end of the attempt."""
    resume_s: float | None
    """From the end of the attempt to the first step of the next one."""
    redone: int | None
    """Steps trained again."""
    verdict: str
    """``held``, or the problem."""
    excluded: tuple[str, ...] = ()
    """The nodes that the next job excludes."""


@dataclass(frozen=True)
class Result:
    """The result of a drill."""

    rows: tuple[FaultRow, ...]
    steps: int
    """The number of steps compared."""
    first_difference: int | None
    """The first step whose loss or samples differ; None without a difference."""
    reached: bool
    """Whether the disturbed training reached its target."""
    is_exact: bool = True
    """Whether all losses are equal bit for bit."""

    @property
    def held(self) -> bool:
        """Return whether training recovered from every fault without a difference."""
        return (
            self.reached
            and self.first_difference is None
            and all(row.verdict == "held" for row in self.rows)
        )

    @property
    def sentence(self) -> str:
        """Return the result in one sentence."""
        if not self.reached:
            return "the disturbed run did not reach its target"
        if self.first_difference is not None:
            return f"the two trainings differ from step {self.first_difference}"
        how = "bit for bit" if self.is_exact else f"to within {TOLERANCE['cuda']:g}"
        same = f"the losses of all {self.steps} steps equal those of the undisturbed run, {how}"
        missed = [row.fault for row in self.rows if row.verdict != "held"]
        if missed:
            return f"{same}, but recovery was not as expected from: {', '.join(missed)}"
        return f"{same}, and every sample was used once, in order"

    def as_json(self) -> dict[str, Any]:
        """Return the result as ``drill --json`` prints it."""
        return {
            "held": self.held,
            "sentence": self.sentence,
            "reached": self.reached,
            "steps": self.steps,
            "bit_for_bit": self.is_exact,
            "first_difference": self.first_difference,
            "faults": [asdict(row) for row in self.rows],
        }


def row_of(
    injected: InjectedFault, exits: Mapping[int, ExitRecord], lines: Sequence[MetricLine]
) -> FaultRow:
    """Return the row of an injected fault.

    Args:
        exits: exit records of the disturbed training, by attempt.
        lines: all its metric lines, oldest first.
    """
    name, end = injected.fault.name, exits.get(injected.attempt)
    if end is None:
        return FaultRow(name, injected.step, "", None, None, None, "the attempt has no exit record")
    after = following(lines, injected.attempt)
    trained = (line for line in lines if isinstance(line, StepLine))
    last = max((line.step for line in trained if line.attempt <= injected.attempt), default=0)
    return FaultRow(
        fault=name,
        step=injected.step,
        cause=end.cause.value,
        detect_s=round(end.ended - injected.time, 1),
        resume_s=round(after[0].time - end.ended, 1) if after else None,
        redone=last - after[0].step + 1 if after else None,
        verdict=verdict(injected, end.cause, bool(after)),
        excluded=end.exclude,
    )


def verdict(injected: InjectedFault, cause: RootCause, resumed: bool) -> str:
    """Return ``held``, or the problem."""
    if not resumed:
        return "no attempt resumed after it"
    if cause in injected.fault.causes:
        return "held"
    expected = " or ".join(item.value for item in injected.fault.causes)
    return f"diagnosed as {cause.value}, not {expected}"


def not_injected(fault: Fault) -> FaultRow:
    """Return the row of a fault that was too late."""
    return FaultRow(fault.name, None, "", None, None, None, "the run ended before this fault")


def following(lines: Iterable[MetricLine], attempt: int) -> list[StepLine]:
    """Return the steps of the next attempt that trained one."""
    steps = (line for line in lines if isinstance(line, StepLine))
    later = [line for line in steps if line.attempt > attempt]
    return [line for line in later if line.attempt == later[0].attempt]


def difference(
    undisturbed: Iterable[MetricLine], disturbed: Iterable[MetricLine], tolerance: float = 0.0
) -> int | None:
    """Return the first step whose loss or samples differ between the trainings, or whose samples
    the undisturbed one had read before; None without one.

    Samples are compared by the fingerprints that the engine logs as it reads them.

    Args:
        tolerance: largest difference of losses; 0 requires equal bits.
    """
    want, have = (
        {line.step: line for line in counted_steps(lines).trained}
        for lines in (undisturbed, disturbed)
    )
    known: set[str] = set()
    for step in range(1, max([*want, *have], default=0) + 1):
        if step not in want or step not in have:
            return step
        samples = want[step].samples
        apart = abs(want[step].loss - have[step].loss)
        if apart > tolerance or samples in known or not is_of(have[step], samples):
            return step
        known.add(samples)
    return None


def is_of(line: StepLine, samples: str) -> bool:
    """Return whether a step logged this fingerprint of its samples."""
    return samples != "" and line.samples == samples
