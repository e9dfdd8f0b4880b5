"""The plan's memory beside that of real ranks: four layouts, each with every kind of recomputation.

A rank's peak is compared with what the plan computes for its pipeline stage; the figure is the
largest error. ``tests.measured_memory`` describes what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.contract.stage_specs import ParallelSpec
from tests.bench import Figure, _starts
from tests.measured_memory import Case

RECOMPUTE = ("none", "selective", "full")

MODEL = {
    "layers": 4,
    "hidden_size": 512,
    "ffn_hidden_size": 1408,
    "attention_heads": 8,
    "kv_heads": 4,
    "head_dim": 64,
    "seq_length": 1024,
    "vocab_size": 8192,
    "padded_vocab_size": 8192,
}
"""20 M parameters; activations of a micro-batch of two rows are nearly as large as their states."""

SIZES = ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2))
"""Tensor, pipeline and data-parallel ranks."""


@dataclass(frozen=True)
class Found:
    """A rank's measured bytes beside the plan's, by part."""

    case: Case
    measured: dict[str, int]

    @property
    def planned(self) -> dict[str, int]:
        return self.case.planned[self.measured["stage"]]

    def error(self, part: str) -> float:
        """Return the planned over the measured bytes of a part, less 1."""
        return self.planned[part] / self.measured[part] - 1


def cases(
    sizes: Sequence[tuple[int, int, int]] = SIZES,
    recompute: Sequence[str] = RECOMPUTE,
    layers: int = MODEL["layers"],
) -> list[Case]:
    """Return what to measure: layouts with the distributed optimizer and sequence parallelism."""
    return [
        Case(ParallelSpec(*size, size[0] > 1, True, kind), {**MODEL, "layers": layers})
        for size in sizes
        for kind in recompute
    ]


def measured(case: Case) -> list[Found]:
    """Return what the ranks of a case measured, by pipeline stage."""
    stages = _starts.run_ranks(case.parallel.world_size, "tests.measured_memory", case.text)
    return [Found(case, stage) for stage in stages["stages"]]


def figures(**which: Any) -> list[Figure]:
    measurable = cases(**which)
    found = [one for case in measurable for one in measured(case)]
    worst = max(found, key=lambda one: abs(one.error("total")))
    working = max(found, key=lambda one: abs(one.error("working")))
    note = (
        f"{len(found)} ranks of {len(measurable)} trainings; worst {worst.case.name}; beyond the "
        f"states alone {abs(working.error('working')):.3f}, {working.case.name}"
    )
    return [Figure("memory_plan_error", abs(worst.error("total")), "≤ 0.10", note)]


def main() -> None:
    """Print each rank's parts, planned and measured."""
    for case in cases():
        for one in measured(case):
            parts = [
                f"{part} {one.planned[part] / 1e6:.1f}/{one.measured[part] / 1e6:.1f}"
                for part in one.planned
            ]
            print(case.name, one.measured["stage"], *parts, f"{one.error('total'):+.3f}")


if __name__ == "__main__":
    main()
