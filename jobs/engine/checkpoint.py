"""Sharded save and load, written whole; the latest valid one.

``checkpoints/iter_0000500`` holds megatron.core's torch_dist files, then ``manifest.json`` (size
and SHA-256 of each) and, written last, ``meditron.json``. A folder without a valid
``meditron.json`` does not exist. No file names the newest one: the folders are the truth.

Reading (``find_latest``, ``at_step``, ``problem``) needs no torch; what writes or loads a model
imports it inside.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import queue
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import device as devices
from jobs import rundir, specs
from jobs.runtime import FAILED, STOP_SIGNALS, TaskError

if TYPE_CHECKING:
    import torch

RECORD = "meditron.json"
MANIFEST = "manifest.json"
MEGATRON_METADATA = "metadata.json"

OLDER_TRIED = 2
"""How many checkpoints before the newest may be used when it is damaged."""

_NAME = re.compile(r"iter_(\d{7,})")
_ANY_NAME = re.compile(r"iter_(\d{7,})(\.bad-.*)?")

DAMAGED = (
    pickle.UnpicklingError, EOFError, LookupError, ValueError, AttributeError, ImportError,
)  # fmt: skip
"""What reading a file raises whose size is right and whose content is not: the ``pickle`` module's
documentation names most of them."""

CONTENT = {"distrib_optim_sharding_type": "fully_reshardable"}
"""Optimizer state as whole parameters, so that the layout may change from attempt to attempt."""


@dataclass(frozen=True)
class Record:
    """What ``meditron.json`` says of a checkpoint."""

    iteration: int
    """Optimizer steps done."""
    consumed_samples: int
    """Sequences trained on; the next step begins with this one."""
    layout: dict[str, Any]
    """``jobs.specs.ParallelSpec`` as it was when saving."""
    precision: str
    model: str
    """``model_digest`` of the model."""
    data: str
    """Digest of the tokens and of their order."""
    bytes: int
    """All its files together; while saving, as many as are expected."""
    files: int = 0
    manifest: str = ""
    """SHA-256 of ``manifest.json``."""


Found = tuple[Path, Record]


def name(iteration: int) -> str:
    """Folder of a checkpoint, sorting by step."""
    return f"iter_{iteration:07d}"


def model_digest(spec: specs.ModelSpec) -> str:
    """Digest of the architecture, without vocabulary padding: that depends on the layout."""
    return specs.digest(replace(spec, padded_vocab_size=0))


# Reading: no torch.


def find_latest(folder: Path) -> Found | None:
    """The newest valid checkpoint, or None; changes nothing."""
    for path in _folders(folder):
        if not problem(path):
            return path, read(path)
    return None


def at_step(folder: Path, iteration: int) -> Found | None:
    """The checkpoint of one step, or None where it is missing or damaged."""
    path = folder / name(iteration)
    return None if problem(path) else (path, read(path))


def read(path: Path) -> Record:
    """The record of a checkpoint.

    Raises:
        FileNotFoundError: it was never finished.
        rundir.FormatError: written by another version, or damaged.
    """
    value = rundir.read_json(path / RECORD)
    value.pop("format")
    try:
        return Record(**value)
    except TypeError as error:
        raise rundir.FormatError(f"{path / RECORD}: {error}") from error


def problem(path: Path) -> str:
    """What is wrong with a checkpoint: records that do not parse, files without their size.

    Empty when nothing is.
    """
    try:
        record = read(path)
    except FileNotFoundError:
        return f"{RECORD} is missing: it was never finished"
    except rundir.FormatError as error:
        return str(error)
    try:
        text = (path / MANIFEST).read_bytes()
        json.loads((path / MEGATRON_METADATA).read_bytes())
    except (OSError, ValueError) as error:
        return f"{MANIFEST} or {MEGATRON_METADATA} cannot be read: {error}"
    if hashlib.sha256(text).hexdigest() != record.manifest:
        return f"{MANIFEST} is not the one {RECORD} was written for"
    return _wrong_size(path, json.loads(text)["files"])


def choose_for_resume(folder: Path) -> Found | None:
    """The checkpoint a run continues from; what is newer and damaged is set aside.

    Call it from one rank alone. None means that the run may begin: no checkpoint of it went beyond
    step 0, which holds nothing but the random weights of the seed.

    Raises:
        TaskError: there are checkpoints, but the newest and the two before it are all damaged.
    """
    damaged: dict[Path, str] = {}
    for path in _folders(folder)[: OLDER_TRIED + 1]:
        wrong = problem(path)
        if not wrong:
            _set_aside(damaged)
            return path, read(path)
        damaged[path] = wrong
    if not _went_beyond_start(folder):
        _set_aside(damaged)
        return None
    table = [f"  {path.name}: {wrong}" for path, wrong in damaged.items()]
    refusal = f"{folder}: no checkpoint can be used, and training will not begin anew at random"
    raise TaskError(
        "\n".join([refusal, *(table or ["  only folders set aside earlier are left"])]),
        "restore one of these folders from a copy, or start another run with `--new`",
        FAILED,
    )


def _folders(folder: Path) -> list[Path]:
    """Checkpoints by name, newest first, finished or not."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    match = _ANY_NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def _went_beyond_start(folder: Path) -> bool:
    """Whether anything, good, damaged or set aside, shows that steps were trained here."""
    return folder.is_dir() and any(_step_of(path) > 0 for path in folder.iterdir())


