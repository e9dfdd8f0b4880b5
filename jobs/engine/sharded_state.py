"""Write and load the sharded state of a rank in megatron.core's torch_dist format.

This module imports torch and megatron.core, so import it only within
``jobs.engine.device.session``.
"""

from __future__ import annotations

import pickle
import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from torch.distributed.checkpoint.filesystem import FileSystemReader

from jobs.engine import device as devices
from jobs.engine import verified_reader
from jobs.engine.verified_reader import VerifiedFiles

with devices.quiet():
    from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
    from megatron.core.dist_checkpointing import ShardedObject
    from megatron.core.dist_checkpointing.core import CheckpointingException
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from megatron.core.dist_checkpointing.strategies.fully_parallel import (
        FullyParallelSaveStrategyWrapper,
    )
    from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

E = TypeVar("E", bound=BaseException)

CONTENT = {"distrib_optim_sharding_type": "fully_reshardable"}
"""Optimizer state as whole parameters, so that the layout may change between attempts."""

UNREADABLE = (
    CheckpointingException, pickle.UnpicklingError, EOFError, LookupError, ValueError,
    AttributeError, ImportError,
)  # fmt: skip
"""Errors of loading, beside torch's ``CheckpointException``, where files do not fit the model; the
documentation of ``pickle`` names most of them."""


NOT_WEIGHTS = ("optimizer", "generators")
"""First words of the keys of a training's checkpoint that are no weights."""

EXTRA_STATE = "_extra_state"
"""End of a key that transformer-engine's layers have beside their weights."""


@dataclass(frozen=True)
class TrainingState:
    """The state that is saved and loaded: this rank's model and, for training, its optimizer."""

    network: torch.nn.Module
    """The result of ``jobs.engine.model.build``, not wrapped for data parallelism."""
    optimizer: Any


def write(path: Path, trained: TrainingState, *, weights_only: bool) -> None:
    """Write a model, and its optimizer and generators unless only its weights are to be saved, into
    an empty folder. All ranks call it together.

    Raises:
        CheckpointException: on every rank, if a shard could not be written; rank 0 has the reason.
        OSError, RuntimeError: on the rank concerned, for all other files.
    """
    # Results of a synchronous save stay within the process. By default megatron.core starts a queue
    # server for them, which outlives a killed rank.
    filesystem_async._results_queue = queue.SimpleQueue()
    strategy = FullyParallelSaveStrategyWrapper(
        _ThreadedSaveStrategy("torch_dist", 1),
        parallel_state.get_data_parallel_group(with_context_parallel=True),
    )
    if weights_only:
        state = {"model": _model_state(trained.network, _content())}
    else:
        state = sharded_state(trained, is_loading=False)
    dist_checkpointing.save(state, str(path), strategy, content_metadata=CONTENT)


