"""Random tokens, and a tokenizer that names the end of a document, for the trainings of a selftest.

The tokenizer has no text, since tokens are drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy

from jobs.contract.files import make_folder, write_json
from jobs.data.indexed_dataset import IndexedWriter, index_dtype

EOD = "<EOD>"
TOKENS, TOKENIZER = "tokens", "tokenizer.json"
DOCUMENT_TOKENS = 200
DOCUMENTS = 400
"""At least; more where a global batch has more tokens, since training repeats none in a batch."""
SEED = 1234


def write(folder: Path, rows: int, batches: Iterable[int]) -> None:
    """Write the tokenizer and random tokens below ``rows``, whose frequencies are all that training
    learns; not again where an earlier attempt has, since its checkpoints name these tokens.

    Args:
        batches: tokens of the global batches of the trainings.
    """
    make_folder(folder)
    if (folder / f"{TOKENS}.idx").exists():
        return
    write_json(
        folder / TOKENIZER,
        {"model": {"type": "WordLevel", "vocab": {EOD: 0}}, "added_tokens": []},
    )
    documents = max(DOCUMENTS, max(batches) // DOCUMENT_TOKENS + 1)  # a token follows the last one
    generator = numpy.random.default_rng(SEED)
    dtype = index_dtype(rows)
    drawn = generator.zipf(1.3, documents * DOCUMENT_TOKENS) % (rows - 1) + 1
    ids = drawn.astype(dtype)
    ids[DOCUMENT_TOKENS - 1 :: DOCUMENT_TOKENS] = 0
    writer = IndexedWriter(folder / TOKENS, dtype)
    writer.add(ids, numpy.full(documents, DOCUMENT_TOKENS, numpy.int32))
    writer.publish()