def _set_aside(damaged: dict[Path, str]) -> None:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for path, wrong in damaged.items():
        aside = path.with_name(f"{path.name}.bad-{stamp}")
        path.rename(aside)
        print(f"checkpoint {path.name} is set aside as {aside.name}: {wrong}", flush=True)


def _wrong_size(path: Path, files: dict[str, Any]) -> str:
    for file, expected in files.items():
        try:
            size = (path / file).stat().st_size
        except OSError as error:
            return f"{file}: {error.strerror}"
        if size != expected["bytes"]:
            return f"{file} has {size} bytes instead of {expected['bytes']}"
    return ""


# Writing and loading: every rank takes part.


@dataclass(frozen=True)
class Trained:
    """What is saved and loaded: this rank's model and, for training, its optimizer."""

    network: torch.nn.Module
    """As ``jobs.engine.model.build`` made it, not wrapped for data parallelism."""
    optimizer: Any


def save(folder: Path, trained: Trained, record: Record, keep: int) -> Found:
    """Write one checkpoint, make it ours, verify it, and let old ones go. All ranks call it.

    Step 0, this one and the newest ``keep`` before it stay. One that is there already and valid is
    left as it is.

    Raises:
        TaskError: it could not be written; earlier checkpoints are untouched.
    """
    path = folder / name(record.iteration)
    there = devices.decide_once(lambda: _make_way(path, record.bytes))
    if there is not None:
        return path, there
    with signals_held_back():
        try:
            _write_shards(path, trained)
            described = _describe_together(path)
        except _failures() as error:
            raise _not_written(path, error) from error
    return path, devices.decide_once(lambda: _commit(path, record, described, keep))


def load(path: Path, trained: Trained, record: Record, layout: dict[str, Any]) -> None:
    """Load weights, optimizer and generator states into any layout. All ranks call it together.

    Generator states belong to tensor and pipeline ranks, so they are left out, and that is said,
    where those numbers changed.

    Raises:
        TaskError: the files do not hold what the model asks for.
    """
    same = all(record.layout[key] == layout[key] for key in ("tensor", "pipeline"))
    state = _sharded_state(trained, is_loading=True, with_generators=same)
    loaded = _load_shards(path, state, "raise_all" if same else "raise_unexpected")
    trained.network.load_state_dict(loaded["model"])
    _load_optimizer(trained.optimizer, loaded["optimizer"])
    if same:
        _set_generators(loaded["generators"])
    elif _is_rank_zero():
        print(
            "tensor or pipeline ranks changed: generators start anew from the seed",
            flush=True,
        )


