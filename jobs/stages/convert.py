"""Convert stage: bring a base model's weights in as the checkpoint of step 0.

One process reads a Hugging Face folder and writes shards that load at any parallel layout; threads
convert layers side by side. Memory holds one tensor and some chunks of others.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jobs.checkpoints import leases, manifest, retention
from jobs.checkpoints.manifest import CheckpointRecord
from jobs.contract import base_folder, done_markers
from jobs.contract.errors import ERRNO_HINTS, RESUME, Stopped, TaskError, errno_code
from jobs.contract.files import make_folder
from jobs.contract.stage_specs import ConvertSpec, ParallelSpec
from jobs.conversion import base_model, hf_reader, threads, weight_map
from jobs.conversion.hf_reader import Folder, TensorReader
from jobs.data import tokenizer_file
from jobs.runtime.context import Context
from jobs.verification.stage import verify_stage

if TYPE_CHECKING:
    from jobs.conversion.importer import Converted, Importer

PRECISIONS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}
"""Of a checkpoint's record, by the type of the folder's weights."""

OVERHEAD_BYTES = 64 << 20
"""Of a checkpoint beside its values, at most: headers of items and the index (guess)."""

POLL_SECONDS = 0.2


def run(context: Context) -> None:
    """Convert the folder of the task's spec into the checkpoint of step 0.

    Raises:
        TaskError: the folder, its model or its tokenizer is not the run's, files cannot be read or
            written, or the checkpoint does not compute what the folder does.
        Stopped: a stop was requested; the next attempt keeps the finished files.
    """
    spec = cast(ConvertSpec, context.task.spec)
    inputs = [tokenizer_file.require_unchanged(context.run, spec.tokenizer)]
    place, vocabulary = Path(spec.folder), spec.tokenizer.vocabulary
    folder = base_model.require_importable(place, spec.model, vocabulary)
    base_model.require_tokenizer(place, spec.tokenizer)
    inputs += [
        done_markers.describe_file(context.run, str(file), with_digest=False)
        for file in (folder.path / "config.json", *folder.files)
    ]
    checkpoints = context.path(spec.checkpoint_dir)
    with leases.sole_writer(checkpoints, leases.holder_of(context, os.environ)):
        path = checkpoints / manifest.name(0)
        record = existing(context, path, folder)
        if record is None:
            done_markers.forget_done(context.run, context.task.stage, context.task.index)
            record = convert(context, spec, folder, path)
        shutil.rmtree(context.scratch, ignore_errors=True)
    outputs = [
        done_markers.describe_file(
            context.run, f"{spec.checkpoint_dir}/{path.name}/{name}", with_digest=False
        )
        for name in (manifest.MANIFEST, manifest.RECORD)
    ]
    verify_stage(context, place, path)
    summary = {"bytes": record.bytes, "origin": record.origin, "precision": record.precision}
    context.finish(inputs, outputs, summary)


def existing(context: Context, path: Path, folder: Folder) -> CheckpointRecord | None:
    """Return the record of a finished conversion of the same weights; None where there is none.

    A folder that was copied or downloaded again is compared by its content.

    Raises:
        TaskError: step 0 is there already, from other weights.
        OSError: the storage does not respond.
    """
    spec = cast(ConvertSpec, context.task.spec)
    if not manifest.was_finished(path):
        return None
    if problem := manifest.problem(path):
        retention.quarantine({path: problem})
        return None
    record = manifest.read(path)
    differs = manifest.difference(record, spec.model, spec.tokenizer)
    same = record.origin.get("source") == folder.identity
    if not differs and not same and digest_again(context, folder) != record.origin.get("sha256"):
        differs = f"its weights are those of {record.origin.get('weights')}"
        if record.origin.get("folder") == spec.folder:
            differs = "the folder's weights have changed since"
    if differs:
        raise TaskError(
            f"{path} was not made from {folder.path}: {differs}",
            "use another run for other weights: `meditron submit --help` shows how to name one",
        )
    return record


def digest_again(context: Context, folder: Folder) -> str:
    """Return the digest of a folder's weights, as the record of their conversion has it."""
    spec = cast(ConvertSpec, context.task.spec)
    names = weight_map.folder_shapes(spec.model, spec.tokenizer.vocabulary.base_rows)
    sources: dict[str, str] = {}
    for number, name in enumerate(names):
        with TensorReader(folder.tensors[name]) as reader:
            for rows in reader.blocks():
                del rows
            sources[name] = reader.digest()
        context.progress(number, len(names), "tensors")
    return digest_of(folder, sources)


