"""A run directory around a model's checkpoints."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from jobs.contract import specs
from jobs.contract.files import write_json
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import ModelSpec

from ...engine.conftest import SPEC


def write_run(root: Path, model: ModelSpec, tokenizer: Any) -> RunDir:
    """Write the record and the pretraining task of a run."""
    run = RunDir(root)
    task = specs.TaskSpec(
        stage="pretrain",
        index=0,
        spec=dataclasses.replace(SPEC, model=model, tokenizer=tokenizer),
        ranks=1,
        ranks_per_node=1,
        nodes=1,
        gpus_per_node=0,
        cpus_per_rank=1,
        launcher="local",
        python=(sys.executable,),
        srun_args=(),
        secrets_file="",
        health={},
    )
    write_json(run.record, {"run": run.name, "cluster": {"models_dir": None}})
    write_json(run.plan, {"stages": {}})
    write_json(run.spec("pretrain", 0), specs.to_json(task))
    return run
