"""Megatron indexed datasets (.bin, .idx): a streaming writer, and a reader of the index.

A document is one sequence. The format is that of megatron.core 0.16.1, datasets/indexed_dataset.py,
which is not imported, since it imports torch, which takes seconds. The writer holds four bytes per
document in memory.
"""

from __future__ import annotations

import mmap
import struct
import sys
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.contract.atomic_file import AtomicFile
from jobs.contract.errors import RESUME, TaskError
from jobs.contract.files import fsync_folder

if TYPE_CHECKING:
    import numpy

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
"""Of an .idx, little-endian and unaligned: magic; version; code of the token type; sequences N;
document bounds M. After it: lengths i32[N], byte offsets in .bin i64[N], the first sequence of each
document and their number i64[M]."""
TOKEN_TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
"""Integer types of tokens in .bin by their code (DType of the same module)."""
SMALL_VOCABULARY = 65500
"""Smaller vocabularies take two bytes per token, others four (the same DType)."""
BLOCK = 1 << 20
"""Documents whose offsets are computed at a time."""


def index_dtype(vocab_size: int) -> str:
    """Return the type in which ids of a vocabulary are stored, ``uint16`` or ``int32``."""
    return "uint16" if vocab_size < SMALL_VOCABULARY else "int32"


def stored(dtype: str) -> numpy.dtype:
    """Return the type of a token in .bin, little-endian on every machine."""
    import numpy

    return numpy.dtype(dtype).newbyteorder("<")


def type_code(dtype: str) -> int:
    """Return the code of a token type in the header of an .idx."""
    return next(code for code, name in TOKEN_TYPES.items() if stored(name) == stored(dtype))


class IndexedWriter:
    """An indexed dataset under temporary names until it is published."""

    def __init__(self, prefix: Path, dtype: str) -> None:
        self.dtype = dtype
        self.documents = self.tokens = 0
        self.parts = [AtomicFile(prefix.with_name(f"{prefix.name}.bin"))]
        """The .bin and, once sealed, the .idx."""
        self._prefix = prefix
        self._lengths = array("i")

    def add(self, ids: numpy.ndarray, lengths: numpy.ndarray) -> None:
        """Append documents: ids [tokens] of the stored type, lengths [documents] int32."""
        self.parts[0].write(ids.tobytes())
        self._lengths.frombytes(lengths.astype("i4").tobytes())
        self.documents += len(lengths)
        self.tokens += len(ids)

    def seal(self) -> None:
        """Write the index and every byte to the disk; nothing can be added after it."""
        import numpy

        index = AtomicFile(self._prefix.with_name(f"{self._prefix.name}.idx"))
        self.parts.append(index)
        write_index(index, numpy.asarray(self._lengths), self.dtype)
        for part in self.parts:
            part.seal()
        self._lengths = array("i")

    def publish(self) -> None:
        """Rename both files; the index comes last: it implies complete data."""
        if len(self.parts) == 1:
            self.seal()
        index = self.parts[1]
        index.path.unlink(missing_ok=True)  # an old index must never stand beside new data
        for part in self.parts:
            part.publish()
        fsync_folder(index.path.parent)

    def discard(self) -> None:
        """Remove the files that were not published."""
        for part in self.parts:
            part.discard()


def write_index(index: AtomicFile, lengths: numpy.ndarray, dtype: str) -> None:
    """Write the content of an .idx in which each document is one sequence.

    Args:
        index: the file to write to.
        lengths: [documents], int32, tokens per document.
        dtype: ``uint16`` or ``int32``, the type of a token in .bin.
    """
    import numpy

    count = len(lengths)
    index.write(HEADER.pack(MAGIC, VERSION, type_code(dtype), count, count + 1))
    index.write(lengths.astype("<i4").tobytes())
    offset = 0
    for start in range(0, count, BLOCK):
        sizes = lengths[start : start + BLOCK].astype("<i8") * stored(dtype).itemsize
        ends = offset + numpy.cumsum(sizes)
        index.write((ends - sizes).tobytes())
        offset = int(ends[-1])
    for start in range(0, count + 1, BLOCK):
        index.write(numpy.arange(start, min(start + BLOCK, count + 1), dtype="<i8").tobytes())


def stored_size(prefix: Path) -> tuple[int, int]:
    """Return the documents and tokens of an indexed dataset, from header and size alone, with the
    standard library.

    Raises:
        TaskError: the index has no header of integer tokens.
        OSError: a file cannot be read.
    """
    code, sequences, _ = _read_header(prefix.with_name(f"{prefix.name}.idx"))
    size = prefix.with_name(f"{prefix.name}.bin").stat().st_size
    return sequences, size // int(TOKEN_TYPES[code][-1])


class _Header(NamedTuple):
    code: int
    sequences: int
    bounds: int


def _read_header(path: Path) -> _Header:
    with path.open("rb") as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size:
        raise _incomplete(path)
    magic, version, code, sequences, bounds = HEADER.unpack(head)
    if magic != MAGIC or version != VERSION or code not in TOKEN_TYPES:
        raise _incomplete(path)
    return _Header(code, sequences, bounds)


class Index(NamedTuple):
    """The content of an .idx."""

    lengths: numpy.ndarray
    """Tokens of each sequence, int32."""
    offsets: numpy.ndarray
    """Of each sequence in .bin, in bytes, int64."""
    kind: numpy.dtype[Any]
    """Type of a token."""


def read_index(path: Path) -> Index:
    """Map the index of an indexed dataset into memory, once.

    Raises:
        TaskError: the file is not a complete .idx of integer tokens.
        OSError: it cannot be read.
    """
    import numpy

    code, sequences, bounds = _read_header(path)
    if path.stat().st_size != HEADER.size + 12 * sequences + 8 * bounds:
        raise _incomplete(path)
    content = map_file(path)
    lengths = numpy.ndarray((sequences,), "<i4", content, HEADER.size)
    offsets = numpy.ndarray((sequences,), "<i8", content, HEADER.size + 4 * sequences)
    return Index(lengths, offsets, numpy.dtype(TOKEN_TYPES[code]))


def map_file(path: Path) -> mmap.mmap:
    """Map a file into memory, to be read. From Python 3.13 on no descriptor stays open, before that
    one does as long as the mapping is used.

    Raises:
        OSError, ValueError: it cannot be read, or is empty.
    """
    with path.open("rb") as file:
        if sys.version_info >= (3, 13):
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ, trackfd=False)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def count_tokens(index: Index) -> int:
    """Return the number of tokens of an indexed dataset."""
    return int(index.lengths.sum(dtype="i8"))


def _incomplete(path: Path) -> TaskError:
    message = f"{path} is not a complete index of tokens"
    return TaskError(message, f"{RESUME} makes it again")
