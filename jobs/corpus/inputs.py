"""The source files of a corpus as tasks record them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from jobs.contract import done_markers, rundir
from jobs.contract.corpus.rules import CorpusRules
from jobs.contract.errors import TaskError
from jobs.corpus.pieces import Piece
from jobs.runtime.context import Context

DIGESTED_BYTES = 64 << 20
"""Larger files are identified by size and modification time, so that they are read only once."""


def refuse_own_run(run: rundir.RunDir, rules: CorpusRules) -> None:
    """Refuse a source folder that contains the run directory.

    Raises:
        TaskError: the run directory lies in one of the sources.
    """
    for source in rules.sources:
        if run.root.is_relative_to(os.path.realpath(source.path)):
            message = f"{source.path}: this folder holds the run directory {run.root}"
            raise TaskError(message, "keep documents and runs in different folders")


def describe(context: Context, pieces: Iterable[Piece]) -> list[dict[str, Any]]:
    """Return the files of some pieces as a done marker records them."""
    sizes = {part.path: part.size for piece in pieces for part in piece.parts}
    described = []
    for path, size in sizes.items():
        context.heart.beat()
        with_digest = size <= DIGESTED_BYTES
        described.append(done_markers.describe_file(context.run, path, with_digest=with_digest))
    return described
