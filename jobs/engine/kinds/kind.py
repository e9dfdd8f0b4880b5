"""Differences between kinds of training, which all have one loop (``jobs.engine.trainer``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from jobs.checkpoints.manifest import CheckpointRecord
from jobs.engine.dataset import Splits
from jobs.engine.reporter import Volume
from jobs.engine.sharded_state import TrainingState


class Kind(Protocol):
    """The samples of a training and its first weights. All ranks call the methods together."""

    @property
    def volume(self) -> Volume:
        """Return the tokens and operations of its steps."""

    @property
    def positions_differ(self) -> bool:
        """Return whether rows are given positions of their own."""

    @property
    def lengths_differ(self) -> bool:
        """Return whether the micro-batches of a step differ in length."""

    def open_splits(self, device: torch.device) -> Splits:
        """Open the samples to train and to validate on."""

    def record(self, step: int) -> dict[str, Any]:
        """Return what determines the samples up to a step, for the checkpoint of the step."""

    def require_same(self, recorded: Mapping[str, Any], step: int, checkpoint: str) -> None:
        """Refuse other samples than those that a checkpoint was trained on.

        Args:
            recorded: ``record`` when it was saved.
            step: its step.
            checkpoint: its name, for messages.

        Raises:
            TaskError: they are others.
        """

    def require_origin(self, path: Path, record: CheckpointRecord) -> None:
        """Refuse a checkpoint of a training that began with other weights.

        Raises:
            TaskError: it did.
        """

    def begin(self, trained: TrainingState) -> dict[str, Any]:
        """Give the model its first weights, where no checkpoint has them; return their origin.

        Raises:
            TaskError: they are missing, or belong to another model.
        """

    def inputs(self) -> list[str]:
        """Return the files that determine the samples, as the done marker names them."""