def load_weights(path: Path, network: torch.nn.Module) -> None:
    """Load the weights alone, into a model of any layout and precision. All ranks call it together.

    Args:
        path: a folder that ``find_latest`` or ``at_step`` answered.
        network: what ``jobs.engine.model.build`` made, for training or for inference.

    Raises:
        TaskError: the files do not hold what the model asks for.
    """
    state = {"model": _model_state(network, _content())}
    network.load_state_dict(_load_shards(path, state, "raise_unexpected")["model"])


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Deliver stop requests only after the block.

    Processes started inside inherit the mask: a checkpoint writer that a stop request ended would
    take the checkpoint with it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _make_way(path: Path, expected: int) -> Record | None:
    """An empty folder to write into, or the record of the checkpoint that is there already."""
    if path.exists():
        wrong = problem(path)
        if not wrong:
            return read(path)
        _set_aside({path: wrong})
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < expected:
        raise _not_written(path, OSError(f"it takes {expected >> 20} MiB, {free >> 20} are free"))
    path.mkdir()
    return None


def _content() -> dict[str, Any]:
    """Metadata that megatron.core asks for while it builds a sharded state."""
    from megatron.core import parallel_state

    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return {**CONTENT, "dp_cp_group": group}


def _model_state(network: Any, content: dict[str, Any]) -> Any:
    return network.sharded_state_dict(metadata=content)


def _sharded_state(
    trained: Trained, *, is_loading: bool, with_generators: bool = True
) -> dict[str, Any]:
    content = _content()
    model = _model_state(trained.network, content)
    optimizer = trained.optimizer.sharded_state_dict(model, is_loading=is_loading, metadata=content)
    state = {"model": model, "optimizer": optimizer}
    if with_generators:
        state["generators"] = _generators()
    return state


def _generators() -> Any:
    """Random generator states of this rank, one a tensor and pipeline rank as in Megatron-LM."""
    import torch
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.dist_checkpointing import ShardedObject

    states = {
        "cpu": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(),
        "tracker": tensor_parallel.get_cuda_rng_tracker().get_states(),
    }
    return ShardedObject(
        "generators",
        states,
        (
            parallel_state.get_pipeline_model_parallel_world_size(),
            parallel_state.get_tensor_model_parallel_world_size(),
        ),
        (
            parallel_state.get_pipeline_model_parallel_rank(),
            parallel_state.get_tensor_model_parallel_rank(),
        ),
        replica_id=parallel_state.get_data_parallel_rank(with_context_parallel=True),
    )


def _set_generators(states: dict[str, Any]) -> None:
    import torch
    from megatron.core import tensor_parallel

    torch.set_rng_state(states["cpu"])
    torch.cuda.set_rng_state(states["device"])
    tensor_parallel.get_cuda_rng_tracker().set_states(states["tracker"])


def _write_shards(path: Path, trained: Trained) -> None:
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.dist_checkpointing.serialization import get_default_save_sharded_strategy
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from megatron.core.dist_checkpointing.strategies.fully_parallel import (
        FullyParallelSaveStrategyWrapper,
    )

    # A save that is waited for returns its results within the process. Left alone, megatron.core
    # starts a queue server for them, which outlives a rank that is killed.
    filesystem_async._results_queue = queue.SimpleQueue()
    strategy = FullyParallelSaveStrategyWrapper(
        get_default_save_sharded_strategy("torch_dist"),
        parallel_state.get_data_parallel_group(with_context_parallel=True),
    )
    dist_checkpointing.save(
        _sharded_state(trained, is_loading=False),
        str(path),
        strategy,
        content_metadata=CONTENT,
    )


