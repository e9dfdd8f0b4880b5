"""Split JSON files, plain or compressed, into records as bytes: lines, or elements of one array.

Memory holds one record and a few blocks, whatever the size of the file.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isal import igzip

from jobs.contract.errors import TaskError

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

BLOCK_BYTES = 1 << 20
MAX_RECORD_BYTES = 1 << 26
"""A longer line is no document (``cleaning.MAX_DOCUMENT_BYTES``, were every character escaped, and
what else a record holds): it would be read into memory whole."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 31}
"""Accept windows of 2 GiB, as ``zstd --long=31`` writes them; some public web corpora have them."""
ZstdError = zstd.ZstdError


def decompressed(path: Path, file: io.BufferedReader[Any]) -> io.BufferedReader[Any]:
    """Return a stream of an open file's content, decompressed if its name ends in .gz or .zst.

    Raises:
        EOFError: a compressed file is empty; a truncated one raises it while it is read.
    """
    suffix = path.suffix.lower()
    if suffix not in (".gz", ".zst"):
        return file
    if os.fstat(file.fileno()).st_size == 0:
        raise EOFError("the file is empty")
    if suffix == ".gz":
        return io.BufferedReader(igzip.IGzipFile(fileobj=file), BLOCK_BYTES)
    return io.BufferedReader(zstd.ZstdFile(file, options=ZSTD_OPTIONS), BLOCK_BYTES)


def lines(
    path: Path, stream: io.BufferedReader[Any], begin: int = 0, end: int | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their numbers, from 1, without blank ones and a byte order mark.

    Args:
        path: named in errors.
        stream: of which nothing was read.
        begin: byte of a stream that can be sought; a line that begins before it is passed over.
        end: byte at which no further line begins; None for the end of the file.

    Raises:
        TaskError: a line longer than MAX_RECORD_BYTES.
    """
    if begin:
        stream.seek(begin - 1)
        while (skipped := stream.readline(BLOCK_BYTES)) and not skipped.endswith(b"\n"):
            pass
    number = 0
    while end is None or stream.tell() < end:
        line = stream.readline(MAX_RECORD_BYTES + 1)
        if not line:
            return
        number += 1
        if len(line) > MAX_RECORD_BYTES:
            raise TaskError(
                f"{path}:{number}: a line of more than {MAX_RECORD_BYTES >> 20} MiB",
                "write one JSON object per line",
            )
        first = number == 1 and not begin
        if record := (line.removeprefix(BYTE_ORDER_MARK) if first else line).strip():
            yield number, record


def is_array(stream: io.BufferedReader[Any]) -> bool:
    """Return whether the stream, of which nothing was read, begins with a bracket."""
    return stream.peek(64).removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"[")


def elements(path: Path, stream: io.BufferedReader[Any]) -> Iterator[tuple[int, bytes]]:
    """Yield the elements of one JSON array with the line each begins on; close the stream.

    Bytes that are not UTF-8 are passed on as surrogates, so that only their element is refused.

    Raises:
        TaskError: the array is cut off, or something follows it.
    """
    with io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="") as text:
        array = _ArrayText(path, text)
        array.skip("[")
        while not array.at_end():
            yield array.line, array.element().encode("utf-8", "surrogateescape")


class _ArrayText:
    """The text of a JSON array and a position in it."""

    def __init__(self, path: Path, file: io.TextIOWrapper) -> None:
        self._path = path
        self._file = file
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self.line = 1

    def at_end(self) -> bool:
        """Return whether the array ends here; skip the comma between two elements."""
        if self._next() == ",":
            self.skip(",")
        if self._next() != "]":
            return False
        self.skip("]")
        if self._next():
            raise self._broken()
        return True

    def skip(self, mark: str) -> None:
        """Skip a mark that comes next."""
        self._next()
        self._forward(self._at + len(mark))

    def element(self) -> str:
        """Return the next element as it is written."""
        while True:
            end = self._element_end()
            at_the_edge = end in (None, len(self._text))  # a number may continue in the next block
            if at_the_edge and self._more():
                continue
            if end is None:
                raise self._broken()
            element = self._text[self._at : end]
            self._forward(end)
            return element

    def _element_end(self) -> int | None:
        try:
            return self._scan(self._text, self._at)[1]
        except ValueError:
            return None
        except RecursionError as error:
            raise TaskError(
                f"{self._path}:{self.line}: brackets too deep in one another", "correct the file"
            ) from error

    def _broken(self) -> TaskError:
        return TaskError(
            f"{self._path}:{self.line}: the JSON array is broken or cut off here",
            "make the file again, or write one JSON object per line",
        )

    def _next(self) -> str:
        """Return the next character that is not white space; empty at the end of the file."""
        while True:
            end = self._at
            while end < len(self._text) and self._text[end] in " \t\r\n":
                end += 1
            self._forward(end)
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def _forward(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def _more(self) -> bool:
        """Double the text held, so that a long element is scanned a few times only."""
        self._text = self._text[self._at :]
        self._at = 0
        if len(self._text) > MAX_RECORD_BYTES:
            return False
        text = self._file.read(max(BLOCK_BYTES, len(self._text)))
        self._text += text
        return bool(text)
