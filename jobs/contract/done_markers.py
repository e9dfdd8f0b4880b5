"""Done markers: what a finished task read and wrote. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from jobs.contract.files import FormatError, read_json, sha256, write_json
from jobs.contract.rundir import RunDir


def describe_file(run: RunDir, name: str, with_digest: bool = True) -> dict[str, Any]:
    """``{"path", "bytes", "mtime_ns", "sha256"}`` of a file, as done markers keep it for inputs
    and outputs.
    """
    path = run.path(name)
    stat = path.stat()
    found: dict[str, Any] = {"path": name, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    if with_digest:
        found["sha256"] = sha256(path)
    return found


def write_done(  # noqa: PLR0913 - one keyword a field of the marker
    run: RunDir,
    stage: str,
    index: int,
    *,
    spec_digest: str,
    inputs: Iterable[dict[str, Any]],
    outputs: Iterable[dict[str, Any]],
    summary: dict[str, Any],
    seconds: float,
) -> None:
    """Write a task's done marker, the last thing it does. Inputs and outputs come from
    ``describe_file``.
    """
    write_json(
        run.done(stage, index),
        {
            "stage": stage,
            "index": index,
            "spec": spec_digest,
            "inputs": list(inputs),
            "outputs": list(outputs),
            "summary": summary,
            "seconds": seconds,
            "time": time.time(),
        },
    )


def forget_done(run: RunDir, stage: str, index: int) -> None:
    """Remove a task's marker before its outputs change, and what killed attempts left."""
    run.done(stage, index).unlink(missing_ok=True)
    for path in (run.done(stage, index), run.progress(stage, index)):
        for left_over in path.parent.glob(f".{path.name}.*"):
            left_over.unlink(missing_ok=True)


def is_done(run: RunDir, stage: str, index: int, spec_digest: str) -> bool:
    """Whether a task's marker stands for this spec and its files are still what it says."""
    return judge_done(run, stage, index, spec_digest) == "done"


def judge_done(run: RunDir, stage: str, index: int, spec_digest: str) -> str:
    """``done``, or what speaks against a task's marker: it is ``missing``, or its ``spec``,
    ``inputs`` or ``outputs`` are other ones now.

    Outputs are compared by size; inputs by size and, where one has changed its modification time,
    by SHA-256 when the marker holds one.
    """
    try:
        marker = read_json(run.done(stage, index))
    except (FileNotFoundError, FormatError):
        return "missing"
    if marker["spec"] != spec_digest:
        return "spec"
    if not all(_unchanged(run, item) for item in marker["inputs"]):
        return "inputs"
    return "done" if all(_same_size(run, item) for item in marker["outputs"]) else "outputs"


def _same_size(run: RunDir, item: dict[str, Any]) -> bool:
    try:
        return bool(run.path(item["path"]).stat().st_size == item["bytes"])
    except OSError:
        return False


def _unchanged(run: RunDir, item: dict[str, Any]) -> bool:
    try:
        stat = run.path(item["path"]).stat()
    except OSError:
        return False
    if stat.st_size != item["bytes"]:
        return False
    if stat.st_mtime_ns == item["mtime_ns"]:
        return True
    return "sha256" in item and sha256(run.path(item["path"])) == item["sha256"]