def convert(context: Context, spec: ConvertSpec, folder: Folder, path: Path) -> CheckpointRecord:
    """Write the checkpoint and return its record.

    Raises:
        TaskError: storage does not take it, or the folder changes while it is read.
        Stopped: a stop was requested.
    """
    from jobs.conversion import sharded_writer
    from jobs.conversion.importer import Importer, units

    importer = Importer(spec, folder, path, context.scratch)
    require_space(path, importer.total)
    make_folder(path)
    make_folder(context.scratch)
    remove_strangers(path, {unit.name for unit in units(spec)})
    try:
        if spec.model.tied_embeddings:
            require_equal_copy(folder)
        converted = convert_all(context, importer)
        files = [item.file for item in converted]
        dtypes = dict.fromkeys(importer.shapes, importer.dtype)
        index = sharded_writer.write_index(path, files, importer.shapes, dtypes)
        record = record_of(spec, folder, converted, PRECISIONS[importer.stored_type])
        listed = {file.name: file.parts for file in files} | index
        return manifest.commit(path, record, listed)
    except OSError as error:
        raise storage_failed(path, error) from error
    except EOFError as error:
        raise TaskError(str(error), f"let nothing change the folder, then {RESUME}") from error


def convert_all(context: Context, importer: Importer) -> list[Converted]:
    """Convert every file in threads, with progress and heartbeats while bytes are written.

    Raises:
        OSError, EOFError: as the first thread that failed raised it.
        Stopped: a stop was requested.
    """
    from jobs.conversion.importer import Interrupted, units

    with threads.single_threaded(), ThreadPoolExecutor(threads.side_by_side(context)) as pool:
        futures = [pool.submit(importer.convert, unit) for unit in units(importer.spec)]
        try:
            watch(context, importer, futures)
            return [future.result() for future in futures]
        except Interrupted as error:
            raise Stopped("stop requested; the next attempt keeps the finished files") from error
        finally:
            importer.stopped.set()
            pool.shutdown(cancel_futures=True)


def watch(context: Context, importer: Importer, futures: Sequence[Future[Converted]]) -> None:
    """Report progress until every file is finished.

    Raises:
        Interrupted: a stop was requested.
        OSError, EOFError: as a thread raised it.
    """
    reported, pending = -1, set(futures)
    while pending:
        finished, pending = wait(pending, POLL_SECONDS, FIRST_EXCEPTION)
        for future in finished:
            if error := future.exception():
                raise error
        if context.stop:
            importer.stopped.set()
        if importer.done > reported:  # no progress, no heartbeat: storage that hangs is visible
            reported = importer.done
            context.progress(reported, importer.total, "bytes")


def require_equal_copy(folder: Folder) -> None:
    """Refuse an output layer that a folder with tied embeddings holds and that is not the
    embedding, since readers that tie them compute with another one than those that do not.

    Raises:
        TaskError: a value differs.
    """
    copy = folder.tensors.get(weight_map.TIED_OUTPUT)
    if copy is None:
        return
    with TensorReader(copy) as output, TensorReader(folder.tensors[weight_map.EMBEDDING]) as rows:
        for one, other in zip(output.blocks(), rows.blocks(), strict=True):
            if one.dtype != other.dtype or not one.equal(other):
                raise TaskError(
                    f"{folder.path}: {copy.name} is not {weight_map.EMBEDDING}, although the "
                    "embeddings are tied",
                    hf_reader.ANOTHER,
                )


def require_space(path: Path, total: int) -> None:
    """Refuse to begin where the checkpoint will not fit; files of earlier attempts count.

    Raises:
        TaskError: too little is free.
    """
    written = sum(file.stat().st_size for file in path.glob("*.distcp"))
    needed = total + OVERHEAD_BYTES - written
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise TaskError(
            f"{path} does not fit: it takes {needed >> 20} MiB, {free >> 20} MiB are free",
            f"free some space, then {RESUME}",
        )


def remove_strangers(path: Path, names: set[str]) -> None:
    """Delete what a killed save or another conversion left in a folder that is no checkpoint."""
    for file in path.iterdir():
        if file.name not in names:
            file.unlink()


def record_of(
    spec: ConvertSpec, folder: Folder, converted: Sequence[Converted], precision: str
) -> CheckpointRecord:
    """Return the record of step 0."""
    sources: dict[str, str] = {}
    for item in converted:
        sources |= item.sources
    return CheckpointRecord(
        iteration=0,
        consumed_samples=0,
        kind=manifest.WEIGHTS,
        **manifest.identity(spec.model, spec.tokenizer),
        origin={
            "weights": spec.weights,
            "folder": spec.folder,
            "commit": base_folder.commit_of(Path(spec.folder)),
            "sha256": digest_of(folder, sources),
            "source": folder.identity,
            "license": base_model.stated_license(folder.path),
            "model_type": folder.config["model_type"],
        },
        layout=asdict(ParallelSpec(1, 1, 1, False, False, "none")),
        precision=precision,
        data={},
        bytes=0,
    )


def digest_of(folder: Folder, sources: Mapping[str, str]) -> str:
    """Return the digest of a model's weights, however they are divided into files: SHA-256 of the
    JSON list of name, type, shape and SHA-256 of each tensor, by name.
    """
    content: list[Any] = []
    for name in sorted(sources):
        tensor = folder.tensors[name]
        content.append([name, tensor.dtype, list(tensor.shape), sources[name]])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def storage_failed(path: Path, error: OSError) -> TaskError:
    """Return the error for files that cannot be read or written."""
    number = error.errno or 0
    return TaskError(
        f"{path} could not be written: {error}; the finished files are kept",
        ERRNO_HINTS.get(number, f"check the file system, then {RESUME}"),
        errno_code(number),
    )
