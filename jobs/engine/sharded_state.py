"""Write and load the sharded state of a rank in megatron.core's torch_dist format.

This module imports torch and megatron.core, so import it only within
``jobs.engine.device.session``.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from jobs.checkpoints.parts import Parts
from jobs.engine import device as devices
from jobs.engine import verified_reader
from jobs.engine.saving import optimizer_shards
from jobs.engine.saving.shard_writer import HostMemory, ShardWriter
from jobs.engine.verified_reader import VerifiedFiles

with devices.quiet():
    from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
    from megatron.core.dist_checkpointing import ShardedObject
    from megatron.core.dist_checkpointing.core import CheckpointingException
    from megatron.core.dist_checkpointing.strategies import torch as torch_strategy
    from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
    from megatron.core.dist_checkpointing.strategies.fully_parallel import (
        FullyParallelSaveStrategyWrapper,
    )
    from megatron.core.dist_checkpointing.strategies.state_dict_saver import (
        save_state_dict_async_finalize,
        save_state_dict_async_plan,
    )
    from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

CONTENT = {"distrib_optim_sharding_type": optimizer_shards.FORMAT}
"""Optimizer state by parameter, so that the layout may change between attempts."""

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

    pieces: Sequence[torch.nn.Module]
    """The result of ``jobs.engine.model.pieces``, not wrapped for data parallelism."""
    optimizer: Any


class Writing:
    """A checkpoint that is being written: this rank's threads, and what remains to be done."""

    def __init__(self, writer: ShardWriter, finalize: Sequence[Callable[[], None]]) -> None:
        self._writer = writer
        self._finalize = finalize

    def is_done(self) -> bool:
        """Return whether this rank's files are written, or failed."""
        return self._writer.is_done()

    def wait_for_copy(self) -> None:
        """Wait until this rank's share is copied to host memory; the state may then change.

        Raises:
            RuntimeError, MemoryError: on the rank concerned, whose device or host could not copy.
        """
        self._writer.wait_for_copy()

    def agree(self) -> dict[str, Parts]:
        """Wait for this rank's files, and agree that all ranks have written theirs. All ranks call
        it together.

        Returns:
            The parts of this rank's files.

        Raises:
            CheckpointException: on every rank, if a shard could not be written; rank 0 has the
                reason.
            OSError, RuntimeError: on the rank concerned, for ``metadata.json``.
            RuntimeError, MemoryError: as ``wait_for_copy``.
        """
        self._writer.wait_for_copy()
        self._writer.wait()
        for step in self._finalize:
            step()
        return self._writer.parts()

    def write_index(self) -> None:
        """Write the index of all ranks' files; only rank 0 has it.

        Raises:
            OSError: it cannot be written.
        """
        self._writer.write_index()

    def abandon(self) -> None:
        """Stop writing; the folder stays unfinished."""
        self._writer.abandon()


class StateWriter:
    """A writer of one training's state into one folder after another.

    Ranks compare their parts of the whole, and divide what several of them have, in the first save
    of each kind; in later ones the parts are the same.
    """

    def __init__(self, trained: TrainingState, memory: HostMemory) -> None:
        self._trained = trained
        self._memory = memory
        self._divided: dict[bool, FullyParallelSaveStrategyWrapper] = {}
        """By whether weights alone are saved."""

    def begin(self, path: Path, *, weights_only: bool) -> Writing:
        """Begin to write the model, and its optimizer and generators unless only its weights are to
        be saved, into an empty folder. All ranks call it together. The state may change after
        ``Writing.wait_for_copy``.

        Raises:
            OSError, RuntimeError: on the rank concerned, for files other than shards.
        """
        # The digests replace the zip format's own checksums, which take as long as writing.
        torch.serialization.set_crc32_options(False)
        is_first = weights_only not in self._divided
        if is_first:
            self._divided[weights_only] = FullyParallelSaveStrategyWrapper(
                _SaveStrategy(self._memory),
                parallel_state.get_data_parallel_group(with_context_parallel=True),
                do_cache_distribution=True,
            )
        divided = self._divided[weights_only]
        request = dist_checkpointing.save(
            self._state(weights_only),
            str(path),
            divided,
            validate_access_integrity=is_first,
            async_sharded_save=True,
            content_metadata=CONTENT,
        )
        return Writing(divided.base_strategy.writer, request.finalize_fns)

    def _state(self, weights_only: bool) -> dict[str, Any]:
        """Return this rank's state with its position in the whole."""
        content = _content()
        model = _model_state(self._trained.pieces, content)
        if weights_only:
            return {"model": model}
        optimizer = optimizer_shards.sharded_state(self._trained.optimizer, model)
        return {"model": model, "optimizer": optimizer, "generators": _generators()}


