"""What a drill found: how each fault ended, and whether both trainings are the same. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.contract.metrics_log import counted_steps
from meditron_cli.drill.faults import Fault

Line = Mapping[str, Any]

TOLERANCE = {"cpu": 0.0, "cuda": 1e-3}
"""By which losses may differ. On CPUs the order of additions is fixed; kernels of GPUs add in an
order of their own (RESILIENCE, section 7, rule 10, allows as much)."""


@dataclass(frozen=True)
class InjectedFault:
    """A fault that was dealt."""

    fault: Fault
    attempt: int
    """The one that was hit."""
    step: int
    """Last one on record before."""
    time: float


@dataclass(frozen=True)
class FaultRow:
    """What became of one fault."""

    fault: str
    step: int | None
    cause: str
    """As the attempt's record names it."""
    detect_s: float | None
    """From the fault to the end of the attempt."""
    resume_s: float | None
    """From the end of the attempt to the first step of the next one."""
    redone: int | None
    """Steps trained once more."""
    verdict: str
    """``held``, or what did not."""


@dataclass(frozen=True)
class Result:
    """All of it."""

    rows: tuple[FaultRow, ...]
    steps: int
    """Compared."""
    different: int | None
    """The first step whose loss or samples differ; None where none does."""
    reached: bool
    is_exact: bool = True
    """Every loss is the same bit for bit, and not only close."""

    @property
    def held(self) -> bool:
        """Whether the run came through everything as if nothing had been."""
        return (
            self.reached
            and self.different is None
            and all(row.verdict == "held" for row in self.rows)
        )

    @property
    def sentence(self) -> str:
        """For people."""
        if not self.reached:
            return "the run that was hit did not reach its target"
        if self.different is not None:
            return f"from step {self.different} on the two trainings are not the same"
        how = "bit for bit" if self.is_exact else f"to within {TOLERANCE['cuda']:g}"
        same = f"the losses of all {self.steps} steps are those of the undisturbed run, {how}"
        missed = [row.fault for row in self.rows if row.verdict != "held"]
        if missed:
            return f"{same}, but not all went as it should: {', '.join(missed)}"
        return f"{same}, and every sample was used once, in order"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "held": self.held,
            "sentence": self.sentence,
            "reached": self.reached,
            "steps": self.steps,
            "bit_for_bit": self.is_exact,
            "first_difference": self.different,
            "faults": [asdict(row) for row in self.rows],
        }


def judge(blow: InjectedFault, exits: Mapping[int, Line], lines: Sequence[Line]) -> FaultRow:
    """What became of a fault.

    Args:
        exits: exit events of the run that was hit, by attempt.
        lines: all its metric lines, oldest first.
    """
    name, ended = blow.fault.name, exits.get(blow.attempt)
    if ended is None:
        return FaultRow(name, blow.step, "", None, None, None, "the attempt left no record")
    after = following(lines, blow.attempt)
    trained = (x["step"] for x in lines if "loss" in x and x["attempt"] <= blow.attempt)
    last = max(trained, default=0)
    return FaultRow(
        fault=name,
        step=blow.step,
        cause=str(ended["cause"]),
        detect_s=round(ended["ended"] - blow.time, 1),
        resume_s=round(after[0]["time"] - ended["ended"], 1) if after else None,
        redone=last - after[0]["step"] + 1 if after else None,
        verdict=verdict(blow, str(ended["cause"]), bool(after)),
    )


def verdict(blow: InjectedFault, cause: str, went_on: bool) -> str:
    """``held``, or what did not."""
    expected = [item.value for item in blow.fault.causes]
    if not went_on:
        return "nothing went on after it"
    return "held" if cause in expected else f"taken for {cause}, not {' or '.join(expected)}"


def not_dealt(fault: Fault) -> FaultRow:
    """The line of a fault that came too late."""
    return FaultRow(
        fault.name, None, "", None, None, None, "the run was over before it came to this"
    )


def following(lines: Iterable[Line], attempt: int) -> list[Line]:
    """The steps of the next attempt that made any."""
    later = [line for line in lines if "loss" in line and line["attempt"] > attempt]
    return [line for line in later if line["attempt"] == later[0]["attempt"]]


def difference(
    undisturbed: Iterable[Line], hit: Iterable[Line], tolerance: float = 0.0
) -> int | None:
    """The first step that both do not have with the same loss and from the same samples, or for
    which the undisturbed one read what it had read before; None where there is none.

    Samples are known by the fingerprints that the engine takes of them as it reads them.

    Args:
        tolerance: by which losses may differ; 0 wants the same bits.
    """
    want, have = (
        {line["step"]: line for line in counted_steps(map(dict, lines)).trained}
        for lines in (undisturbed, hit)
    )
    known: set[str] = set()
    for step in range(1, max([*want, *have], default=0) + 1):
        if step not in want or step not in have:
            return step
        samples = want[step].get("samples", "")
        apart = abs(want[step]["loss"] - have[step]["loss"])
        if apart > tolerance or samples in known or not is_of(have[step], samples):
            return step
        known.add(samples)
    return None


def is_of(line: Line, samples: str) -> bool:
    """Whether a step is known to have read samples with this fingerprint."""
    return samples != "" and line.get("samples") == samples
