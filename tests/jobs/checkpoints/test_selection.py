"""A reader's choice among the checkpoints of a run."""

from __future__ import annotations

from pathlib import Path

from jobs.checkpoints import selection
from jobs.checkpoints.selection import Choice

from ..checkpoint_files import write_checkpoint


def test_a_damaged_checkpoint_is_refused_by_the_name_of_its_file(tmp_path: Path) -> None:
    damaged = write_checkpoint(tmp_path, 2)
    write_checkpoint(tmp_path, 4)
    (damaged / "__0_0.distcp").write_bytes(b"")

    error = selection.missing(Choice(tmp_path, "2", 4), 4, "exported")

    assert str(error).startswith(f"{damaged} is damaged: __0_0.distcp ")
    for name in ("meditron.json", "manifest.json", "metadata.json"):  # a save that never ended
        (damaged / name).unlink()
    error = selection.missing(Choice(tmp_path, "2", 4), 4, "exported")
    assert str(error) == f"{tmp_path}: no valid checkpoint of step 2; the newest is of step 4"
