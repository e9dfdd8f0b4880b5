"""Tasks for tests."""

from __future__ import annotations

import sys
from typing import Any

from jobs.contract.specs import Spec, TaskSpec


def task_spec(stage: str, spec: Spec, index: int = 0, *, ranks: int = 1, **fields: Any) -> TaskSpec:
    """Return a task whose ranks are processes of this machine, unless fields say otherwise."""
    defaults: dict[str, Any] = {
        "ranks_per_node": ranks,
        "nodes": 1,
        "gpus_per_node": 0,
        "cpus_per_rank": 1,
        "launcher": "local",
        "python": (sys.executable,),
        "srun_args": (),
        "secrets_file": "",
        "health": {},
    }
    return TaskSpec(stage, index, spec, ranks, **{**defaults, **fields})
