"""Export stage: write one checkpoint as a folder that transformers, vLLM and lm-eval load.

One process reads the checkpoint tensor by tensor, whatever layout saved it, and chunk by chunk
where a chunk holds whole rows; threads write files side by side. Rows of the vocabulary that only
pad it are left out: training masks them, and every token id is below the rows that are written.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jobs.checkpoints import manifest, selection
from jobs.checkpoints.manifest import CheckpointRecord
from jobs.checkpoints.selection import Choice
from jobs.contract import done_markers, specs
from jobs.contract.errors import RESUME, Stopped, TaskError
from jobs.contract.files import write_json
from jobs.contract.stage_specs import ExportSpec, ModelSpec
from jobs.conversion import (
    export_folder,
    hf_config,
    hf_writer,
    model_card,
    run_facts,
    threads,
    weight_map,
)
from jobs.conversion.export_folder import ExportFolder
from jobs.conversion.model_card import CardInput
from jobs.conversion.sharded_reader import ShardedReader
from jobs.data import exported_tokenizer, tokenizer_file
from jobs.runtime.context import Context
from jobs.verification.result import card_text
from jobs.verification.stage import verify_stage

if TYPE_CHECKING:
    import torch

OTHER_BYTES = 64 << 20
"""Allowance for all files but the weights: tokenizer, configuration, card."""

HINT_OTHER = "export with the settings and the version that the checkpoint was made with"

OPTIMIZER = "optimizer."
"""Beginning of the keys of optimizer states in a checkpoint."""

TYPES = {"bf16": "BF16", "fp32": "F32"}
"""Names of ``ExportSpec.dtype`` in the header of a safetensors file."""


def run(context: Context) -> None:
    """Export the checkpoint of the task's spec into its output folder.

    Raises:
        TaskError: the checkpoint or the tokenizer cannot be used, the output folder is not one that
            an export wrote, there is too little space for it, or the export does not compute what
            the checkpoint does.
        Stopped: a stop was requested; no output remains, and the next attempt starts from scratch.
    """
    spec = cast(ExportSpec, context.task.spec)
    tokenizer = tokenizer_file.require_unchanged(context.run, spec.tokenizer)
    choice = Choice(context.path(spec.checkpoint_dir), spec.checkpoint, spec.target_step)
    with selection.lease(context, choice):
        checkpoint, record = selection.find(choice, spec.model, spec.tokenizer, "exported")
        # The outputs change from here on: an earlier marker must not be taken for theirs.
        done_markers.forget_done(context.run, context.task.stage, context.task.index)
        files, summary = export(context, checkpoint, record)
    read = context.run.name_of(checkpoint / manifest.RECORD)
    # The card may change: a person may add to it.
    written = [*(name for name in files if name != export_folder.CARD), export_folder.RECORD]
    context.finish(
        inputs=[tokenizer, done_markers.describe_file(context.run, read)],
        outputs=[
            done_markers.describe_file(context.run, f"{spec.output_dir}/{name}", with_digest=False)
            for name in written
        ],
        summary=summary,
    )


Files = dict[str, dict[str, Any]]
"""``bytes`` and ``sha256`` of files, by name."""


def export(
    context: Context, checkpoint: Path, record: CheckpointRecord
) -> tuple[Files, dict[str, Any]]:
    """Write the folder of a checkpoint; return its files and the task's summary."""
    spec = cast(ExportSpec, context.task.spec)
    started = time.monotonic()
    content = read_tokenizer(spec)
    reader = ShardedReader(checkpoint, context.heart.touch)
    require_tensors(reader, spec.model, checkpoint)
    tensors = list(tensors_of(reader, spec))
    shards = hf_writer.divide(tensors, spec.shard_bytes)
    size = sum(shard.bytes for shard in shards)
    folder = ExportFolder(context.path(spec.output_dir))
    folder.open()
    try:
        require_space(folder.path, size)
        report = Progress(context, size)
        values = partial(values_of, reader, spec)
        with threads.single_threaded():
            files: Files = hf_writer.write(
                folder.part, shards, values, report, threads.side_by_side(context)
            )
        base = str(record.origin.get("model_type") or "")
        dtype = hf_writer.DTYPES[tensors[0].dtype]
        config = model_config(record.as_trained(spec.model), checkpoint, dtype, base)
        files |= write_settings(folder.part, spec, content, config)
        verified = verify_stage(context, folder.part, checkpoint, title=str(folder.path))
        replaced = exported_tokenizer.replaced_part(content, config["model_type"])
        card = card_input(context, record, tensors, replaced)
        text = model_card.render(card)
        if verified is not None:
            write_verification(context, folder.part, checkpoint, verified)
            text = model_card.with_verification(text, card_text(verified, card.verify_command))
        files[export_folder.CARD] = hf_writer.write_file(
            folder.part / export_folder.CARD, text.encode()
        )
        folder.publish(export_record(context, record, files))
    finally:
        folder.discard()
    report.end()
    summary = {
        "step": record.iteration,
        "tensors": len(tensors),
        "parameters": sum(tensor.parameters for tensor in tensors),
        "dtype": dtype,
        "bytes": sum(file["bytes"] for file in files.values()),
        "files": len(files),
        "seconds": round(time.monotonic() - started, 3),
    }
    return files, summary