def segments(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Return offset and length of each tensor and object in the shards of a folder, by file name.

    Raises:
        OSError: the metadata cannot be read.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    for item in FileSystemReader(path).read_metadata().storage_data.values():
        found.setdefault(item.relative_path, []).append((item.offset, item.length))
    return found


class _ThreadedSaveStrategy(TorchDistSaveShardedStrategy):  # type: ignore[misc]
    """A save strategy that writes in threads of this process.

    megatron.core 0.16.1 forks writers and waits forever for one that is killed; a writer that
    outlives a killed rank would continue to write.
    """

    def save(self, sharded_state_dict: Any, checkpoint_dir: str | Path) -> None:
        request = self.async_save(sharded_state_dict, checkpoint_dir)
        if request.async_fn is not None:
            transforms, *_ = request.async_fn.args
            request = request._replace(async_fn=partial(_write_buckets, transforms))
        request.execute_sync()


def _write_buckets(
    transforms: Any, rank: int, buckets: Sequence[Any], results: queue.SimpleQueue[Any]
) -> None:
    """Replace ``FileSystemWriterAsync.write_preloaded_data_multiproc``: one file per bucket."""
    del rank
    written: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()

    def write_bucket(number: int) -> None:
        filesystem_async.FileSystemWriterAsync.write_preloaded_data(
            transforms, number, buckets[number], written, _NoCount(), use_fsync=True
        )

    with ThreadPoolExecutor(len(buckets)) as pool:
        list(pool.map(write_bucket, range(len(buckets))))
    outcomes = dict(written.get() for _ in buckets)
    failed = [outcome for outcome in outcomes.values() if isinstance(outcome, Exception)]
    results.put(cause(failed[0], OSError) or failed[0] if failed else outcomes)


def cause(error: BaseException, kind: type[E]) -> E | None:
    """Return the error of a kind at the root of one that torch wrapped; None if there is none."""
    current: BaseException | None = error
    while current is not None and not isinstance(current, kind):
        failures = getattr(current, "failures", {}).values()  # of torch's CheckpointException
        roots = [root for root in (cause(failure, kind) for failure, *_ in failures) if root]
        current = roots[0] if roots else current.__cause__ or current.__context__
    return current


class _NoCount:
    """A stand-in for the queue in which forked writers report completion."""

    def get(self) -> None:
        return

    def task_done(self) -> None:
        return


def load(source: VerifiedFiles, trained: TrainingState, *, with_generators: bool) -> None:
    """Load weights, optimizer and generator states into any layout. All ranks call it together.

    Raises:
        CheckpointException, UNREADABLE: the files do not fit the model, or one is altered.
    """
    state = sharded_state(trained, is_loading=True, with_generators=with_generators)
    loaded = _read(source, state, () if with_generators else ("generators",))
    _load_model(trained.network, loaded["model"])
    _load_optimizer(trained.optimizer, loaded["optimizer"])
    if with_generators:
        _set_generators(loaded["generators"])


def load_weights(source: VerifiedFiles, network: torch.nn.Module) -> None:
    """Load the weights alone, into a model of any layout and precision. All ranks call it together.

    Raises:
        CheckpointException, UNREADABLE: the files do not fit the model, or one is altered.
    """
    loaded = _read(source, {"model": _model_state(network, _content())}, NOT_WEIGHTS)
    _load_model(network, loaded["model"])


def start_from_weights(source: VerifiedFiles, trained: TrainingState) -> None:
    """Load the weights alone, and take them over into the optimizer's master weights.

    Raises:
        CheckpointException, UNREADABLE: the files do not fit the model, or one is altered.
    """
    load_weights(source, trained.network)
    trained.optimizer.reload_model_params()


def _read(source: VerifiedFiles, state: dict[str, Any], unneeded: tuple[str, ...]) -> Any:
    """Fill a sharded state; each part of the files is read by one rank and verified.

    Args:
        unneeded: first words of keys that may be in the checkpoint and not in the state.

    Raises:
        CheckpointingException: the checkpoint has other keys than the state.
    """
    loaded, missing, unexpected = dist_checkpointing.load(
        state,
        str(source.path),
        verified_reader.parallel_strategy(source),
        verified_reader.VerifiedCommonStrategy(source),
        strict="return_all",
    )
    missing = {key for key in missing if key.split(".")[0] not in unneeded}
    _require_none("in the checkpoint and not in the model", missing)
    _require_none("in the model and not in the checkpoint", unexpected)
    return loaded


def _load_model(network: torch.nn.Module, weights: dict[str, Any]) -> None:
    plain: Any = getattr(network, "module", network)  # Float16Module returns no result
    result = plain.load_state_dict(weights, strict=False)
    _require_none("in the model and not loaded", set(result.missing_keys))
    _require_none("loaded and not in the model", set(result.unexpected_keys))


def _require_none(place: str, keys: set[str]) -> None:
    """Raise an error for keys of which a checkpoint and a model differ, but for the extra states of
    transformer-engine's layers, which hold only scaling factors of FP8.
    """
    weights = sorted(key for key in keys if not key.endswith(EXTRA_STATE))
    if weights:
        raise CheckpointingException(f"{', '.join(weights)}: {place}")


def sharded_state(
    trained: TrainingState, *, is_loading: bool, with_generators: bool = True
) -> dict[str, Any]:
    """Return this rank's state to save, or to fill by loading, with its position in the whole."""
    content = _content()
    model = _model_state(trained.network, content)
    optimizer = trained.optimizer.sharded_state_dict(model, is_loading=is_loading, metadata=content)
    state = {"model": model, "optimizer": optimizer}
    if with_generators:
        state["generators"] = _generators()
    return state


def _content() -> dict[str, Any]:
    """Return the metadata with which megatron.core builds a sharded state."""
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return {**CONTENT, "dp_cp_group": group}


def _model_state(network: Any, content: dict[str, Any]) -> Any:
    return network.sharded_state_dict(metadata=content)


def _generators() -> Any:
    """Return random generator states, one per tensor and pipeline rank as in Megatron-LM."""
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


def _set_generators(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    torch.cuda.set_rng_state(states["device"])
    tensor_parallel.get_cuda_rng_tracker().set_states(states["tracker"])


def _load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Load optimizer state, with three corrections to megatron.core 0.16.1 around torch's Adam.

    It omits a step count of zero; it fills every entry of a parameter's state from tensors of the
    checkpoint, and the step count has none; and it gives all parameters one shared step count,
    which torch then raises once per parameter. transformer-engine's Adam counts steps per group,
    not per parameter, and refuses a state with a count, so it is given none.
    """
    from jobs.engine import optim  # not needed, and not loaded, for inference

    (part,) = optimizer.chained_optimizers
    moments = state.pop("param_state", None)
    if moments is None:  # not the distributed optimizer
        if optim.counts_steps_by_parameter(part.optimizer):
            state.get("optimizer", state)["state"].setdefault("common_step", torch.tensor(0.0))
        optimizer.load_state_dict(state)
        return
    optimizer.load_state_dict(state)
    entries = part.optimizer.state.values()
    steps = [entry.pop("step", None) for entry in entries]
    part.load_parameter_state_from_fully_reshardable(moments)
    for entry, step in zip(entries, steps, strict=True):
        if step is not None:
            entry["step"] = step.clone()
