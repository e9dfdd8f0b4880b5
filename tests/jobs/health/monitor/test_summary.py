"""Energy of a node's GPUs from their samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from jobs.health.monitor import records
from jobs.health.monitor.node_reader import unread
from jobs.health.monitor.summary import NodeSummary
from jobs.health.sample import Gpu, Unknown

from ..samples import WELL, steady

NONE = Unknown("Not Supported", 3)
SILENT = unread(0, Unknown("did not answer in time"))


def gpu(energy: int | Unknown, power: int | Unknown = 300_000) -> Gpu:
    """Return a GPU with a counter in millijoules and a power in milliwatts."""
    return replace(WELL, energy=energy, power=power)


def summary(*gpus: Gpu, seconds: float = 10.0) -> dict[str, Any]:
    """Return the summary of a node of which a GPU was read again and again."""
    found = NodeSummary()
    for number, one in enumerate(gpus):
        found.add(replace(steady(1)[0], time=1000.0 + seconds * number, gpus=(one,)))
    return found.to_json()


def energy(gpus: Iterable[Gpu]) -> tuple[float, str]:
    report = summary(*gpus)
    return report["energy_j"], report["energy_source"]


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ([gpu(5_000_000)], (0.0, "counter")),
        ([gpu(5_000_000), gpu(5_000_000)], (0.0, "counter")),
        ([gpu(5_000_000), gpu(8_500_000), gpu(9_000_000)], (4000.0, "counter")),
        ([gpu(NONE), gpu(NONE, 200_000), gpu(NONE, 400_000)], (6000.0, "power")),
        # the driver was loaded again: nothing is known of the counter before it was read
        ([gpu(5_000_000), gpu(8_000_000), gpu(1_000), gpu(2_001_000)], (8000.0, "power")),
        # the counter knows of the time in which a probe was stuck
        ([gpu(5_000_000), SILENT, SILENT, gpu(9_000_000)], (4000.0, "counter")),
        ([gpu(5_000_000), gpu(NONE), gpu(9_000_000)], (4000.0, "counter")),
        # the end is not known from the counter
        ([gpu(5_000_000), gpu(8_000_000), gpu(NONE, 500_000)], (8000.0, "power")),
        ([gpu(NONE, NONE), gpu(NONE, NONE)], (0.0, "")),
    ],
)
def test_energy_is_that_of_the_counter_else_power_over_time(
    gpus: list[Gpu], expected: tuple[float, str]
) -> None:
    assert energy(gpus) == expected


def test_a_gap_too_long_for_power_is_not_filled() -> None:
    assert summary(gpu(NONE), gpu(NONE), seconds=600.0)["energy_j"] == 0.0
    assert summary(gpu(1_000), gpu(3_000_000), seconds=600.0)["energy_j"] == 2999.0


def test_the_energy_of_an_attempt_adds_its_nodes_and_names_the_weakest_source() -> None:
    counted = summary(gpu(5_000_000), gpu(9_000_000))
    by_power = summary(gpu(NONE), gpu(NONE))
    nothing = summary(gpu(NONE, NONE))

    assert records.energy([counted, counted]) == (8000.0, "counter")
    assert records.energy([counted, by_power, nothing]) == (7000.0, "power")
    assert records.energy([nothing]) == (None, "")
    assert records.energy([]) == (None, "")
