"""Plans of one experiment, small and large, on shipped and made-up clusters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.contract.stage_specs import PIPELINE_STAGES
from meditron_cli.config.files import shipped_profiles
from meditron_cli.config.load import load
from meditron_cli.plan.build import build
from meditron_cli.plan.inputs import Inputs
from meditron_cli.plan.model import Plan
from meditron_cli.plan.stage_plan import idle_stages

GOLDEN = Path(__file__).parent / "golden"
PYTHON = "/venv/bin/python"


def plan_of(cluster: str, size: str, *overrides: str, stages: Sequence[str] = ()) -> Plan:
    """Return the plan of the experiment in ``golden/``, on a profile shipped or in there too."""
    return plan_on(profile_of(cluster), size, *overrides, stages=stages)


def plan_on(profile: Path, size: str, *overrides: str, stages: Sequence[str] = ()) -> Plan:
    """Return the same plan on the profile in a file; by default of all stages, without ``convert``
    for random weights, ``generate`` for no mode, ``judge`` for none, and those of a
    corpus that one task makes.
    """
    loaded = load(str(profile), size, GOLDEN / "experiment.yaml", list(overrides))
    optional = {"clean", "deduplicate", "convert", "prepare", "finetune", "generate", "judge"}
    idle = idle_stages(loaded.experiment) & optional
    stages = stages or [name for name in PIPELINE_STAGES if name not in idle]
    return build(Inputs(loaded.experiment, loaded.cluster, loaded.size, "0" * 64, PYTHON), stages)


def profile_of(cluster: str) -> Path:
    """Return the file of a profile."""
    own = GOLDEN / f"{cluster}.yaml"
    return own if own.exists() else shipped_profiles() / f"{cluster}.yaml"


def to_text(plan: Plan) -> str:
    """Return a plan as JSON: one line per stage, and one each for its first and last task."""
    values: dict[str, Any] = dataclasses.asdict(plan)
    stages = values.pop("stages")
    lines = [json.dumps(values, indent=1, sort_keys=True)]
    for stage in stages:
        tasks = stage.pop("tasks")
        ends = tasks[:1] + tasks[1:][-1:]
        lines += [json.dumps(value, sort_keys=True) for value in (stage, *ends)]
    return "\n".join(lines) + "\n"
