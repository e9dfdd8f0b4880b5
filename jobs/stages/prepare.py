"""Prepare stage: turn training questions of benchmarks into rows of tokens, without torch."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jobs.checkpoints import manifest
from jobs.contract import done_markers
from jobs.contract.corpus import benchmark_files
from jobs.contract.errors import Stopped, TaskError
from jobs.contract.files import FORMAT, write_bytes, write_json
from jobs.contract.preparations import left_out
from jobs.contract.stage_specs.preparation import PrepareSpec
from jobs.data import tokenizer_file
from jobs.data.indexed_dataset import index_dtype
from jobs.runtime.context import Context

if TYPE_CHECKING:
    from jobs.finetuning.preparing import Preparing
    from jobs.finetuning.rows import RowWriter

MANIFEST = "manifest.json"
CONTAINED = "contained.jsonl"
"""The items that are test questions: one line per item and question."""


def run(context: Context) -> None:
    """Write the rows of the model that the task's spec names.

    Raises:
        TaskError: a file cannot be read or breaks its layout, the tokenizer lacks a token of the
            template, or no row is left.
        Stopped: a stop was requested; the next attempt starts from scratch.
    """
    spec = cast(PrepareSpec, context.task.spec)
    tokenizer_file.set_threads(context.task.cpus_per_rank)
    from jobs.tokenization import engine as engines

    inputs = described(context, spec)
    # The outputs change from here on: an earlier marker must not be taken for theirs.
    done_markers.forget_done(context.run, context.task.stage, context.task.index)
    dtype = index_dtype(tokenizer_file.require_tokens(spec.tokenizer).size)
    try:
        summary = make(context, inputs, dtype, engines.AUTO)
    except engines.EngineDiffers as error:
        print(f"{spec.name}: gigatoken is not used: {error}", flush=True)
        summary = make(context, inputs, dtype, engines.TOKENIZERS)
    finish(context, spec, inputs, summary)


def make(context: Context, inputs: list[dict[str, Any]], dtype: str, engine: str) -> dict[str, Any]:
    """Write rows and manifest with one library; return the summary. Raises as ``run``, and
    ``EngineDiffers``.
    """
    from jobs.finetuning.preparing import Preparing
    from jobs.finetuning.rows import TRAIN, VALIDATION, RowWriter

    spec = cast(PrepareSpec, context.task.spec)
    folder = context.path(spec.output_dir)
    writers: list[RowWriter] = []
    try:
        for split in (TRAIN, VALIDATION):
            writers.append(RowWriter(folder, split, dtype))
        preparing = Preparing(spec, writers, engine)
        preparing.run(Progress(context, spec.items))
        require_rows(spec, preparing, writers)
        return write(context, folder, inputs, preparing, writers)
    finally:
        for writer in writers:
            writer.discard()


class Progress:
    """The callback between batches: reports progress, and stops on request."""

    def __init__(self, context: Context, expected: int) -> None:
        self._context = context
        self._expected = expected
        self._due = 0.0

    def __call__(self, done: int) -> None:
        """Record the number of items read.

        Raises:
            Stopped: a signal was received.
        """
        self._context.heart.beat()
        if self._context.stop:
            raise Stopped("stop requested; the rows start from scratch in the next attempt")
        if (now := time.monotonic()) >= self._due:
            self._due = now + 1.0
            self._context.progress(done, max(self._expected, done + 1), "items")


def described(context: Context, spec: PrepareSpec) -> list[dict[str, Any]]:
    """Return the files that decide the rows, as a done marker records them.

    Raises:
        TaskError: one of them cannot be read, or the tokenizer has changed.
    """
    tokenizer = tokenizer_file.require_unchanged(context.run, spec.tokenizer)
    compared = spec.decontamination.benchmarks if spec.decontamination else ()
    paths = [Path(spec.instructions)] if spec.instructions else []
    for file in spec.data:
        paths += benchmark_files.train_files(Path(file.path), file.kind, file.options)
    for file in compared:
        paths += benchmark_files.files(Path(file.path), file.kind, file.options)
    try:
        names = dict.fromkeys(map(str, paths))
        return [tokenizer, *(done_markers.describe_file(context.run, name) for name in names)]
    except OSError as error:
        raise TaskError(
            f"{error.filename}: {error.strerror}", "check `data` of the model in finetune.models"
        ) from error


def require_rows(spec: PrepareSpec, preparing: Preparing, writers: list[RowWriter]) -> None:
    """Refuse a preparation without a row to train on."""
    if not writers[0].rows:
        counted = ", ".join(
            f"{name.replace('_', ' ')} {sum(getattr(part, name) for part in preparing.counts)}"
            for name in ("read", "unexplained", "contained", "too_long", "validation")
        )
        raise TaskError(
            f"{spec.name}: no row to train on is left ({counted})",
            "check the files in `data`, finetune.sequence_length and finetune.holdout",
        )


def require_rows_as_trained(folder: Path, spec: PrepareSpec, writers: Sequence[RowWriter]) -> None:
    """Refuse to replace the rows that checkpoints of the model were trained on by others."""
    latest = manifest.find_latest(folder.with_name("checkpoints"))
    made = {name: digest for writer in writers for name, digest in writer.seal().items()}
    if latest is None:
        return
    path, record = latest
    trained = record.data["corpora"][spec.name]["files"]
    if any(trained.get(name) != digest for name, digest in made.items()):
        raise TaskError(
            f"{spec.name}: the rows would be others than those that {path} was trained on, so "
            "these were left as they are",
            "put its files and settings back (`data`, instructions, test questions that it is "
            "compared with), or give the model another name in finetune.models",
        )


def write(
    context: Context,
    folder: Path,
    inputs: list[dict[str, Any]],
    preparing: Preparing,
    writers: list[RowWriter],
) -> dict[str, Any]:
    """Write the manifest and publish the rows; return the summary."""
    from jobs.finetuning.preparations import difference, omitted

    spec = cast(PrepareSpec, context.task.spec)
    train, validation = writers
    items = sum(part.items for part in preparing.counts)
    differs = difference(spec.preparation, items, spec.items)
    if differs and spec.strict:
        hint = "take the published files, or set `strict: false` of the model in finetune.models"
        raise TaskError(f"{spec.name}: {differs}", hint)
    summary: dict[str, Any] = {
        "items": items,
        "expected": spec.items,
        "difference": differs,
        "omitted": omitted(spec.preparation, spec.data),
        "train_rows": train.rows,
        "validation_rows": validation.rows,
        "contained": sum(part.contained for part in preparing.counts),
        "truncated": sum(part.truncated for part in preparing.counts),
        "too_long": sum(part.too_long for part in preparing.counts),
        "tokens": train.tokens,
        "scored_tokens": train.scored,
    }
    record = {
        "format": FORMAT,
        "name": spec.name,
        "preparation": spec.preparation,
        "template": spec.template,
        "instructions": spec.instructions,
        "sequence_length": spec.sequence_length,
        "seed": spec.seed,
        "holdout": spec.holdout,
        **summary,
        "longest": max(train.longest, validation.longest),
        **preparing.report(),
        "inputs": inputs,
    }
    require_rows_as_trained(folder, spec, writers)
    found = preparing.comparison.found if preparing.comparison else []
    lines = "".join(json.dumps(one._asdict(), ensure_ascii=False) + "\n" for one in found)
    for writer in writers:
        writer.publish()
    write_bytes(folder / CONTAINED, lines.encode())
    write_json(folder / MANIFEST, record)
    for sentence in (differs, *summary["omitted"], *left_out(summary)):
        if sentence:
            print(sentence, flush=True)
    return summary


def finish(
    context: Context, spec: PrepareSpec, inputs: list[dict[str, Any]], summary: dict[str, Any]
) -> None:
    """Write the done marker."""
    from jobs.finetuning.rows import TRAIN, VALIDATION, files

    names = [*files(TRAIN), *files(VALIDATION), CONTAINED, MANIFEST]
    outputs = [
        done_markers.describe_file(context.run, f"{spec.output_dir}/{name}") for name in names
    ]
    context.finish(inputs, outputs, summary)
