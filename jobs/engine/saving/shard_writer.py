"""Write a rank's share of a checkpoint in threads, from a copy in host memory.

One thread copies tensors, two write them, each to a file of its own, and digest the bytes on the
way. While torch and xxhash work on a buffer, other threads go on: the next step computes its
gradients, and waits for the copy before it changes the state.

megatron.core 0.16.1 forks its writers and waits forever for one that is killed; a writer that
outlives a killed rank would continue to write. Threads end with their process.

This module imports torch and megatron.core, so import it only within
``jobs.engine.device.session``.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch.distributed.checkpoint.api import _wrap_exception
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.planner import WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from jobs.checkpoints import parts
from jobs.checkpoints.parts import Part, Parts
from jobs.engine import device as devices
from jobs.engine.failures import root
from jobs.engine.saving import page_lock
from jobs.engine.saving.ring import Ring
from jobs.engine.saving.threads import in_thread

with devices.quiet():
    from megatron.core.dist_checkpointing.strategies import filesystem_async

FILES = 2
"""Files per rank, each written by a thread."""

ALIGNMENT = 64
"""Of tensors in host memory, in bytes."""

ABANDON_SECONDS = 10.0
"""Longest wait for threads whose files nobody needs: storage may not answer."""


class Abandoned(Exception):
    """A write that was given up because the training ends with an error."""


class HostMemory:
    """Memory of the host for copies of tensors, kept from save to save.

    It grows to what a save copies, or to a limit: then a save waits, whenever it is full, until the
    oldest copies are written. On CUDA it is page-locked, where CUDA allows it, which takes long and
    makes copies several times as fast.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        """Hold nothing yet.

        Args:
            limit: returns the bytes that it may take; called when it has to grow. A tensor that is
                larger is copied nevertheless.
        """
        self._limit = limit
        self._content = np.empty(0, np.uint8)
        self._locks: page_lock.PageLocks | None = None
        if not hasattr(torch.cuda, "stood_in_for"):
            cuda: Any = torch.cuda
            self._locks = page_lock.PageLocks(cuda.cudart(), _clear_cuda_error, _warn)

    @property
    def bytes(self) -> int:
        return len(self._content)

    def reserve(self, total: int, largest: int) -> None:
        """Grow to hold ``total`` bytes, as far as the limit allows, and at least ``largest``."""
        if self.bytes >= total:
            return
        wanted = max(largest, min(total, self._limit()))
        if wanted > self.bytes:
            self._content = np.empty(0, np.uint8)  # frees the old one first
            self._content = np.empty(wanted, np.uint8)
            if self._locks is not None:
                self._locks.lock(self._content)

    def place(self, offset: int, like: torch.Tensor) -> torch.Tensor:
        """Return a tensor without values that lies at an offset and has a storage of its own:
        ``torch.save`` writes whole storages.
        """
        if not like.numel():
            return torch.empty(like.shape, dtype=like.dtype, device="cpu")
        flat = torch.frombuffer(self._content, dtype=like.dtype, count=like.numel(), offset=offset)
        return flat.view(like.shape)


def _clear_cuda_error() -> None:
    """Let torch raise, and clear, the error that CUDA keeps of this thread's last refused call. It
    would raise it at the next kernel that this thread launches; unproven on hardware.
    """
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device="cuda")


