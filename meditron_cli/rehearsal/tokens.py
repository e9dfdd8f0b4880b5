"""Write indexed datasets of random tokens, in place of an experiment's further corpora."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meditron_cli.rehearsal.miniature import BASE_VOCABULARY, DATA

SEED = 7
DOCUMENTS = 200
DOCUMENT_TOKENS = 150


def write(root: Path, corpora: Sequence[Mapping[str, Any]]) -> None:
    """Write the datasets that ``miniature.corpora`` names below a folder.

    Raises:
        OSError: the folder cannot be written.
    """
    import numpy

    from jobs.data.indexed_dataset import IndexedWriter, index_dtype

    generator, dtype = numpy.random.default_rng(SEED), index_dtype(BASE_VOCABULARY)
    for prefix in (
        root / name for corpus in corpora for key in DATA for name in corpus.get(key, ())
    ):
        prefix.parent.mkdir(exist_ok=True)
        ids = generator.integers(BASE_VOCABULARY, size=DOCUMENTS * DOCUMENT_TOKENS)
        writer = IndexedWriter(prefix, dtype)
        writer.add(ids.astype(dtype), numpy.full(DOCUMENTS, DOCUMENT_TOKENS, numpy.int32))
        writer.publish()
