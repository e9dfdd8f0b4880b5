"""What goes to stdout and how tables look."""

from __future__ import annotations

import io

import pytest

from meditron_cli import console


def test_a_table_outside_a_terminal_is_whole_and_plain(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.table(("run", "state"), [("a" * 100, "failed"), ("[b]", None)])

    captured = capsys.readouterr()
    assert captured.out == f"{'run':100}  state\n{'a' * 100}  failed\n{'[b]':100}  -\n"
    assert captured.err == ""


def test_remarks_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.note("one")
    console.warning("two")

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "one\nwarning: two\n")


def test_json_names_its_format_first(capsys: pytest.CaptureFixture[str]) -> None:
    console.json_out({"run": "a"})

    assert capsys.readouterr().out == '{\n "format": 1,\n "run": "a"\n}\n'


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    assert not console.fancy(io.StringIO())
