"""Turn a Hugging Face folder into the files of a checkpoint, one chunk at a time, in threads.

Each decoder layer is a file, and so is each tensor outside of the layers. A finished file has a
record of its items and digests beside it in a folder of its own; after a kill, files that still
agree with their records are kept. Values keep their type: loading casts them to the run's.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.checkpoints import parts
from jobs.checkpoints.parts import Part
from jobs.contract.files import FormatError, read_json, write_json
from jobs.contract.stage_specs import ConvertSpec
from jobs.conversion import weight_map
from jobs.conversion.hf_reader import ELEMENT_BYTES, TORCH_TYPES, Folder, TensorReader
from jobs.conversion.sharded_writer import Item, WrittenFile, write_file
from jobs.conversion.vocabulary_rows import GrowingVocabulary
from jobs.conversion.weight_map import Chunk, Row

if TYPE_CHECKING:
    import torch

SPARE_BYTES = 512 << 20
"""Of the tensors of all threads together, beyond the largest one."""


class Interrupted(Exception):
    """A conversion that was asked to stop between two chunks."""


@dataclass(frozen=True)
class Unit:
    """The content of one file: a layer, or a tensor outside of the layers."""

    name: str
    layer: int | None
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Converted:
    """A finished file and the sources it was made from."""

    file: WrittenFile
    sources: dict[str, str]
    """SHA-256 of the bytes of each tensor of the folder, by name."""


def units(spec: ConvertSpec) -> tuple[Unit, ...]:
    """Return the files of a checkpoint, the layers first."""
    rows = weight_map.rows(spec.model)
    inner = tuple(row for row in rows if row.in_layers)
    layers = [Unit(f"__{layer}_0.distcp", layer, inner) for layer in range(spec.model.layers)]
    outer = [row for row in rows if not row.in_layers]
    return (
        *layers,
        *(
            Unit(f"__{spec.model.layers + number}_0.distcp", None, (row,))
            for number, row in enumerate(outer)
        ),
    )


class MemoryBudget:
    """A bound on the bytes of the tensors that threads hold together."""

    def __init__(self, most: int) -> None:
        """Allow ``most`` bytes; a single tensor may be as large."""
        self._free = self._most = most
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Wait until ``count`` bytes are free, and hold them."""
        count = min(count, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


class Importer:
    """Writes the files of one checkpoint. Threads share it."""

    def __init__(self, spec: ConvertSpec, folder: Folder, target: Path, records: Path) -> None:
        """Convert into ``target``, with the records of finished files in ``records``."""
        self.spec, self._folder, self._target, self._records = spec, folder, target, records
        shapes = weight_map.checkpoint_shapes(spec.model)
        name = next(iter(weight_map.folder_shapes(spec.model, 1)))
        self.stored_type = folder.tensors[name].dtype
        """Of all weights, as safetensors names it."""
        self.shapes = shapes
        self.total = sum(_count(shape) for shape in shapes.values()) * self._element
        """Bytes of the checkpoint's values."""
        self.done = 0
        """Bytes of them written or verified so far."""
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        largest = max(tensor.bytes for tensor in folder.tensors.values())
        self._memory = MemoryBudget(largest + min(largest, SPARE_BYTES))
        self._identity = {"source": folder.identity, "spec": asdict(spec)}

    @property
    def _element(self) -> int:
        return ELEMENT_BYTES[self.stored_type]

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of all weights."""
        import torch

        result: torch.dtype = getattr(torch, TORCH_TYPES[self.stored_type])
        return result

    def finished(self, unit: Unit) -> Converted | None:
        """Return a file of an earlier attempt if each of its bytes is as it was written."""
        record = self._read_record(unit)
        if record is None or record.get("identity") != _jsonable(self._identity):
            return None
        try:
            items = tuple(
                Item(
                    item["key"], tuple(item["offset"]), tuple(item["shape"]), Part(**item["part"])
                )
                for item in record["items"]
            )  # fmt: skip
        except (LookupError, TypeError):  # of another version
            return None
        file = WrittenFile(unit.name, items)
        path = self._target / unit.name
        if not path.is_file() or path.stat().st_size != parts.size(file.parts):
            return None
        if parts.alteration(self._target, {unit.name: file.parts}):
            return None
        self._count(sum(_count(item.shape) for item in items))
        return Converted(file, record["sources"])

    def _read_record(self, unit: Unit) -> dict[str, Any] | None:
        with suppress(OSError, FormatError):
            return read_json(self._records / f"{unit.name}.json")
        return None

    def convert(self, unit: Unit) -> Converted:
        """Return one file, kept from an earlier attempt or written.

        Raises:
            Interrupted: ``stopped`` was set; the file is not there.
            OSError, EOFError: a file cannot be read or written.
        """
        if kept := self.finished(unit):
            return kept
        sources: dict[str, str] = {}
        # Closed at once: held by the traceback of an error, it would keep its memory from others.
        with closing(self._chunks(unit, sources)) as chunks:
            file = write_file(self._target / unit.name, chunks)
        items = [asdict(item) for item in file.items]
        content = {"identity": self._identity, "items": items, "sources": sources}
        write_json(self._records / f"{unit.name}.json", content)
        return Converted(file, sources)

    def _chunks(
        self, unit: Unit, sources: dict[str, str]
    ) -> Generator[tuple[str, tuple[int, ...], torch.Tensor], None, None]:
        """Yield the chunks of a file; enter each source's digest once it was read."""
        prefix = () if unit.layer is None else (unit.layer,)
        for row in unit.rows:
            with ExitStack() as opened:
                readers = [
                    opened.enter_context(
                        TensorReader(self._folder.tensors[name.format(unit.layer)])
                    )
                    for name, _ in row.theirs
                ]
                pairs = opened.enter_context(closing(self._convert_row(row, readers)))
                for chunk, tensor in pairs:
                    if self.stopped.is_set():
                        raise Interrupted
                    if unit.layer is not None:
                        tensor = tensor.unsqueeze(0)
                    yield row.ours, (*prefix, *chunk.offset), tensor
                    self._count(tensor.numel())
                for reader in readers:
                    sources[reader.tensor.name] = reader.digest()

    def _convert_row(
        self, row: Row, readers: Sequence[TensorReader]
    ) -> Generator[tuple[Chunk, torch.Tensor], None, None]:
        """Yield the chunks of one tensor of ours, each contiguous."""
        model = self.spec.model
        if row.divided == 1:  # columns of rows that are read once
            tensor = readers[0].tensor
            with self._memory.hold(tensor.bytes + tensor.bytes // weight_map.MOST_CHUNKS):
                whole = readers[0].read(tensor.shape[0])
                for chunk in weight_map.chunks(row, model):
                    (piece,) = chunk.pieces
                    yield chunk, whole[:, piece.start : piece.stop].contiguous()
            return
        sources: Sequence[TensorReader | GrowingVocabulary] = readers
        if row.transform == weight_map.VOCABULARY:
            sources = [self._growing(readers[0])]
        for chunk in weight_map.chunks(row, model):
            with self._memory.hold(2 * _count(chunk.shape) * self._element):
                pieces = [sources[p.source].read(p.stop - p.start) for p in chunk.pieces]
                yield chunk, weight_map.join(row, model, pieces)

    def _growing(self, reader: TensorReader) -> GrowingVocabulary:
        from jobs.conversion.vocabulary_rows import COPY
        from jobs.data import tokenizer_file

        vocabulary, copied = self.spec.tokenizer.vocabulary, -1
        if vocabulary.new_rows.startswith(COPY):
            token = vocabulary.new_rows.removeprefix(COPY)
            copied = tokenizer_file.require_tokens(self.spec.tokenizer).ids[token]
        return GrowingVocabulary(reader, vocabulary, copied)

    def _count(self, values: int) -> None:
        with self._lock:
            self.done += values * self._element


def _count(shape: Sequence[int]) -> int:
    result = 1
    for length in shape:
        result *= length
    return result


def _jsonable(value: Any) -> Any:
    import json

    return json.loads(json.dumps(value))
