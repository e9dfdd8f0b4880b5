"""Read a checkpoint's parts, each once and by one rank, and compare each with its digest.

megatron.core's fully parallel load divides tensors among data-parallel copies. A tensor-parallel
rank often needs a slice of an item; then one rank of the tensor group reads the item and broadcasts
it, since a digest covers an item as a whole. Nothing is read in a pass of its own.

This module imports torch and megatron.core, so import it only within
``jobs.engine.device.session``.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType
from torch.distributed.checkpoint.state_dict_loader import load_state_dict
from torch.futures import Future

from jobs.checkpoints import manifest, parts
from jobs.checkpoints.parts import AlteredPart, Content, Part, Parts
from jobs.engine import device as devices

with devices.quiet():
    from megatron.core import parallel_state
    from megatron.core.dist_checkpointing import ShardedObject
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor
    from megatron.core.dist_checkpointing.strategies import torch as torch_strategy
    from megatron.core.dist_checkpointing.strategies.common import TorchCommonLoadStrategy
    from megatron.core.dist_checkpointing.strategies.fully_parallel import (
        FullyParallelLoadStrategyWrapper,
    )

METADATA = ".metadata"
COMMON = "common.pt"
SHARD_SUFFIX = ".distcp"

CHUNK = 1 << 26
"""Bytes broadcast at a time, which bounds the extra memory on a GPU."""


class Location(NamedTuple):
    """A part of a shard."""

    file: str
    number: int
    """Among the parts of its file."""


@dataclass
class VerifiedFiles:
    """The files of a checkpoint, each part of which is compared with its digest when it is read."""

    path: Path
    files: dict[str, Parts]
    """All of them, by the manifest."""
    small: dict[str, bytes]
    """Content of those that are no shards, verified."""
    beat: Callable[[], None]
    """Called as bytes arrive."""
    read: set[Location] = field(default_factory=set)
    """Parts that this rank has read and verified."""
    bytes_read: int = 0
    """By this rank, of shards."""

    def __post_init__(self) -> None:
        self.metadata = pickle.loads(self.small[METADATA])
        self._numbers: dict[tuple[str, int], int] = {}
        """Number of a part by file and offset."""
        for name, its_parts in self.files.items():
            offset = 0
            for number, part in enumerate(its_parts):
                self._numbers[name, offset] = number
                offset += part.bytes

    def location(self, item: Any) -> Location:
        """Return the part of a tensor or object, by its entry in the metadata."""
        return Location(item.relative_path, self._numbers[item.relative_path, item.offset])

    def part(self, location: Location) -> Part:
        return self.files[location.file][location.number]

    def read_part(self, location: Location) -> Content:
        """Read a part.

        Raises:
            AlteredPart: it differs from its digest.
            OSError, EOFError: it cannot be read.
        """
        its_parts = self.files[location.file]
        part, start = its_parts[location.number], parts.size(its_parts[: location.number])
        content = parts.read_part(self.path / location.file, start, part, self.beat)
        self.bytes_read += part.bytes
        self.read.add(location)
        return content

    def unread(self, read: set[Location]) -> list[Location]:
        """Return the parts of shards beyond those that were read."""
        return [
            Location(name, number)
            for name, its_parts in sorted(self.files.items())
            if name not in self.small
            for number in range(len(its_parts))
            if (name, number) not in read
        ]


def open_small(path: Path) -> tuple[dict[str, Parts], dict[str, bytes]]:
    """Return a checkpoint's manifest, and the content of its files that are no shards.

    Raises:
        OSError, FormatError: they cannot be read.
        AlteredPart: one differs from its digest.
    """
    files = manifest.manifest(path)
    small = {}
    for name, its_parts in files.items():
        if not name.endswith(SHARD_SUFFIX):
            small[name] = (path / name).read_bytes()
            if (parts.describe_content(small[name]),) != its_parts:
                raise AlteredPart(name)
    return files, small


class VerifyingLoadStrategy(torch_strategy.TorchDistLoadShardedStrategy):  # type: ignore[misc]
    """megatron.core's load strategy, which reads through ``VerifiedFiles``."""

    def __init__(self, source: VerifiedFiles) -> None:
        super().__init__()
        self.source = source

    def load(self, sharded_state_dict: Any, checkpoint_dir: Path) -> Any:
        """Replace ``TorchDistLoadShardedStrategy.load``, which takes no reader."""
        bases = nested_values(sharded_state_dict)
        tensors = [base for base in bases if isinstance(base, ShardedTensor)]
        renamed, flat, names = torch_strategy._replace_state_dict_keys_with_sharded_keys(
            sharded_state_dict
        )
        state = torch_strategy.mcore_to_pyt_state_dict(renamed, True)
        planner = torch_strategy.MCoreLoadPlanner(
            shapes_validation_sharded_tensors=[
                ten for ten in tensors if not ten.allow_shape_mismatch
            ],
            allow_shape_mismatch_sharded_tensors={
                ten.key: ten for ten in tensors if ten.allow_shape_mismatch
            },
        )
        with devices.quiet():  # torch announces a successor of this function
            load_state_dict(state, _Reader(self.source), planner=planner)
        loaded = {
            key: torch_strategy._unwrap_pyt_sharded_tensor(value) for key, value in state.items()
        }
        result = torch_strategy._replace_sharded_keys_with_state_dict_keys(loaded, flat, names)
        torch_strategy._restore_dict_types(result, sharded_state_dict)
        return result

    def load_tensors_metadata(self, checkpoint_dir: Path, metadata: Any = None) -> Any:
        return super().load_tensors_metadata(checkpoint_dir, metadata or self.source.metadata)

    def load_sharded_metadata(self, checkpoint_dir: Path) -> Any:
        """Replace ``TorchDistLoadShardedStrategy.load_sharded_metadata``, which reads the file."""
        stored = self.source.metadata.state_dict_metadata
        objects = [
            ShardedObject.empty_from_unique_key(key)
            for key, value in stored.items()
            if isinstance(value, BytesStorageMetadata)
        ]
        found = {item.unique_key: item for item in objects}
        return found | self.load_tensors_metadata(checkpoint_dir)


