"""The signal lead time of a job that replaces another."""

from __future__ import annotations

import json
from dataclasses import replace

from jobs.contract.rundir import RunDir
from jobs.slurm.submission import Submission
from jobs.supervision.recovery.resubmission import ResubmitRequest, following, next_lead

WISH = ResubmitRequest("pretrain", (0,), replaces=("7",), by="supervisor")


def train(run: RunDir, save_seconds: float) -> None:
    """Leave the metric lines of a step and a save."""
    lines = [{"step": 1, "loss": 2.0, "seconds": 3.0}, {"save": save_seconds, "step": 1}]
    run.metrics("pretrain").parent.mkdir(parents=True, exist_ok=True)
    run.metrics("pretrain").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_next_job_is_asked_as_early_as_the_saves_so_far_want(
    run: RunDir, training: Submission
) -> None:
    train(run, save_seconds=100.0)
    earlier = replace(training, measures_lead=True)

    assert following(run, earlier, WISH).lead_seconds == 150 + 3 + 60 + 30


def test_a_lead_that_a_person_gave_stays(run: RunDir, training: Submission) -> None:
    train(run, save_seconds=100.0)

    assert next_lead(run, training) == 60


def test_before_the_first_save_the_lead_stays(run: RunDir, training: Submission) -> None:
    assert next_lead(run, replace(training, measures_lead=True)) == 60


def test_a_job_has_half_of_its_time_to_train_at_the_least(
    run: RunDir, training: Submission
) -> None:
    train(run, save_seconds=5000.0)

    assert next_lead(run, replace(training, measures_lead=True)) == 30 * 60
