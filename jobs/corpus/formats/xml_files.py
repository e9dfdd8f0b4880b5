"""Read the documents of files in XML: PubMed citations, articles in JATS, bundles of articles."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.contract.errors import TaskError
from jobs.corpus.document import Document, Rejected, Removal
from jobs.corpus.formats import jats, pubmed
from jobs.corpus.formats.files import XML_SUFFIXES, is_compressed, kind_of, shown
from jobs.corpus.formats.xml_text import BadXml, root_name
from jobs.data import json_stream, json_text
from jobs.data.readers import AGAIN, translated

ROOT_BYTES = 1 << 16
"""The root element begins within so many bytes."""
CITATIONS = "PubmedArticleSet"
"""The root of PubMed's files."""
MAX_ARTICLE_BYTES = 1 << 26
"""No article in XML is larger; it is read into memory whole."""


def read(path: Path, layout: str = "auto") -> Iterator[tuple[Document | Rejected | Removal, int]]:
    """Yield what a file holds, and the bytes of the file that were read before it.

    Args:
        path: an XML file or a bundle.
        layout: ``pubmed``, ``jats``, or ``auto`` where the root decides.

    Raises:
        TaskError: the file cannot be read, is truncated, corrupt, no XML or of another layout.
    """
    with (
        translated(path),
        io.BufferedReader(io.FileIO(path), json_text.BLOCK_BYTES) as file,
    ):
        try:
            is_bundle = kind_of(path) == ".tar"
            found = articles_of(path, file) if is_bundle else documents_of(path, file, layout)
            for item in found:
                yield item, file.tell()
        except tarfile.ReadError as error:
            raise TaskError(f"{path}: truncated or corrupt ({error})", AGAIN) from error
        except BadXml as error:
            raise TaskError(f"{path}: {error}", AGAIN) from error


def documents_of(
    path: Path, file: io.BufferedReader[Any], layout: str
) -> Iterator[Document | Rejected | Removal]:
    """Yield the documents of an XML file: PubMed citations, or articles in JATS.

    Raises:
        TaskError: the file should be one of PubMed and is another.
    """
    stream = json_stream.decompressed(path, file)
    root = root_name(stream.peek(ROOT_BYTES)[:ROOT_BYTES])
    if root == CITATIONS and layout != "jats":
        yield from pubmed.read(stream)
    elif layout == "pubmed":
        found = f"the root is <{root}>" if root else "the beginning is no XML"
        hint = "set the source's format to jats, or correct its path"
        raise TaskError(f"{path}: {found}, PubMed's files have <{CITATIONS}>", hint)
    else:
        yield from articles(stream.read(MAX_ARTICLE_BYTES + 1))


def articles_of(path: Path, file: io.BufferedReader[Any]) -> Iterator[Document | Rejected]:
    """Yield the articles of a bundle of PubMed Central, in the order of the bundle.

    Members that are no XML are passed over. Bundles that were put one behind the other are read as
    one.
    """
    compressed = is_compressed(path)
    stream = json_stream.decompressed(path.with_suffix(".gz"), file) if compressed else file
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=Member, ignore_zeros=True) as bundle:
        for member in bundle:
            if not member.isfile() or Path(member.name).suffix.lower() not in XML_SUFFIXES:
                continue
            content = bundle.extractfile(member)
            assert content is not None
            yield from articles(content.read(MAX_ARTICLE_BYTES + 1), shown(member.name))


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


def articles(content: bytes, name: str = "") -> Iterator[Document | Rejected]:
    """Yield the articles of a JATS file, a rejection where it cannot be parsed.

    Args:
        content: of the file.
        name: of the member of a bundle.
    """
    if len(content) > MAX_ARTICLE_BYTES:
        yield Rejected(name, f"an article of more than {MAX_ARTICLE_BYTES:,} bytes")
        return
    try:
        for found in jats.read(content):
            yield found if found.id else replace(found, id=name)
    except BadXml as error:
        yield Rejected(name, str(error))
