"""The folder of an export: complete or absent, and never in the place of something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.contract.errors import TaskError
from jobs.contract.files import read_json
from jobs.conversion.export_folder import RECORD, VERIFICATION, ExportFolder, exchange_names

from ...kills import kill_before_step


def export(path: Path, text: str, **options) -> None:
    """Write an export of one file."""
    folder = ExportFolder(path, **options)
    folder.open()
    (folder.part / "model.safetensors").write_text(text)
    folder.publish({"files": {"model.safetensors": {}}})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_export_has_its_name_with_its_record(tmp_path):
    export(tmp_path / "export", "new")

    assert names(tmp_path) == ["export"]
    assert read_json(tmp_path / "export" / RECORD)["files"] == {"model.safetensors": {}}


@pytest.mark.parametrize("options", [{}, {"exchange": lambda one, other: False}])
def test_an_older_export_is_replaced(tmp_path, options):
    export(tmp_path / "export", "old")
    (tmp_path / "export" / VERIFICATION).touch()

    export(tmp_path / "export", "new", **options)

    assert names(tmp_path) == ["export"]
    assert (tmp_path / "export/model.safetensors").read_text() == "new"
    assert names(tmp_path / "export") == [RECORD, "model.safetensors"]


def test_names_are_exchanged_in_one_step(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()

    assert exchange_names(tmp_path / "one", tmp_path / "other")
    assert names(tmp_path / "one") == ["other"]
    assert not exchange_names(tmp_path / "one", tmp_path / "none")


def foreign_folder(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")


def added_file(path: Path) -> None:
    export(path, "old")
    (path / "notes.txt").touch()


def link(path: Path) -> None:
    path.with_name("elsewhere").mkdir()
    path.symlink_to("elsewhere")


REFUSED = [
    (foreign_folder, "the folder exists, and no export wrote it"),
    (added_file, "notes.txt in it was not written by an export"),
    (link, "it is not a folder, so no export replaces it"),
    (lambda path: path.write_text("text"), "it is not a folder, so no export replaces it"),
]


@pytest.mark.parametrize(("make", "problem"), REFUSED, ids=["folder", "file in", "link", "file"])
def test_what_no_export_wrote_is_refused_and_kept(tmp_path, make, problem):
    path = tmp_path / "an export"
    make(path)
    before = {item: item.read_bytes() for item in path.parent.rglob("*") if item.is_file()}

    with pytest.raises(TaskError) as refused:
        ExportFolder(path).open()

    assert refused.value.message == f"{path}: {problem}"
    assert refused.value.hint == f"`mv '{path}' '{path}.old'`, then {{meditron resume}}"
    assert refused.value.code == 2
    after = {item: item.read_bytes() for item in path.parent.rglob("*") if item.is_file()}
    assert after == before


def test_an_empty_folder_is_replaced(tmp_path):
    (tmp_path / "export").mkdir()

    export(tmp_path / "export", "new")

    assert (tmp_path / "export/model.safetensors").read_text() == "new"


@pytest.mark.parametrize("options", [{}, {"exchange": lambda one, other: False}])
def test_an_export_killed_at_any_step_leaves_the_older_or_the_new_one(tmp_path, options):
    path = tmp_path / "export"
    export(path, "old")
    step = 0
    killed = True
    while killed:
        step += 1
        killed = kill_before_step(step, lambda: export(path, "new", **options))

        if path.exists():
            assert RECORD in names(path)
        ExportFolder(path).open()  # what the next attempt begins with
        assert (path / "model.safetensors").read_text() in ("old", "new")
    assert step > 3
    assert (path / "model.safetensors").read_text() == "new"
