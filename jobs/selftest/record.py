"""The record of a selftest, ``results.json``: measures of each trial. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.contract.files import FORMAT, FormatError, make_folder, read_json, write_json
from jobs.contract.rundir import RunDir

RESULTS = "results.json"

BEGUN = "begun"
DONE = "done"
FAILED = "failed"
NOT_RUN = "not run"
"""States of a trial; one that has begun and did not end runs, or has ended its ranks."""

MOST_TRIES = 2
DIED = "its ranks ended without an error of their own"


def read(run: RunDir, folder: str) -> dict[str, Any]:
    """Return the record; empty where there is none yet.

    Raises:
        FormatError: it is damaged.
    """
    try:
        content = read_json(run.path(folder) / RESULTS)
    except FileNotFoundError:
        return {}
    if not isinstance(content.get("trials"), dict):
        raise FormatError(f"{run.path(folder) / RESULTS}: it has no trials")
    return content


class Record:
    """The record, as rank 0 writes it."""

    def __init__(self, run: RunDir, folder: str, facts: Mapping[str, Any]) -> None:
        """Read the record of earlier attempts. A trial that ended one with an error has failed, or
        that ended two: a preemption may have ended the first.

        Args:
            folder: of the record in the run.
            facts: of the ranks and their nodes.
        """
        self._folder = run.path(folder)
        before: dict[str, Any] = read(run, folder).get("trials", {})
        self._content = {"format": FORMAT, **facts, "trials": before}
        for name, result in before.items():
            if result["state"] == BEGUN and (error := self._error(name, result["tries"])):
                before[name] = {"state": FAILED, "error": error, "tries": result["tries"]}
        make_folder(self._folder)
        self._write()

    def has(self, name: str) -> bool:
        """Return whether a trial has a result."""
        return bool(self._content["trials"].get(name, {}).get("state", BEGUN) != BEGUN)

    def begin(self, name: str) -> None:
        """Record that a trial begins, before it can fail."""
        tries = self._content["trials"].get(name, {}).get("tries", 0)
        self._put(name, {"state": BEGUN, "tries": tries + 1})

    def withdraw(self, name: str) -> None:
        """Record that a trial was stopped on request, so that this was no try."""
        del self._content["trials"][name]
        self._write()

    def end(self, name: str, measures: Mapping[str, Any]) -> None:
        """Record what a trial measured."""
        self._put(name, {"state": DONE, **measures})

    def leave_out(self, name: str, reason: str) -> None:
        """Record why a trial cannot run here."""
        self._put(name, {"state": NOT_RUN, "reason": reason})

    def _put(self, name: str, result: dict[str, Any]) -> None:
        self._content["trials"][name] = result
        self._write()

    def _write(self) -> None:
        write_json(self._folder / RESULTS, self._content)

    def _error(self, name: str, tries: int) -> str:
        """Return the error of the lowest rank that reported one; empty for another try."""
        for path in sorted(self._folder.glob(f"{name}.error-*")):
            return path.read_text(errors="replace")
        return DIED if tries >= MOST_TRIES else ""


def write_error(run: RunDir, folder: str, name: str, rank: int, error: BaseException) -> None:
    """Write the error of a rank, which the next attempt adds to the record."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    place: Path = run.path(folder) / f"{name}.error-{rank:05d}"
    place.write_text(text[:ERROR_CHARACTERS])


ERROR_CHARACTERS = 500
