"""Files of several formats with the same texts, for the readers of a corpus."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from xml.sax.saxutils import escape

from jobs.contract.corpus.rules import SourceSpec

LINES_A_SECTION = 8


def jsonl(texts: Sequence[str]) -> bytes:
    lines = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts)]
    return "\n".join([*lines, ""]).encode()


def pubmed(texts: Sequence[str]) -> bytes:
    """Return a file of citations."""
    return "".join(
        ["<PubmedArticleSet>", *map(citation, count(1), texts), "</PubmedArticleSet>"]
    ).encode()


def citation(number: int, text: str) -> str:
    title, _, body = text.partition("\n")
    return (
        f"<PubmedArticle><MedlineCitation><PMID>{number}</PMID><Article>"
        f"<ArticleTitle>{escape(title)}</ArticleTitle><Abstract><AbstractText>{escape(body)}"
        "</AbstractText></Abstract><Language>eng</Language></Article></MedlineCitation>"
        "</PubmedArticle>\n"
    )


def jats(texts: Sequence[str]) -> bytes:
    """Return an article whose sections are the texts."""
    return (
        "<article><front><article-meta><article-id pub-id-type='pmid'>1</article-id><title-group>"
        "<article-title>Sample</article-title></title-group></article-meta></front><body>"
        + "".join(map(section, texts))
        + "</body></article>"
    ).encode()


def section(text: str) -> str:
    title, _, body = text.partition("\n")
    paragraphs = "".join(
        f"<p>{escape(line)} <italic>in vivo</italic> 10<sup>9</sup></p>"
        for line in body.split("\n")
        if line
    )
    return f"<sec><title>{escape(title)}</title>{paragraphs}</sec>"


WRITERS: dict[str, tuple[str, Callable[[Sequence[str]], bytes]]] = {
    "jsonl": (".jsonl", jsonl),
    "pubmed": (".xml", pubmed),
    "jats": (".nxml", jats),
}
"""By format: the suffix of its files, and what makes their bytes."""


def write(folder: Path, name: str, texts: Sequence[str]) -> Path:
    """Write a file of a format into a folder of its own."""
    suffix, content = WRITERS[name]
    path = folder / name / f"texts{suffix}"
    path.parent.mkdir()
    path.write_bytes(content(texts))
    return path


def parquet(folder: Path, texts: Sequence[str]) -> Path:
    import pyarrow
    import pyarrow.parquet

    path = folder / "parquet" / "texts.parquet"
    path.parent.mkdir()
    table = pyarrow.table({"id": [str(n) for n in range(len(texts))], "text": list(texts)})
    pyarrow.parquet.write_table(table, path)
    return path


def source(path: Path, name: str, quality: str = "none") -> SourceSpec:
    """Return a source with one file."""
    return SourceSpec(
        path=str(path),
        name=name,
        format=name,
        text_key="text",
        id_key="id",
        licence="",
        languages=(),
        quality=quality,
        min_chars=0,
        sample=1.0,
        validation_fraction=0.0,
    )
