"""Damaged and hostile sources: an error that names the file, or a rejection; nothing in silence."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from jobs.contract.errors import TaskError
from jobs.corpus.document import Document, Rejected
from jobs.corpus.formats.read import find
from jobs.data.cleaning import normalise

from .specs import documents, records, spec

CITATION = (
    "<PubmedArticle><MedlineCitation><PMID>1</PMID><Article><ArticleTitle>T</ArticleTitle><Abstract>"
    "<AbstractText>{}</AbstractText></Abstract></Article></MedlineCitation></PubmedArticle>"
)
ARTICLE = (
    "<article><front><article-meta><article-id pub-id-type='pmc'>1</article-id></article-meta>"
    "</front><body><p>{}</p></body></article>"
)
LAUGHS = (
    '<!DOCTYPE {} [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>'
)


def citations(text: str) -> bytes:
    return f"<PubmedArticleSet>{CITATION.format(text)}</PubmedArticleSet>".encode()


@pytest.mark.parametrize(
    ("name", "form", "content"),
    [
        ("a.jsonl.gz", "auto", b'{"text": "a"}\n' * 5000),
        ("a.jsonl.gz", "s2orc", b'{"corpusid": 1, "abstract": "a"}\n' * 5000),
        ("a.csv.gz", "csv", b"text\n" + b"a\n" * 5000),
        ("a.txt.gz", "text", bytes(range(65, 90)) * 200),
        ("a.xml.gz", "pubmed", citations("a")),
        ("a.nxml.gz", "jats", ARTICLE.format("a").encode()),
    ],
)
def test_a_truncated_gzip_is_named(name: str, form: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content)[:-9])

    with pytest.raises(TaskError) as caught:
        records(path, form)

    assert caught.value.message == f"{path}: truncated gzip file"


def jsonl(folder: Path) -> tuple[Path, str]:
    (folder / "a.jsonl").write_bytes(b'{"id": "1", "text": "5 \xb5g"}\n')
    return folder / "a.jsonl", "auto"


def guidelines(folder: Path) -> tuple[Path, str]:
    (folder / "a.jsonl").write_bytes(b'{"id": "1", "text": "5 \xb5g"}\n')
    return folder / "a.jsonl", "guidelines"


def table(folder: Path) -> tuple[Path, str]:
    (folder / "a.csv").write_bytes(b"text\n5 \xb5g\n")
    return folder / "a.csv", "csv"


def text(folder: Path) -> tuple[Path, str]:
    (folder / "a.txt").write_bytes(b"5 \xb5g")
    return folder / "a.txt", "text"


def jats(folder: Path) -> tuple[Path, str]:
    (folder / "a.nxml").write_bytes(ARTICLE.format("5 \u00b5g").encode("latin-1"))
    return folder / "a.nxml", "jats"


@pytest.mark.parametrize("make", [jsonl, guidelines, table, text, jats])
def test_a_wrong_encoding_is_rejected_with_its_place(
    make: Callable[[Path], tuple[Path, str]], tmp_path: Path
) -> None:
    path, form = make(tmp_path)

    [record] = records(path, form)

    assert isinstance(record.item, Rejected)
    place = "line 1, column 109" if form == "jats" else "is 0xb5)"
    assert place in record.item.problem


def test_a_broken_file_of_citations_is_an_error_and_a_broken_article_a_rejection(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.xml").write_bytes(citations("a").replace(b"</Abstract>", b""))
    (tmp_path / "b.xml").write_bytes(ARTICLE.format("a").replace("</p>", "").encode())

    with pytest.raises(TaskError, match="not XML") as caught:
        records(tmp_path / "a.xml")
    [article] = records(tmp_path / "b.xml")

    assert caught.value.message.startswith(f"{tmp_path / 'a.xml'}: ")
    assert isinstance(article.item, Rejected)
    assert article.item.problem.startswith("not XML")


def test_entities_of_a_file_are_never_expanded(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(LAUGHS.format("PubmedArticleSet") + citations("&c;").decode())
    (tmp_path / "b.xml").write_text(LAUGHS.format("article") + ARTICLE.format("&c;"))

    problem = "the entity &c; is not one of HTML 5, and none is expanded"
    with pytest.raises(TaskError, match=problem):
        records(tmp_path / "a.xml")
    [article] = records(tmp_path / "b.xml")

    assert article.item == Rejected("", problem)


def test_nul_bytes_merge_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "5\\u000010 mg"}\n{"text": "5\x0010 mg"}\n')
    (tmp_path / "a.txt").write_bytes(b"5\x0010 mg")

    escaped, raw = records(tmp_path / "a.jsonl")
    [plain] = documents(tmp_path / "a.txt", "text")

    assert isinstance(escaped.item, Document)
    assert isinstance(raw.item, Rejected)
    assert raw.item.problem.startswith("not JSON")
    assert [normalise(item.text)[0] for item in (escaped.item, plain)] == ["5 10 mg", "5 10 mg"]


def test_a_line_of_fifty_megabytes_is_a_record(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"text": "' + b"a" * (50 << 20) + b'"}\n{"text": "b"}\n')

    assert [len(item.text) for item in documents(tmp_path / "a.jsonl")] == [50 << 20, 1]


def test_an_empty_file_has_no_record_and_an_empty_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    (tmp_path / "a.jsonl").touch()

    assert records(tmp_path / "a.jsonl") == []
    with pytest.raises(TaskError, match="no document file in this folder"):
        find(spec(folder))


def test_lines_whose_key_changes_are_rejected_from_there_on(tmp_path: Path) -> None:
    lines = [{"text": "a"}, {"text": "b"}, {"body": "c"}, {"body": "d"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))

    items = [record.item for record in records(tmp_path / "a.jsonl")]

    assert items[2:] == [Rejected("", "no key 'text' (keys: 'body')")] * 2


def test_a_parquet_file_with_other_columns_is_refused_by_name(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for name, key in (("a", "text"), ("b", "body")):
        table = pyarrow.Table.from_pylist([{key: "x", "id": 1}])
        parquet.write_table(table, tmp_path / f"{name}.parquet")

    assert documents(tmp_path / "a.parquet")[0].text == "x"
    with pytest.raises(TaskError) as caught:
        records(tmp_path / "b.parquet")
    assert caught.value.message == f"{tmp_path / 'b.parquet'}: no column 'text'"
    assert caught.value.hint == "set curate.text_key to one of its columns: body, id"


def test_every_article_of_a_set_is_read(tmp_path: Path) -> None:
    good, bad = ARTICLE.format("a"), ARTICLE.format("&c;")
    content = f"{LAUGHS.format('pmc-articleset')}<pmc-articleset>{good}{bad}{good}</pmc-articleset>"
    (tmp_path / "a.xml").write_text(content)

    one, two, three = (record.item for record in records(tmp_path / "a.xml"))

    assert (one.id, three.id) == ("PMC1", "PMC1")
    assert isinstance(two, Rejected)


def test_brackets_too_deep_in_one_another_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"text": "x"},\n' + "[" * 100_000 + "]" * 100_000 + "]")

    with pytest.raises(TaskError, match="json:2: brackets too deep in one another"):
        records(path)


@pytest.mark.parametrize("unit", ["ms", "us"])
def test_a_date_that_python_does_not_know_is_none(unit: str, tmp_path: Path) -> None:
    dates = pyarrow.array([1 << 60, 0, None], pyarrow.timestamp(unit))
    table = pyarrow.table({"text": ["x", "y", "z"], "date": dates})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")

    assert [document.text for document in documents(tmp_path / "a.parquet")] == ["x", "y", "z"]


def test_a_name_that_is_not_utf_8_becomes_an_id_that_is(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / f"{name}.txt").write_text("Give 5 mg.")
    content = b"<article><front/><body/></article>"
    with tarfile.open(tmp_path / "a.tar", "w") as bundle:
        member = tarfile.TarInfo(f"{name}.xml")
        member.size = len(content)
        bundle.addfile(member, io.BytesIO(content))

    assert documents(tmp_path / f"{name}.txt", "text")[0].id == "caf\\xe9.txt"
    (record,) = records(tmp_path / "a.tar")
    assert record.item.id == "caf\\xe9.xml"