def _load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Load optimizer state, with three corrections to megatron.core 0.16.1 around torch's Adam.

    It leaves out a step count of zero; it fills all that is kept of a parameter from tensors of the
    checkpoint, and the step count has none; and it gives every parameter the same step count, which
    torch then raises once a parameter. transformer-engine's Adam counts steps a group, not a
    parameter, and refuses a state that has a count, so it is given none.
    """
    import torch

    from jobs.engine import optim

    (part,) = optimizer.chained_optimizers
    moments = state.pop("param_state", None)
    if moments is None:  # not the distributed optimizer
        if optim.counts_steps_by_parameter(part.optimizer):
            state.get("optimizer", state)["state"].setdefault("common_step", torch.tensor(0.0))
        optimizer.load_state_dict(state)
        return
    optimizer.load_state_dict(state)
    kept = part.optimizer.state.values()
    steps = [held.pop("step", None) for held in kept]
    part.load_parameter_state_from_fully_reshardable(moments)
    for held, step in zip(kept, steps, strict=True):
        if step is not None:
            held["step"] = step.clone()


def _load_shards(path: Path, state: dict[str, Any], strict: str) -> dict[str, Any]:
    from megatron.core import dist_checkpointing

    try:
        loaded: dict[str, Any] = dist_checkpointing.load(state, str(path), strict=strict)
    except _failures() + DAMAGED as error:
        raise TaskError(
            f"{path} cannot be loaded into this model: {type(error).__name__}: {error}",
            "if its files are damaged, move the folder away and submit again, then the one before "
            "it is used; a checkpoint fits only the architecture it was saved from",
        ) from error
    return loaded


def _failures() -> tuple[type[BaseException], ...]:
    """What megatron.core and torch raise when files cannot be written or read, or do not fit."""
    from megatron.core.dist_checkpointing.core import CheckpointingException
    from torch.distributed.checkpoint.api import CheckpointException

    return (OSError, RuntimeError, CheckpointingException, CheckpointException)


def _not_written(path: Path, error: BaseException) -> TaskError:
    """The sentence for a save that failed on this rank; what there is of it is removed."""
    if _is_rank_zero():
        shutil.rmtree(path, ignore_errors=True)
    return TaskError(
        f"{path} could not be written: {_reason(error)}; checkpoints before it are untouched",
        "free some space or find out what the file system says, then submit again",
        FAILED,
    )


def _reason(error: BaseException) -> str:
    """The failure itself, out of what torch wraps around it."""
    causes = getattr(error, "failures", None)
    if causes is None:
        return str(error)
    return "; ".join(sorted({str(cause[0]) for cause in causes.values()})) or "on another rank"


def _describe_together(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of every file, each rank reading the ones it wrote."""
    import torch.distributed

    rank = torch.distributed.get_rank()
    own = re.compile(rf"__{rank}_\d+\.distcp")
    names = [file.name for file in path.iterdir()]
    mine = [file for file in names if own.fullmatch(file) or (rank == 0 and file[:2] != "__")]
    found = {
        file: {"bytes": (path / file).stat().st_size, "sha256": rundir.sha256(path / file)}
        for file in mine
    }
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, found)
    return {file: entry for part in gathered for file, entry in sorted(part.items())}


def _commit(path: Path, record: Record, files: dict[str, Any], keep: int) -> Record:
    try:
        rundir.write_json(path / MANIFEST, {"files": files})
        record = replace(
            record,
            manifest=rundir.sha256(path / MANIFEST),
            bytes=sum(entry["bytes"] for entry in files.values()),
            files=len(files),
        )
        rundir.write_json(path / RECORD, asdict(record))
        rundir.fsync_folder(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error
    wrong = problem(path)
    if wrong:
        raise _not_written(path, OSError(wrong))
    _let_go(path.parent, keep)
    return record


def _let_go(folder: Path, keep: int) -> None:
    """Delete checkpoints that are neither step 0, nor the newest, nor among the ``keep`` before it.

    Runs only after a newer one was verified. Of the folders set aside, those that were never
    finished go too; damaged ones stay for a person to look at.
    """
    valid = [path for path in _folders(folder) if (path / RECORD).exists()]
    unfinished = [path for path in folder.glob("iter_*.bad-*") if not (path / RECORD).exists()]
    for path in [*(path for path in valid[keep + 1 :] if _step_of(path) > 0), *unfinished]:
        leaving = path.with_name(f".{path.name}.leaving")
        path.rename(leaving)  # in one step: half a checkpoint under its own name would look damaged
    for leaving in folder.glob(".iter_*.leaving"):
        shutil.rmtree(leaving, ignore_errors=True)


def _is_rank_zero() -> bool:
    import torch.distributed

    return int(torch.distributed.get_rank()) == 0
