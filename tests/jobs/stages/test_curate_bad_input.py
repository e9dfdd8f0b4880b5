"""Input that curate refuses: one sentence, one hint, exit code 2 and no output."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from jobs.data.cleaning import MAX_DOCUMENT_BYTES
from jobs.data.json_stream import zstd


@pytest.fixture
def bench(forked: Any) -> Any:
    return forked


READABLE = (
    "files to read end in .jsonl, .json, .xml or .nxml, alone or with .gz or .zst, in .parquet, or "
    "in .tar.gz with articles in XML; .csv, .tsv and .txt need a `format` of their source"
)
AGAIN = "copy or make the file again, then {meditron resume}"
CORRECT = "correct the record, or set curate.on_bad_record to skip to leave such ones out"
MISSING = "correct curate.sources, or put it where the nodes see it"

UNREADABLE = "check its permissions and its file system"

GOOD = {"id": "a", "text": "A document that is long enough."}
GOOD_LINE = json.dumps(GOOD).encode() + b"\n"


def noise(size: int) -> bytes:
    """Text that hardly compresses, so that a file can be cut in its middle."""
    return b"".join(
        json.dumps({"id": n, "text": os.urandom(40).hex()}).encode() + b"\n"
        for n in range(size // 100)
    )


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def parquet_bytes(table: pyarrow.Table) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def invalid_strings() -> pyarrow.Table:
    binary = pyarrow.array([b"A document that is long enough.", b"broken \xff\xfe"])
    text = pyarrow.Array.from_buffers(pyarrow.string(), 2, binary.buffers())
    return pyarrow.table({"text": text})


def check(bench: Any, source: Path, message: str, hint: str) -> None:
    """Run curate and check its message, exit code and lack of output."""
    bench.curate(source)

    result = bench.start("curate")

    assert result.stderr == f"curate: {message}\nhint: {bench.run.hint(hint)}\n"
    assert result.stdout == ""
    assert result.returncode == 2
    assert not bench.run.path("corpus/train").exists()
    assert not bench.run.done("curate", 0).exists()


BAD_LINES: list[tuple[bytes, str]] = [
    (b"not json", "not JSON (invalid literal, expected 'null', at character 1)"),
    (b'{"text": "cut off', "not JSON (unexpected end of data, at character 18)"),
    (b'{"text": "a"} {}', "not JSON (unexpected content after document, at character 15)"),
    (b'{"text": "\\ud800"}', "not JSON (no low surrogate in string, at character 11)"),
    (b'{"text": NaN}', "not JSON (unexpected character, expected a JSON value, at character 10)"),
    (b'{"text": "caf\xe9 au lait"}', "not UTF-8 (byte 14 is 0xe9)"),
    (b'["text"]', "a list, not an object"),
    (b'"text"', "a string, not an object"),
    (b"null", "null, not an object"),
    (b"12.5", "a number, not an object"),
    (b'{"id": "b", "body": "words"}', "no key 'text' (keys: 'id', 'body')"),
    (b"{}", "no key 'text' (keys: none)"),
    (b'{"text": null}', "'text' is null, not a string"),
    (b'{"text": 5}', "'text' is a number, not a string"),
    (b'{"text": true}', "'text' is a truth value, not a string"),
    (b'{"text": ["a", "b"]}', "'text' is a list, not a string"),
    (b'{"text": {"en": "a"}}', "'text' is an object, not a string"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "problem"), BAD_LINES)
def test_a_bad_line_stops_the_task_with_file_and_line(
    line: bytes, problem: str, bench: Any, tmp_path: Path
) -> None:
    source = tmp_path / "docs.jsonl"
    source.write_bytes(GOOD_LINE + b"\n  \r\n" + line + b"\n" + GOOD_LINE)

    check(bench, source, f"{source}:4: {problem}", CORRECT)


@pytest.mark.parametrize(
    ("ids", "more"), [("aab", ""), ("aabaccb", ", 3 other documents likewise")]
)
def test_ids_of_several_texts_are_refused_with_their_number(
    ids: str, more: str, bench: Any, write_jsonl: Any
) -> None:
    records = [{"id": name, "text": f"The text number {at}."} for at, name in enumerate(ids)]
    source = write_jsonl("in/docs.jsonl", *records)

    check(
        bench,
        source,
        f"{source}: two documents with different texts have the id 'a'{more}",
        "correct the ids; or --set curate.id_key=none makes digests of the texts the ids; or "
        "--set curate.on_bad_record=skip keeps one of the two and sets the others aside",
    )


LONG = "heart " * (MAX_DOCUMENT_BYTES // 6 + 1)
TOO_LONG = "the text has {} bytes, a document may have 16,777,216; split it into shorter documents"


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_document_longer_than_tokenization_can_hold_is_refused(
    suffix: str, bench: Any, tmp_path: Path
) -> None:
    source = tmp_path / f"docs.{suffix}"
    if suffix == "parquet":
        source.write_bytes(parquet_bytes(pyarrow.table({"text": [GOOD["text"], LONG]})))
    else:
        source.write_bytes(GOOD_LINE + json.dumps({"text": LONG}).encode())

    check(bench, source, f"{source}:2: {TOO_LONG.format('16,777,217')}", CORRECT)


def test_a_document_that_normalisation_makes_too_long_is_kept_aside(
    bench: Any, tmp_path: Path
) -> None:
    letter = "\u0958"  # NFC takes six bytes for it, not three
    text = letter + LONG[: MAX_DOCUMENT_BYTES - 3]
    source = tmp_path / "docs.jsonl"
    source.write_bytes(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" + GOOD_LINE)
    bench.curate(source, on_bad_record="skip")

    result = bench.start("curate")

    assert (result.returncode, result.stderr) == (0, "")
    assert bench.done("curate")["summary"]["bad"] == 1
    (line,) = bench.run.path("corpus/rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == TOO_LONG.format("16,777,219")
    assert json.loads(line)["record"].startswith("\u0915\u093c")


def test_skipped_records_are_counted_and_kept_aside(bench: Any, tmp_path: Path) -> None:
    source = tmp_path / "docs.jsonl.gz"
    source.write_bytes(gzip.compress(b"".join(line + b"\n" for line, _ in BAD_LINES) + GOOD_LINE))
    bench.curate(source, on_bad_record="skip", validation_fraction=0.0)

    result = bench.start("curate")

    assert (result.returncode, result.stderr) == (0, "")
    assert bench.documents() == [{**GOOD, "source": "docs"}]
    summary = bench.done("curate")["summary"]
    assert (summary["in"], summary["kept"], summary["bad"]) == (
        len(BAD_LINES) + 1,
        1,
        len(BAD_LINES),
    )
    rejected = bench.run.path("corpus/rejected.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in rejected] == [
        {
            "file": str(source),
            "line": number,
            "reason": problem,
            "record": line.decode(errors="replace"),
        }
        for number, (line, problem) in enumerate(BAD_LINES, start=1)
    ]


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        (b'[\n{"text": "A document that is long enough."},\n7]', 3, "a number, not an object"),
        (b'[{"text": "A document."},\n\n{"text": "\xe9"}]', 3, "not UTF-8 (byte 11 is 0xe9)"),
        (b'[{"text": 3}]', 1, "'text' is a number, not a string"),
    ],
)
def test_a_bad_element_of_an_array_stops_the_task_with_file_and_line(
    content: bytes, line: int, problem: str, bench: Any, tmp_path: Path
) -> None:
    source = tmp_path / "docs.json"
    source.write_bytes(content)

    check(bench, source, f"{source}:{line}: {problem}", CORRECT)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'[{"text": "A document."},\n{"text": "cut', 2),
        (b'[{"text": "A document."}\n', 2),
        (b'[{"text": "A document."},\n\n oops]', 3),
        (b'[{"text": "A document."}]\n[{"text": "Another."}]', 2),
        (b"[", 1),
    ],
)
def test_a_broken_array_is_refused_where_it_breaks(
    content: bytes, line: int, bench: Any, tmp_path: Path
) -> None:
    source = tmp_path / "docs.json"
    source.write_bytes(content)
    message = f"{source}:{line}: the JSON array is broken or cut off here"

    check(bench, source, message, "make the file again, or write one JSON object per line")


TEXT = noise(300_000)
GZIP = gzip.compress(TEXT, mtime=0)
ZSTD = zstd.compress(TEXT, options={zstd.CompressionParameter.checksum_flag: 1})
PARQUET = parquet_bytes(pyarrow.table({"text": [os.urandom(40).hex() for _ in range(3000)]}))

NOT_ZSTD = "Unable to decompress Zstandard data: Unknown frame descriptor"
DAMAGED: list[tuple[str, bytes, str]] = [
    ("d.jsonl.gz", GZIP[: len(GZIP) // 2], "truncated gzip file"),
    ("d.jsonl.gz", GZIP[:-4], "truncated gzip file"),
    ("d.jsonl.gz", GZIP + GZIP[:5], "truncated gzip file"),
    ("d.jsonl.gz", b"", "truncated gzip file"),
    ("d.jsonl.gz", GOOD_LINE, "corrupt gzip file (Not a gzipped file (b'{\"'))"),
    ("d.jsonl.zst", ZSTD[: len(ZSTD) // 2], "truncated zstd file"),
    ("d.jsonl.zst", ZSTD[:-2], "truncated zstd file"),
    ("d.jsonl.zst", ZSTD + ZSTD[:3], "truncated zstd file"),
    ("d.jsonl.zst", b"", "truncated zstd file"),
    ("d.jsonl.zst", GOOD_LINE, f"corrupt zstd file ({NOT_ZSTD})"),
    ("d.parquet", PARQUET[: len(PARQUET) // 2], "truncated parquet file"),
    ("d.parquet", b"", "corrupt parquet file (Parquet file size is 0 bytes)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "what"), DAMAGED)
def test_a_damaged_file_is_named_and_called_truncated_or_corrupt(
    name: str, content: bytes, what: str, bench: Any, tmp_path: Path
) -> None:
    source = tmp_path / name
    source.write_bytes(content)

    check(bench, source, f"{source}: {what}", AGAIN)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("d.jsonl.gz", flipped(GZIP, len(GZIP) - 6), "corrupt gzip file (CRC check failed "),
        ("d.jsonl.gz", GZIP[:5000] + b"\xff" * 99 + GZIP[5099:], "corrupt gzip file ("),
        ("d.jsonl.zst", flipped(ZSTD, len(ZSTD) - 2), "corrupt zstd file ("),
        ("d.jsonl.zst", ZSTD[:5000] + b"\xff" * 99 + ZSTD[5099:], "corrupt zstd file ("),
        ("d.parquet", flipped(PARQUET, len(PARQUET) // 2), "corrupt parquet file ("),
        ("d.parquet", PARQUET[:-40] + b"\xff" * 30 + PARQUET[-10:], "corrupt parquet file ("),
    ],
)
@pytest.mark.parametrize("on_bad_record", ["fail", "skip"])
def test_damage_inside_a_file_is_found_and_never_skipped(
    name: str, content: bytes, what: str, on_bad_record: str, bench: Any, tmp_path: Path
) -> None:
    source = tmp_path / name
    source.write_bytes(content)
    bench.curate(source, on_bad_record=on_bad_record)

    result = bench.start("curate")

    assert result.stderr.startswith(f"curate: {source}: {what}")
    assert result.stderr.endswith(f"\nhint: {bench.run.hint(AGAIN)}\n")
    assert result.stderr.count("\n") == 2
    assert result.returncode == 2
    assert bench.files("corpus") == {}


@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        (
            pyarrow.table({"body": ["a"], "pmid": [1]}),
            ": no column 'text'",
            "set curate.text_key to one of its columns: body, pmid",
        ),
        (pyarrow.table({"text": ["long text", None]}), ":2: 'text' is null, not a string", CORRECT),
        (pyarrow.table({"text": [1, 2]}), ":1: 'text' is a number, not a string", CORRECT),
        (pyarrow.table({"text": [b"abc"]}), ":1: 'text' is binary, not a string", CORRECT),
        (invalid_strings(), ":2: not UTF-8 (byte 8 is 0xff)", CORRECT),
    ],
)  # fmt: skip
def test_parquet_without_usable_text_is_refused_with_its_row(
    table: pyarrow.Table, message: str, hint: str, bench: Any, tmp_path: Path
) -> None:
    source = tmp_path / "docs.parquet"
    parquet.write_table(table, source)

    check(bench, source, f"{source}{message}", hint)


def missing(folder: Path) -> Path:
    return folder / "nowhere.jsonl"


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / "docs.jsonl"


def dangling_link(folder: Path) -> Path:
    (folder / "docs.jsonl").symlink_to(folder / "gone.jsonl")
    return folder / "docs.jsonl"


def link_to_itself(folder: Path) -> Path:
    (folder / "docs.jsonl").symlink_to(folder / "docs.jsonl")
    return folder / "docs.jsonl"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "docs.jsonl")
    return folder / "docs.jsonl"


def other_kind(folder: Path) -> Path:
    (folder / "docs.txt").write_text("text")
    return folder / "docs.txt"


def archive(folder: Path) -> Path:
    (folder / "docs.zip").write_bytes(b"")
    return folder / "docs.zip"


def empty_folder(folder: Path) -> Path:
    (folder / "in").mkdir()
    return folder / "in"


SOURCES: list[tuple[Callable[[Path], Path], str, str]] = [
    (missing, "no such file or folder", MISSING),
    (below_a_file, "no such file or folder", MISSING),
    (dangling_link, "no such file or folder", MISSING),
    (link_to_itself, "cannot be read (Too many levels of symbolic links)", UNREADABLE),
    (pipe, "not a regular file", READABLE),
    (other_kind, "not a document file", READABLE),
    (archive, "not a document file", READABLE),
    (empty_folder, "no document file in this folder", READABLE),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message", "hint"), SOURCES)
def test_a_source_that_cannot_be_read_is_named(
    make: Callable[[Path], Path], message: str, hint: str, bench: Any, tmp_path: Path
) -> None:
    source = make(tmp_path)

    check(bench, source, f"{source}: {message}", hint)


def test_a_dangling_link_inside_a_folder_is_named(bench: Any, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    link = dangling_link(folder)

    check(bench, folder, f"{link}: no such file or folder", MISSING)


def test_a_source_that_holds_the_run_itself_is_refused(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_bytes(GOOD_LINE)
    message = f"{tmp_path}: this folder holds the run directory {bench.run.root}"

    check(bench, tmp_path, message, "keep documents and runs in different folders")


def test_a_link_in_a_source_that_leads_to_the_run_is_refused(bench: Any, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "docs.jsonl").write_bytes(GOOD_LINE)
    (folder / "runs").symlink_to(bench.run.root.parent)
    specs = folder / "runs" / "run" / "stages" / "curate" / "spec"
    message = f"{specs}: a link in the source leads into the run directory {bench.run.root}"

    check(bench, folder, message, "keep documents and runs in different folders")


@pytest.mark.parametrize(
    ("content", "counts"),
    [
        (b"", "files: 1, records: 0, empty: 0, length: 0, bad: 0, duplicate: 0"),
        (b"\n\n", "files: 1, records: 0, empty: 0, length: 0, bad: 0, duplicate: 0"),
        (
            b'{"text": ""}\n{"text": "tiny"}\n{"text": " "}\n',
            "files: 1, records: 3, empty: 2, length: 1, bad: 0, duplicate: 0",
        ),
    ],
)
def test_a_corpus_without_a_document_is_refused(
    content: bytes, counts: str, bench: Any, tmp_path: Path
) -> None:
    source = tmp_path / "docs.jsonl"
    source.write_bytes(content)
    hint = "see curate.sources, curate.text_key and curate.min_chars"

    check(bench, source, f"no document left ({counts})", hint)


def test_a_corpus_all_in_validation_is_refused(bench: Any, tmp_path: Path) -> None:
    source = tmp_path / "docs.jsonl"
    source.write_bytes(GOOD_LINE)
    bench.curate(source, validation_fraction=1.0)

    result = bench.start("curate")

    assert result.returncode == 2
    assert result.stderr == (
        "curate: no document is in the training split, 1 document in the validation split\n"
        "hint: lower curate.validation_fraction or add documents\n"
    )


def test_after_a_failed_rerun_the_earlier_corpus_stays_without_a_marker(
    bench: Any, tmp_path: Path
) -> None:
    source = tmp_path / "docs.jsonl"
    source.write_bytes(GOOD_LINE)
    task = bench.curate(source, validation_fraction=0.0)
    assert bench.start("curate").returncode == 0
    before = bench.files("corpus")
    source.write_bytes(GOOD_LINE + b"oops\n")

    assert bench.start("curate").returncode == 2

    assert bench.files("corpus") == before
    assert not bench.is_done(task)


def test_any_name_of_a_file_can_be_written_and_shown(bench: Any, tmp_path: Path) -> None:
    """Names need not be UTF-8 and may have line breaks, which would end the sentence."""
    folder = tmp_path / "in"
    folder.mkdir()
    source = Path(os.fsdecode(bytes(folder) + b'/caf\xe9\nhint: "x".jsonl'))
    source.write_bytes(GOOD_LINE + b"oops\n")
    bench.curate(folder)

    result = bench.start("curate")

    assert result.returncode == 2
    first, hint = result.stderr.splitlines()
    assert first.startswith(f'curate: {folder}/caf\\udce9\\nhint: "x".jsonl:2: not JSON')
    assert hint == f"hint: {CORRECT}"

    bench.curate(folder, on_bad_record="skip", validation_fraction=0.0)
    assert bench.start("curate").returncode == 0
    (rejected,) = bench.run.path("corpus/rejected.jsonl").read_text().splitlines()
    assert json.loads(rejected)["file"] == f'{folder}/caf\\xe9\nhint: "x".jsonl'
