"""The events of a run, without parsing those that nobody asks about: a status of many runs reads
all of their files.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from jobs.contract.rundir import RunDir


def read(run: RunDir, kinds: Collection[str]) -> Iterator[dict[str, Any]]:
    """Events of these kinds, oldest first."""
    return parse(lines(run), kinds)


def lines(run: RunDir) -> list[bytes]:
    """The lines of the events file; none where there is no file."""
    try:
        return run.events.read_bytes().splitlines()
    except FileNotFoundError:
        return []


def parse(text: Iterable[bytes], kinds: Collection[str]) -> Iterator[dict[str, Any]]:
    """The events of these kinds among some lines; those of other kinds are not even parsed."""
    marks = [f'"event": "{kind}"'.encode() for kind in kinds]
    for line in text:
        if any(mark in line for mark in marks):
            try:
                event = json.loads(line)
            except ValueError:  # the last line, cut short by a crash
                continue
            if event.get("event") in kinds:
                yield event
