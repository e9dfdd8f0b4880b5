"""Nodes that are lost, taken away, or named in error."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from jobs.contract import outcomes
from jobs.health import node_ledger

from .faults import Laboratory, Truth, check_reached

pytestmark = pytest.mark.slurm


@pytest.fixture(autouse=True)
def forgiven(laboratory: Laboratory) -> Iterator[None]:
    """Let no later training avoid the nodes that a test has lost: too few would remain."""
    yield
    node_ledger.ledger(laboratory.desk.runs, "faulty").unlink(missing_ok=True)


def lose(laboratory: Laboratory, truth: Truth, number: int, how: str) -> None:
    """Take one of a training's two nodes away, and check that it reaches its target all the same.

    The node is brought back; one that was set down comes back by itself (``ReturnToService``).
    """
    trial = laboratory.begin(how.replace(" ", "-"), hold=7)
    slurm, attempt = laboratory.slurm, trial.reach(7)
    node = trial.nodes()[number]
    since = time.time()
    if how == "is set down":
        slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=drill")
    elif how == "loses its power":
        slurm.kill_node(node)
    elif how == "reboots":
        slurm.kill_node(node)
        slurm.start_slurmd(node, rebooted=True)
        trial.hold()  # the other rank misses its peer at its next step
    else:
        slurm.kill_slurmd(node)
    ended = trial.wait_exit(attempt)
    if how.startswith("loses"):
        slurm.start_slurmd(node)
    trial.hold()
    check_reached(trial, truth)
    laboratory.record(f"a node {how}", ended, since, "node_fail", node)

    assert (ended.cause, ended.node) == ("node_fail", node), trial.describe()
    assert ended.redone in (0, 1, 2), "ranks that are signalled may save in time"


def test_the_death_of_the_first_node_is_survived(laboratory: Laboratory, truth: Truth) -> None:
    """The supervisor dies with it."""
    lose(laboratory, truth, 0, "loses its power")


def test_a_node_that_reboots_is_named_and_another_job_resumes(
    laboratory: Laboratory, truth: Truth
) -> None:
    """The node is back before Slurm misses it. Its ranks never report an end, so that neither srun
    nor the step ends by itself.
    """
    lose(laboratory, truth, 1, "reboots")


@pytest.mark.full
def test_the_death_of_a_slurmd_that_is_not_the_first_is_survived(
    laboratory: Laboratory, truth: Truth
) -> None:
    """Its rank runs on, as on a node that only lost its network, and must not write any more."""
    lose(laboratory, truth, 1, "loses its slurmd")


@pytest.mark.full
def test_a_node_that_an_administrator_takes_away_is_survived(
    laboratory: Laboratory, truth: Truth
) -> None:
    lose(laboratory, truth, 1, "is set down")


def test_an_unknown_node_in_the_ledger_keeps_no_job_from_being_submitted(
    laboratory: Laboratory,
) -> None:
    gone = outcomes.NodeEntry(
        time=time.time(),
        node="gpu99",
        code="XID_79",
        verdict="FATAL",
        run="another",
        attempt=1,
        evidence="fell off the bus",
        expires=time.time() + 86400,
    )
    node_ledger.append(node_ledger.ledger(laboratory.desk.runs, "faulty"), [gone])

    trial = laboratory.begin("unknown-node", hold=0)
    excluded = [event["exclude"] for event in trial.events("submit")]
    trial.cancel()

    assert len(excluded) == 1
    assert "gpu99" not in excluded[0]
