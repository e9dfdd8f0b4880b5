"""The context of a running rank."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from jobs.contract import specs
from jobs.contract.files import read_json, write_json
from jobs.runtime import heartbeat
from jobs.runtime.context import Context, StopFlag, context_from

from ..conftest import Workbench


def context(
    bench: Workbench, ranks: int, environ: Mapping[str, str], launcher: str = "local"
) -> Context:
    task = bench.curate(Path("/missing"))
    numbers = {"ranks": ranks, "ranks_per_node": ranks, "launcher": launcher}
    data = {**specs.to_json(task), **numbers}
    write_json(bench.run.spec("curate", 0), data)
    return context_from(bench.run.root, "curate", 0, environ)


SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}
OWN = {"RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "2"}


@pytest.mark.parametrize(
    ("ranks", "launcher", "environ", "expected"),
    [
        (8, "local", {}, (0, 1, 0)),
        (8, "local", OWN, (5, 6, 2)),
        (8, "local", {**SLURM, **OWN}, (5, 6, 2)),
        (8, "srun", SLURM, (3, 8, 1)),
        (8, "srun", {**SLURM, **OWN}, (3, 8, 1)),
        (8, "srun", OWN, (5, 6, 2)),
        (1, "srun", {**SLURM, **OWN}, (0, 1, 0)),
    ],
)
def test_who_a_rank_is(
    bench: Workbench,
    ranks: int,
    launcher: str,
    environ: Mapping[str, str],
    expected: tuple[int, int, int],
) -> None:
    found = context(bench, ranks, environ, launcher)

    assert (found.rank, found.world_size, found.local_rank) == expected


@pytest.mark.parametrize(("environ", "attempt"), [({}, 0), ({"MEDITRON_ATTEMPT": "4"}, 4)])
def test_a_task_run_by_hand_is_attempt_0(
    bench: Workbench, environ: Mapping[str, str], attempt: int
) -> None:
    assert context(bench, 1, environ).attempt == attempt


def test_progress_replaces_the_previous_file_and_no_other_remains(bench: Workbench) -> None:
    task = context(bench, 1, {})

    task.progress(1, 10, "steps")
    task.progress(7, 10, "steps", loss=2.5)

    path = bench.run.progress("curate", 0)
    progress = read_json(path)
    assert (progress["done"], progress["total"], progress["unit"], progress["loss"]) == (
        7,
        10,
        "steps",
        2.5,
    )
    assert progress["started"] == task.started <= progress["time"]
    assert os.listdir(path.parent) == [path.name]


def test_progress_that_cannot_be_written_is_logged_once_and_ends_nothing(
    bench: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    task = context(bench, 1, {})
    path = bench.run.progress("curate", 0)
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.write_text("a file where the folder should be")

    task.progress(1, 10, "files")
    task.progress(2, 10, "files")

    assert (
        capsys.readouterr().err
        == f"curate: no progress file: [Errno 17] File exists: '{path.parent}'\n"
    )


def test_progress_is_a_heartbeat_unless_the_stage_sends_its_own(bench: Workbench) -> None:
    task = context(bench, 1, {})
    name = heartbeat.label(bench.run, "curate", 0, 0, "node")
    task.heart.open(name, 0, heartbeat.folders(os.environ))
    seen = []

    for done, more in ((1, {}), (2, {}), (2, {"phase": "checkpoint"}), (10, {})):
        task.progress(done, 10, "files", **more)
        beat = heartbeat.find(bench.run, "curate", 0, 0, "node")[0]
        seen.append((beat.phase.label, beat.ticks))

    assert seen == [("step", 2), ("step", 3), ("step", 3), ("leaving", 4)]


def test_finish_writes_a_marker_that_stands_for_the_spec(bench: Workbench) -> None:
    found = context(bench, 1, {})

    found.finish([], [], {"documents": 3})

    assert bench.done("curate")["summary"] == {"documents": 3}
    assert bench.is_done(found.task)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_sets_the_flag_and_interrupts_nothing(number: signal.Signals) -> None:
    kept = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    flag = StopFlag()
    before = bool(flag)
    try:
        flag.install()
        os.kill(os.getpid(), number)
        after = bool(flag)
    finally:
        for each, handler in kept.items():
            signal.signal(each, handler)

    assert (before, after, flag.received) == (False, True, [number])


def test_scratch_lies_in_the_run_and_is_the_tasks_own(bench: Workbench) -> None:
    found = context(bench, 1, {})

    assert found.scratch == bench.run.root / "stages" / "curate" / "tmp" / "00000"
    assert found.path("corpus") == bench.run.root / "corpus"
    assert found.path("/elsewhere") == Path("/elsewhere")
