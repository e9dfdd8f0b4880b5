"""Training on a mixture of corpora."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.checkpoints import manifest
from jobs.checkpoints.manifest import CheckpointRecord
from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import PretrainSpec
from jobs.data import survey
from jobs.data.survey import DatasetSurvey
from jobs.engine import dataset
from jobs.engine import device as devices
from jobs.engine.sharded_state import TrainingState
from jobs.runtime.context import Context


@dataclass(frozen=True)
class Pretraining:
    """The corpora, and random weights or those of a base model."""

    context: Context
    spec: PretrainSpec
    datasets: DatasetSurvey

    @classmethod
    def open(cls, context: Context, spec: PretrainSpec) -> Pretraining:
        """Survey the corpora. All ranks call it together.

        Raises:
            TaskError: as ``survey.survey`` raises it.
        """
        found = devices.decide_once(lambda: survey.survey(context.run, spec, context.heart.touch))
        return cls(context, spec, found)

    @property
    def volume(self) -> PretrainSpec:
        return self.spec

    @property
    def positions_differ(self) -> bool:
        return self.spec.reset_position_ids and not self.spec.reset_attention_mask

    @property
    def lengths_differ(self) -> bool:
        return False

    def open_splits(self, device: torch.device) -> dataset.Splits:
        return dataset.open_splits(self.context.run, self.spec, self.datasets, device)

    def record(self, step: int) -> dict[str, Any]:
        return self.datasets.record(step)

    def require_same(self, recorded: Mapping[str, Any], step: int, checkpoint: str) -> None:
        self.datasets.require_same(self.context.run, recorded, step, checkpoint)

    def require_origin(self, path: Path, record: CheckpointRecord) -> None:
        began = record.origin.get("weights")
        if (began == manifest.RANDOM) != (self.spec.weights == manifest.RANDOM):
            raise TaskError(
                f"{path}: its training began with the weights `{began}`, this run names "
                f"`{self.spec.weights}`",
                "name other weights in a submission with --new, which starts another run",
            )

    def begin(self, trained: TrainingState) -> dict[str, Any]:
        del trained
        if self.spec.weights != manifest.RANDOM:
            raise TaskError(
                f"{self.context.path(self.spec.checkpoint_dir)}: no checkpoint of step 0, which "
                f"the stage `convert` makes of `{self.spec.weights}`; training does not start from "
                "random weights instead",
                "{meditron submit convert --run} first",
            )
        return {"weights": manifest.RANDOM, "seed": self.spec.seed}

    def inputs(self) -> list[str]:
        sources = (*self.datasets.train, *self.datasets.validation)
        return [f"{source.prefix}.idx" for source in sources]
