"""Evidence about an ended attempt, from files in its folder and the run's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import attempt_history, events, specs
from jobs.contract.events import StartEvent
from jobs.contract.files import write_json
from jobs.contract.job import Job
from jobs.contract.metrics_log import MetricsReader
from jobs.contract.run_reader import RunReader
from jobs.slurm.srun_output import FailedTask
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.diagnosis import evidence_collection
from jobs.supervision.diagnosis.evidence import Evidence, Observed, RankExit, SlurmReport

from .... import metric_lines
from ....progress_files import write_progress
from ...checkpoint_files import write_checkpoint
from ...conftest import Workbench

JOB = Job("7", nodes=("gpu01", "gpu02"))


def words(rank: int, time: float, **more: Any) -> RankExit:
    return RankExit(rank, "gpu01", 1, time, **{"kind": "RuntimeError", "message": "no", **more})


def ranks(exits: list[RankExit]) -> list[tuple[int, int]]:
    return [(item.rank, item.code) for item in exits]


def test_a_sudden_death_comes_before_all_words() -> None:
    """A killed rank writes no record; the others report a lost peer."""
    failures = [
        FailedTask(2, "gpu02", -9, is_cause=True),
        FailedTask(3, "gpu02", -15, is_cause=False),
    ]

    found = evidence_collection.rank_exits([words(0, 5.0), words(1, 6.0)], failures, ended=9.0)

    assert ranks(found) == [(2, -9), (0, 1), (1, 1), (3, -15)]
    assert (found[0].time, found[-1].time) == (5.0, 9.0)


def test_who_was_ended_for_the_sake_of_another_is_no_cause() -> None:
    failures = [
        FailedTask(0, "gpu01", 1, is_cause=True),
        FailedTask(3, "gpu02", -9, is_cause=False),
    ]

    assert ranks(evidence_collection.rank_exits([words(0, 5.0)], failures, 9.0)) == [
        (0, 1),
        (3, -9),
    ]


@pytest.fixture
def attempt(bench: Workbench) -> AttemptRef:
    return AttemptRef(bench.run, "curate", 0, 1, began=1.0)


def evidence(attempt: AttemptRef, task: specs.TaskSpec | None, observed: Observed) -> Evidence:
    history = attempt_history.read(attempt.run).task(attempt.stage, attempt.index)
    return evidence_collection.evidence(
        attempt,
        task,
        JOB,
        observed,
        SlurmReport(),
        history,
        MetricsReader(attempt.run, attempt.stage),
    )


def test_rank_exits_are_read_in_the_order_of_their_times(attempt: AttemptRef) -> None:
    for rank, time in ((0, 7.0), (1, 5.0)):
        fields = {"rank": rank, "node": "n", "code": 1, "time": time, "kind": "OSError"}
        more = {"message": "full", "hint": "", "frame": "jobs.contract.rundir:write", "errno": 28}
        write_json(attempt.folder / f"rank-exit-00000-{rank:05d}.json", {**fields, **more})
    (attempt.folder / "rank-exit-00000-00002.json").write_text("{")
    (attempt.folder / "rank-exit-00001-00003.json").write_text("{}")  # of another task

    found = evidence_collection.read_rank_exits(attempt)

    assert [item.rank for item in found] == [1, 0]
    assert (found[0].kind, found[0].frame) == ("OSError", "jobs.contract.rundir:write")


def test_ranks_without_a_record_have_evidence_from_srun_and_the_log(
    bench: Workbench, attempt: AttemptRef
) -> None:
    task = bench.curate(Path("/data"))
    attempt.folder.mkdir(parents=True)
    attempt.srun_log.write_text("srun: error: Node failure on gpu02\n")
    attempt.ranks_log.write_text("2: RuntimeError: CUDA out of memory. Tried to allocate\n")

    found = evidence(attempt, task, Observed(ranks_started=True))

    assert found.traces.failed_node == "gpu02"
    assert [sign.name for sign in found.traces.log_signs] != []
    assert (found.attempt.job_id, found.attempt.run, found.attempt.world_size) == (
        "7",
        bench.run.name,
        1,
    )
    assert (found.attempt.done, found.progress.step_after) == (False, None)


def test_a_task_without_a_readable_spec_has_evidence_too(attempt: AttemptRef) -> None:
    found = evidence(attempt, None, Observed(message="no spec", is_configuration_error=True))

    assert (found.observed.is_configuration_error, found.observed.message) == (True, "no spec")
    assert found.attempt.world_size == 0


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first\n" + b"x" * evidence_collection.LOG_TAIL_BYTES + b"\nlast\n")

    found = evidence_collection.tail(path)

    assert (len(found), found.endswith("\nlast\n")) == (evidence_collection.LOG_TAIL_BYTES, True)
    assert evidence_collection.tail(tmp_path / "missing") == ""


# ---- how far training is


def checkpoint_step(bench: Workbench, task: specs.TaskSpec) -> int | None:
    reader = RunReader(bench.run)
    history = reader.current().task("pretrain", 0)
    return evidence_collection.checkpoint_step(
        bench.run, task, history, reader.metrics("pretrain", 0)
    )


def leave_checkpoint(bench: Workbench, step: int, name: str = "", finished: bool = True) -> Path:
    """Write a checkpoint of one small file; an unfinished one lacks the file written last."""
    folder = write_checkpoint(bench.run.path("checkpoints"), step)
    if not finished:
        (folder / "meditron.json").unlink()
        (folder / "manifest.json").unlink()
    return folder.rename(folder.with_name(name)) if name else folder


def test_the_newest_valid_checkpoint_is_how_far_training_is(bench: Workbench) -> None:
    task = bench.training()
    before = checkpoint_step(bench, task)
    leave_checkpoint(bench, 20)
    leave_checkpoint(bench, 40, finished=False)

    assert (before, checkpoint_step(bench, task)) == (0, 20)


def test_a_first_checkpoint_that_was_never_finished_is_no_loss(bench: Workbench) -> None:
    task = bench.training()
    leave_checkpoint(bench, 20, finished=False)

    assert checkpoint_step(bench, task) == 0


def test_how_far_training_is_is_not_known_once_all_checkpoints_are_damaged(
    bench: Workbench,
) -> None:
    """It is not 0, with which training would restart from random weights."""
    task = bench.training()
    leave_checkpoint(bench, 20, "iter_0000020.bad-1")
    (leave_checkpoint(bench, 40) / "metadata.json").unlink()

    assert checkpoint_step(bench, task) is None


@pytest.mark.parametrize("left", [(), (0,)])
def test_how_far_training_is_is_not_known_once_its_checkpoints_are_gone(
    bench: Workbench, left: tuple[int, ...]
) -> None:
    task = bench.training()
    for step in left:
        leave_checkpoint(bench, step)
    start = StartEvent(1.0, "pretrain", 0, 1, "7", began=1.0, step=20)
    events.append(bench.run, start)

    assert checkpoint_step(bench, task) is None


def test_the_last_step_is_that_of_this_start(bench: Workbench) -> None:
    task = bench.training()
    write_progress(bench.run, "pretrain", attempt=3, done=17)
    attempt = AttemptRef(bench.run, "pretrain", 0, 3, began=1.0)

    metrics = MetricsReader(attempt.run, "pretrain")
    other = dataclasses.replace(attempt, number=4)

    assert evidence_collection.last_step(attempt, task, metrics) == 17
    assert evidence_collection.last_step(other, task, metrics) is None

    metric_lines.append(attempt.run, metric_lines.step(19, attempt.number))

    assert evidence_collection.last_step(attempt, task, metrics) == 19
    assert evidence_collection.last_step(other, task, metrics) is None
