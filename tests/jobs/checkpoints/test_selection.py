"""A reader's choice among the checkpoints of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.checkpoints import manifest, retention, selection
from jobs.checkpoints.selection import Choice
from jobs.contract.errors import TaskError

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


@pytest.mark.parametrize("anew", [False, True])
def test_weights_that_were_set_aside_while_they_were_read_are_refused(
    anew: bool, tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path, 2)
    record = manifest.read(path)
    selection.require_same(path, record)

    retention.quarantine({path: "a step up to it is skipped now"})
    if anew:
        write_checkpoint(tmp_path, 2, b"other weights")

    with pytest.raises(TaskError, match=r"iter_0000002 was set aside while it was read"):
        selection.require_same(path, record)


@pytest.mark.parametrize(
    ("folder", "is_of_other_run", "hint"),
    [
        ("run/checkpoints", False, "{meditron submit pretrain --run} first"),
        ("run/finetune/exam/checkpoints", False, "{meditron submit finetune --run} first"),
        ("/old/checkpoints", True, "put that run's checkpoints back, or name another one in "),
    ],
)
def test_the_hint_names_what_makes_the_missing_checkpoints(
    folder: str, is_of_other_run: bool, hint: str
) -> None:
    choice = Choice(Path(folder), "last", 4, is_of_other_run)

    assert selection.missing(choice, None, "finetuned").hint.startswith(hint)
