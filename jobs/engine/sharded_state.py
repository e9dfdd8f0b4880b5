"""megatron.core's torch_dist files: the sharded state of a rank, writing and loading it.

Imports torch and megatron.core, so import it only after ``jobs.engine.device.start``.
"""

from __future__ import annotations

import pickle
import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from jobs.engine import device as devices

with devices.quiet():
    from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
    from megatron.core.dist_checkpointing import ShardedObject
    from megatron.core.dist_checkpointing.core import CheckpointingException
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from megatron.core.dist_checkpointing.strategies.fully_parallel import (
        FullyParallelSaveStrategyWrapper,
    )
    from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

CONTENT = {"distrib_optim_sharding_type": "fully_reshardable"}
"""Optimizer state as whole parameters, so that the layout may change from attempt to attempt."""

UNREADABLE = (
    CheckpointingException, pickle.UnpicklingError, EOFError, LookupError, ValueError,
    AttributeError, ImportError,
)  # fmt: skip
"""What loading raises, beside torch's ``CheckpointException``, where files do not hold what the
model asks for: the ``pickle`` module's documentation names most of them."""


@dataclass(frozen=True)
class TrainingState:
    """What is saved and loaded: this rank's model and, for training, its optimizer."""

    network: torch.nn.Module
    """As ``jobs.engine.model.build`` made it, not wrapped for data parallelism."""
    optimizer: Any


def write(path: Path, trained: TrainingState) -> None:
    """Write all of a model and its optimizer into an empty folder. All ranks call it together.

    Raises:
        CheckpointException: on every rank, when a shard could not be written; rank 0 knows why.
        OSError, RuntimeError: on the rank that met it, for all other files.
    """
    # Results of a save that is waited for stay within the process. Left alone, megatron.core starts
    # a queue server for them, which outlives a rank that is killed.
    filesystem_async._results_queue = queue.SimpleQueue()
    strategy = FullyParallelSaveStrategyWrapper(
        _WriteHere("torch_dist", 1),
        parallel_state.get_data_parallel_group(with_context_parallel=True),
    )
    state = sharded_state(trained, is_loading=False)
    dist_checkpointing.save(state, str(path), strategy, content_metadata=CONTENT)


class _WriteHere(TorchDistSaveShardedStrategy):  # type: ignore[misc]
    """Writes in threads of this process.

    megatron.core 0.16.1 forks writers and waits for ever for one that is killed; one that outlives
    a killed rank would go on writing.
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
    """Stands for ``FileSystemWriterAsync.write_preloaded_data_multiproc``: one file a bucket."""
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
    results.put(system_error(failed[0]) or failed[0] if failed else outcomes)


def system_error(error: BaseException) -> OSError | None:
    """What the kernel said, where an error came from that: torch covers it with its own."""
    beneath: BaseException | None = error
    while beneath is not None and not isinstance(beneath, OSError):
        failures = list(getattr(beneath, "failures", {}).values())  # of torch's CheckpointException
        beneath = failures[0][0] if failures else beneath.__cause__ or beneath.__context__
    return beneath


class _NoCount:
    """The queue by which forked writers say that they are done."""

    def get(self) -> None:
        return

    def task_done(self) -> None:
        return


def load(path: Path, trained: TrainingState, *, with_generators: bool) -> None:
    """Load weights, optimizer and generator states into any layout. All ranks call it together.

    Raises:
        CheckpointException, UNREADABLE: the files do not hold what the model asks for.
    """
    state = sharded_state(trained, is_loading=True, with_generators=with_generators)
    loaded = dist_checkpointing.load(
        state, str(path), strict="raise_all" if with_generators else "raise_unexpected"
    )
    trained.network.load_state_dict(loaded["model"])
    _load_optimizer(trained.optimizer, loaded["optimizer"])
    if with_generators:
        _set_generators(loaded["generators"])


def load_weights(path: Path, network: torch.nn.Module) -> None:
    """Load the weights alone, into a model of any layout and precision. All ranks call it together.

    Raises:
        CheckpointException, UNREADABLE: the files do not hold what the model asks for.
    """
    state = {"model": _model_state(network, _content())}
    loaded = dist_checkpointing.load(state, str(path), strict="raise_unexpected")
    network.load_state_dict(loaded["model"])


def sharded_state(
    trained: TrainingState, *, is_loading: bool, with_generators: bool = True
) -> dict[str, Any]:
    """What is saved of this rank, or asked for when loading, with its place in the whole."""
    content = _content()
    model = _model_state(trained.network, content)
    optimizer = trained.optimizer.sharded_state_dict(model, is_loading=is_loading, metadata=content)
    state = {"model": model, "optimizer": optimizer}
    if with_generators:
        state["generators"] = _generators()
    return state


def _content() -> dict[str, Any]:
    """Metadata that megatron.core asks for while it builds a sharded state."""
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return {**CONTENT, "dp_cp_group": group}


def _model_state(network: Any, content: dict[str, Any]) -> Any:
    return network.sharded_state_dict(metadata=content)


def _generators() -> Any:
    """Random generator states of this rank, one a tensor and pipeline rank as in Megatron-LM."""
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

    It leaves out a step count of zero; it fills all that is kept of a parameter from tensors of the
    checkpoint, and the step count has none; and it gives every parameter the same step count, which
    torch then raises once a parameter. transformer-engine's Adam counts steps a group, not a
    parameter, and refuses a state that has a count, so it is given none.
    """
    from jobs.engine import optim  # not needed, and not loaded, where a model only answers

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
