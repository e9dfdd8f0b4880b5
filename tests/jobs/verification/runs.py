"""A run directory around a model's checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jobs.contract import specs
from jobs.contract.files import write_json
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import ModelSpec
from tests.task_specs import task_spec

from ...engine.conftest import SPEC


def write_run(root: Path, model: ModelSpec, tokenizer: Any) -> RunDir:
    """Write the record and the pretraining task of a run."""
    run = RunDir(root)
    task = task_spec("pretrain", dataclasses.replace(SPEC, model=model, tokenizer=tokenizer))
    write_json(run.record, {"run": run.name, "cluster": {"models_dir": None}})
    write_json(run.plan, {"stages": {}})
    write_json(run.spec("pretrain", 0), specs.to_json(task))
    return run
