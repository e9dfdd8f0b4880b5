"""Nodes that are lost, taken away, or named in error."""

from __future__ import annotations

import time

import pytest

from jobs.contract import outcomes
from jobs.health import node_ledger

from .faults import Laboratory, Trial, Truth, check_reached

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def trial(laboratory: Laboratory) -> Trial:
    """Training that the tests below go on with, in their order.

    Something was found on a node of this runs directory's cluster that is no longer there.
    """
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
    node_ledger.append(laboratory.desk.runs / "nodes-faulty.jsonl", [gone])
    return laboratory.begin("nodes", hold=7)


def lose(trial: Trial, node: str, how: str, then: int) -> None:
    """Take a node away, wait for what becomes of the training, and bring the node back; one that
    was set down comes back by itself (``ReturnToService``).
    """
    slurm, attempt = trial.laboratory.slurm, trial.current
    since = time.time()
    if how == "is set down":
        slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=drill")
    elif how == "loses its power":
        slurm.kill_node(node)
    else:
        slurm.kill_slurmd(node)
    ended = trial.wait_exit(attempt)
    if how != "is set down":
        slurm.start_slurmd(node)
    trial.reach(then, after=attempt)
    trial.laboratory.tell(f"a node {how}", ended, since)

    assert (ended.cause, ended.node) == ("node_fail", node), trial.story()
    assert ended.redone in (0, 1, 2), "ranks that hear of it may save in time"


def test_an_unknown_node_in_the_ledger_keeps_no_job_from_being_submitted(trial: Trial) -> None:
    trial.reach(7)

    assert [event["exclude"] for event in trial.events("submit")] == [[]]


def test_the_death_of_a_slurmd_that_is_not_the_first_is_survived(trial: Trial) -> None:
    """Its rank lives on, as on a node that only lost its network, and must not write any more."""
    lose(trial, trial.nodes()[1], "loses its slurmd", then=12)


def test_the_death_of_the_first_node_is_survived(trial: Trial) -> None:
    """The supervisor is gone with it."""
    lose(trial, trial.nodes()[0], "loses its power", then=17)


def test_a_node_that_an_administrator_takes_away_is_survived(trial: Trial) -> None:
    lose(trial, trial.nodes()[1], "is set down", then=22)


def test_after_three_lost_nodes_the_losses_are_those_of_the_undisturbed_run(
    trial: Trial, truth: Truth
) -> None:
    trial.hold()

    check_reached(trial, truth)
