"""Text folders, tables, and the layouts of web text and code that are replayed."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.errors import TaskError
from jobs.corpus.document import Document, Rejected
from jobs.corpus.formats.read import find, read
from jobs.data.cleaning import normalise

from .specs import documents, records, spec


def test_a_text_file_is_a_document_with_its_path_as_id(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "b.txt").write_bytes(b"\xef\xbb\xbfGive 5\xe2\x80\x9310 mg.\r\nA [fig].\n")
    (folder / "c.txt.gz").write_bytes(gzip.compress(b"Once."))
    (folder / "Readme.txt").write_text("About.")
    source = spec(folder, "text")

    files, ignored = find(source)
    first, second = (record for path in files for record in read(path, source))

    assert [path.name for path in ignored] == ["Readme.txt"]
    assert first.item == Document(
        "a/b.txt", "", "Give 5\u201310 mg.\r\nA [fig].\n", is_marked=False
    )
    assert (first.line, first.position) == (1, (folder / "a" / "b.txt").stat().st_size)
    assert second.item.id == "c.txt.gz"
    assert records(folder / "c.txt.gz", "text")[0].item.id == "c.txt.gz"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("10 \u00b5g".encode("latin-1"), "not UTF-8 (byte 4 is 0xb5)"),
        ("10 \u00b5g".encode("utf-16"), "not UTF-8 (byte 1 is 0xff)"),
        (b"a" * ((64 << 20) + 1), "a text of more than 64 MiB"),
    ],
)
def test_a_text_that_cannot_be_read_is_rejected(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(content)

    [record] = records(tmp_path / "a.txt", "text")

    assert record.item == Rejected("a.txt", problem)
    assert record.raw[:10] == content[:10]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_a_row_of_a_table_is_a_document(name: str, tmp_path: Path) -> None:
    text = 'Give "5, 6"\tmg\nto adults.'
    with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wt", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if name == "a.tsv" else ",")
        writer.writerows([["id", "text", "title", "PMID"], ["x", text, "T", "12"], []])
        writer.writerow(["y", "Once.", "", ""])

    first, second = records(tmp_path / name, "csv")

    assert first.item == Document("x", "T", text, {"pmid": "12"}, {}, is_marked=False)
    assert second.item == Document("y", "", "Once.", {}, {}, is_marked=False)
    assert (first.line, second.line) == (2, 5)
    assert second.position == (tmp_path / name).stat().st_size


def test_a_row_of_a_table_that_cannot_be_read_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfid,text\nx\ny,5 \xb5g\nz,a,b\nw,good\n")

    items = [record.item for record in records(tmp_path / "a.csv", "csv")]

    assert items[:3] == [
        Rejected("", "1 columns, the header has 2"),
        Rejected("", "not UTF-8 (byte 3 is 0xb5)"),
        Rejected("", "3 columns, the header has 2"),
    ]
    assert items[3].id == "w"
    assert records(tmp_path / "a.csv", "csv")[1].raw == b"y\t5 \xb5g"


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"id;text\nx;y\n", ": no column 'text' in the first line", "id;text"),
        (b"", ": no line with the names of columns", "copy or make"),
        (b'id,text\nx,"cut off', ":2: not a table (unexpected end of data)", "copy or make"),
        (b'id,text\na,b\nx,"a"b\n', ":3: not a table (',' expected after '\"')", "copy or make"),
    ],
)
def test_a_file_that_is_no_table_is_refused(
    content: bytes, message: str, hint: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(content)

    with pytest.raises(TaskError) as caught:
        records(tmp_path / "a.csv", "csv")

    assert caught.value.message == f"{tmp_path / 'a.csv'}{message}"
    assert hint in caught.value.hint


def test_a_field_of_fifty_megabytes_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"text\n{'a' * (50 << 20)}\nb\n")

    assert [len(item.text) for item in documents(tmp_path / "a.csv", "csv")] == [50 << 20, 1]


REPLAY = [
    (
        "redpajama",
        {"text": "A.", "meta": {"url": "https://a.example", "timestamp": "2023-01-02",
                                "language": "en", "source": "wikipedia", "title": "T"}},
        Document("", "T", "A.", {}, {"url": "https://a.example", "date": "2023-01-02",
                                     "languages": ["en"], "source": "wikipedia"}, is_marked=False),
    ),
    (
        "redpajama",
        {"text": "A.", "meta": '{"url": "https://a.example"}', "red_pajama_subset": "c4"},
        Document("", "", "A.", {}, {"url": "https://a.example"}, is_marked=False),
    ),
    (
        "falcon",
        {"content": "A.", "url": "https://a.example", "timestamp": "2023-01-02", "dump": "CC"},
        Document("", "", "A.", {}, {"url": "https://a.example", "date": "2023-01-02"},
                 is_marked=False),
    ),
    (
        "starcoder",
        {"max_stars_repo_path": "b/c.py", "max_stars_repo_name": "o/a", "id": "0",
         "content": "x = '[fig]'", "max_stars_count": 3,
         "max_stars_repo_licenses": ["MIT", "Apache-2.0"]},
        Document("o/a/b/c.py", "", "x = '[fig]'", {}, {"licence": "MIT, Apache-2.0"},
                 is_marked=False),
    ),
    ("starcoder", {"content": "An issue.", "id": 7},
     Document("7", "", "An issue.", {}, {}, is_marked=False)),
]  # fmt: skip


def test_a_time_of_a_parquet_file_is_a_date(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    time = pyarrow.array([datetime(2013, 5, 18, 10, 42)], pyarrow.timestamp("s"))
    path = tmp_path / "web.parquet"
    parquet.write_table(pyarrow.table({"content": ["A."], "timestamp": time}), path)

    [document] = documents(path, "falcon")

    assert document.meta == {"date": "2013-05-18T10:42:00"}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(("form", "record", "document"), REPLAY)
def test_layouts_of_replay_have_keys_of_their_own(
    form: str, record: dict[str, Any], document: Document, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([record]), path)
    else:
        path.write_text(json.dumps(record))

    assert documents(path, form) == [document]


def test_the_text_key_of_a_source_comes_before_that_of_its_format(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "a", "body": "b"}')

    assert documents(tmp_path / "a.jsonl", "falcon", text_key="body")[0].text == "b"


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.jsonl.zst", "a.parquet", "a.csv", "a.tsv", "a.txt"]
)
def test_every_golden_value_survives_plain_files(
    name: str, values: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    texts = [f"Give {value}.\nOr ({value})" for value in values]
    rows = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    form = "csv" if name in ("a.csv", "a.tsv") else "auto"
    if name == "a.parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif form == "csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if name == "a.tsv" else ",")
            writer.writerows([["id", "text"], *([row["id"], row["text"]] for row in rows)])
    elif name == "a.txt":
        form, texts = "text", ["\n".join(texts)]
        path.write_text(texts[0])
    elif name == "a.json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1))
    else:
        from jobs.data.json_stream import zstd

        lines = "\n".join(map(json.dumps, rows)).encode()
        path.write_bytes(zstd.compress(lines) if name.endswith("zst") else lines)

    assert [normalise(item.text)[0] for item in documents(path, form)] == texts