class VerifiedCommonStrategy(TorchCommonLoadStrategy):  # type: ignore[misc]
    """megatron.core's strategy for values common to all ranks, which takes their verified file."""

    def __init__(self, source: VerifiedFiles) -> None:
        super().__init__()
        self.source = source

    def load_common(self, checkpoint_dir: str | Path) -> Any:
        """Replace ``TorchCommonLoadStrategy.load_common``, which reads the file."""
        del checkpoint_dir
        return torch.load(io.BytesIO(self.source.small[COMMON]), "cpu", weights_only=True)


def parallel_strategy(source: VerifiedFiles) -> Any:
    """Return the strategy that divides tensors among the data-parallel copies."""
    return FullyParallelLoadStrategyWrapper(
        VerifyingLoadStrategy(source),
        parallel_state.get_data_parallel_group(with_context_parallel=True),
    )


class _Reader(FileSystemReader):
    """A storage reader of torch's distributed checkpoints."""

    def __init__(self, source: VerifiedFiles) -> None:
        super().__init__(source.path)
        self.source = source
        self.group = parallel_state.get_tensor_model_parallel_group()

    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        return self.source.metadata

    def read_data(self, plan: Any, planner: Any) -> Future[None]:
        """Fill the tensors and objects of a plan; ranks of a tensor group call it together.

        Every rank takes part to the end, whatever fails; torch then raises the failures of all
        ranks on all of them.

        Raises:
            AlteredPart, OSError: a part could not be read.
        """
        requests: dict[Location, list[Any]] = {}
        for request in plan.items:
            location = self.source.location(self.storage_data[request.storage_index])
            requests.setdefault(location, []).append(request)
        failures: list[Exception] = []
        for location, content in self._contents(sorted(requests), failures):
            try:
                for request in requests[location]:
                    content.seek(0)
                    _fill(request, content, planner)
            except Exception as error:  # the other ranks still wait for the parts behind it
                failures.append(error)
        if failures:
            raise failures[0]
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _contents(
        self, wanted: Sequence[Location], failures: list[Exception]
    ) -> Iterator[tuple[Location, Content]]:
        """Yield the content of each part that this rank requires, unless it is in ``failures``."""
        by_rank = self._gather(wanted)
        rank = self.group.rank()
        for turn in zip_longest(*self._readers(by_rank)):
            own = self._read(turn[rank], failures)
            for reader, location in enumerate(turn):
                if location is None:
                    continue
                content = own if reader == rank else None
                if sum(location in each for each in by_rank) > 1:
                    content = self._share(reader, location, content)
                if content is not None and location in by_rank[rank]:
                    yield location, content

    def _gather(self, wanted: Sequence[Location]) -> list[set[Location]]:
        """Return the parts that each rank of the tensor group requires."""
        gathered: list[Any] = [None] * self.group.size()
        torch.distributed.all_gather_object(gathered, set(wanted), group=self.group)
        return gathered

    def _readers(self, by_rank: Sequence[set[Location]]) -> list[list[Location]]:
        """Divide the parts among the ranks that want them, about as many bytes for each."""
        divided: list[list[Location]] = [[] for _ in by_rank]
        loads = [0] * len(by_rank)
        for location in sorted(set().union(*by_rank)):
            ranks = [rank for rank, wanted in enumerate(by_rank) if location in wanted]
            least = min(ranks, key=lambda rank: loads[rank])
            divided[least].append(location)
            loads[least] += self.source.part(location).bytes
        return divided

    def _read(self, location: Location | None, failures: list[Exception]) -> Content | None:
        if location is None:
            return None
        try:
            return self.source.read_part(location)
        except (OSError, EOFError, AlteredPart) as error:
            failures.append(error)
            return None

    def _share(self, reader: int, location: Location, content: Content | None) -> Content | None:
        """Broadcast a part within the tensor group; None where its reader failed."""
        source = torch.distributed.get_global_rank(self.group, reader)
        is_reader = reader == self.group.rank()
        there = torch.tensor([content is not None], dtype=torch.uint8, device="cuda")
        torch.distributed.broadcast(there, source, self.group)
        if not there.item():
            return None
        size = self.source.part(location).bytes
        content = content or Content(size)
        whole = torch.from_numpy(content.array)
        for start in range(0, size, CHUNK):
            chunk = whole[start : start + CHUNK]
            moved = chunk.to(there.device)
            torch.distributed.broadcast(moved, source, self.group)
            if not is_reader:
                chunk.copy_(moved)
            self.source.beat()
        return content


def _fill(request: Any, content: Content, planner: Any) -> None:
    """Fill one tensor or object of a plan, as ``FileSystemReader.read_data`` does."""
    if request.type == LoadItemType.BYTE_IO:
        planner.load_bytes(request, io.BytesIO(content.read()))
        return
    stored = content.tensor()
    for axis, (offset, length) in enumerate(
        zip(request.storage_offsets, request.lengths, strict=True)
    ):
        stored = stored.narrow(axis, offset, length)
    target = planner.resolve_tensor(request).detach()
    if target.shape != stored.shape:
        name, shapes = request.storage_index.fqn, (tuple(stored.shape), tuple(target.shape))
        raise ValueError(f"{name} has shape {shapes[0]}, the model needs {shapes[1]}")
    target.copy_(stored)
    planner.commit_tensor(request, target)
