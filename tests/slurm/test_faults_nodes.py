"""Nodes that are lost, taken away, or named in error."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from jobs import evidence, nodes

from .cluster import GPU_NODES
from .faults import Laboratory, Trial, check_reached

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def trial(laboratory: Laboratory) -> Iterator[Trial]:
    """Training that the tests below go on with, in their order.

    Something was found on a node of this runs directory's cluster that is no longer there.
    """
    gone = evidence.NodeEntry(
        time=time.time(),
        node="gpu99",
        code="XID_79",
        verdict="FATAL",
        run="another",
        attempt=1,
        evidence="fell off the bus",
        expires=time.time() + 86400,
    )
    nodes.append(laboratory.desk.runs / "nodes-faulty.jsonl", [gone])
    begun = laboratory.begin("nodes", hold=7)
    yield begun
    begun.cancel()


def lose(trial: Trial, node: str, how: str) -> None:
    """Take a node away, wait for what becomes of the training, and bring the node back."""
    slurm, attempt = trial.laboratory.slurm, trial.current
    since = time.time()
    if how == "is set down":
        slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=drill")
    elif how == "loses its power":
        slurm.kill_node(node)
    else:
        slurm.kill_slurmd(node)
    ended = trial.wait_exit(attempt)
    if how == "is set down":
        slurm.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
    else:
        slurm.start_slurmd(node)
    slurm.wait_nodes(GPU_NODES, ["idle", "mixed", "allocated"], timeout=240)
    trial.laboratory.tell(f"a node {how}", ended, since)

    assert (ended.cause, ended.node) == ("node_fail", node), trial.story()
    assert ended.redone == 2


def test_an_unknown_node_in_the_ledger_keeps_no_job_from_being_submitted(trial: Trial) -> None:
    trial.reach(7)

    assert [event["exclude"] for event in trial.events("submit")] == [[]]


def test_the_death_of_a_slurmd_that_is_not_the_first_is_survived(trial: Trial) -> None:
    """Its rank lives on, as on a node that only lost its network, and must not write any more."""
    trial.reach(7)

    lose(trial, trial.nodes()[1], "loses its slurmd")


def test_the_death_of_the_first_node_is_survived(trial: Trial) -> None:
    """The supervisor is gone with it."""
    trial.reach(12)

    lose(trial, trial.nodes()[0], "loses its power")


def test_a_node_that_an_administrator_takes_away_is_survived(trial: Trial) -> None:
    trial.reach(17)

    lose(trial, trial.nodes()[1], "is set down")


def test_after_three_lost_nodes_the_losses_are_those_of_the_undisturbed_run(
    trial: Trial, truth: dict[int, float]
) -> None:
    trial.hold()

    check_reached(trial, truth)
