"""Preemption, signalled to the batch step or to the ranks alone, with and without time to save."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from .cluster import Cluster
from .faults import Attempt, Laboratory, Trial, Truth, check_reached

pytestmark = pytest.mark.slurm


@pytest.fixture(params=["60"])
def grace(slurm: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the grace period of preempted jobs in seconds."""
    slurm.update_partition("low", GraceTime=request.param)
    yield request.param
    slurm.update_partition("low", GraceTime="10")


@pytest.fixture
def no_user_signal(slurm: Cluster) -> Iterator[None]:
    """Let Slurm signal a preemption to the ranks alone, not to the batch step."""
    before = slurm.set_config(SlurmctldParameters=None)
    yield
    slurm.set_config(**before)


def preempt(trial: Trial) -> tuple[Attempt, float]:
    """Take the nodes of a training for a moment, by a job of the partition ``high``."""
    attempt, slurm, job = trial.current, trial.laboratory.slurm, trial.job()
    nodes = ",".join(trial.nodes())
    since = time.time()
    urgent = slurm.submit(
        "true", "--partition=high", f"--nodelist={nodes}", "--exclusive", "--output=/dev/null"
    )
    slurm.wait_job(urgent, "COMPLETED")
    ended = trial.wait_exit(attempt)
    trial.wait_for(lambda: trial.current > attempt, "the next attempt")
    assert trial.job() == job, "Slurm queues the same job again"
    return ended, since


def test_a_preempted_training_saves_and_loses_nothing(
    laboratory: Laboratory, truth: Truth, grace: str
) -> None:
    """The save of step 5 may be in flight then: its threads are not held."""
    trial = laboratory.begin("preempted", "pretrain.async_save=true", hold=7)
    trial.reach(7)

    ended, since = preempt(trial)
    trial.hold()
    check_reached(trial, truth)
    laboratory.record("preemption, user signal on", ended, since, "preempted")

    assert (ended.cause, ended.exit["action"]) == ("preempted", "requeue")
    assert ended.exit["step_after"] == ended.trained[-1].step == 8
    first, second = trial.events("start")
    assert first["eligible"] <= first["began"]
    assert ended.exit["ended"] - 1 <= second["eligible"] <= second["began"] + 1


@pytest.mark.full
def test_two_preemptions_in_a_row_that_only_the_ranks_receive_lose_nothing(
    laboratory: Laboratory, truth: Truth, no_user_signal: None, grace: str
) -> None:
    trial = laboratory.begin("preempted-twice", hold=7)

    for step in (7, 9):
        trial.reach(step)
        ended, since = preempt(trial)
        laboratory.record("preemption, user signal off", ended, since, "preempted")
        assert (ended.cause, ended.exit["action"]) == ("preempted", "requeue")
        assert ended.exit["step_after"] == ended.trained[-1].step == step + 1
    trial.hold()
    check_reached(trial, truth)


@pytest.mark.full
@pytest.mark.parametrize("grace", ["2"], indirect=True)
def test_without_the_time_to_save_training_resumes_from_the_last_checkpoint(
    laboratory: Laboratory, truth: Truth, grace: str
) -> None:
    """The running step takes longer than the grace period."""
    trial = laboratory.begin("preempted-at-once", hold=13)
    trial.reach(13)
    trial.hold(13, deaf=True)

    ended, since = preempt(trial)
    trial.hold()
    check_reached(trial, truth)
    laboratory.record("preemption, grace too short to save", ended, since, "preempted")

    assert ended.cause == "preempted"
    assert (ended.exit["step_after"], ended.redone) == (10, 3)
