"""Compare what a plan's run takes on disk with what the disk and the user's quota leave."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.contract.units import GIB
from jobs.health import quota

if TYPE_CHECKING:
    from meditron_cli.plan.model import Plan

QUOTA_SECONDS = 5.0
"""Limit of each quota tool: a person waits."""


def space_warnings(plan: Plan, root: Path) -> Iterator[str]:
    """Yield a sentence if a new run of a plan does not fit; none where nothing can be learnt."""
    from meditron_cli.plan.disk import disk_need_of

    need = disk_need_of(plan)
    if need is None:
        return
    folder = next(path for path in (root, *root.parents) if path.is_dir())
    try:
        free = shutil.disk_usage(folder).free
        left = quota.read(folder, QUOTA_SECONDS)
    except OSError:
        return
    limit, source = free, f"the disk of {root} has"
    if left is not None and left.bytes is not None and left.bytes < free:
        limit, source = left.bytes, f"your quota at {root} leaves"
    if need.total > limit:
        yield (
            f"checkpoints and exports take up to {need.total / GIB:,.1f} GiB, {source} "
            f"{limit / GIB:,.1f}; lower pretrain.keep_checkpoints, set "
            "pretrain.keep_weights_only, or free some"
        )
