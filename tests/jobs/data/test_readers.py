"""Reading records: large arrays, long windows, byte order marks, places in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.errors import TaskError
from jobs.data import json_stream, json_text, readers
from jobs.data.json_stream import zstd

TEXT = 'Warfarin interacts with [many] drugs, {among others} "amiodarone", \\ and more. ' * 40


def records(path: Path) -> list[readers.SourceRecord]:
    return list(readers.read_records(path, ("text", "id")))


def test_an_array_of_many_blocks_is_read_element_by_element(tmp_path: Path) -> None:
    documents = [{"id": number, "text": f"{number} {TEXT}"} for number in range(1500)]
    path = tmp_path / "docs.json"
    path.write_text(json.dumps(documents, indent=2))
    assert path.stat().st_size > 4 * json_text.BLOCK_BYTES

    found = records(path)

    assert [record.value for record in found] == documents
    assert [record.line for record in found] == list(range(2, 6002, 4))


def test_an_element_longer_than_several_blocks_is_read(tmp_path: Path) -> None:
    documents = [{"text": "a"}, {"text": "\u00e9" * 5 * json_text.BLOCK_BYTES}, {"text": "b"}]
    path = tmp_path / "docs.json"
    path.write_text(json.dumps(documents, ensure_ascii=False), encoding="utf-8")

    assert [record.value for record in records(path)] == documents


def test_a_number_across_two_blocks_is_one_element(tmp_path: Path) -> None:
    path = tmp_path / "docs.json"
    start = "[" + " " * (json_text.BLOCK_BYTES - 4)
    path.write_text(start + "123456, 7]")

    with path.open("rb") as stream:
        assert list(json_stream.elements(path, stream)) == [(1, b"123456"), (1, b"7")]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=10,
)


@given(st.lists(JSON), st.sampled_from([None, 0, 2]), st.booleans())
def test_elements_are_those_of_the_whole_array(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[object],
    indent: int | None,
    ascii_only: bool,
) -> None:
    path = tmp_path_factory.mktemp("array") / "values.json"
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))

    with path.open("rb") as stream:
        found = [json.loads(raw) for _, raw in json_stream.elements(path, stream)]

    assert found == values


@pytest.mark.parametrize("name", ["docs.jsonl", "docs.json"])
def test_a_byte_order_mark_is_no_part_of_the_first_record(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    content = (
        '{"text": "a"}\n{"text": "b"}\n'
        if name.endswith("l")
        else '[{"text": "a"},\n{"text": "b"}]'
    )
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())

    assert [(record.line, record.value["text"]) for record in records(path)] == [(1, "a"), (2, "b")]


def test_a_json_file_of_lines_is_read_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "docs.json"
    path.write_text('\n {"text": "a"}\n{"text": "b"}')

    assert [(record.line, record.value["text"]) for record in records(path)] == [(2, "a"), (3, "b")]


@pytest.mark.parametrize("window_log", [28, 31])
def test_zstd_with_a_window_beyond_the_usual_limit_is_read(tmp_path: Path, window_log: int) -> None:
    parameter = zstd.CompressionParameter
    options = {parameter.window_log: window_log, parameter.compression_level: 1}
    path = tmp_path / "docs.jsonl.zst"
    with zstd.ZstdFile(path, "w", options=options) as file:  # as `zstd --long=31` on a pipe
        file.write(b'{"text": "a"}\n' * 1000)

    assert len(records(path)) == 1000


def test_skippable_frames_between_others_are_passed_over(tmp_path: Path) -> None:
    frame = zstd.compress(b'{"text": "a"}\n')
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    path = tmp_path / "docs.jsonl.zst"
    path.write_bytes(skippable + frame + skippable + frame)

    assert len(records(path)) == 2


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "a"}\n')
        file.truncate(json_text.MAX_RECORD_BYTES + 100)

    with pytest.raises(TaskError) as refused:
        records(path)

    assert refused.value.message == f"{path}:2: a line of more than 64 MiB"


def test_positions_grow_to_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text('{"text": "a"}\n' * 20_000)

    positions = [record.position for record in records(path)]

    assert positions == sorted(positions)
    assert positions[-1] == path.stat().st_size
