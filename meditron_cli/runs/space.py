"""Compare what a plan's run still takes on disk with what the disk and the user's quota leave."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jobs.checkpoints import manifest
from jobs.contract import done_markers, specs
from jobs.contract.stage_specs import ExportSpec, TrainingSpec
from jobs.contract.units import GIB
from jobs.health import quota

if TYPE_CHECKING:
    from jobs.contract.rundir import RunDir
    from meditron_cli.plan.model import Plan

QUOTA_SECONDS = 5.0
"""Limit of each quota tool: a person waits."""


def space_warnings(plan: Plan, run: RunDir) -> Iterator[str]:
    """Yield a sentence if what a run does not have of a plan yet does not fit; none where nothing
    can be learnt. The run need not exist.
    """
    from meditron_cli.plan.disk import disk_need_of

    root = run.root.parent
    folder = next(path for path in (root, *root.parents) if path.is_dir())
    try:
        saved = saved_steps(plan, run)
        need = disk_need_of(plan, saved, finished_exports(plan, run))
        if need is None:
            return
        free = shutil.disk_usage(folder).free
        left = quota.read(folder, QUOTA_SECONDS)
    except OSError:
        return
    limit, source = free, f"the disk of {root} has"
    if left is not None and left.bytes is not None and left.bytes < free:
        limit, source = left.bytes, f"your quota at {root} leaves"
    if need.total > limit:
        more = " more" if saved else ""
        advice = "" if keeps_weights(plan) else ", set pretrain.keep_weights_only"
        yield (
            f"checkpoints and exports take up to {need.total / GIB:,.1f} GiB{more}, {source} "
            f"{limit / GIB:,.1f}; lower pretrain.keep_checkpoints{advice}, or free some"
        )


def keeps_weights(plan: Plan) -> bool:
    """Return whether a plan's training keeps its steps as weights alone already."""
    tasks = [task.spec for stage in plan.stages for task in stage.tasks]
    return any(isinstance(spec, TrainingSpec) and spec.keep_weights_only for spec in tasks)


def saved_steps(plan: Plan, run: RunDir) -> dict[str, set[int]]:
    """Return the steps of the whole checkpoints of a plan's trainings by their folders, and of step
    0; folders without any are left out.
    """
    tasks = [task.spec for stage in plan.stages for task in stage.tasks]
    folders = {spec.checkpoint_dir for spec in tasks if isinstance(spec, TrainingSpec)}
    found = {
        folder: {
            manifest.step_of(path)
            for path in manifest.folders(run.path(folder))
            if (path / manifest.RECORD).exists()
        }
        for folder in folders
    }
    return {folder: steps for folder, steps in found.items() if steps}


def finished_exports(plan: Plan, run: RunDir) -> set[str]:
    """Return the folders of a plan's exports that are finished."""
    return {
        task.spec.output_dir
        for stage in plan.stages
        for task in stage.tasks
        if isinstance(task.spec, ExportSpec)
        and done_markers.is_done(run, task.stage, task.index, specs.digest(task.spec))
    }
