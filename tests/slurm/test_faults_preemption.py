"""Preemption, told to the batch step or to the ranks alone, with and without the time to save."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from .cluster import Cluster
from .faults import Attempt, Laboratory, Trial, Truth, check_reached

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def trial(laboratory: Laboratory) -> Trial:
    """Training that the tests below go on with, in their order."""
    return laboratory.begin("preempted", hold=7)


@pytest.fixture(params=["60"])
def grace(slurm: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """The seconds that preempted jobs are left with."""
    slurm.update_partition("low", GraceTime=request.param)
    yield request.param
    slurm.update_partition("low", GraceTime="10")


@pytest.fixture
def no_user_signal(slurm: Cluster) -> Iterator[None]:
    """The batch step hears nothing of a preemption; Slurm tells the ranks alone."""
    before = slurm.set_config(SlurmctldParameters=None)
    yield
    slurm.set_config(**before)


def preempt(trial: Trial) -> tuple[Attempt, float]:
    """Have a job of the other partition take the nodes for a moment."""
    attempt, slurm, job = trial.current, trial.laboratory.slurm, trial.job()
    nodes = ",".join(trial.nodes())
    since = time.time()
    urgent = slurm.submit(
        "true", "--partition=high", f"--nodelist={nodes}", "--exclusive", "--output=/dev/null"
    )
    slurm.wait_job(urgent, "COMPLETED", timeout=240)
    ended = trial.wait_exit(attempt)
    trial.wait_for(lambda: trial.current > attempt, "the next attempt")
    assert trial.job() == job, "Slurm queues the same job again"
    return ended, since


def test_a_preempted_training_saves_and_loses_nothing(trial: Trial, grace: str) -> None:
    trial.reach(7)

    ended, since = preempt(trial)
    trial.laboratory.tell("preemption, user signal on", ended, since)

    assert (ended.cause, ended.exit["action"]) == ("preempted", "requeue")
    assert ended.exit["step_after"] == ended.trained[-1]["step"] == 8


def test_a_second_preemption_in_a_row_that_only_the_ranks_hear_of_loses_nothing(
    trial: Trial, no_user_signal: None, grace: str
) -> None:
    trial.reach(9)

    ended, since = preempt(trial)
    trial.laboratory.tell("preempted again, user signal off", ended, since)

    assert (ended.cause, ended.exit["action"]) == ("preempted", "requeue")
    assert ended.exit["step_after"] == trial.trained()[-1]["step"] == 10


@pytest.mark.parametrize("grace", ["2"], indirect=True)
def test_without_the_time_to_save_the_last_checkpoint_is_gone_on_from(
    trial: Trial, grace: str
) -> None:
    """The step that runs is longer than the grace time."""
    trial.reach(13)
    trial.hold(13, deaf=True)

    ended, since = preempt(trial)
    trial.reach(17, after=ended.number)
    trial.laboratory.tell("preemption, grace too short to save", ended, since)

    assert ended.cause == "preempted"
    assert (ended.exit["step_after"], ended.redone) == (10, 3)


def test_after_three_preemptions_the_losses_are_those_of_the_undisturbed_run(
    trial: Trial, truth: Truth
) -> None:
    trial.hold()

    check_reached(trial, truth)
