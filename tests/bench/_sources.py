"""Files of several formats with the same texts, for the readers of a corpus."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

Records = Iterable[dict[str, Any]]


def lines(records: Records) -> bytes:
    return "".join(f"{json.dumps(record)}\n" for record in records).encode()


def jsonl(texts: Sequence[str]) -> bytes:
    return lines({"id": str(number), "text": text} for number, text in enumerate(texts))


def redpajama(texts: Sequence[str]) -> bytes:
    meta = {"url": "https://a.example", "language": "en", "timestamp": "2023-01-02"}
    return lines({"text": text, "meta": meta} for text in texts)


def guidelines(texts: Sequence[str]) -> bytes:
    return lines(
        {"id": str(number), "source": "nice", "title": "Care", "clean_text": text}
        for number, text in enumerate(texts)
    )


def s2orc(texts: Sequence[str]) -> bytes:
    return lines(full_text(number, text) for number, text in enumerate(texts, start=1))


def full_text(number: int, text: str) -> dict[str, Any]:
    """Return a record of S2ORC: the first line is a heading, the others are paragraphs; the first
    word of each mentions a work.
    """
    ends = [*(match.start() for match in re.finditer("\n", text)), len(text)]
    begins = [0, *(end + 1 for end in ends[:-1])]
    places = [{"start": begin, "end": end} for begin, end in zip(begins, ends, strict=True)]
    words = [
        {"start": place["start"], "end": place["start"] + 3, "attributes": {"ref_id": "b0"}}
        for place in places[1:]
        if place["end"] > place["start"] + 3
    ]
    entry = {"start": len(text), "end": len(text), "attributes": {"id": "b0"}}
    found = {
        "sectionheader": places[:1],
        "paragraph": places[1:],
        "bibref": words,
        "bibentry": [entry],
    }
    annotations = {name: json.dumps(parts) for name, parts in found.items()}
    return {"corpusid": number, "content": {"text": text, "annotations": annotations}}


def table(texts: Sequence[str]) -> bytes:
    file = io.StringIO()
    csv.writer(file).writerows([("id", "text"), *enumerate(texts)])
    return file.getvalue().encode()


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
    "csv": (".csv", table),
    "redpajama": (".jsonl", redpajama),
    "guidelines": (".jsonl", guidelines),
    "s2orc": (".jsonl", s2orc),
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
