"""The files of a source, and the documents of files in XML."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.errors import TaskError
from jobs.corpus import marked_text
from jobs.corpus.document import Document, Record, Rejected, Removal
from jobs.corpus.formats.files import KINDS, kind_of
from jobs.corpus.formats.read import FORMATS, find, read

from .specs import documents, records, spec

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


@pytest.mark.parametrize("form", ["auto", "pubmed"])
@pytest.mark.parametrize("name", ["p.xml", "p.xml.gz"])
def test_citations_without_an_abstract_have_no_text(name: str, form: str, tmp_path: Path) -> None:
    content = CITATIONS if name == "p.xml" else gzip.compress(CITATIONS)
    (tmp_path / name).write_bytes(content)

    first, second, third = records(tmp_path / name, form)

    assert isinstance(first.item, Document)
    assert (first.item.id, first.item.work_id) == ("1", "pmid:1")
    assert first.item.text == "One.\nGive 10\u207b\u00b3 mol."
    assert (first.item.is_versioned, first.item.is_abstract) == (True, True)
    assert isinstance(second.item, Document)
    assert (second.item.id, second.item.text, second.item.is_versioned) == ("2", "", True)
    assert third.item == Rejected("3", "a PubmedArticle without PMID or Article")
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

    [document] = documents(tmp_path / name)

    finished = marked_text.finish(document.text)
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

    one, broken, three = (record.item for record in records(path, "jats"))

    assert (one.id, broken.id, three.id) == ("PMC1", "PMC/b.xml", "PMC3")
    assert isinstance(broken, Rejected)
    assert broken.problem.startswith("not XML")


def test_bundles_one_behind_the_other_are_read_as_one(tmp_path: Path) -> None:
    one, two = (bundle(tmp_path / f"{name}.tar", **{f"{name}_nxml": article(ord(name))})
                for name in "ab")  # fmt: skip
    one.write_bytes(one.read_bytes() + two.read_bytes())

    assert [document.id for document in documents(one)] == ["PMC97", "PMC98"]


def test_a_comment_does_not_decide_what_a_file_holds(tmp_path: Path) -> None:
    (tmp_path / "a.nxml").write_bytes(b"<!-- once in a <PubmedArticleSet> -->" + article(4))
    (tmp_path / "b.xml").write_bytes(b"<?xml version='1.0'?><!-- no <article> -->" + CITATIONS[21:])

    assert [document.id for document in documents(tmp_path / "a.nxml")] == ["PMC4"]
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
def test_an_article_that_cannot_be_parsed_is_rejected(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "a.nxml").write_bytes(content)

    [record] = records(tmp_path / "a.nxml")

    assert isinstance(record.item, Rejected)
    assert record.item.problem.startswith(problem)


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


def articles_for_citations(folder: Path) -> Path:
    (folder / "p.xml").write_bytes(article(1))
    return folder / "p.xml"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (cut_citations, "not XML"),
        (cut_gzip, "truncated gzip file"),
        (cut_bundle, "truncated gzip file"),
        (bundle_cut_between_members, "truncated or corrupt"),
        (bundle_cut_in_a_header, "truncated or corrupt"),
        (bundle_with_a_damaged_header, "truncated or corrupt"),
        (bundle_with_a_zeroed_header, "truncated or corrupt"),
        (empty_bundle, "truncated or corrupt"),
        (no_bundle, "truncated or corrupt"),
        (articles_for_citations, "the root is <article>, PubMed's files have <PubmedArticleSet>"),
    ],
)
def test_a_damaged_file_is_never_taken_for_a_whole_one(
    make: object, problem: str, tmp_path: Path
) -> None:
    assert callable(make)
    path = make(tmp_path)

    with pytest.raises(TaskError) as caught:
        records(path, "jats" if path.name.startswith("b") else "pubmed")

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

    found, ignored = find(spec(folder))

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
    assert (kind_of(Path(name)) in KINDS) is readable


def test_an_update_file_has_new_citations_and_removals(tmp_path: Path) -> None:
    deletes = b"<DeleteCitation><PMID>9</PMID><PMID>1</PMID></DeleteCitation></PubmedArticleSet>"
    path = tmp_path / "p.xml"
    path.write_bytes(CITATIONS.replace(b"</PubmedArticleSet>", deletes))

    items = [record.item for record in records(path)]

    assert items[3:] == [Removal("9"), Removal("1")]


def test_a_source_has_the_files_of_its_format(tmp_path: Path) -> None:
    names = ["a.jsonl", "b.xml", "c.tar.gz", "d.parquet", "e.txt", "f.tsv.gz", "g.zst"]
    for name in (*names, ".hidden.jsonl", "LICENSE.txt", "readme.md"):
        (tmp_path / name).touch()

    found = {form: find(spec(tmp_path, form)) for form in FORMATS}

    lines, rows = ["a.jsonl", "g.zst"], ["a.jsonl", "d.parquet", "g.zst"]
    assert {form: [path.name for path in files] for form, (files, _) in found.items()} == {
        "auto": ["a.jsonl", "b.xml", "c.tar.gz", "d.parquet", "g.zst"],
        "jsonl": lines, "s2orc": lines, "guidelines": lines,
        "redpajama": rows, "falcon": rows, "starcoder": rows,
        "parquet": ["d.parquet"], "csv": ["f.tsv.gz"], "text": ["e.txt"],
        "jats": ["b.xml", "c.tar.gz"], "pubmed": ["b.xml"],
    }  # fmt: skip
    for files, ignored in found.values():
        assert sorted([*files, *ignored]) == sorted(tmp_path.iterdir())
    with pytest.raises(TaskError, match="not a document file") as caught:
        find(spec(tmp_path / "a.jsonl", "parquet"))
    assert caught.value.hint == "files to read end in .parquet"


RECORD = {
    "id": 7, "text": " As it [fig] is.\n", "title": "T", "PMID": 12, "pmcid": "PMC34",
    "doi": "https://doi.org/10.1/X", "corpusid": 5, "license": "CC0", "publicationdate": "2020",
    "source": "who", "language": "en", "types": ["Review"], "other": "x",
    "meta": {"url": "https://a.example", "source": "unused", "date": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_a_record_with_keys_is_a_document_as_it_is_written(name: str, tmp_path: Path) -> None:
    if name == "a.parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([RECORD]), tmp_path / name)
    else:
        (tmp_path / name).write_text(json.dumps([RECORD] if name == "a.json" else RECORD))

    [document] = documents(tmp_path / name)

    assert document == Document(
        id="7",
        title="T",
        text=" As it [fig] is.\n",
        names={"pmid": "12", "pmcid": "34", "doi": "10.1/x", "corpusid": "5"},
        meta={
            "licence": "CC0", "date": "2020", "source": "who", "languages": ["en"],
            "types": ["Review"], "url": "https://a.example",
        },
        is_marked=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "line", ['{"text": "a"}', '{"id": true, "text": "a"}', '{"id": "", "text": "a"}']
)
def test_a_record_without_an_id_has_an_empty_one(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(line)

    assert [document.id for document in documents(tmp_path / "a.jsonl")] == [""]


def test_a_bad_record_is_rejected_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n\n{"text": 5}\n{"text": "\xff"}\n')

    good, number, encoding = records(tmp_path / "a.jsonl")

    assert (good.line, good.raw) == (1, b"")
    assert number == Record(Rejected("", "'text' is a number, not a string"), 3, 27, b'{"text": 5}')
    assert encoding.item == Rejected("", "not UTF-8 (byte 11 is 0xff)")


LINES = st.lists(st.sampled_from([b"", b"\r", b'{"text": "a"}', b'{"text": "\xc3\xa9"}\r', b"bad"]))


@given(LINES, st.booleans(), st.booleans(), st.lists(st.integers(0, 200)))
def test_ranges_cut_anywhere_give_every_record_once(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[bytes],
    mark: bool,
    newline: bool,
    cuts: list[int],
) -> None:
    path = tmp_path_factory.mktemp("ranges") / "a.jsonl"
    content = b"\xef\xbb\xbf" * mark + b"\n".join(lines) + b"\n" * newline
    path.write_bytes(content)
    places = sorted({0, *(cut for cut in cuts if cut < len(content))})

    ranges = [
        list(read(path, spec(path), begin, end))
        for begin, end in zip(places, [*places[1:], None], strict=True)
    ]

    assert [record._replace(line=0) for part in ranges for record in part] == [
        record._replace(line=0) for record in records(path)
    ]
    for begin, part in zip(places, ranges, strict=True):
        skipped = content[:begin].count(b"\n") + (begin > 0 and content[begin - 1 : begin] != b"\n")
        numbers = [record.line + skipped for record in part]
        assert numbers == [r.line for r in records(path) if r.line in numbers]
