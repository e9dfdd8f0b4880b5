"""Which folder is a checkpoint, and which one is used: files only, no ranks."""

from __future__ import annotations

import json

import pytest

from jobs import rundir
from jobs.engine import checkpoint
from jobs.runtime import TaskError


@pytest.fixture
def write(tmp_path):
    """Write a folder as a save leaves it."""

    def make(step: int, content: bytes = b"weights"):
        path = tmp_path / checkpoint.name(step)
        path.mkdir()
        (path / "metadata.json").write_text("{}")
        (path / "__0_0.distcp").write_bytes(content)
        files = {
            name: {"bytes": (path / name).stat().st_size, "sha256": rundir.sha256(path / name)}
            for name in ("metadata.json", "__0_0.distcp")
        }
        rundir.write_json(path / "manifest.json", {"files": files})
        record = {
            "iteration": step,
            "consumed_samples": step * 4,
            "layout": {},
            "precision": "fp32",
            "model": "m",
            "data": "d",
            "bytes": 9,
            "files": 2,
            "manifest": rundir.sha256(path / "manifest.json"),
        }
        rundir.write_json(path / "meditron.json", record)
        return path

    return make


def test_the_newest_by_step_is_the_latest(write, tmp_path):
    for step in (0, 900, 1000):
        write(step)

    path, record = checkpoint.find_latest(tmp_path)

    assert path.name == "iter_0001000"
    assert (record.iteration, record.consumed_samples) == (1000, 4000)


def test_no_folder_is_no_checkpoint(tmp_path):
    assert checkpoint.find_latest(tmp_path / "nowhere") is None
    assert checkpoint.choose_for_resume(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: (path / "meditron.json").unlink(), "never finished"),
        (lambda path: (path / "meditron.json").write_text(""), "not JSON"),
        (lambda path: (path / "meditron.json").write_text('{"format": 2}'), "format 2"),
        (lambda path: (path / "meditron.json").write_text('{"format": 1}'), "missing"),
        (lambda path: (path / "manifest.json").write_text("{}"), "is not the one"),
        (lambda path: (path / "manifest.json").unlink(), "cannot be read"),
        (lambda path: (path / "metadata.json").write_text("{"), "cannot be read"),
        (lambda path: (path / "metadata.json").unlink(), "cannot be read"),
        (lambda path: (path / "__0_0.distcp").unlink(), "No such file"),
        (lambda path: (path / "__0_0.distcp").write_bytes(b""), "has 0 bytes instead of 7"),
    ],
)
def test_damage_is_named_and_the_one_before_is_used(write, tmp_path, spoil, words):
    write(10)
    spoil(write(20))

    assert words in checkpoint.problem(tmp_path / "iter_0000020")
    assert checkpoint.find_latest(tmp_path)[0].name == "iter_0000010"
    assert (tmp_path / "iter_0000020").exists()
    assert checkpoint.at_step(tmp_path, 20) is None
    assert checkpoint.choose_for_resume(tmp_path)[0].name == "iter_0000010"
    assert not (tmp_path / "iter_0000020").exists()


def test_at_most_two_older_ones_are_tried(write, tmp_path):
    write(10)
    for step in (20, 30, 40):
        (write(step) / "meditron.json").unlink()

    with pytest.raises(TaskError, match=r"iter_0000040: meditron\.json is missing") as refused:
        checkpoint.choose_for_resume(tmp_path)

    assert refused.value.message.count("never finished") == 3
    assert len(list(tmp_path.glob("iter_???????"))) == 4


def test_random_weights_are_refused_after_training_even_when_all_is_set_aside(tmp_path):
    (tmp_path / "iter_0000020.bad-20260101T000000").mkdir()

    with pytest.raises(TaskError, match="only folders set aside earlier are left"):
        checkpoint.choose_for_resume(tmp_path)


def test_a_damaged_step_0_alone_may_begin_again(write, tmp_path):
    (write(0) / "meditron.json").unlink()

    assert checkpoint.choose_for_resume(tmp_path) is None
    assert [path.name[:17] for path in tmp_path.iterdir()] == ["iter_0000000.bad-"]


def test_the_record_is_plain_json(write):
    path = write(30)

    assert json.loads((path / "meditron.json").read_text())["iteration"] == 30
    assert checkpoint.read(path).model == "m"
