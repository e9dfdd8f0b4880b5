"""A drill on the real Slurm, through the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.contract.events import read_events
from jobs.contract.rundir import RunDir
from meditron_cli.drill.faults import FAULTS

from .cluster import Cluster
from .desk import Desk, make_desk
from .faults import LAYOUT, Row

pytestmark = [pytest.mark.slurm, pytest.mark.full]

PATIENCE = 1200.0
"""Seconds that a drill may take on a busy machine."""

SMALL = (
    "model.layers=2",
    "model.hidden_size=64",
    "model.ffn_hidden_size=128",
    "pretrain.global_batch_size=8",
)


@pytest.fixture
def desk(slurm: Cluster, tmp_path: Path) -> Iterator[Desk]:
    desk = make_desk(tmp_path, slurm)
    desk.profile("two-ranks", *LAYOUT)
    yield replace(desk, timeout=PATIENCE)
    slurm.cancel_all()


@pytest.mark.timeout(PATIENCE + 60)
def test_a_training_with_faults_has_the_result_of_the_undisturbed_one(
    desk: Desk, rows: list[Callable[[], Row]]
) -> None:
    sets = [word for override in SMALL for word in ("--set", override)]

    answer = desk("drill", "--cluster", "two-ranks", *sets, "--json")

    found = answer.json
    (node,) = set(re.findall(r"rank 1 was on (\w+)", answer.stderr))
    for row in found["faults"]:
        measured = (row["verdict"], row["detect_s"], row["resume_s"], row["redone"])
        injected, excluded = FAULTS[row["fault"]].causes[0].value, " ".join(row["excluded"])
        # Its rank is hit again and again: sooner or later that node is to be avoided.
        blamed = node if excluded else ""
        diagnosed = Row(
            f"drill: {row['fault']}", injected, row["cause"], blamed, excluded, *measured
        )
        rows.append(lambda row=diagnosed: row)
    assert (found["held"], found["bit_for_bit"]) == (True, True), answer
    assert [(row["fault"], row["cause"], row["verdict"]) for row in found["faults"]] == [
        ("preempt", "preempted", "held"),
        ("time-limit", "time_limit", "held"),
        ("kill-rank", "crash", "held"),
        ("freeze-rank", "hang", "held"),
        ("damage-checkpoint", "crash", "held"),
    ]
    assert {name for row in found["faults"] for name in row["excluded"]} <= {node}
    damaged = found["faults"][-1]
    assert damaged["redone"] >= 20, "it went back to the checkpoint before"
    assert "training of a tiny model with 2 ranks on 2 nodes" in answer.stderr
    assert list(desk.runs.iterdir()) == [], "nothing is kept when all went well"


def test_a_fault_that_comes_too_late_fails_the_drill_and_keeps_its_runs(desk: Desk) -> None:
    answer = desk(
        *("drill", "--cluster", "two-ranks", "--faults", "kill-rank"),
        *("--set", "pretrain.train_steps=30", "--set", "model.layers=2"),
        code=4,
    )

    (row,) = [line for line in answer.stdout.splitlines() if line.startswith("kill-rank")]
    assert row.endswith("the run ended before this fault")
    (folder,) = desk.runs.iterdir()
    assert answer.stderr.endswith(f"--runs-dir {folder}` shows the drill's runs\n")
    disturbed = RunDir(next(folder.glob("drill-disturbed-*")))
    assert [event["cause"] for event in read_events(disturbed) if event["event"] == "exit"] == [
        "completed"
    ]
