"""Checkpoints that were damaged, disks that are full, and saves that are cut short."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ..disks import mounted
from .desk import rank_processes, saved_steps
from .faults import EVERY, Laboratory, Trial, Truth, check_reached, check_stopped, kill

pytestmark = pytest.mark.slurm

SLOW_SAVE = """
import time
def before_save(trainer):
    if trainer.step == 10 and not (FOLDER / "saved").exists():
        if trainer.context.rank == 0:
            (FOLDER / "saving").touch()
        time.sleep(3)
"""


def checkpoint(trial: Trial, step: int) -> Path:
    return trial.run.path("checkpoints") / f"iter_{step:07d}"


def truncate_shards(folder: Path) -> None:
    """Cut every shard in half."""
    shards = list(folder.glob("*.distcp"))
    assert shards
    for shard in shards:
        with shard.open("r+b") as file:
            file.truncate(shard.stat().st_size // 2)


def empty_record(folder: Path) -> None:
    (folder / "meditron.json").write_bytes(b"")


def remove_metadata(folder: Path) -> None:
    (folder / "metadata.json").unlink()


@pytest.mark.parametrize(
    ("what", "damage"),
    [
        pytest.param("every shard truncated", truncate_shards, id="shards"),
        pytest.param("an empty record", empty_record, id="record", marks=pytest.mark.full),
        pytest.param("no metadata", remove_metadata, id="metadata", marks=pytest.mark.full),
    ],
)
def test_a_damaged_checkpoint_is_quarantined_and_the_one_before_it_used(
    laboratory: Laboratory, truth: Truth, what: str, damage: Callable[[Path], None]
) -> None:
    trial = laboratory.begin(f"damaged-{damage.__name__.replace('_', '-')}", hold=12)
    attempt = trial.reach(12)

    damage(checkpoint(trial, 10))
    since = kill(trial.rank(1))
    ended = trial.wait_exit(attempt)
    trial.reach(12, after=attempt)
    quarantined = list(trial.run.path("checkpoints").glob("iter_0000010.bad-*"))
    trial.hold()
    check_reached(trial, truth)
    laboratory.record(f"newest checkpoint with {what}, and a rank killed", ended, since, "crash")

    assert ended.follower[0].step == EVERY + 1
    assert ended.redone == 12 - EVERY
    assert len(quarantined) == 1


@pytest.mark.full
def test_when_every_checkpoint_is_damaged_the_run_stops_and_nothing_is_deleted(
    laboratory: Laboratory, truth: Truth
) -> None:
    trial = laboratory.begin("ruined", hold=17)
    attempt = trial.reach(17)
    there = saved_steps(trial.run)

    for step in there:
        truncate_shards(checkpoint(trial, step))
    kill(trial.rank(1))
    last = check_stopped(trial, truth, "checkpoint")
    laboratory.record("all checkpoints damaged", trial.attempt(last["attempt"]), None, "checkpoint")

    assert last["attempt"] > attempt
    folders = [path.name[:12] for path in trial.run.path("checkpoints").glob("iter_*")]
    assert sorted(folders) == [f"iter_{step:07d}" for step in there]


@pytest.fixture
def small_disk(laboratory: Laboratory) -> Iterator[Path]:
    """Yield a disk of 96 MiB, as a runs directory."""
    with mounted(laboratory.desk.folder / "small", "96m") as disk:
        yield disk


def fill(path: Path, spare_bytes: int) -> None:
    """Take all the space there is, but for some."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\1" * 4096)
    os.truncate(path, path.stat().st_size - spare_bytes)


def test_a_disk_that_fills_up_during_a_save_is_waited_for(
    laboratory: Laboratory, truth: Truth, small_disk: Path
) -> None:
    trial = laboratory.begin("full", "supervision.storage_delay_seconds=5", hold=7, runs=small_disk)
    attempt = trial.reach(7)

    ballast = small_disk / "ballast"
    fill(ballast, spare_bytes=128 * 1024)  # for events and logs, not for a save
    trial.hold()
    ended = trial.wait_exit(attempt)
    ballast.unlink()
    laboratory.record("disk full during a save", ended, None, "storage")

    assert ended.cause == "storage"
    assert ended.exit["step_after"] == EVERY
    check_reached(trial, truth)


def test_a_disk_that_takes_nothing_at_all_is_waited_for_in_the_allocation(
    laboratory: Laboratory, truth: Truth, small_disk: Path
) -> None:
    trial = laboratory.begin(
        "empty", "supervision.storage_delay_seconds=5", hold=7, runs=small_disk
    )
    attempt = trial.reach(7)

    ballast = small_disk / "ballast"
    fill(ballast, spare_bytes=0)
    trial.hold()
    trial.wait_for(lambda: not rank_processes(trial.run), "the end of the ranks")
    rest = small_disk / "rest"
    fill(rest, spare_bytes=0)  # what the ranks gave back
    before = trial.run.root.stat().st_mtime_ns
    trial.wait_for(
        lambda: trial.run.root.stat().st_mtime_ns > before, "the supervisor's probe of the disk"
    )
    ballast.unlink()
    rest.unlink()
    ended = trial.wait_exit(attempt)
    laboratory.record("disk without a free byte", ended, None, "storage")

    assert ended.cause == "storage"
    check_reached(trial, truth)


@pytest.mark.full
def test_a_run_that_is_cancelled_during_a_save_stays_so_until_it_is_resumed(
    laboratory: Laboratory, truth: Truth
) -> None:
    trial = laboratory.begin("cancelled", hooks=SLOW_SAVE)
    trial.wait_for((trial.folder / "saving").exists, "the save after step 10")

    laboratory.desk("cancel", trial.run.name)
    trial.wait_end()
    state = trial.status()["state"]
    (trial.folder / "saved").touch()
    laboratory.desk("resume", trial.run.name)
    ended = trial.wait_exit(1)
    laboratory.record("cancel during a save, then resume", ended, None, "cancelled")

    assert (ended.cause, state) == ("cancelled", "cancelled")
    assert len(trial.events("submit")) == 2
    check_reached(trial, truth)
