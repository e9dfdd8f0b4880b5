"""The files of a source, and the documents of files in XML."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from jobs.contract.errors import TaskError
from jobs.corpus import marked_text, source_files
from jobs.data.readers import SourceRecord

CITATIONS = b"""<?xml version="1.0"?><!DOCTYPE PubmedArticleSet SYSTEM "p.dtd"><PubmedArticleSet>
<PubmedArticle><MedlineCitation><PMID>1</PMID><Article><ArticleTitle>One.</ArticleTitle><Abstract>
<AbstractText>Give 10<sup>-3</sup> mol.</AbstractText></Abstract></Article></MedlineCitation>
</PubmedArticle><PubmedArticle><MedlineCitation><PMID>2</PMID><Article><ArticleTitle>Two.
</ArticleTitle></Article></MedlineCitation></PubmedArticle>
<PubmedArticle><MedlineCitation><PMID>3</PMID></MedlineCitation></PubmedArticle></PubmedArticleSet>
"""


def article(number: int) -> bytes:
    return (
        f"<article><front><article-meta><article-id pub-id-type='pmc'>{number}</article-id>"
        f"<title-group><article-title>Title {number}</article-title></title-group></article-meta>"
        "</front><body><p>See <xref ref-type='fig' rid='f'/>.</p><fig id='f'><label>Fig. 1</label>"
        "<caption><p>A [fig].</p></caption></fig></body></article>"
    ).encode()


def bundle(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as file:
        for name, content in members.items():
            entry = tarfile.TarInfo(f"PMC/{name}".replace("_", "."))
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


def records(path: Path) -> list[SourceRecord]:
    return list(source_files.read_records(path, ("text", "id", "source")))


@pytest.mark.parametrize("name", ["p.xml", "p.xml.gz"])
def test_citations_are_records_without_text_where_they_have_no_abstract(
    name: str, tmp_path: Path
) -> None:
    content = CITATIONS if name == "p.xml" else gzip.compress(CITATIONS)
    (tmp_path / name).write_bytes(content)

    first, second, third = records(tmp_path / name)

    assert first.value == {"text": "One.\nGive 10\u207b\u00b3 mol.", "id": "1"}
    assert (first.is_marked, first.facts["work_id"]) == (True, "pmid:1")
    assert (second.value, second.problem) == ({"text": ""}, "")
    assert (third.value, third.problem) == ({}, "3: a PubmedArticle without PMID or Article")
    assert [first.line, second.line, third.line] == [1, 2, 3]
    assert 0 < third.position <= len(content)


@pytest.mark.parametrize(
    "content",
    [
        CITATIONS.replace(b"<PubmedArticleSet>", b"<!--" + b"x" * 6000 + b"--><PubmedArticleSet>"),
        CITATIONS.decode().replace('"1.0"', '"1.0" encoding="utf-16"').encode("utf-16"),
    ],
)
def test_citations_are_known_by_their_root(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.xml").write_bytes(content)

    assert [record.line for record in records(tmp_path / "p.xml")] == [1, 2, 3]


@pytest.mark.parametrize("name", ["a.nxml", "a.xml.gz"])
def test_an_article_is_one_record(name: str, tmp_path: Path) -> None:
    content = article(7) if name == "a.nxml" else gzip.compress(article(7))
    (tmp_path / name).write_bytes(content)

    [record] = records(tmp_path / name)

    finished = marked_text.finish(record.value["text"])
    assert finished.text == (
        "Title 7\n\nSee [fig_ref] Figure 1: A [fig]. [/fig_ref].\n\n[fig] Figure 1: A [fig]. [/fig]"
    )
    tokens = [finished.text[begin:end] for begin, end in finished.spans]
    assert tokens == ["[fig_ref]", "[/fig_ref]", "[fig]", "[/fig]"]


@pytest.mark.parametrize("name", ["b.tar.gz", "b.tgz", "b.tar"])
def test_a_bundle_is_read_article_by_article(name: str, tmp_path: Path) -> None:
    path = bundle(
        tmp_path / name, a_nxml=article(1), a_jpg=b"x", b_xml=b"<broken", c_nxml=article(3)
    )

    one, broken, three = records(path)

    assert (one.value["id"], three.value["id"]) == ("1", "3")
    assert broken.problem.startswith("PMC/b.xml: not XML")


def test_bundles_one_behind_the_other_are_read_as_one(tmp_path: Path) -> None:
    one, two = (bundle(tmp_path / f"{name}.tar", **{f"{name}_nxml": article(ord(name))})
                for name in "ab")  # fmt: skip
    one.write_bytes(one.read_bytes() + two.read_bytes())

    assert [record.value["id"] for record in records(one)] == ["97", "98"]


def test_a_comment_does_not_decide_what_a_file_holds(tmp_path: Path) -> None:
    (tmp_path / "a.nxml").write_bytes(b"<!-- once in a <PubmedArticleSet> -->" + article(4))
    (tmp_path / "b.xml").write_bytes(b"<?xml version='1.0'?><!-- no <article> -->" + CITATIONS[21:])

    assert [record.value.get("id") for record in records(tmp_path / "a.nxml")] == ["4"]
    assert len(records(tmp_path / "b.xml")) == 3


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"<PubmedArticle/>", "a <PubmedArticle> without an <article>"),
        (
            b"<article>\0</article>",
            "not XML (Invalid character: Char 0x0 out of allowed range, line",
        ),
        (b"<html/>", "a <html> without an <article>"),
        (b"<article>", "not XML"),
        (b"", "not XML"),
    ],
)
def test_an_article_that_cannot_be_parsed_is_a_bad_record(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "a.nxml").write_bytes(content)

    [record] = records(tmp_path / "a.nxml")

    assert (record.value, record.problem[: len(problem)]) == ({}, problem)


def cut_citations(folder: Path) -> Path:
    (folder / "p.xml").write_bytes(CITATIONS[:-30])
    return folder / "p.xml"


def cut_gzip(folder: Path) -> Path:
    (folder / "p.xml.gz").write_bytes(gzip.compress(CITATIONS)[:-20])
    return folder / "p.xml.gz"


def cut_bundle(folder: Path) -> Path:
    path = bundle(folder / "b.tar.gz", a_nxml=article(1), b_nxml=bytes(range(256)) * 500)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def bundle_and_second_member(folder: Path) -> tuple[Path, bytes, int]:
    path = bundle(folder / "b.tar", a_nxml=article(1), b_nxml=article(2), c_nxml=article(3))
    content = path.read_bytes()
    return path, content, content.index(b"PMC/b.nxml")


def bundle_cut_between_members(folder: Path) -> Path:
    path, content, second = bundle_and_second_member(folder)
    path.write_bytes(content[:second])
    return path


def bundle_cut_in_a_header(folder: Path) -> Path:
    path, content, second = bundle_and_second_member(folder)
    path.write_bytes(content[: second + 100])
    return path


def bundle_with_a_damaged_header(folder: Path) -> Path:
    path, content, second = bundle_and_second_member(folder)
    path.write_bytes(content[:second] + b"Q" + content[second + 1 :])
    return path


def bundle_with_a_zeroed_header(folder: Path) -> Path:
    path, content, second = bundle_and_second_member(folder)
    path.write_bytes(content[:second] + bytes(512) + content[second + 512 :])
    return path


def empty_bundle(folder: Path) -> Path:
    (folder / "b.tar").write_bytes(b"")
    return folder / "b.tar"


def no_bundle(folder: Path) -> Path:
    (folder / "b.tar").write_bytes(b"no bundle")
    return folder / "b.tar"


def update_file(folder: Path) -> Path:
    deletes = b"<DeleteCitation><PMID>9</PMID></DeleteCitation></PubmedArticleSet>"
    (folder / "p.xml").write_bytes(CITATIONS.replace(b"</PubmedArticleSet>", deletes))
    return folder / "p.xml"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (cut_citations, "not XML"),
        (cut_gzip, "truncated or corrupt"),
        (cut_bundle, "truncated or corrupt"),
        (bundle_cut_between_members, "truncated or corrupt"),
        (bundle_cut_in_a_header, "truncated or corrupt"),
        (bundle_with_a_damaged_header, "truncated or corrupt"),
        (bundle_with_a_zeroed_header, "truncated or corrupt"),
        (empty_bundle, "truncated or corrupt"),
        (no_bundle, "truncated or corrupt"),
        (update_file, "an update file, which deletes the citation 9 of earlier files"),
    ],
)
def test_a_damaged_file_is_never_taken_for_a_whole_one(
    make: object, problem: str, tmp_path: Path
) -> None:
    assert callable(make)
    path = make(tmp_path)

    with pytest.raises(TaskError) as caught:
        records(path)

    assert str(caught.value).startswith(f"{path}: {problem}")


def test_a_folder_linked_into_itself_is_read_once(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "docs.jsonl").write_text('{"text": "a"}\n')
    (folder / "again").symlink_to(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "more.jsonl.gz").write_bytes(b"")
    (folder / "linked").symlink_to(elsewhere)

    found, ignored = source_files.find_files([str(folder)])

    assert found == [folder / "docs.jsonl", folder / "linked" / "more.jsonl.gz"]
    assert ignored == []


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("a.jsonl", True), ("a.JSON", True), ("a.json.gz", True), ("a.jsonl.zst", True),
        ("a.gz", True), ("a.zst", True), ("a.parquet", True), ("a.v2.jsonl.gz", True),
        ("a.xml", True), ("a.nxml.gz", True), ("a.tar.gz", True), ("a.TGZ", True),
        ("a.txt", False), ("a.tar.zst", False), ("a.csv.zst", False), ("a.parquet.gz", False),
        ("a", False), ("jsonl", False), ("a.jsonl.bak", False), ("a.jsonl.xz", False),
    ],
)  # fmt: skip
def test_the_name_decides_whether_a_file_is_read(name: str, readable: bool) -> None:
    assert bool(source_files.kind_of(Path(name))) is readable
