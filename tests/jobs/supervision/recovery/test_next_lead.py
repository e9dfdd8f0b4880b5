"""The signal lead time of a job that replaces another."""

from __future__ import annotations

import math
from dataclasses import replace

from jobs.contract import specs
from jobs.contract.files import write_json
from jobs.contract.run_reader import RunReader
from jobs.contract.rundir import RunDir
from jobs.slurm.submission import Submission
from jobs.supervision.recovery.resubmission import ResubmitRequest, following, next_lead

from .... import metric_lines
from ....plans import plan_of

WISH = ResubmitRequest("pretrain", (0,), replaces=("7",), by="supervisor")


def train(run: RunDir, save_seconds: float, index: int = 0) -> None:
    """Leave the metric lines of a step and a save of a task."""
    metric_lines.append(
        run,
        metric_lines.step(1, seconds=3.0),
        metric_lines.save(1, seconds=save_seconds),
        index=index,
    )


def test_the_signal_lead_time_of_the_next_job_follows_the_saves_so_far(
    run: RunDir, training: Submission
) -> None:
    train(run, save_seconds=100.0)
    earlier = replace(training, measures_lead=True)

    assert following(run, earlier, WISH, RunReader(run)).lead_seconds == 150 + 3 + 60 + 30


def test_of_several_trainings_the_slowest_of_those_resumed_decides(
    run: RunDir, training: Submission
) -> None:
    for index, seconds in enumerate((10.0, 100.0, 1000.0)):
        train(run, seconds, index)
    array = replace(training, measures_lead=True, indices=(0, 1, 2))

    resumed = following(run, array, replace(WISH, indices=(0, 1)), RunReader(run))

    assert resumed.lead_seconds == 150 + 3 + 60 + 30


def test_a_lead_that_a_person_gave_stays(run: RunDir, training: Submission) -> None:
    train(run, save_seconds=100.0)

    assert next_lead(run, training, RunReader(run)) == 60


def test_before_the_first_save_the_lead_stays(run: RunDir, training: Submission) -> None:
    assert next_lead(run, replace(training, measures_lead=True), RunReader(run)) == 60


def test_a_job_has_half_of_its_time_to_train_at_the_least(
    run: RunDir, training: Submission
) -> None:
    train(run, save_seconds=5000.0)

    assert next_lead(run, replace(training, measures_lead=True), RunReader(run)) == 30 * 60


def test_a_later_phase_with_longer_sequences_has_time_to_save(
    run: RunDir, training: Submission
) -> None:
    """The recipe has 16 sequences of 128 tokens a step."""
    longer = "pretrain.phases=[{from_tokens: 204800, sequence_length: 1024}]"
    task = plan_of("test-slurm", "tiny", longer).training.tasks[0]
    write_json(run.spec("pretrain", 0), specs.to_json(task))
    train(run, save_seconds=100.0)
    assert task.training

    step_seconds = 3.0 * task.training.longest_over(1)

    assert step_seconds > 24.0
    lead = next_lead(run, replace(training, measures_lead=True), RunReader(run))
    assert lead == 150 + math.ceil(step_seconds) + 60 + 30
