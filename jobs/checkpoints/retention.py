"""Checkpoint retention: select the one to resume from, quarantine damaged ones, prune old ones.

Only the folder's writer (``jobs.checkpoints.leases.sole_writer``) calls this, from one process.
Standard library only.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from jobs.checkpoints import leases, manifest
from jobs.checkpoints.manifest import StoredCheckpoint
from jobs.contract.attempt_history import TaskHistory
from jobs.contract.errors import FAILED, RESUME, TaskError

OLDER_TRIED = 2
"""Largest number of damaged checkpoints that may be skipped."""

POLL_SECONDS = 0.05


class CheckpointsDamaged(TaskError):
    """Steps were trained, but no checkpoint of them is usable."""


def choose_for_resume(folder: Path, trained: int = 0) -> StoredCheckpoint | None:
    """Return the newest checkpoint valid by records and sizes; quarantine newer, damaged ones.

    None means that the run may make its step 0: it never saved a later step. Once it has, step 0 is
    refused, since nothing trained is in it. A save that was never finished is not a checkpoint, and
    does not count as a damaged one.

    Args:
        trained: the highest step that the run is known to have saved.

    Raises:
        CheckpointsDamaged: the newest checkpoint and the two before it are all damaged or
            quarantined, or all after step 0 are gone; nothing is changed.
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
            quarantine(damaged)
            return path, manifest.read(path)
    if trained or _has_trained(folder):
        raise _refusal(folder, damaged, None, trained)
    quarantine(damaged)
    return None


def beyond_target(path: Path, target: int) -> TaskError:
    """Return the error for a checkpoint of a step after the last one of its training."""
    step = manifest.step_of(path)
    return TaskError(
        f"{path}: it is of step {step}, beyond the target of this training, step {target}",
        f"restore the phase of pretrain.phases that had a later target, or give one train_steps of "
        f"at least {step}; if the checkpoint is another run's, move it away",
    )


def highest_saved(past: TaskHistory, in_metrics: int) -> int:
    """Return the highest step that a training has saved by its events and metrics, or 0.

    Args:
        in_metrics: the highest one that its metrics have.
    """
    records = [*past.ended.values(), *past.observed.values()]
    steps = [
        *(start.step for start in past.started.values()),
        *(step for record in records for step in (record.step_before, record.step_after)),
    ]
    return max(in_metrics, *(step or 0 for step in steps), 0)


def quarantine(damaged: Mapping[Path, str]) -> None:
    """Rename damaged checkpoints to ``iter_X.bad-<time>``, and log why; nothing is deleted.

    A second one of the same step and second is ``iter_X.bad-<time>-2``.
    """
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for path, wrong in damaged.items():
        name = f"{path.name}.bad-{stamp}"
        names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        aside = next(other for other in map(path.with_name, names) if not other.exists())
        path.rename(aside)
        print(f"checkpoint {path.name} is quarantined as {aside.name}: {wrong}", flush=True)


def prune(folder: Path, keep: int, steps: Collection[int] = ()) -> None:
    """Delete old checkpoints.

    Kept are step 0, the newest, the ``keep`` before it, those of ``steps``, the newest of which
    every byte was verified, and those leased by a reader. Call it only after a newer one was saved
    and is valid. Quarantined folders that were never finished are deleted too; damaged ones stay
    for inspection.
    """
    now = time.time()
    leases.forget_expired(folder, now)
    leased = {lease.checkpoint for lease in leases.read_leases(folder, now)}
    for path in [*_prunable(folder, keep, steps), *_unfinished(folder)]:
        if path.name not in leased:
            # At once: a checkpoint deleted in part under its own name would look damaged.
            path.rename(_pruned_name(path))
    for leaving in folder.glob(".iter_*.leaving"):
        _delete_unless_leased(leaving)


def reappeared(path: Path, seconds: float = 10.0) -> bool:
    """Return whether a checkpoint that was being pruned is restored, as a lease requires.

    Wait at most ``seconds`` while it is neither restored nor deleted.
    """
    deadline = time.monotonic() + seconds
    while not path.exists() and _pruned_name(path).exists() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return path.exists()


def _pruned_name(path: Path) -> Path:
    """Return the name under which a checkpoint is deleted."""
    return path.with_name(f".{path.name}.leaving")


def _prunable(folder: Path, keep: int, steps: Collection[int]) -> list[Path]:
    whole = [path for path in manifest.folders(folder) if (path / manifest.RECORD).exists()]
    verified = [path for path in whole if manifest.verified_at(path)][:1]
    kept = {0, *steps}
    return [
        path
        for path in whole[keep + 1 :]
        if manifest.step_of(path) not in kept and path not in verified
    ]


def _unfinished(folder: Path) -> list[Path]:
    """Return the quarantined folders of saves that were killed."""
    return [path for path in folder.glob("iter_*.bad-*") if not manifest.was_finished(path)]


def _delete_unless_leased(leaving: Path) -> None:
    """Check leases again now that the folder is hidden, and restore it for a reader.

    A reader that took its lease just before waits for that (``reappeared``).
    """
    original = leaving.with_name(leaving.name.removeprefix(".").removesuffix(".leaving"))
    leased = {lease.checkpoint for lease in leases.read_leases(leaving.parent, time.time())}
    if original.name in leased and not original.exists():
        leaving.rename(original)
    else:
        shutil.rmtree(leaving, ignore_errors=True)


def _lost_after(folder: Path, path: Path) -> set[int]:
    """Return the steps after that of a checkpoint which have a damaged or quarantined one."""
    step = manifest.step_of(path)
    return {
        manifest.step_of(other)
        for other in folder.iterdir()
        if manifest.step_of(other) > step and manifest.was_finished(other)
    }


def _has_trained(folder: Path) -> bool:
    """Return whether any folder, valid or not, shows that steps were trained here."""
    return folder.is_dir() and any(manifest.step_of(path) > 0 for path in folder.iterdir())


def _refusal(
    folder: Path, damaged: Mapping[Path, str], whole: Path | None, trained: int = 0
) -> CheckpointsDamaged:
    table = [f"  {path.name}: {wrong}" for path, wrong in damaged.items()]
    aside = sorted(path.name for path in folder.glob("iter_*.bad-*"))
    table += [f"  {name}: quarantined earlier" for name in reversed(aside)]
    if trained and not table:
        table = [f"  step {trained} was saved, but no file of it is left"]
    if whole is None:
        message = f"{folder}: no checkpoint is usable, and training does not restart from step 0"
        hint = f"restore one of these folders from a copy, then {RESUME}"
    else:
        message = (
            f"{folder}: {whole.name} is valid, but more than {OLDER_TRIED} checkpoints after it "
            "are damaged"
        )
        hint = (
            f"restore one of these folders from a copy, or move them away to resume from "
            f"{whole.name}; then {RESUME}"
        )
    return CheckpointsDamaged("\n".join([message, *table]), hint, FAILED)
