"""The document map of an indexed dataset: where each of its documents stands in the corpus.

A file ``.docs`` beside ``.bin`` and ``.idx``, without a header: 16 bytes per document, in the order
of the documents, little-endian.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contract.atomic_file import AtomicFile
from jobs.data.cleaning import document_id, text_digest

if TYPE_CHECKING:
    import numpy

SUFFIX = ".docs"
FIELDS = [("byte", "<u8"), ("id", "<u8")]
"""Where the document's line begins in the corpus shard; hash of its id."""
ID_KEY = "id"
"""Key of a document's id in the shards that curate writes."""


def identity(record: Mapping[str, Any], text: str) -> str:
    """Return the id of a document of the corpus."""
    value = record.get(ID_KEY)
    return value if isinstance(value, str) and value else document_id(value, text_digest(text))


def hashed(identity: str) -> int:
    """Return the 64 bits by which a map knows an id (BLAKE2b; RFC 7693)."""
    digest = hashlib.blake2b(identity.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def map_file(prefix: Path) -> AtomicFile:
    """Return the file of a new map, to write entries to."""
    return AtomicFile(path_of(prefix))


def path_of(prefix: Path) -> Path:
    """Return the path of an indexed dataset's map."""
    return prefix.with_name(prefix.name + SUFFIX)


def entries(begins: Sequence[int], ids: Sequence[int]) -> numpy.ndarray:
    """Return entries as they are written; both arguments 64 bits per document."""
    import numpy

    rows = numpy.empty(len(begins), dtype=FIELDS)
    rows["byte"], rows["id"] = numpy.array(begins, "<u8"), numpy.array(ids, "<u8")
    return rows


def read(prefix: Path, documents: int) -> numpy.ndarray | None:
    """Return the entries of a dataset's documents; None where it has no map, or that of others."""
    import numpy

    path, kind = path_of(prefix), numpy.dtype(FIELDS)
    try:
        if path.stat().st_size != documents * kind.itemsize:
            return None
        if not documents:
            return numpy.empty(0, dtype=kind)
        return numpy.memmap(path, dtype=kind, mode="r")
    except OSError:
        return None
