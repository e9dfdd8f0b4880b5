"""The sample of ``meditron init``, written as XML and read back, has the same texts."""

from __future__ import annotations

import gzip
import io
import itertools
import tarfile
from pathlib import Path

import pytest

from jobs.corpus import marked_text
from meditron_cli.sample import corpus, facts

from . import as_xml
from .specs import documents

RECORDS = list(itertools.islice(corpus.documents(facts.load(), seed=1), 0, None, 20))


def finished(path: Path, form: str) -> list[str]:
    return [marked_text.finish(document.text).text for document in documents(path, form)]


def test_the_sample_as_citations_has_the_same_texts(tmp_path: Path) -> None:
    path = tmp_path / "pubmed.xml.gz"
    path.write_bytes(gzip.compress(as_xml.citations(RECORDS)))

    assert finished(path, "pubmed") == [
        "\n".join([record["title"], *as_xml.lines(record)]) for record in RECORDS
    ]


def test_the_sample_as_articles_has_the_same_texts(tmp_path: Path) -> None:
    path = tmp_path / "PMC.tar.gz"
    with tarfile.open(path, "w:gz") as bundle:
        for number, record in enumerate(RECORDS, start=1):
            entry = tarfile.TarInfo(f"PMC/PMC{number}.nxml")
            content = as_xml.article(record, number)
            entry.size = len(content)
            bundle.addfile(entry, io.BytesIO(content))

    assert finished(path, "jats") == [
        "\n".join([f"{record['title']}\n", *as_xml.lines(record)]) for record in RECORDS
    ]


@pytest.mark.parametrize("form", ["pubmed", "jats"])
def test_every_golden_value_survives_as_title_and_text(
    form: str, values: list[str], tmp_path: Path
) -> None:
    records = [{"title": f"Of {value}.", "text": f"Give {value} or ({value})."} for value in values]
    path = tmp_path / f"{form}.xml"
    if form == "pubmed":
        path.write_bytes(as_xml.citations(records))
    else:
        articles = b"".join(as_xml.article(item, n) for n, item in enumerate(records, 1))
        path.write_bytes(b"<pmc-articleset>" + articles + b"</pmc-articleset>")

    texts = finished(path, form)

    gap = "\n" if form == "pubmed" else "\n\n"
    assert texts == [f"{record['title']}{gap}{record['text']}" for record in records]
