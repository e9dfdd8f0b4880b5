"""What goes to stdout and how tables look."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

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


TABLE = """
from meditron_cli import console
console.table(
    ("stage", "state", "jobs"),
    [("curate", "succeeded", "1234567_0"), ("tokenize", "running", "1234568_0, 1234568_1")],
)
"""


def drawn(columns: int, **environ: str) -> str:
    """The table as a terminal of so many columns receives it."""
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", TABLE],
        env={"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": str(columns), **environ},
        cwd=Path(__file__).parents[2],
        stdout=terminal,
        stderr=subprocess.STDOUT,
    ):
        os.close(terminal)
        parts = []
        with suppress(OSError):  # EIO: the program has closed the terminal
            while part := os.read(controller, 4096):
                parts.append(part)
    os.close(controller)
    return b"".join(parts).decode()


def test_a_wide_terminal_shows_every_column() -> None:
    assert "1234568_0, 1234568_1" in drawn(80)


def test_a_narrow_terminal_drops_job_ids_and_breaks_no_word() -> None:
    text = drawn(24)

    assert "1234567" not in text
    assert "columns left out: jobs" in text
    assert all(word in text for word in ("tokenize", "succeeded", "running"))


def test_no_color_means_no_escape_sequence_at_all() -> None:
    assert "\x1b[1m" in drawn(80)
    assert "\x1b[" not in drawn(80, NO_COLOR="1")