def require_tensors(reader: ShardedReader, model: ModelSpec, checkpoint: Path) -> None:
    """Refuse a checkpoint whose weights are not those of the model, by name and shape.

    Raises:
        TaskError: a tensor is missing, has another shape, or is one too many.
    """
    expected = weight_map.checkpoint_shapes(model)
    found = {
        key: entry.shape for key, entry in reader.tensors.items() if not key.startswith(OPTIMIZER)
    }
    for key, shape in expected.items():
        if found.get(key) != shape:
            has = f"has the shape {found[key]}" if key in found else "is missing"
            raise TaskError(f"{checkpoint}: {key} {has}, the model needs {shape}", HINT_OTHER)
    for key in found.keys() - expected.keys():
        raise TaskError(f"{checkpoint}: the model has no tensor {key}", HINT_OTHER)


def order(model: ModelSpec) -> Iterator[tuple[weight_map.Row, int | None]]:
    """Yield the tensors of a model layer by layer: the row of the table, and the layer."""
    rows = weight_map.rows(model)
    first = next(number for number, row in enumerate(rows) if row.in_layers)
    yield from ((row, None) for row in rows[:first] if not row.in_layers)
    for layer in range(model.layers):
        yield from ((row, layer) for row in rows if row.in_layers)
    yield from ((row, None) for row in rows[first:] if not row.in_layers)


def tensors_of(reader: ShardedReader, spec: ExportSpec) -> Iterator[hf_writer.Tensor]:
    """Yield the description of every tensor of the export, in the order of ``values_of``.

    Raises:
        TaskError: a tensor has a type that a folder does not hold.
    """
    shapes = weight_map.folder_shapes(spec.model, spec.model.vocab_size)
    for row, layer in order(spec.model):
        stored = str(reader.tensors[row.ours].dtype).removeprefix("torch.")
        names = {theirs: ours for ours, theirs in hf_writer.DTYPES.items()}
        if stored not in names:
            message = f"{row.ours}: tensors of type {stored} are not exported"
            raise TaskError(message, "set export.dtype to bf16 or fp32")
        for pattern, _ in row.theirs:
            name = pattern.format(layer)
            yield hf_writer.Tensor(name, TYPES.get(spec.dtype, names[stored]), shapes[name])


