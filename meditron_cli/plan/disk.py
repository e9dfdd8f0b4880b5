"""Predict the disk space that a run's checkpoints and exports take. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from jobs.contract.stage_specs import ExportSpec, TrainingSpec
from meditron_cli.plan.model import Plan

BESIDE = 3
"""Checkpoints beside those of ``keep_checkpoints``: the newest, the last of which every byte was
verified, and the one that is being written (``jobs.checkpoints.retention.prune``).
"""


class DiskNeed(NamedTuple):
    """Bytes that a run still takes at most, without checkpoints that readers hold by a lease."""

    checkpoints: int
    """Step 0, the rolling ones, and those that are kept whole."""
    kept: int
    """Weights that are kept."""
    exports: int

    @property
    def total(self) -> int:
        return sum(self)


def disk_need(spec: TrainingSpec, exports: int = 0, saved: Collection[int] = ()) -> DiskNeed:
    """Return what a training and a number of exports of its checkpoints take beside the checkpoints
    of the steps that are ``saved``.
    """
    whole = spec.model.checkpoint_bytes(spec.precision)
    weights = spec.model.weights_bytes(spec.precision)
    last = max(saved, default=0)
    first = 0 if 0 in saved else weights
    kept = sum(step > last for step in spec.keep_steps)
    saves = max(0, -(-(spec.train_steps - last) // spec.save_interval))
    stay = {0} if spec.keep_weights_only else {0, *spec.keep_steps}
    rolling = min(saves, max(0, spec.keep_checkpoints + BESIDE - len({*saved} - stay)))
    if spec.keep_weights_only:
        return DiskNeed(first + rolling * whole, kept * weights, exports * weights)
    return DiskNeed(first + (rolling + kept) * whole, 0, exports * weights)


def disk_need_of(
    plan: Plan,
    saved: Mapping[str, Collection[int]] = MappingProxyType({}),
    exported: Collection[str] = (),
) -> DiskNeed | None:
    """Return what the run of a plan still takes; None where it does not train.

    Args:
        saved: steps of its checkpoints, by their folder.
        exported: folders of its finished exports.
    """
    tasks = [task.spec for stage in plan.stages for task in stage.tasks]
    trainings = [spec for spec in tasks if isinstance(spec, TrainingSpec)]
    if not trainings:
        return None
    needs = [disk_need(spec, saved=saved.get(spec.checkpoint_dir, ())) for spec in trainings]
    exports = sum(
        spec.model.weights_bytes(trainings[0].precision)
        for spec in tasks
        if isinstance(spec, ExportSpec) and spec.output_dir not in exported
    )
    return DiskNeed(sum(n.checkpoints for n in needs), sum(n.kept for n in needs), exports)
