"""Jobs that end at their time limit, on the way to the target and without getting anywhere.

Both trainings go on in the background while the other fault tests run (``conftest.py``): they take
minutes, in which they mostly wait.
"""

from __future__ import annotations

import pytest

from jobs.contract.files import read_json

from .faults import Laboratory, Trial, Truth, check_reached, check_stopped

pytestmark = pytest.mark.slurm


def test_three_time_limits_on_the_way_to_the_target_cost_nothing(
    laboratory: Laboratory, limited: dict[str, Trial], truth: Truth
) -> None:
    """Held after step 10, each job makes one step once it is asked to leave."""
    trial = limited["limited"]

    ends = [trial.wait_exit(number) for number in trial_attempts(trial, 3)]
    trial.hold()
    check_reached(trial, truth)
    for ended in ends:
        laboratory.tell("time limit", ended, None)

    assert [ended.cause for ended in ends] == ["time_limit"] * 3, trial.story()
    assert [ended.exit["action"] for ended in ends] == ["submit"] * 3
    assert [ended.redone for ended in ends] == [0, 0, 0]
    assert [ended.exit["step_after"] for ended in ends] == [11, 12, 13]
    assert len({ended.exit["job_id"] for ended in ends}) == 3


def trial_attempts(trial: Trial, count: int) -> list[int]:
    """Numbers of the first attempts, once as many have ended."""
    trial.wait_for(lambda: len(trial.exits()) >= count, f"{count} attempts that have ended")
    return sorted(trial.exits())[:count]


def test_two_time_limits_without_a_new_checkpoint_stop_the_run(
    laboratory: Laboratory, limited: dict[str, Trial], truth: Truth
) -> None:
    trial = limited["stuck"]

    last = check_stopped(trial, truth, "configuration")
    laboratory.tell("time limit without progress, twice", trial.attempt(last["attempt"]), None)

    assert len(trial.exits()) == 2
    assert "save" in last["reason"]
    assert read_json(trial.run.exit_record("pretrain", last["attempt"], 0))["code"] == 2
