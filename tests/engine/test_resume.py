"""Stops, kills, damage and full disks, against real ranks."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import time

import pytest

from jobs import checkpoints, rundir

pytestmark = pytest.mark.engine

LONG = {"train_steps": 60, "decay_steps": 60, "save_interval": 25, "validation_interval": 0}


@pytest.mark.parametrize(
    ("sizes", "precision"),
    [({"data": 2}, "fp32"), ({"tensor": 2}, "bf16"), ({"pipeline": 2}, "fp32")],
    ids=["data", "tensor-bf16", "pipeline"],
)
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(make_run, layout, sizes, precision):
    values = {**LONG, "parallel": layout(**sizes), "precision": precision}
    whole, parted = make_run("whole", **values), make_run("parted", **values)
    whole.finish()

    ranks = parted.start()
    parted.until_step(5)
    ranks.signal(signal.SIGTERM)
    codes = ranks.wait()
    stopped_at = max(parted.losses())
    parted.finish()

    assert codes == [130, 130], ranks.words()
    assert 5 <= stopped_at < 60
    assert "SIGTERM was received" in ranks.words()
    assert parted.losses() == whole.losses()
    steps = [line["step"] for line in parted.lines() if "loss" in line]
    assert steps == list(range(1, 61))
    samples = [line["consumed_samples"] for line in parted.lines() if "loss" in line]
    assert samples == [4 * step for step in range(1, 61)]
    assert parted.validations() == whole.validations()


def test_one_rank_asked_to_stop_is_enough(make_run, layout):
    run = make_run(**LONG, parallel=layout(data=2))

    ranks = run.start()
    run.until_step(3)
    ranks.processes[1].send_signal(signal.SIGUSR2)

    assert ranks.wait() == [130, 130], ranks.words()
    assert len(run.checkpoints()) == 2


def test_signals_while_everything_is_saved_are_one_request(make_run):
    run = make_run(**{**LONG, "train_steps": 1000, "save_interval": 1})

    ranks = run.start()
    run.until_step(3)
    while ranks.processes[0].poll() is None:
        with contextlib.suppress(ProcessLookupError):
            ranks.signal(signal.SIGTERM)
            ranks.signal(signal.SIGUSR2)
        time.sleep(0.01)

    assert ranks.wait() == [130], ranks.words()
    step = max(run.losses())
    assert checkpoints.find_latest(run.root / "checkpoints")[1].iteration == step


def test_a_rank_that_dies_takes_the_others_along(make_run, layout):
    run = make_run(**{**LONG, "train_steps": 100_000}, parallel=layout(data=2))

    ranks = run.start()
    run.until_step(2)
    ranks.processes[1].kill()

    first, second = ranks.wait()
    assert (first != 0, second) == (True, -signal.SIGKILL)


def test_killed_and_started_again_goes_on_from_the_last_checkpoint(make_run):
    whole, killed = make_run("whole", **LONG), make_run("killed", **LONG)
    whole.finish()

    ranks = killed.start()
    killed.until_step(27)
    ranks.signal(signal.SIGKILL)
    ranks.wait()
    before = len(killed.lines())
    killed.finish()

    again = [line["step"] for line in killed.lines()[before:] if "loss" in line]
    assert again[0] in (26, 51)
    assert killed.losses() == whole.losses()


def test_a_file_asks_to_stop_and_another_to_save(make_run):
    run = make_run(train_steps=100_000, save_interval=100_000, validation_interval=0)

    ranks = run.start()
    run.until_step(2)
    run.files.save_file.touch()
    while len(run.checkpoints()) < 2:
        assert ranks.processes[0].poll() is None, ranks.words()
        time.sleep(0.05)
    run.files.stop_file.touch()

    assert ranks.wait() == [130], ranks.words()
    assert not run.files.save_file.exists()
    assert len(run.checkpoints()) == 3
    assert "STOP" in ranks.words()


def test_a_truncated_newest_checkpoint_is_set_aside_for_the_one_before(make_run):
    run = make_run(train_steps=8, save_interval=4)
    run.finish()
    expected = run.losses()
    os.truncate(run.root / "checkpoints/iter_0000008/__0_0.distcp", 100)

    ranks = run.start()

    assert ranks.wait() == [0], ranks.words()
    assert "__0_0.distcp has 100 bytes instead of" in ranks.words()
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


def test_one_flipped_byte_in_each_of_the_newest_two_is_found_and_the_one_before_is_used(
    make_run, layout
):
    run = make_run(train_steps=8, save_interval=2, parallel=layout(data=2))
    run.finish()
    expected = run.losses()
    flip_a_byte(run.root / "checkpoints/iter_0000008/__1_0.distcp")
    flip_a_byte(run.root / "checkpoints/iter_0000006/common.pt")

    run.finish()

    words = run.started[-1].words()
    content = "has its size, but not the content that was written"
    assert "iter_0000008 is set aside as iter_0000008.bad-" in words
    assert f": __1_0.distcp {content}" in words
    assert f": common.pt {content}" in words
    assert run.trained(2) == [5, 6, 7, 8]
    assert run.losses() == expected
    assert [path.name[:17] for path in (run.root / "checkpoints").glob("*.bad-*")]
    newest, _ = checkpoints.find_latest(run.root / "checkpoints")
    assert checkpoints.verified_at(newest) is None
    assert checkpoints.verified_at(run.root / "checkpoints/iter_0000004") is not None


def test_damage_to_all_checkpoints_is_refused_and_nothing_is_deleted(make_run):
    run = make_run(train_steps=8, save_interval=4)
    run.finish()
    for name in run.checkpoints():
        (run.root / "checkpoints" / name / "meditron.json").write_text("{")
    before = run.checkpoints()

    ranks = run.start()

    assert ranks.wait() == [1]
    assert "training will not begin anew" in ranks.words()
    assert "iter_0000004: " in ranks.words()
    assert run.checkpoints() == before


def test_a_first_save_that_was_killed_is_begun_again(make_run):
    run = make_run()
    (run.root / "checkpoints/iter_0000000").mkdir(parents=True)
    (run.root / "checkpoints/iter_0000000/__0_0.distcp").write_bytes(b"cut")

    run.finish()

    assert list(run.losses()) == list(range(1, 9))


def test_a_save_that_was_killed_is_set_aside_and_later_deleted(make_run):
    run = make_run(save_interval=4)
    run.finish()
    whole = run.root / "checkpoints/iter_0000008"
    for name in ("meditron.json", "manifest.json", "metadata.json"):
        (whole / name).unlink()

    run.finish()

    assert run.checkpoints() == ["iter_0000000", "iter_0000004", "iter_0000008"]
    assert "meditron.json is missing: it was never finished" in run.started[-1].words()
    assert run.trained(2) == [5, 6, 7, 8]


def test_index_files_that_were_not_finished_are_built_again(make_run):
    run = make_run()
    run.finish()
    shutil.rmtree(run.root / "checkpoints")
    cache = run.root / "tokens/cache"
    (cache / "ready.json").unlink()
    for index in cache.glob("*-shuffle_index.npy"):
        index.write_bytes(b"cut")

    run.finish()

    assert len([line for line in run.lines() if "loss" in line]) == 16


def test_at_the_target_nothing_is_trained(make_run):
    run = make_run()
    run.finish()
    lines = run.lines()
    run.files.done("pretrain", 0).unlink()

    run.finish()

    assert run.lines() == lines
    assert run.files.done("pretrain", 0).exists()


def test_stopped_in_the_last_validation_the_next_start_does_it_and_finishes(make_run):
    run = make_run(validation_interval=0, validation_batches=400)

    ranks = run.start()
    run.until_step(8)
    ranks.signal(signal.SIGTERM)

    assert ranks.wait() == [130], ranks.words()
    assert "stopped at step 8, all of it saved: SIGTERM was received" in ranks.words()
    assert not run.files.done("pretrain", 0).exists()
    assert run.validations() == {}

    run.finish()

    assert list(run.validations()) == [8]
    assert run.files.done("pretrain", 0).exists()
    assert len([line for line in run.lines() if "loss" in line]) == 8


def test_other_tokens_are_refused(make_run, replace_tokens):
    run = make_run(save_interval=2)
    run.finish()
    replace_tokens(run, "tokens/train/00002", "other")

    ranks = run.start()

    assert ranks.wait() == [2]
    assert "tokens changed since iter_0000008 was saved" in ranks.words()
    assert "--new" in ranks.words()


def test_a_full_disk_leaves_the_checkpoint_before_untouched(make_run, layout):
    values = {**LONG, "train_steps": 400, "save_interval": 50, "parallel": layout(data=2)}
    run = make_run(**values)

    ranks = run.start()
    run.until_step(2)
    for process in ranks.processes:  # a file may not grow beyond this, as on a disk that is full
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (200_000, 200_000))

    codes = ranks.wait()
    assert 1 in codes
    assert 0 not in codes
    assert "iter_0000050 could not be written" in ranks.words()
    assert run.checkpoints() == ["iter_0000000"]
    words = rundir.read_json(run.files.attempt("pretrain", 1) / "words-00000-00000.json")
    assert words["kind"] == "StorageError"
    assert "could not be written: EFBIG: File too large; checkpoints before" in words["message"]


def test_a_loss_that_is_no_number_stops_training(make_run):
    run = make_run(learning_rate=1e30, min_learning_rate=1e29, clip_grad=0.0, warmup_steps=0)

    ranks = run.start()

    assert ranks.wait() == [1]
    assert "iter_0000000 holds the last good state" in ranks.words()
    assert run.checkpoints() == ["iter_0000000"]
