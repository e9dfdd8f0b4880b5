"""Find the files of a corpus's sources, and read the documents of any of them.

Stages import it inside ``run``: it needs lxml, orjson, isal and backports.zstd, and pyarrow for
parquet.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, NoReturn

from jobs.contract.errors import TaskError
from jobs.corpus import jats, pubmed
from jobs.corpus.document import Document, Rejected, Removal
from jobs.corpus.xml_text import BadXml, root_name
from jobs.data import json_stream, readers
from jobs.data.readers import AGAIN, COMPRESSED, CORRUPT, JSON_SUFFIXES, SourceRecord, unreadable

XML_SUFFIXES = (".xml", ".nxml")
BUNDLES = (".tar", ".tar.gz", ".tgz")
READABLE = (
    "files to read end in .jsonl, .json, .xml or .nxml, alone or with .gz or .zst, in .parquet, or "
    "in .tar.gz with articles in XML"
)
ROOT_BYTES = 1 << 16
"""The root element begins within so many bytes."""
MAX_ARTICLE_BYTES = 1 << 26
"""No article in XML is larger; it is read into memory whole."""


def find_files(sources: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Return the files to read, and the other files in source folders; both sorted by path.

    Folders are searched to any depth and through symbolic links; names with a leading dot are
    skipped.

    Raises:
        TaskError: a source is missing, unreadable or of an unknown kind; a folder has no file of
            a known kind.
    """
    documents: set[Path] = set()
    ignored: set[Path] = set()
    for source in map(Path, sources):
        try:
            files = _files_of(source)
            readable = {path for path in files if kind_of(path)}
            odd = [path for path in sorted(readable) if not S_ISREG(os.stat(path).st_mode)]
        except OSError as error:
            raise unreadable(Path(error.filename), error) from error
        if odd:
            raise TaskError(f"{odd[0]}: not a regular file", READABLE)
        if not readable:
            what = "not a document file" if files == {source} else "no document file in this folder"
            raise TaskError(f"{source}: {what}", READABLE)
        documents |= readable
        ignored |= files - readable
    return sorted(documents), sorted(ignored)


def _files_of(source: Path) -> set[Path]:
    """Return the file itself, or the files under a folder; linked folders are entered once."""
    if not S_ISDIR(os.stat(source).st_mode):
        return {source}
    files: set[Path] = set()
    entered: set[str] = set()
    for here, folders, names in os.walk(source, onerror=_raise, followlinks=True):
        if (real := os.path.realpath(here)) in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files.update(Path(here, name) for name in names if not name.startswith("."))
    return files


def _raise(error: OSError) -> NoReturn:
    raise error


def kind_of(path: Path) -> str:
    """Return the suffix that decides how a file is read; ``documents.gz`` means JSON lines; empty
    for a file that is not read.
    """
    name = path.name.lower()
    if any(name.endswith(suffix) for suffix in BUNDLES):
        return ".tar"
    suffix = path.suffix.lower()
    if suffix in COMPRESSED:
        inner = Path(path.stem).suffix.lower()
        return inner if inner in (*JSON_SUFFIXES, *XML_SUFFIXES) else "" if inner else ".jsonl"
    return suffix if suffix in (*JSON_SUFFIXES, *XML_SUFFIXES, ".parquet") else ""


def is_compressed(path: Path) -> bool:
    """Return whether a file is compressed as a whole."""
    return path.suffix.lower() in (*COMPRESSED, ".tgz")


def read_records(path: Path, keys: Sequence[str]) -> Iterator[SourceRecord]:
    """Yield the records of one file, in order.

    Args:
        path: a file with a kind.
        keys: of a record's text and its id, and the other columns to read of a parquet file.

    Raises:
        TaskError: the file cannot be read, is truncated, corrupt or no XML.
    """
    kind = kind_of(path)
    if kind not in (*XML_SUFFIXES, ".tar"):
        yield from readers.read_records(path, keys)
        return
    try:
        with io.BufferedReader(io.FileIO(path), json_stream.BLOCK_BYTES) as file:
            found = articles_of(path, file) if kind == ".tar" else documents_of(path, file)
            for number, document in enumerate(found, start=1):
                yield as_record(path, number, document, keys, file.tell())
    except (EOFError, tarfile.ReadError) as error:
        raise TaskError(f"{path}: truncated or corrupt ({error})", AGAIN) from error
    except CORRUPT as error:
        raise TaskError(f"{path}: corrupt ({error})", AGAIN) from error
    except BadXml as error:
        raise TaskError(f"{path}: {error}", AGAIN) from error
    except OSError as error:
        raise unreadable(path, error) from error


def documents_of(
    path: Path, file: io.BufferedReader[Any]
) -> Iterator[Document | Rejected | Removal]:
    """Yield the documents of an XML file: PubMed citations, or one article in JATS."""
    stream = json_stream.decompressed(path, file)
    if root_name(stream.peek(ROOT_BYTES)[:ROOT_BYTES]) == "PubmedArticleSet":
        yield from pubmed.read(stream)
    else:
        yield article(stream.read(MAX_ARTICLE_BYTES + 1))


def articles_of(path: Path, file: io.BufferedReader[Any]) -> Iterator[Document | Rejected]:
    """Yield the articles of a bundle of PubMed Central, in the order of the bundle.

    Members that are no XML are passed over. Bundles that were put one behind the other are read as
    one.
    """
    compressed = path.suffix.lower() != ".tar"
    stream = json_stream.decompressed(path.with_suffix(".gz"), file) if compressed else file
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=Member, ignore_zeros=True) as bundle:
        for member in bundle:
            if not member.isfile() or Path(member.name).suffix.lower() not in XML_SUFFIXES:
                continue
            content = bundle.extractfile(member)
            assert content is not None
            yield article(content.read(MAX_ARTICLE_BYTES + 1), member.name)


class Member(tarfile.TarInfo):
    """A member of a bundle. A damaged header is an error; tarfile would take it for the end of the
    bundle, or pass it over with what follows.
    """

    @classmethod
    def fromtarfile(cls, bundle: Any) -> Member:
        """Read the next member, as the class's own method does.

        Raises:
            ReadError: the header is damaged, or the file ends without the empty block of an end.
        """
        ended, bundle.ended = getattr(bundle, "ended", False), False
        try:
            return super().fromtarfile(bundle)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            bundle.ended = True
            raise
        except tarfile.HeaderError as error:
            empty = isinstance(error, tarfile.EmptyHeaderError)  # type: ignore[attr-defined]
            if ended and empty:
                raise
            raise tarfile.ReadError(str(error)) from error


def article(content: bytes, name: str = "") -> Document | Rejected:
    """Return the article of a JATS file, a rejection where it cannot be parsed.

    Args:
        name: of the member of a bundle.
    """
    if len(content) > MAX_ARTICLE_BYTES:
        return Rejected(name, f"an article of more than {MAX_ARTICLE_BYTES:,} bytes")
    try:
        return jats.read(content)
    except BadXml as error:
        return Rejected(name, str(error))


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
