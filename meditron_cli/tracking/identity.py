"""The identity and the settings of a run for trackers. No secrets: run records have none."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from jobs.contract import specs
from jobs.contract.files import sha256
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import FINETUNE, PRETRAIN
from meditron_cli.errors import ConfigError
from meditron_cli.runs import store
from meditron_cli.runs.request import reading

ID_DIGITS = 16
NOT_SETTINGS = ("corpora", "phases", "tokenizer")
"""Parts of a training's spec that are places of files, or long."""


@dataclass(frozen=True)
class TrackedRun:
    """A training as a tracker shows it."""

    id: str
    """The same for every attempt, and for a copy of the run directory: from its first request."""
    name: str
    stage: str
    """The one that trains."""
    index: int
    """Of its task."""
    project: str
    settings: dict[str, str | int | float | bool]
    """Of the training, by dotted key: ``model.layers``."""
    finished: bool
    """Training has reached its target, so that no line follows."""


def tracked_run(run: RunDir, project: str, finetuned: int | None = None) -> TrackedRun:
    """Return the identity and settings of a run's pretraining, or of the finetuning of an index.

    Raises:
        ConfigError: it cannot be read, or does not train.
    """
    stage, index = (PRETRAIN, 0) if finetuned is None else (FINETUNE, finetuned)
    if stage not in store.read_plan(run)["stages"]:
        raise ConfigError(
            f"run {run.name} has no training, and only training has metrics",
            hint=f"`{store.command(run, 'status')}` shows its stages",
        )
    task = specs.read_task(run, stage, index)
    settings = flat(dataclasses.asdict(task.spec)) if task else {}
    with reading(run.record):
        digest = sha256(run.record)
    identity, name = digest[:ID_DIGITS], run.name
    if finetuned is not None:
        identity, name = f"{identity}-{index}", f"{run.name}-{settings.get('name', index)}"
    finished = run.done(stage, index).exists()
    return TrackedRun(identity, name, stage, index, project, settings, finished)


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the scalars of nested settings by dotted key, without those that are places."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if key in NOT_SETTINGS or key.endswith("_dir"):
            continue
        if isinstance(item, dict):
            found |= flat(item, f"{prefix}{key}.")
        elif isinstance(item, str | int | float):
            found[f"{prefix}{key}"] = item
    return found
