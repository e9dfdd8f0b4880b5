"""Split JSON files, plain or compressed, into records as bytes: lines, or elements of one array.

Memory holds one record and a few blocks, whatever the size of the file.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isal import igzip

from jobs.contract.errors import TaskError
from jobs.data.json_text import BLOCK_BYTES, MAX_RECORD_BYTES, JsonText

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

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
        array = JsonText(path, text, "]")
        array.skip("[")
        while not array.at_end():
            yield array.line, array.element()[0].encode("utf-8", "surrogateescape")