def values_of(
    reader: ShardedReader, spec: ExportSpec, tensors: Sequence[hf_writer.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and values of tensors of the export, without the padding of a vocabulary.

    Args:
        reader: of the checkpoint.
        spec: of the task.
        tensors: some of ``tensors_of``, in its order.
    """
    wanted = {tensor.name for tensor in tensors}
    for row, layer in order(spec.model):
        names = [pattern.format(layer) for pattern, _ in row.theirs]
        if wanted.isdisjoint(names):
            continue
        if row.transform == weight_map.GROUPS:
            whole = reader.read(row.ours, layer)
            split = zip(names, weight_map.split(row, spec.model, whole), strict=True)
            yield from ((name, values) for name, values in split if name in wanted)
            continue
        start = 0  # of the next tensor's rows
        shapes = weight_map.folder_shapes(spec.model, spec.model.vocab_size)
        for name in names:
            stop = start + shapes[name][0]
            if name in wanted:
                for block in reader.blocks(row.ours, layer, (start, stop)):
                    yield name, block
            start = stop


def require_space(folder: Path, size: int) -> None:
    """Refuse an export that does not fit, before its first byte.

    Raises:
        TaskError: the file system has too little space.
    """
    needed, free = size + OTHER_BYTES, shutil.disk_usage(folder.parent).free
    if free < needed:
        raise TaskError(
            f"{folder}: the export takes {needed >> 20} MiB, {free >> 20} MiB are free",
            f"free some space, then {RESUME}",
        )


class Progress:
    """The callback of the writer: reports progress, and stops where that is requested."""

    def __init__(self, context: Context, total: int) -> None:
        self._context = context
        self._total = total
        self._done = 0
        self._due = 0.0

    def __call__(self, written: int) -> None:
        """Count bytes that were written.

        Raises:
            Stopped: a stop was requested.
        """
        if self._context.stop:
            raise Stopped("stop requested; the export starts from scratch in the next attempt")
        self._done += written
        if (now := time.monotonic()) >= self._due:
            self._context.progress(self._done, self._total, "bytes")
            self._due = now + 1.0

    def end(self) -> None:
        """Report that everything is written."""
        self._context.progress(self._total, self._total, "bytes")


def read_tokenizer(spec: ExportSpec) -> dict[str, Any]:
    """Return the content of the run's tokenizer.

    Raises:
        TaskError: it is not that of the run's vocabulary, or has ids without a row.
    """
    table, content = tokenizer_file.require_content(spec.tokenizer)
    if table.size > spec.model.vocab_size:
        raise TaskError(
            f"{spec.tokenizer.path}: its largest token id is {table.size - 1}, the model has "
            f"{spec.model.vocab_size} rows",
            f"set model.vocab_size to {table.size} or more, or use the tokenizer of the model",
        )
    return content


def model_config(model: ModelSpec, checkpoint: Path, dtype: str, base: str) -> dict[str, Any]:
    """Return ``config.json`` without ids of tokens; ``base`` is the base model's type.

    Raises:
        TaskError: no class of transformers computes what the model does.
    """
    try:
        return hf_config.write(model, model.vocab_size, dtype, base)
    except hf_config.Unsupported as error:
        raise TaskError(
            f"{checkpoint}: {error}",
            "train with one of the two in the experiment's section `model`, or set export.step to "
            "[] in a pipeline: this model can be trained and evaluated, not exported",
        ) from error


def write_settings(
    folder: Path,
    spec: ExportSpec,
    content: dict[str, Any],
    config: dict[str, Any],
) -> Files:
    """Write the configuration of model, generation and tokenizer; return the files.

    Tokens with a role are the ones of the training. Where it had no BOS the id is null, since
    transformers' own default would name one. So is the model's padding token, which only generation
    needs: an embedding gives that row no gradient (torch.nn.Embedding, ``padding_idx``), and it is
    the row of EOS.
    """
    vocabulary = spec.tokenizer.vocabulary
    if spec.finetuned:  # an answer ends with its turn
        vocabulary = replace(vocabulary, eos_token=model_card.END)
    roles = exported_tokenizer.special_ids(content, vocabulary)
    files = {
        "config.json": hf_writer.write_json_file(
            folder / "config.json", {**config, **roles, "pad_token_id": None}
        ),
        "generation_config.json": hf_writer.write_json_file(
            folder / "generation_config.json", roles
        ),
    }
    length = int(config["max_position_embeddings"])
    for name, data in exported_tokenizer.exported_files(
        content,
        vocabulary,
        context_length=length,
        special_tokens_in_text=spec.special_tokens_in_text,
    ).items():
        files[name] = hf_writer.write_file(folder / name, data)
    return files


def write_verification(
    context: Context, folder: Path, checkpoint: Path, verified: Mapping[str, Any]
) -> None:
    """Write the result of a verification into an export, without the paths of this machine."""
    named = {"weights": ".", "checkpoint": f"{context.run.name}/{checkpoint.name}"}
    write_json(folder / export_folder.VERIFICATION, {**verified, **named})


def card_input(
    context: Context,
    record: CheckpointRecord,
    tensors: Sequence[hf_writer.Tensor],
    replaced: str,
) -> CardInput:
    """Return what the card shows, from the records of the run and of the checkpoint, and the part
    of the tokenizer that transformers replaces.
    """
    spec = cast(ExportSpec, context.task.spec)
    return CardInput(
        facts=run_facts.gather(context.run, record.iteration, spec.finetuned),
        model=record.as_trained(spec.model),
        vocabulary=spec.tokenizer.vocabulary,
        step=record.iteration,
        tokens=record.tokens(spec.model.seq_length),
        parameters=sum(tensor.parameters for tensor in tensors),
        dtype=hf_writer.DTYPES[tensors[0].dtype],
        origin=record.origin,
        license=spec.license or str(record.origin.get("license") or ""),
        languages=spec.languages,
        digests=digests(spec, record),
        verify_command=verify_command(context, record.iteration),
        replaced=replaced,
        finetuned=spec.finetuned,
        grown=spec.tokenizer.grown,
    )


def verify_command(context: Context, step: int) -> str:
    """Return the command that compares an export with its checkpoint, typed in its folder."""
    spec = cast(ExportSpec, context.task.spec)
    if spec.finetuned:
        return f"meditron verify ./ ../{spec.checkpoint_dir}/{manifest.name(step)}"
    return f"meditron verify ./ {context.run.name}:{step} --runs-dir ../.."


def digests(spec: ExportSpec, record: CheckpointRecord) -> dict[str, str]:
    """Return the digests that identify what a model was made from, by what they are of."""
    return {
        "base weights": str(record.origin.get("sha256") or ""),
        "manifest of the checkpoint": record.manifest,
        "architecture": record.architecture,
        "tokenizer": spec.tokenizer.sha256,
        "vocabulary": specs.digest(spec.tokenizer.vocabulary),
        "training data": str(record.data.get("digest") or ""),
    }


def export_record(context: Context, record: CheckpointRecord, files: Files) -> dict[str, Any]:
    """Return the record of an export: where it is from, and its files."""
    spec = cast(ExportSpec, context.task.spec)
    return {
        "run": context.run.name,
        "step": record.iteration,
        "spec": specs.digest(spec),
        "digests": digests(spec, record),
        "origin": {
            "weights": model_card.base_name(record.origin),
            **{name: record.origin.get(name) or "" for name in ("commit", "sha256", "license")},
        },
        "files": files,
    }
