"""Jobs that end at their time limit, with and without progress."""

from __future__ import annotations

import pytest

from .faults import Laboratory, Trial, Truth, check_reached, check_stopped

# A time limit is whole minutes, and a start of ranks must fit in.
pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.timeout(1200)]

MINUTES = ("pretrain.time_minutes=2", "pretrain.signal_lead_seconds=5")


@pytest.fixture(scope="module")
def trials(laboratory: Laboratory) -> dict[str, Trial]:
    """Two trainings that spend their minutes beside each other: one is held after step 10 until it
    is signalled, then makes one step and saves; the other ignores the signal.
    """
    return {
        name: laboratory.begin(name, *MINUTES, hold=step, deaf=deaf)
        for name, step, deaf in (("limited", 10, False), ("stuck", 3, True))
    }


def test_three_time_limits_on_the_way_to_the_target_lose_no_step(
    laboratory: Laboratory, trials: dict[str, Trial], truth: Truth
) -> None:
    trial = trials["limited"]

    ends = [trial.wait_exit(number) for number in (1, 2, 3)]
    trial.hold()
    check_reached(trial, truth)
    for ended in ends:
        laboratory.record("time limit", ended, None, "time_limit")

    assert [ended.cause for ended in ends] == ["time_limit"] * 3, trial.describe()
    assert [ended.exit["action"] for ended in ends] == ["submit"] * 3
    assert [ended.redone for ended in ends] == [0, 0, 0]
    assert [ended.exit["step_after"] for ended in ends] == [11, 12, 13]
    assert len({ended.exit["job_id"] for ended in ends}) == 3


def test_two_time_limits_without_a_new_checkpoint_stop_the_run(
    laboratory: Laboratory, trials: dict[str, Trial], truth: Truth
) -> None:
    trial = trials["stuck"]

    for attempt in (1, 2):  # each takes two minutes and the grace period
        trial.wait_exit(attempt)
    last = check_stopped(trial, truth, "configuration")
    ended = trial.attempt(last["attempt"])
    laboratory.record("time limit without progress, twice", ended, None, "configuration")

    assert len(trial.exits()) == 2
    assert "save" in last["reason"]
    assert trial.exits()[last["attempt"]]["code"] == 2
