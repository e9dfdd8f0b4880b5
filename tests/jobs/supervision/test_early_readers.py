"""Exports and evaluations that start while training runs, once their checkpoint is saved."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import cast

import pytest

from jobs.checkpoints import manifest
from jobs.contract import specs
from jobs.contract.events import StartEvent, SubmitEvent, append
from jobs.contract.files import write_json
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import EvaluateSpec, PretrainSpec
from jobs.slurm.client import Client
from jobs.supervision.early_readers import EarlyReaders

from ...fake_slurm import FakeSlurm
from ...plans import plan_of

WAITING = "|PENDING|Dependency|trial.export|7|run=trial,attempt=1||afterok:6"


def save(run: RunDir, step: int) -> None:
    folder = run.path("checkpoints") / manifest.name(step)
    folder.mkdir(parents=True)
    (folder / manifest.RECORD).touch()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Return a run whose exports of steps 200, 300 and of the target are jobs 7_0, 7_1 and 7_2."""
    run = RunDir(tmp_path / "trial")
    run.root.mkdir()
    plan = plan_of("test-slurm", "tiny", "export.step=[200, 300, last]")
    for task in plan.stage("export").tasks:
        write_json(run.spec("export", task.index), specs.to_json(task))
    jobs = ("7_0", "7_1", "7_2")
    append(run, SubmitEvent(1.0, "export", 1, (0, 1, 2), "slurm", job_ids=jobs))
    return run


@pytest.fixture
def readers(run: RunDir, client: Client, programs: FakeSlurm) -> EarlyReaders:
    programs.queue(*(f"7_{index}{WAITING}" for index in range(3)))
    training = plan_of("test-slurm", "tiny").training.tasks[0].spec
    return EarlyReaders(run, cast(PretrainSpec, training), client)


def test_an_export_starts_once_its_checkpoint_is_saved(
    run: RunDir, readers: EarlyReaders, programs: FakeSlurm
) -> None:
    readers.poll()
    assert programs.calls("scontrol") == []

    save(run, 300)
    save(run, 500)
    readers.poll()
    readers.poll()

    assert programs.calls("scontrol") == ["scontrol update JobId=7_1 Dependency="]
    assert set(programs.waits_for()) == {"7_0", "7_2"}


def test_an_evaluation_starts_once_its_checkpoint_is_saved(
    run: RunDir, readers: EarlyReaders, programs: FakeSlurm
) -> None:
    plan = plan_of("test-slurm", "tiny", "evaluate.checkpoints=[first, 300, last]")
    tasks = {task.index: cast(EvaluateSpec, task.spec) for task in plan.stage("evaluate").tasks}
    for task in plan.stage("evaluate").tasks:
        write_json(run.spec("evaluate", task.index), specs.to_json(task))
    jobs = tuple(f"9_{index}" for index in tasks)
    append(run, SubmitEvent(1.0, "evaluate", 1, tuple(tasks), "slurm", job_ids=jobs))
    programs.queue(*(f"{job}{WAITING.replace('export', 'evaluate')}" for job in jobs))
    save(run, 0)
    save(run, 300)

    readers.poll()

    waiting = {f"9_{index}" for index, spec in tasks.items() if spec.checkpoint != "300"}
    assert 0 < len(waiting) < len(jobs)
    assert set(programs.waits_for()) == waiting


def test_an_unfinished_checkpoint_and_a_task_that_has_begun_release_nothing(
    run: RunDir, readers: EarlyReaders, programs: FakeSlurm
) -> None:
    (run.path("checkpoints") / manifest.name(200)).mkdir(parents=True)
    save(run, 300)
    append(run, StartEvent(2.0, "export", 1, 1, "7_1", 2.0))

    readers.poll()

    assert programs.calls() == []


def test_without_an_answer_it_is_tried_again_and_a_job_of_another_run_is_left_alone(
    run: RunDir, readers: EarlyReaders, programs: FakeSlurm
) -> None:
    save(run, 200)
    save(run, 300)
    programs.queue(f"7_0{WAITING}", f"7_1{WAITING.replace('trial', 'other')}")
    programs.tell("down", "Unable to contact slurm controller")

    assert not readers.poll()
    (programs.state / "down").unlink()

    assert readers.poll()
    assert programs.waits_for() == {"7_1": "afterok:6"}


def test_an_export_that_is_submitted_later_is_seen(
    run: RunDir, readers: EarlyReaders, programs: FakeSlurm
) -> None:
    save(run, 200)
    readers.poll()
    before = run.events.stat()
    append(run, SubmitEvent(3.0, "export", 2, (0,), "slurm", job_ids=("8",)))
    os.utime(run.events, ns=(before.st_atime_ns, before.st_mtime_ns))  # within a clock's tick
    programs.queue(f"8{WAITING}")

    readers.poll()

    assert programs.waits_for() == {}


def test_what_fails_here_is_logged_and_does_not_end_the_training(
    run: RunDir, readers: EarlyReaders, capfd: pytest.CaptureFixture[str]
) -> None:
    run.path("checkpoints").mkdir()
    run.events.unlink()
    run.events.mkdir()
    over = threading.Event()
    over.set()

    readers.watch(over)

    assert "evaluations and exports wait for the end of training" in "".join(capfd.readouterr())
