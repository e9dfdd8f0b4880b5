"""Training on answers to questions, from the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from jobs.checkpoints import selection
from jobs.checkpoints.manifest import CheckpointRecord
from jobs.checkpoints.selection import Choice
from jobs.contract import specs
from jobs.contract.errors import RESUME, TaskError
from jobs.contract.files import sha256
from jobs.contract.stage_specs import FinetuneSpec
from jobs.data import tokenizer_file
from jobs.engine import checkpoint, dataset
from jobs.engine import device as devices
from jobs.engine.dataset import Role
from jobs.engine.kinds import growth
from jobs.engine.kinds.row_batches import RowSplit
from jobs.engine.kinds.rows import SUFFIXES, TRAIN, VALIDATION, Order, Rows, RowVolume
from jobs.engine.sharded_state import TrainingState
from jobs.runtime.context import Context

PAD = "<PAD>"
"""Fills rows up where the vocabulary has it, as in MEDITRON; else the end of a document does."""


@dataclass(frozen=True)
class Finetuning:
    """The rows of a preparation, and the weights of a checkpoint."""

    context: Context
    spec: FinetuneSpec
    train: Rows
    held_out: Rows
    digests: Mapping[str, str]
    """SHA-256 of each file of the rows, by its name."""
    pad: int

    @classmethod
    def open(cls, context: Context, spec: FinetuneSpec) -> Finetuning:
        """Open the rows. All ranks call it together.

        Raises:
            TaskError: they are missing, damaged or too long, or the tokenizer is another.
        """
        folder = context.path(spec.rows_dir)

        def check() -> tuple[dict[str, str], int]:
            tokenizer_file.require_unchanged(context.run, spec.tokenizer)
            table = tokenizer_file.require_tokens(
                spec.tokenizer, context.run.path(spec.tokenizer.path)
            )
            pad = table.ids.get(PAD, table.ids[spec.tokenizer.vocabulary.eod_token])
            for name in (TRAIN, VALIDATION):
                Rows.open(folder / name).require(spec.model.seq_length)
            if not len(Rows.open(folder / TRAIN).lengths):
                hint = "name data for it in finetune.models"
                raise TaskError(f"{folder}: no row to train `{spec.name}` on", hint)
            names = [f"{name}{suffix}" for name in (TRAIN, VALIDATION) for suffix in SUFFIXES]
            digests = {}
            for name in names:
                digests[name] = sha256(folder / name)
                context.heart.touch()
            return digests, pad

        digests, pad = devices.decide_once(check)
        train, held_out = (Rows.open(folder / name) for name in (TRAIN, VALIDATION))
        return cls(context, spec, train, held_out, digests, pad)

    @cached_property
    def order(self) -> Order:
        """Return the order of the rows to train on."""
        return Order(len(self.train.lengths), self.spec.seed)

    @cached_property
    def volume(self) -> RowVolume:
        return RowVolume(self.spec, self.train.lengths, self.order)

    @property
    def positions_differ(self) -> bool:
        return False

    @property
    def lengths_differ(self) -> bool:
        return not self.spec.packing

    def open_splits(self, device: torch.device) -> dataset.Splits:
        """Open the splits; rows that are held out are read in their order, and the last batch is
        filled up with the first ones.
        """
        spec, role = self.spec, Role.of_rank()
        train = RowSplit(self.train, self.order, spec.train_steps, spec, device, role, self.pad)
        rows = len(self.held_out.lengths)
        batches = min(spec.validation_batches, -(-rows // spec.global_batch_size))
        validation = {}
        if batches:
            unmarked = replace(role, takes_fingerprint=False)
            order = Order(rows, None)
            split = RowSplit(self.held_out, order, batches, spec, device, unmarked, self.pad)
            validation[spec.name] = split
        return dataset.Splits(train, {spec.model.seq_length: validation}, device)

    def record(self, step: int) -> dict[str, Any]:
        samples = step * self.spec.global_batch_size
        order = {"seed": self.spec.seed, "global_batch_size": self.spec.global_batch_size}
        digest = specs.digest(dict(self.digests))
        return {
            "digest": specs.digest({"order": order, "rows": digest}),
            "order": order,
            "corpora": {
                self.spec.name: {
                    "digest": digest,
                    "samples": samples,
                    "tokens": self.volume.tokens(step),
                    "files": dict(self.digests),
                }
            },
        }

    def require_same(self, recorded: Mapping[str, Any], step: int, checkpoint: str) -> None:
        now = self.record(step)
        if now == recorded:
            return
        changed = "the order of rows (seed or sequences per step)"
        if now["corpora"] != recorded["corpora"]:
            changed = f"{self.context.path(self.spec.rows_dir)}"
        raise TaskError(
            f"{changed} has changed since {checkpoint} was saved, so the position in the rows is "
            "lost",
            f"restore what it was, then {RESUME}, or finetune under another name",
        )

    def require_origin(self, path: Path, record: CheckpointRecord) -> None:
        start = record.origin.get("start") or {}
        ours = {"checkpoint_dir": self.spec.start.checkpoint_dir, "step": self._choice.step}
        theirs = {name: start.get(name) for name in ours}
        if theirs != ours:
            raise TaskError(
                f"{path}: its training began with step {theirs['step']} of "
                f"{theirs['checkpoint_dir']}, this one names step {ours['step']} of "
                f"{ours['checkpoint_dir']}",
                "finetune under another name, which starts another training",
            )

    @property
    def _choice(self) -> Choice:
        start = self.spec.start
        folder = self.context.path(start.checkpoint_dir)
        is_of_other_run = Path(start.checkpoint_dir).is_absolute()
        return Choice(folder, start.checkpoint, start.target_step, is_of_other_run)

    def begin(self, trained: TrainingState) -> dict[str, Any]:
        """Load the weights of the checkpoint that the settings name, and have the vocabulary grow;
        the origin is that of its training, and the checkpoint.
        """
        spec, context = self.spec, self.context
        with ExitStack() as held:
            lease = selection.lease(context, self._choice)
            devices.decide_once(lambda: held.enter_context(lease))
            path, record = devices.decide_once(self._find)
            checkpoint.load_pieces(path, trained.pieces, context.heart.touch)
            devices.decide_once(lambda: selection.require_same(path, record))
        if list(spec.tokenizer.grown) != record.grown:
            first, copied = devices.decide_once(self._first_grown)
            growth.grow(trained.pieces, first, spec.tokenizer.vocabulary.new_rows, copied)
        trained.optimizer.reload_model_params()
        if context.rank == 0:
            print(f"the weights of {path} are loaded", flush=True)
        start = {
            "checkpoint_dir": spec.start.checkpoint_dir,
            "step": record.iteration,
            "manifest": record.manifest,
            "data": record.data.get("digest", ""),
        }
        return {**record.origin, "start": start}

    def _find(self) -> tuple[Path, CheckpointRecord]:
        spec = self.spec
        return selection.find(self._choice, spec.model, spec.tokenizer, "finetuned", may_grow=True)

    def _first_grown(self) -> tuple[int, int]:
        """Return the first row that is new, and the one that ``copy:`` names."""
        ref = self.spec.tokenizer
        table = tokenizer_file.require_tokens(ref, self.context.run.path(ref.path))
        copied = table.ids.get(ref.vocabulary.new_rows.removeprefix(growth.COPY), -1)
        return table.ids[ref.grown[0]], copied

    def inputs(self) -> list[str]:
        return [f"{self.spec.rows_dir}/{name}" for name in self.digests]
