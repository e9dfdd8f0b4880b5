"""Stops, kills, damage and full disks, against real ranks."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time

import psutil
import pytest

from jobs.checkpoints import leases, manifest
from jobs.contract.metrics_log import SaveLine, ValidationLine

from ..disks import mounted
from ..ranks import wait_until
from .conftest import LONG

pytestmark = pytest.mark.engine

ENDLESS = {**LONG, "train_steps": 100_000}
"""Changes to the task's spec for a training that never ends by itself before it is hit."""


@pytest.mark.parametrize(
    ("sizes", "precision"),
    [
        pytest.param({"data": 2}, "fp32", id="data"),
        pytest.param({"tensor": 2}, "bf16", id="tensor-bf16", marks=pytest.mark.full),
        pytest.param({"pipeline": 2}, "fp32", id="pipeline", marks=pytest.mark.full),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(make_run, layout, sizes, precision):
    values = {**ENDLESS, "parallel": layout(**sizes), "precision": precision}
    whole, parted = make_run("whole", **values), make_run("parted", **values)

    ranks = parted.start()
    parted.until_step(5)
    ranks.signal(signal.SIGTERM)
    codes = ranks.wait()
    target = max(parted.losses()) + 25
    for run in (parted, whole):
        run.change(train_steps=target)
        run.finish()

    assert codes == [130, 130], ranks.output()
    assert "SIGTERM was received" in ranks.output()
    assert parted.losses() == whole.losses()
    steps = [line.step for line in parted.steps()]
    assert steps == list(range(1, target + 1))
    assert parted.samples() == parted.traced() == whole.samples()
    assert len(set(whole.samples().values())) == target
    assert parted.validations() == whole.validations()


BEHIND = """
import sys
from jobs.__main__ import main
from jobs.engine.trainer import Trainer

place = Trainer._position
Trainer._position = lambda trainer: max(0, place(trainer) - trainer.spec.global_batch_size)

if __name__ == "__main__":
    sys.exit(main())
"""
"""Training that begins each global batch a batch too early."""


@pytest.mark.full
def test_a_step_that_reads_other_samples_than_its_own_is_reported(make_run):
    right, wrong = make_run("right"), make_run("wrong")
    program = wrong.root / "behind.py"
    program.write_text(BEHIND)

    right.finish()
    ranks = wrong.start(str(program))

    assert ranks.wait() == [0], ranks.output()
    own = right.samples()
    assert wrong.samples() == {1: own[1], **{step: own[step - 1] for step in range(2, 9)}}
    assert len(set(own.values())) == 8


def test_a_stop_request_to_one_rank_is_enough(make_run, layout):
    run = make_run(**{**ENDLESS, "save_interval": 100_000}, parallel=layout(data=2))

    ranks = run.start()
    run.until_step(3)
    ranks.processes[1].send_signal(signal.SIGUSR2)

    assert ranks.wait() == [130, 130], ranks.output()
    assert len(run.checkpoints()) == 2


@pytest.mark.full
def test_signals_while_everything_is_saved_are_one_request(make_run):
    run = make_run(**{**LONG, "train_steps": 1000, "save_interval": 1})

    ranks = run.start()
    run.until_step(3)
    children = []  # a writer of its own, once killed, would leave the rank waiting for ever
    while ranks.processes[0].poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            children += psutil.Process(ranks.processes[0].pid).children()
        with contextlib.suppress(ProcessLookupError):
            ranks.signal(signal.SIGTERM)
            ranks.signal(signal.SIGUSR2)
        time.sleep(0.01)

    assert ranks.wait() == [130], ranks.output()
    assert children == []
    step = max(run.losses())
    assert manifest.find_latest(run.root / "checkpoints")[1].iteration == step


def test_a_rank_that_dies_takes_the_others_along(make_run, layout):
    run = make_run(**ENDLESS, parallel=layout(data=2))

    ranks = run.start()
    run.until_step(2)
    ranks.processes[1].kill()

    first, second = ranks.wait()
    assert (first != 0, second) == (True, -signal.SIGKILL)


def test_killed_and_started_again_it_resumes_from_the_last_checkpoint(make_run, undisturbed):
    killed = make_run(**ENDLESS)

    ranks = killed.start()
    folder = killed.root / "checkpoints"
    wait_until(lambda: max(manifest.saved_steps(folder), default=0) >= 25)
    writer = leases.read_writer(folder)
    ranks.signal(signal.SIGKILL)
    ranks.wait()
    assert writer.pid == ranks.processes[0].pid
    assert leases.read_writer(folder) is None
    _, newest = manifest.find_latest(folder)
    killed.change(train_steps=max(60, newest.iteration + 1))
    killed.finish()

    assert killed.trained(2)[0] == newest.iteration + 1
    losses = killed.losses()
    assert {step: losses[step] for step in undisturbed} == undisturbed


@pytest.mark.full
def test_killed_in_the_middle_of_saves_and_started_again_nothing_is_lost_but_steps(
    make_run, undisturbed
):
    killed = make_run(**{**LONG, "save_interval": 5})

    for save in ("iter_0000010", "iter_0000025"):
        ranks = killed.start()
        wait_until((killed.root / "checkpoints" / save).exists)
        ranks.signal(signal.SIGKILL)
        ranks.wait()
    killed.finish()

    assert killed.losses() == undisturbed
    assert list(killed.losses()) == list(range(1, 61))
    for name in killed.checkpoints():
        assert manifest.problem(killed.root / "checkpoints" / name) == ""


def test_one_file_requests_a_stop_and_another_a_save(make_run):
    run = make_run(train_steps=100_000, save_interval=100_000, validation_interval=0)

    ranks = run.start()
    run.until_step(2)
    run.files.save_file.touch()
    while len(run.checkpoints()) < 2:
        assert ranks.processes[0].poll() is None, ranks.output()
        time.sleep(0.05)
    run.files.stop_file.touch()

    assert ranks.wait() == [130], ranks.output()
    assert not run.files.save_file.exists()
    assert len(run.checkpoints()) == 3
    assert "STOP" in ranks.output()


def test_a_truncated_newest_checkpoint_is_set_aside_for_the_one_before(make_run):
    run = make_run(train_steps=8, save_interval=4)
    run.finish()
    expected = run.losses()
    os.truncate(run.root / "checkpoints/iter_0000008/__0_0.distcp", 100)

    ranks = run.start()

    assert ranks.wait() == [0], ranks.output()
    assert "__0_0.distcp has 100 bytes instead of" in ranks.output()
    assert run.trained(2) == [5, 6, 7, 8]
    assert run.losses() == expected
    names = run.checkpoints()
    assert names[:2] == ["iter_0000000", "iter_0000004"]
    assert "iter_0000008" in names
    assert names[-1].startswith("iter_0000008.bad-")


def flip_a_byte(path):
    """Change the content of a file, and neither its size nor its time of change."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        byte = file.read(1)
        file.seek(before.st_size // 2)
        file.write(bytes([byte[0] ^ 0x40]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "sizes", [pytest.param({"data": 2}, marks=pytest.mark.full), {"tensor": 2}], ids=str
)
def test_one_flipped_byte_in_each_of_the_newest_two_is_found_and_the_one_before_is_used(
    make_run, layout, sizes
):
    run = make_run(train_steps=8, save_interval=2, parallel=layout(**sizes))
    run.finish()
    expected = run.losses()
    flip_a_byte(run.root / "checkpoints/iter_0000008/__1_0.distcp")
    flip_a_byte(run.root / "checkpoints/iter_0000006/common.pt")

    run.finish()

    words = run.started[-1].output()
    content = "has the right size, but its content has changed"
    assert "iter_0000008 is quarantined as iter_0000008.bad-" in words
    assert f": __1_0.distcp {content}" in words
    assert f": common.pt {content}" in words
    assert run.trained(2) == [5, 6, 7, 8]
    assert run.losses() == expected
    assert [path.name[:17] for path in (run.root / "checkpoints").glob("*.bad-*")]
    newest, _ = manifest.find_latest(run.root / "checkpoints")
    assert manifest.verified_at(newest) is None
    assert manifest.verified_at(run.root / "checkpoints/iter_0000004") is not None


@pytest.mark.full
@pytest.mark.parametrize("sizes", [{"data": 2}, {"tensor": 2}], ids=str)
def test_an_altered_byte_in_any_file_is_found_while_loading(make_run, layout, sizes):
    run = make_run(train_steps=4, save_interval=2, parallel=layout(**sizes))
    run.finish()
    expected = run.losses()
    folder, copy = run.root / "checkpoints/iter_0000004", run.root / "copy"
    shutil.copytree(folder, copy)
    files = sorted(manifest.manifest(folder))

    for attempt, name in enumerate(files, start=2):
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        flip_a_byte(folder / name)
        run.finish()

        assert re.search(f"iter_0000004 is quarantined as .*: {name} ", run.started[-1].output())
        assert run.trained(attempt) == [3, 4]
    assert run.losses() == expected
    assert len(files) >= 5


@pytest.mark.full
def test_damage_to_all_checkpoints_is_refused_and_nothing_is_deleted(make_run):
    run = make_run(train_steps=8, save_interval=4)
    run.finish()
    for name in run.checkpoints():
        (run.root / "checkpoints" / name / "meditron.json").write_text("{")
    before = run.checkpoints()

    ranks = run.start()

    assert ranks.wait() == [1]
    assert "training does not restart from step 0" in ranks.output()
    assert "iter_0000004: " in ranks.output()
    assert run.checkpoints() == before


@pytest.mark.full
@pytest.mark.parametrize("left", [[], ["iter_0000000"]])
def test_training_whose_checkpoints_are_gone_does_not_begin_anew(make_run, left):
    run = make_run(train_steps=8, save_interval=4)
    run.finish()
    for name in set(run.checkpoints()) - set(left):
        shutil.rmtree(run.root / "checkpoints" / name)

    ranks = run.start()

    assert ranks.wait() == [1]
    assert "training does not restart from step 0" in ranks.output()
    assert "step 8 was saved, but no file of it is left" in ranks.output()
    assert run.trained(2) == []
    assert run.checkpoints() == left


@pytest.mark.full
def test_a_first_save_that_was_killed_is_begun_again(make_run):
    run = make_run()
    (run.root / "checkpoints/iter_0000000").mkdir(parents=True)
    (run.root / "checkpoints/iter_0000000/__0_0.distcp").write_bytes(b"cut")

    run.finish()

    assert list(run.losses()) == list(range(1, 9))


@pytest.mark.full
def test_a_save_that_was_killed_is_set_aside_and_later_deleted(make_run):
    run = make_run(save_interval=4)
    run.finish()
    whole = run.root / "checkpoints/iter_0000008"
    for name in ("meditron.json", "manifest.json", "metadata.json"):
        (whole / name).unlink()

    run.finish()

    assert run.checkpoints() == ["iter_0000000", "iter_0000004", "iter_0000008"]
    assert "meditron.json is missing: it was never finished" in run.started[-1].output()
    assert run.trained(2) == [5, 6, 7, 8]


@pytest.mark.full
def test_at_the_target_nothing_is_trained(make_run):
    run = make_run()
    run.finish()
    lines = run.lines()
    run.files.done("pretrain", 0).unlink()

    run.finish()

    assert run.lines() == lines
    assert run.files.done("pretrain", 0).exists()


@pytest.mark.full
def test_stopped_in_the_last_validation_the_next_start_does_it_and_finishes(make_run):
    run = make_run(validation_interval=0, validation_batches=400)

    ranks = run.start()
    run.until_step(8)
    ranks.signal(signal.SIGTERM)

    assert ranks.wait() == [130], ranks.output()
    assert "stopped at step 8, every step is saved: SIGTERM was received" in ranks.output()
    assert not run.files.done("pretrain", 0).exists()
    assert run.validations() == {}

    run.finish()

    assert list(run.validations()) == [8]
    assert run.files.done("pretrain", 0).exists()
    assert len(run.steps()) == 8


@pytest.mark.full
def test_other_tokens_are_refused(make_run, replace_tokens):
    run = make_run(save_interval=2)
    run.finish()
    replace_tokens(run, "tokens/train/00002", "other")

    ranks = run.start()

    assert ranks.wait() == [2]
    binary = run.root / "tokens/train/00002.bin"
    assert f"{binary} has changed since iter_0000008 was saved" in ranks.output()
    assert f"`{run.files.command('resume')}`" in ranks.output()


LIMITED = """
import resource, sys
from jobs.__main__ import main

def watch(event, arguments):
    if event == "open" and "/iter_0000002/" in str(arguments[0]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

if __name__ == "__main__":
    sys.addaudithook(watch)
    sys.exit(main())
"""
"""A rank with a limit on the size of files from its second save on."""


def test_a_save_beyond_the_file_size_limit_is_a_configuration_error(make_run, layout):
    """Another attempt would meet the same limit. The checkpoint before is untouched."""
    run = make_run(**{**LONG, "save_interval": 2}, parallel=layout(data=2))

    ranks = run.start(code=LIMITED)

    assert ranks.wait() == [2, 2]
    assert run.checkpoints() == ["iter_0000000"]
    for rank in (0, 1):
        record = run.rank_exit(rank)
        assert (record["kind"], record["code"]) == ("TaskError", 2)
        assert "`ulimit -f unlimited`" in record["hint"]
        assert re.match(
            rf"{re.escape(str(run.root))}/checkpoints/iter_\d+ could not be written: "
            "EFBIG: File too large",
            record["message"],
        )


@pytest.fixture
def small_disk(tmp_path):
    """Yield a disk that holds the first checkpoint of a run and not much more."""
    with mounted(tmp_path / "disk", "3m") as disk:
        yield disk


@pytest.mark.full
def test_a_save_without_space_is_not_begun_and_with_space_all_continues(
    make_run, small_disk, undisturbed
):
    run = make_run(**LONG, checkpoint_dir=str(small_disk / "checkpoints"))
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"1" * (2 << 20))

    ranks = run.start()

    assert ranks.wait() == [1]
    record = run.rank_exit()
    assert record["kind"] == "StorageError"
    assert "iter_0000025 could not be written: ENOSPC: it takes 1 MiB, 0 MiB" in record["message"]
    assert [path.name for path in small_disk.glob("checkpoints/iter_*")] == ["iter_0000000"]
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    run.finish()
    assert run.losses() == undisturbed


@pytest.mark.full
def test_a_non_finite_loss_has_the_same_message_each_time(make_run):
    run = make_run(learning_rate=1e30, min_learning_rate=1e29, clip_grad=0.0, warmup_steps=0)
    records = []

    for _ in range(2):
        assert run.start().wait() == [1]
        records.append({key: run.rank_exit()[key] for key in ("kind", "message", "code")})

    assert records[0] == records[1]
    assert records[0]["kind"] == "NonFiniteLoss"
    assert "iter_0000000 holds the last good state" in records[0]["message"]
    assert run.checkpoints() == ["iter_0000000"]


@pytest.mark.full
def test_saves_and_validations_are_on_record_with_their_time_and_size(make_run):
    run = make_run(save_interval=4)
    run.finish()

    saves = [line for line in run.lines() if isinstance(line, SaveLine)]
    validations = [line for line in run.lines() if isinstance(line, ValidationLine)]

    assert [line.step for line in saves] == [0, 4, 8]
    for line in saves:
        _, record = manifest.at_step(run.root / "checkpoints", line.step)
        assert line.bytes == record.bytes
        assert line.seconds > 0
    assert [line.step for line in validations] == [0, 4, 8]
    assert all(line.seconds > 0 for line in validations)
    assert {line.attempt for line in (*saves, *validations)} == {1}
