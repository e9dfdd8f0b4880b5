"""Read one JSON array or object a part at a time. Standard library only.

Memory holds one part and a few blocks, whatever the size of the file.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.contract.errors import TaskError

BLOCK_BYTES = 1 << 20
MAX_RECORD_BYTES = 1 << 26
"""A longer line is no document (``cleaning.MAX_DOCUMENT_BYTES``, were every character escaped, and
what else a record holds): it would be read into memory whole."""


def members(path: Path) -> Iterator[tuple[int, str, Any]]:
    """Yield key and value of each member of the one JSON object of a file, with the line on which
    the value begins.

    Raises:
        TaskError: the file holds something else, is cut off, or something follows the object.
        UnicodeDecodeError: it is not UTF-8.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        text = JsonText(path, file, "}")
        text.require("{")
        while not text.at_end():
            key = text.element()[1]
            text.require(":")
            line, value = text.line, text.element()[1]
            yield line, key, value


BLANK = re.compile(r"[ \t\r\n]+")


class JsonText:
    """The text of a JSON array or object and a position in it."""

    def __init__(self, path: Path, file: io.TextIOBase, closing: str) -> None:
        self._path = path
        self._closing = closing
        self._file = file
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self.line = 1

    def at_end(self) -> bool:
        """Return whether the closing bracket is here; skip the comma between two elements."""
        if self._next() == ",":
            self.skip(",")
        if self._next() != self._closing:
            return False
        self.skip(self._closing)
        if self._next():
            raise self._broken()
        return True

    def skip(self, mark: str) -> None:
        """Skip a mark that comes next."""
        self._next()
        self._forward(self._at + len(mark))

    def require(self, mark: str) -> None:
        """Skip a mark that must come next."""
        if self._next() != mark:
            raise self._broken()
        self.skip(mark)

    def element(self) -> tuple[str, Any]:
        """Return the next element as it is written, and its value."""
        self._next()
        while True:
            value, end = self._scanned()
            at_the_edge = end in (None, len(self._text))  # a number may continue in the next block
            if at_the_edge and self._more():
                continue
            if end is None:
                raise self._broken()
            element = self._text[self._at : end]
            self._forward(end)
            return element, value

    def _scanned(self) -> tuple[Any, int | None]:
        """Return the value here and its end; None for an end that cannot be found."""
        try:
            return self._scan(self._text, self._at)
        except ValueError:
            return None, None
        except RecursionError as error:
            raise TaskError(
                f"{self._path}:{self.line}: brackets too deep in one another", "correct the file"
            ) from error

    def _broken(self) -> TaskError:
        kind = "array" if self._closing == "]" else "object"
        return TaskError(
            f"{self._path}:{self.line}: the JSON {kind} is broken or cut off here",
            "make the file again, or write one JSON object per line",
        )

    def _next(self) -> str:
        """Return the next character that is not white space; empty at the end of the file."""
        while True:
            blank = BLANK.match(self._text, self._at)
            self._forward(blank.end() if blank else self._at)
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def _forward(self, end: int) -> None:
        if end > self._at:
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
