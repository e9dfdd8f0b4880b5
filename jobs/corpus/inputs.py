"""The source files of a corpus as tasks record them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobs.contract import done_markers, rundir
from jobs.contract.corpus.rules import CorpusRules
from jobs.contract.errors import TaskError
from jobs.corpus.pieces import Piece, SourceFiles
from jobs.data.readers import unreadable
from jobs.runtime.context import Context

DIGESTED_BYTES = 64 << 20
"""Larger files are identified by size and modification time, so that they are read only once."""


APART = "keep documents and runs in different folders"


def refuse_own_run(run: rundir.RunDir, rules: CorpusRules) -> None:
    """Refuse a source folder that contains the run directory.

    Raises:
        TaskError: the run directory lies in one of the sources.
    """
    for source in rules.sources:
        if run.root.is_relative_to(os.path.realpath(source.path)):
            message = f"{source.path}: this folder holds the run directory {run.root}"
            raise TaskError(message, APART)


def refuse_links_to_run(run: rundir.RunDir, files: SourceFiles) -> None:
    """Refuse a link in a source folder that leads to the run directory, or above it.

    Raises:
        TaskError: naming a folder of the run as the source has it.
    """
    for folder in sorted({os.path.dirname(path) for path in files.paths}):
        if Path(os.path.realpath(folder)).is_relative_to(run.root):
            message = f"{folder}: a link in the source leads into the run directory {run.root}"
            raise TaskError(message, APART)


def describe(context: Context, pieces: Iterable[Piece]) -> list[dict[str, Any]]:
    """Return the files of some pieces as a done marker records them.

    Raises:
        TaskError: a file cannot be read.
    """
    sizes = {part.path: part.size for piece in pieces for part in piece.parts}
    described = []
    for path, size in sizes.items():
        context.heart.beat()
        with_digest = size <= DIGESTED_BYTES
        try:
            described.append(done_markers.describe_file(context.run, path, with_digest=with_digest))
        except OSError as error:
            raise unreadable(Path(path), error) from error
    return described
