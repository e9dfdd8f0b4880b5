"""Predict the disk space that a run's checkpoints and exports take. Pure; no I/O."""

from __future__ import annotations

from typing import NamedTuple

from jobs.contract.stage_specs import ExportSpec, PretrainSpec
from meditron_cli.plan.model import Plan

BESIDE = 3
"""Checkpoints beside those of ``keep_checkpoints``: the newest, the last of which every byte was
verified, and the one that is being written (``jobs.checkpoints.retention.prune``).
"""


class DiskNeed(NamedTuple):
    """The bytes that a run takes at most, without checkpoints that readers hold by a lease."""

    checkpoints: int
    """Step 0, the rolling ones, and those that are kept whole."""
    kept: int
    """Weights that are kept."""
    exports: int

    @property
    def total(self) -> int:
        return sum(self)


def disk_need(spec: PretrainSpec, exports: int = 0) -> DiskNeed:
    """Return what a training and a number of exports of its checkpoints take."""
    whole = spec.model.checkpoint_bytes(spec.precision)
    weights = spec.model.weights_bytes(spec.precision)
    kept = len(spec.keep_steps)
    saves = -(-spec.train_steps // spec.save_interval)
    rolling = min(saves, spec.keep_checkpoints + BESIDE)
    if spec.keep_weights_only:
        return DiskNeed(weights + rolling * whole, kept * weights, exports * weights)
    return DiskNeed(weights + (rolling + kept) * whole, 0, exports * weights)


def disk_need_of(plan: Plan) -> DiskNeed | None:
    """Return what the run of a plan takes; None where it does not train."""
    tasks = [task.spec for stage in plan.stages for task in stage.tasks]
    training = next((spec for spec in tasks if isinstance(spec, PretrainSpec)), None)
    exports = sum(isinstance(spec, ExportSpec) for spec in tasks)
    return disk_need(training, exports) if training else None
