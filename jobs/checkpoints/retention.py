"""Which checkpoint a run goes on from, and which may go: set aside, keep, delete. Standard library
only.

Only the one writer of the folder (``jobs.checkpoints.leases.sole_writer``) calls this, from one
process.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from jobs.checkpoints import leases, manifest
from jobs.checkpoints.manifest import Found
from jobs.contract.errors import FAILED, TaskError
from jobs.contract.events import read_events
from jobs.contract.files import read_lines
from jobs.contract.rundir import RunDir

OLDER_TRIED = 2
"""How many checkpoints before the newest may be used when it is damaged."""

POLL_SECONDS = 0.05


class CheckpointsDamaged(TaskError):
    """Steps were trained, and no checkpoint of them can be used."""


def choose_for_resume(folder: Path, trained: int = 0) -> Found | None:
    """The checkpoint a run continues from, as far as records and sizes tell; what is newer and
    damaged is set aside.

    None means that the run may begin: no checkpoint of it went beyond step 0, which holds nothing
    but the random weights of the seed, and is not gone back to either. A save that was never
    finished is no checkpoint, and does not count among those that may be passed over.

    Args:
        trained: the highest step that the run is known to have saved, whatever lies there now.

    Raises:
        CheckpointsDamaged: there are checkpoints, but the newest and the two before it are all
            damaged, now or set aside earlier, or all beyond step 0 are gone; nothing is changed
            then.
        OSError: the storage does not answer.
    """
    damaged: dict[Path, str] = {}
    for path in manifest.folders(folder):
        wrong = manifest.problem(path)
        if wrong:
            damaged[path] = wrong
        elif manifest.step_of(path) == 0 and (trained or _lost_after(folder, path)):
            raise _refusal(folder, damaged, None, trained)
        elif len(_lost_after(folder, path)) > OLDER_TRIED:
            raise _refusal(folder, damaged, path)
        else:
            set_aside(damaged)
            return path, manifest.read(path)
    if trained or _went_beyond_start(folder):
        raise _refusal(folder, damaged, None, trained)
    set_aside(damaged)
    return None


def highest_saved(run: RunDir) -> int:
    """The highest step of which a run is known to have had a checkpoint, by its records alone: the
    saves that ranks have told, and what was found at the starts and the ends; 0 before the first.
    """
    saved = [line["step"] for line in read_lines(run.metrics()) if "save" in line]
    found = [
        event.get(key) or 0
        for event in read_events(run)
        for key in ("step", "step_before", "step_after")
        if event.get("stage") == "pretrain"
    ]
    return max((*saved, *found), default=0)


def set_aside(damaged: Mapping[Path, str]) -> None:
    """Rename damaged checkpoints to ``iter_X.bad-<time>``, and say why; nothing is deleted."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for path, wrong in damaged.items():
        aside = path.with_name(f"{path.name}.bad-{stamp}")
        path.rename(aside)
        print(f"checkpoint {path.name} is set aside as {aside.name}: {wrong}", flush=True)


def let_go(folder: Path, keep: int) -> None:
    """Delete what is neither step 0, nor the newest, nor among the ``keep`` before it, nor the
    newest of which every byte was verified, nor leased by a reader.

    Runs only after a newer one was written and found whole. Of the folders set aside, those that
    were never finished go too; damaged ones stay for a person to look at.
    """
    now = time.time()
    leases.forget_expired(folder, now)
    leased = {lease.checkpoint for lease in leases.read_leases(folder, now)}
    for path in [*_superfluous(folder, keep), *_unfinished(folder)]:
        if path.name not in leased:
            # In one step: half a checkpoint under its own name would look damaged.
            path.rename(_leaving(path))
    for leaving in folder.glob(".iter_*.leaving"):
        _delete_unless_leased(leaving)


def came_back(path: Path, seconds: float = 10.0) -> bool:
    """Whether a checkpoint that was just leaving is there again, as it must be for a lease.

    Waits while it is neither there nor gone, so many seconds at most.
    """
    deadline = time.monotonic() + seconds
    while not path.exists() and _leaving(path).exists() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return path.exists()


def _leaving(path: Path) -> Path:
    """The name under which a checkpoint is deleted."""
    return path.with_name(f".{path.name}.leaving")


def _superfluous(folder: Path, keep: int) -> list[Path]:
    whole = [path for path in manifest.folders(folder) if (path / manifest.RECORD).exists()]
    verified = [path for path in whole if manifest.verified_at(path)][:1]
    return [
        path for path in whole[keep + 1 :] if manifest.step_of(path) > 0 and path not in verified
    ]


def _unfinished(folder: Path) -> list[Path]:
    """Saves that were killed, among the folders set aside."""
    return [path for path in folder.glob("iter_*.bad-*") if not manifest.was_finished(path)]


def _delete_unless_leased(leaving: Path) -> None:
    """Look at leases once more, now that nobody can find the folder: a reader that took one just
    before waits for it to come back.
    """
    original = leaving.with_name(leaving.name.removeprefix(".").removesuffix(".leaving"))
    leased = {lease.checkpoint for lease in leases.read_leases(leaving.parent, time.time())}
    if original.name in leased and not original.exists():
        leaving.rename(original)
    else:
        shutil.rmtree(leaving, ignore_errors=True)


def _lost_after(folder: Path, path: Path) -> set[int]:
    """Steps after that of a checkpoint whose own checkpoints are damaged or set aside; those that
    are valid lie before it.
    """
    step = manifest.step_of(path)
    return {
        manifest.step_of(other)
        for other in folder.iterdir()
        if manifest.step_of(other) > step and manifest.was_finished(other)
    }


def _went_beyond_start(folder: Path) -> bool:
    """Whether anything, good, damaged or set aside, shows that steps were trained here."""
    return folder.is_dir() and any(manifest.step_of(path) > 0 for path in folder.iterdir())


def _refusal(
    folder: Path, damaged: Mapping[Path, str], whole: Path | None, trained: int = 0
) -> CheckpointsDamaged:
    table = [f"  {path.name}: {wrong}" for path, wrong in damaged.items()]
    aside = sorted(path.name for path in folder.glob("iter_*.bad-*"))
    table += [f"  {name}: set aside earlier" for name in reversed(aside)]
    if trained and not table:
        table = [f"  step {trained} was saved, and nothing of it is left"]
    if whole is None:
        message = f"{folder}: no checkpoint can be used, and training will not begin anew at random"
        hint = "restore one of these folders from a copy, or start another run with `--new`"
    else:
        message = (
            f"{folder}: {whole.name} is whole, but more than {OLDER_TRIED} checkpoints after it "
            "are damaged"
        )
        hint = (
            "restore one of these folders from a copy; or move them away to go on from "
            f"{whole.name} all the same"
        )
    return CheckpointsDamaged("\n".join([message, *table]), hint, FAILED)
