"""`meditron profile`: the request, the wait for the ranks, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.contract.files import write_bytes
from jobs.contract.rundir import RunDir
from jobs.runtime import profile_record
from jobs.runtime.profile_record import ProfileRecord, ProfileRequest

from ...conftest import Bench
from ..profiling.test_step_times import gloo, operator, step


def write_results(run: RunDir, error: str = "") -> ProfileRequest:
    """Take the request as training does, and write a trace and a record of its ranks."""
    request = profile_record.take_request(run)
    assert request is not None
    for rank in request.ranks:
        trace = json.dumps({"traceEvents": [step(0, 2), operator(0, 1), gloo(0.5, 1.5)]})
        name = "" if error else f"rank-{rank:05d}.trace.json"
        if name:
            write_bytes(run.profile(request.name) / name, trace.encode())
        record = ProfileRecord(rank, 5, 7, "cpu", name, "", error)
        profile_record.write_record(run, request.name, record)
    return request


@pytest.fixture
def trainer(meditron: Bench, training: RunDir) -> RunDir:
    """Return a run whose training answers a request while the command waits."""

    def answer() -> None:
        if training.profile_file.exists():
            write_results(training)

    meditron.clock.when_slept = answer
    return training


def test_a_profile_is_a_row_per_rank(meditron: Bench, trainer: RunDir) -> None:
    done = meditron("profile", trainer.name, "--steps", "3")

    assert done.exit_code == 0, done.stderr
    columns, row = done.stdout.splitlines()
    assert columns.split() == [
        "rank", "steps", "step", "compute", "exposed", "gloo:all_reduce", "data", "idle", "memory",
    ]  # fmt: skip
    assert "1 s (50%)" in row
    assert row.count("0.5 s (25%)") == 3  # exposed, of its only operation, and idle
    assert str(trainer.profile("001")) in done.stderr
    assert not trainer.profile_file.exists()


def test_json_has_the_numbers_and_the_files(meditron: Bench, trainer: RunDir) -> None:
    done = meditron("profile", trainer.name, "--memory", "--json")

    [rank] = json.loads(done.stdout)["ranks"]
    assert rank["times"]["exposed"] == 0.5
    assert rank["times"]["groups"]["gloo:all_reduce"] == {"total": 1.0, "exposed": 0.5}
    assert Path(json.loads(done.stdout)["folder"], rank["trace"]).exists()


def test_each_profile_has_a_folder_of_its_own(meditron: Bench, trainer: RunDir) -> None:
    meditron("profile", trainer.name)
    meditron("profile", trainer.name)

    assert sorted(path.name for path in trainer.path("profiles").iterdir()) == ["001", "002"]


def test_an_error_of_a_rank_is_shown(meditron: Bench, training: RunDir) -> None:
    meditron.clock.when_slept = lambda: write_results(training, "OSError: disk full") and None

    done = meditron("profile", training.name)

    assert done.exit_code == 4
    assert "error: rank 0: OSError: disk full" in done.stderr


def test_a_run_that_ends_while_it_waits_ends_the_wait(meditron: Bench, training: RunDir) -> None:
    meditron.clock.when_slept = lambda: meditron.scheduler.end_all()

    done = meditron("profile", training.name)

    assert done.exit_code == 4
    assert "its training was not profiled before" in done.stderr
    assert not training.profile_file.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--ranks", "7"), "there is no rank 7, the training has 1 rank"),
        (("--ranks", "0,,1"), "'0,,1' is no list of ranks"),
        (("--nsys", "--memory"), "this training runs on CPUs"),
        (("--steps", "0"), "0 is not in the range"),
    ],
)
def test_wrong_ranks_and_steps_are_refused_before_anything_is_requested(
    meditron: Bench, training: RunDir, words: tuple[str, str], message: str
) -> None:
    done = meditron("profile", training.name, *words)

    assert done.exit_code == 2
    assert message in done.stderr
    assert not training.profile_file.exists()


def test_a_run_without_training_is_refused(meditron: Bench) -> None:
    meditron.submit(stage="curate")

    done = meditron("profile", meditron.run().name)

    assert done.exit_code == 2
    assert "has no pretraining to profile" in done.stderr


def test_a_training_that_has_finished_is_refused(meditron: Bench, training: RunDir, finish) -> None:
    finish(training, "pretrain", 0)

    done = meditron("profile", training.name)

    assert done.exit_code == 2
    assert "its training is succeeded" in done.stderr
