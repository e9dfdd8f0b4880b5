"""Output on stdout, and the layout of tables."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections import Counter
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
    """Return the table as a terminal of so many columns receives it."""
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


TABLES = [
    [
        ("run", "state", "stage", "done", "loss", "left"),
        ("med-tiny-2471f1d0", "running", "curate", "0/1 tasks, 43% of 1.2 GB", "-", "3h 05m"),
        ("a-run-with-a-very-long-name-70b-0c0ffee0-2", "failed", "pretrain", "9/9", "5.474", "-"),
    ],
    [
        ("stage", "state", "done", "attempts", "jobs"),
        ("curate", "succeeded", "0/1 tasks", "12", "1234567_0, 1234567_1 … 900 in all"),
    ],
    [
        ("benchmark", "step", "accuracy", "95 % interval", "chance", "questions", "p"),
        ("cardiology", "12000", "34.2%", "31.0% to 37.5%", "25.0%", "1200", "0.34"),
    ],
    [
        ("what", "h:mm:ss", "share", ""),
        ("training", "105:10:09", "97.5%", "steps that count"),
        ("in all", "110:00:00", "-", "-"),
    ],
]


@pytest.mark.parametrize("table", TABLES)
def test_no_width_of_the_terminal_breaks_a_number_or_loses_a_character(
    table: list[tuple[str, ...]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for width in range(20, 121):
        monkeypatch.setenv("COLUMNS", str(width))
        console.draw(table[0], table[1:])

        out, err = capsys.readouterr()
        left_out = err.partition("columns left out: ")[2].split()
        kept = [n for n, column in enumerate(table[0]) if column not in left_out]
        words = " ".join(row[number] for row in table for number in kept).split()
        short = {word for word in words if len(word) <= console.WORD_WIDTH}
        assert short <= set(out.split()), (width, out)
        assert Counter("".join(words)) == Counter("".join(out.split())), (width, out)


def test_a_table_that_fits_is_not_wider_than_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of these columns need 62 columns."""
    for width in range(62, 121):
        monkeypatch.setenv("COLUMNS", str(width))
        console.draw(TABLES[2][0], TABLES[2][1:])

        lines = capsys.readouterr().out.splitlines()
        assert max(len(line.rstrip()) for line in lines) <= width


def test_no_color_means_no_escape_sequence_at_all() -> None:
    assert "\x1b[1m" in drawn(80)
    assert "\x1b[" not in drawn(80, NO_COLOR="1")
