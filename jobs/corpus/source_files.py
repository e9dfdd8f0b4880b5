"""Read the records of any file of a corpus's sources.

Stages import it inside ``run``: it needs lxml, orjson, isal and backports.zstd, and pyarrow for
parquet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.contract.errors import TaskError
from jobs.corpus.document import Document, Rejected, Removal
from jobs.corpus.formats import xml_files
from jobs.corpus.formats.files import XML_SUFFIXES, kind_of
from jobs.data import readers
from jobs.data.readers import SourceRecord


def read_records(path: Path, keys: Sequence[str]) -> Iterator[SourceRecord]:
    """Yield the records of one file, in order.

    Args:
        path: a file with a kind.
        keys: of a record's text and its id, and the other columns to read of a parquet file.

    Raises:
        TaskError: the file cannot be read, is truncated, corrupt or no XML.
    """
    if kind_of(path) not in (*XML_SUFFIXES, ".tar"):
        yield from readers.read_records(path, keys)
        return
    for number, (item, position) in enumerate(xml_files.read(path), start=1):
        yield as_record(path, number, item, keys, position)


def as_record(
    path: Path,
    number: int,
    found: Document | Rejected | Removal,
    keys: Sequence[str],
    position: int,
) -> SourceRecord:
    """Return what a reader of XML found as a record; one without a text has an empty one.

    Raises:
        TaskError: the file deletes citations of others.
    """
    text_key, id_key = keys[0], keys[1]
    if isinstance(found, Removal):
        raise TaskError(
            f"{path}: an update file, which deletes the citation {found.id} of earlier files; "
            "updates are not applied",
            "name the files of PubMed's yearly baseline alone in curate.sources",
        )
    if isinstance(found, Rejected):
        value = {} if found.problem else {text_key: ""}
        problem = f"{found.id}: {found.problem}" if found.id and found.problem else found.problem
        return SourceRecord(number, value, problem, found.id.encode(), position)
    value = {text_key: found.text, id_key: found.id}
    facts = {"title": found.title, "work_id": found.work_id, "meta": {**found.names, **found.meta}}
    return SourceRecord(number, value, "", b"", position, is_marked=True, facts=facts)