class _SaveStrategy(TorchDistSaveShardedStrategy):  # type: ignore[misc]
    """A save strategy that copies and writes in threads of this process.

    The first save plans where each rank writes what: the plans of all ranks are gathered, checked
    and indexed by rank 0. Later saves have the same plan, and ranks exchange nothing for it.
    """

    def __init__(self, memory: HostMemory) -> None:
        super().__init__("torch_dist", 1)
        self._memory = memory
        self._plans: tuple[Any, Any, bool] | None = None
        self._index: Any = None
        """Of all ranks' parts, on rank 0."""
        self.writer: ShardWriter | None = None

    def async_save(self, sharded_state_dict: Any, checkpoint_dir: str | Path) -> AsyncRequest:
        """Replace ``TorchDistSaveShardedStrategy.async_save``, which takes no writer."""
        flat, *_ = torch_strategy._replace_state_dict_keys_with_sharded_keys(
            sharded_state_dict, keep_only_main_replica=True
        )
        self.writer = ShardWriter(Path(checkpoint_dir), self._memory)
        planner = torch_strategy.MCoreSavePlanner(
            dedup_replicated_tensors=False, flatten_state_dict=False, flatten_sharded_tensors=False
        )
        (_, index, ranks), central, local, *_ = save_state_dict_async_plan(
            torch_strategy.mcore_to_pyt_state_dict(flat),
            self.writer,
            None,
            0,
            planner=planner,
            cached_ckpt_structure=self._plans,
        )
        if self._plans is None:
            self._plans, self._index = (central, local, True), index
        finalize = partial(save_state_dict_async_finalize, self.writer, self._index, ranks)
        return AsyncRequest(None, (), [finalize])


def load(source: VerifiedFiles, trained: TrainingState, *, with_generators: bool) -> None:
    """Load weights, optimizer and generator states into any layout. All ranks call it together.

    Raises:
        CheckpointException, UNREADABLE: the files do not fit the model, or one is altered.
    """
    state = state_to_load(trained, with_generators=with_generators)
    loaded = _read(source, state, () if with_generators else ("generators",))
    _load_model(trained.pieces, loaded["model"])
    optimizer_shards.load(trained.optimizer, loaded["optimizer"])
    if with_generators:
        _set_generators(loaded["generators"])


def load_weights(source: VerifiedFiles, pieces: Sequence[torch.nn.Module]) -> None:
    """Load the weights alone, into a model in any layout and precision. All ranks call it together.

    Raises:
        CheckpointException, UNREADABLE: the files do not fit the model, or one is altered.
    """
    loaded = _read(source, {"model": _model_state(pieces, _content())}, NOT_WEIGHTS)
    _load_model(pieces, loaded["model"])


def start_from_weights(source: VerifiedFiles, trained: TrainingState) -> None:
    """Load the weights alone, and take them over into the optimizer's master weights.

    Raises:
        CheckpointException, UNREADABLE: the files do not fit the model, or one is altered.
    """
    load_weights(source, trained.pieces)
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


def _load_model(pieces: Sequence[torch.nn.Module], weights: dict[str, Any]) -> None:
    for number, piece in enumerate(pieces):
        plain: Any = getattr(piece, "module", piece)  # Float16Module returns no result
        result = plain.load_state_dict(weights[str(number)], strict=False)
        _require_none("in the model and not loaded", set(result.missing_keys))
        _require_none("loaded and not in the model", set(result.unexpected_keys))


def _require_none(place: str, keys: set[str]) -> None:
    """Raise an error for keys of which a checkpoint and a model differ, but for the extra states of
    transformer-engine's layers, which hold only scaling factors of FP8.
    """
    weights = sorted(key for key in keys if not key.endswith(EXTRA_STATE))
    if weights:
        raise CheckpointingException(f"{', '.join(weights)}: {place}")


def state_to_load(trained: TrainingState, *, with_generators: bool) -> dict[str, Any]:
    """Return this rank's state, to be filled, with its position in the whole."""
    content = _content()
    model = _model_state(trained.pieces, content)
    optimizer = optimizer_shards.state_to_load(trained.optimizer, model, content)
    state = {"model": model, "optimizer": optimizer}
    if with_generators:
        state["generators"] = _generators()
    return state


def _content() -> dict[str, Any]:
    """Return the metadata with which megatron.core builds a sharded state."""
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return {**CONTENT, "dp_cp_group": group}


def _model_state(pieces: Sequence[Any], content: dict[str, Any]) -> dict[str, Any]:
    """Return the state of each piece by its number; no key of the files has the number."""
    return {
        str(number): piece.sharded_state_dict(metadata=content)
        for number, piece in enumerate(pieces)
    }


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