def _warn(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Entry:
    """A tensor or object to write."""

    item: Any
    """Of torch's save plan."""
    data: Any
    """A tensor, or the bytes of an object."""
    written: threading.Event = field(default_factory=threading.Event)
    """Or given up: its copy is not needed any more."""

    @property
    def host_bytes(self) -> int:
        """Return the bytes that its copy takes in host memory."""
        if self.item.type is WriteItemType.BYTE_IO:
            return 0
        size: int = self.data.numel() * self.data.element_size()
        return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass
class ShardFile:
    """A file and the thread that writes it."""

    path: Path
    given_up: threading.Event
    entries: queue.Queue[Entry | None] = field(default_factory=queue.Queue)
    """Still to be written; None is the end."""
    results: list[WriteResult] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    error: Exception | None = None

    def __post_init__(self) -> None:
        # A daemon: whoever ends the process does not wait for storage that does not answer.
        self.thread = threading.Thread(target=self._run, name=self.path.name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        entries = iter(self.entries.get, None)
        try:
            with self.path.open("wb") as file:
                for entry in entries:
                    try:
                        self._write(file, entry)
                    finally:
                        entry.written.set()
                file.flush()
                os.fsync(file.fileno())
        except Exception as error:  # a thread has no caller: all ranks raise it in `agree`
            self.error = root(error, OSError) or error
            for entry in entries:  # whoever waits for room in host memory is not to wait for ever
                entry.written.set()

    def _write(self, file: BinaryIO, entry: Entry) -> None:
        stream: Any = _Stream(file, self.given_up)
        offset = sum(part.bytes for part in self.parts)
        if entry.item.type is WriteItemType.BYTE_IO:
            stream.write(entry.data.getbuffer())
        else:
            torch.save(entry.data, stream)
        part = stream.part
        self.parts.append(part)
        place = _StorageInfo(self.path.name, offset, part.bytes)
        self.results.append(WriteResult(entry.item.index, part.bytes, place))


class _Stream(parts.DigestingStream):
    """A digesting stream that fails once the write is given up."""

    def __init__(self, file: BinaryIO, given_up: threading.Event) -> None:
        super().__init__(file)
        self._given_up = given_up

    def write(self, data: Any) -> int:
        content = memoryview(data)
        for start in range(0, len(content), parts.BLOCK):
            if self._given_up.is_set():
                raise Abandoned
            super().write(content[start : start + parts.BLOCK])
        return len(content)


class ShardWriter(filesystem_async.FileSystemWriterAsync):  # type: ignore[misc]
    """megatron.core's storage writer, whose files are written by threads of this process."""

    def __init__(self, path: Path, memory: HostMemory) -> None:
        super().__init__(path, thread_count=FILES)
        self._folder = path
        self._memory = memory
        self._given_up = threading.Event()
        self._files: list[ShardFile] = []
        self._copy: Future[None] | None = None
        self._index: tuple[Any, Any] | None = None

    def prepare_write_data(self, plan: Any, planner: Any) -> None:
        """Begin to copy this rank's share to host memory, from which its threads write it.

        megatron.core calls it at the end of planning.
        """
        split = filesystem_async._split_by_size_and_type(FILES, plan.items)  # objects first
        entries = [[Entry(item, _data(planner, item)) for item in bucket] for bucket in split]
        entries = [bucket for bucket in entries if bucket]
        prefix, suffix = plan.storage_data.prefix, filesystem_async.DEFAULT_SUFFIX
        self._files = [
            ShardFile(self._folder / f"{prefix}{number}{suffix}", self._given_up)
            for number in range(len(entries))
        ]
        turns = list(_in_turns(self._files, entries))
        cuda: Any = torch.cuda
        stream = cuda.Stream()  # beside that of the step's kernels
        stream.wait_stream(cuda.current_stream())
        device = cuda.current_device()
        self._copy = in_thread("copy", lambda: self._stage_all(turns, stream, device))

    def _stage_all(
        self, entries: Sequence[tuple[ShardFile, Entry]], stream: Any, device: Any
    ) -> None:
        """Copy entries, on a stream of the device, and tell the threads that these are all.

        CUDA's device is one per thread, and the first one in a new thread: page-locks would take
        memory of a GPU that is another rank's.
        """
        try:
            torch.cuda.set_device(device)
            sizes = [entry.host_bytes for _, entry in entries]
            self._memory.reserve(sum(sizes), max(sizes, default=0))
            with torch.cuda.stream(stream):
                self._stage(entries, stream)
        finally:
            for file in self._files:
                file.entries.put(None)

    def _stage(self, entries: Sequence[tuple[ShardFile, Entry]], stream: Any) -> None:
        """Copy entries to host memory and hand them to their threads; while the memory is full,
        wait for the oldest to be written.
        """
        ring = Ring(self._memory.bytes)
        copied: list[tuple[ShardFile, Entry]] = []
        for file, entry in entries:
            if self._given_up.is_set():
                return
            if entry.item.type is not WriteItemType.BYTE_IO:
                place = ring.take(
                    entry.host_bytes, entry.written, lambda: _hand_over(copied, stream)
                )
                copy = self._memory.place(place, entry.data)
                copy.copy_(entry.data, non_blocking=True)
                entry = replace(entry, data=copy)
            copied.append((file, entry))
        _hand_over(copied, stream)

    def wait_for_copy(self) -> None:
        """Wait until all is copied; the state may then change.

        Raises:
            RuntimeError, MemoryError: the device or the host could not copy.
        """
        if self._copy is not None:
            self._copy.result()

    def is_done(self) -> bool:
        """Return whether all files are written, or failed."""
        return not any(file.thread.is_alive() for file in self._files)

    def wait(self) -> None:
        """Wait until all files are written, or failed."""
        for file in self._files:
            file.thread.join()

    def abandon(self) -> None:
        """Give the files up: nobody needs them."""
        self._given_up.set()
        if self._copy is not None:
            concurrent.futures.wait([self._copy], ABANDON_SECONDS)
        for file in self._files:
            file.thread.join(ABANDON_SECONDS)

    def parts(self) -> dict[str, Parts]:
        """Return the parts of each file."""
        return {file.path.name: tuple(file.parts) for file in self._files}

    def finish(self, metadata: Any, results: Any) -> None:
        """Keep the index, which ``write_index`` writes; megatron.core calls it on one rank."""
        self._index = metadata, results

    def storage_meta(self) -> StorageMeta:
        """Return no path and no random id, so that equal states have equal files: the digest of
        these names the weights in scores.
        """
        return StorageMeta()

    def write_index(self) -> None:
        """Write ``.metadata``, on the rank that has it.

        Raises:
            OSError: it cannot be written.
        """
        if self._index is not None:
            super().finish(*self._index)

    def retrieve_write_results(self) -> Any:
        """Return the results of all items, or an error as torch wraps it."""
        for file in self._files:
            if file.error is not None:
                return _wrap_exception(file.error)
        return list(chain.from_iterable(file.results for file in self._files))


def _data(planner: Any, item: Any) -> Any:
    data = planner.resolve_data(item)
    return data.detach() if isinstance(data, torch.Tensor) else data


def _in_turns(
    files: Sequence[ShardFile], entries: Sequence[Sequence[Entry]]
) -> Iterator[tuple[ShardFile, Entry]]:
    """Yield the entries of all files, one of each in turn."""
    for turn in zip_longest(*entries):
        yield from ((file, entry) for file, entry in zip(files, turn, strict=True) if entry)


def _hand_over(copied: list[tuple[ShardFile, Entry]], stream: Any) -> None:
    """Give copies to their threads, once the device has made them; empty the list."""
    if copied:
        stream.synchronize()
    for file, entry in copied:
        file.entries.put(entry)
    copied.clear()
