"""The live view in a terminal: redrawn in place, and gone without a trace."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.contract.events import append_event
from jobs.contract.rundir import RunDir
from jobs.runtime import processes

from .... import metric_lines
from ....conftest import Bench
from ....ranks import wait_until
from .tmux import Tmux

WATCH = "$PYTHON -m meditron_cli status --watch"


@pytest.fixture
def run(training: RunDir) -> RunDir:
    """Return a run whose training has made twenty steps."""
    metric_lines.append(training, *map(metric_lines.step, range(1, 21)))
    return training


def start(terminal: Tmux, words: str, folder: Path) -> None:
    """Start a view, between records of the terminal's settings."""
    terminal.wait_for_text("$")
    terminal.type(f"cd {folder}; stty -g >before; clear; echo earlier")
    terminal.wait_for(lambda shown: shown.rstrip() == "earlier\n$")
    terminal.type(words)
    terminal.wait_for_text("q leaves")


def assert_as_before(terminal: Tmux, folder: Path, code: int) -> None:
    """Assert that a view ended with a code, and that the terminal is as it was."""
    terminal.wait_for(lambda shown: "q leaves" not in shown and shown.rstrip().endswith("$"))
    terminal.type("echo code=$?; stty -g >after; echo typed")
    screen = terminal.wait_for(lambda shown: re.search("^typed$", shown, re.MULTILINE) is not None)

    assert re.search(f"^code={code}$", screen, re.MULTILINE)
    assert re.search("^earlier$", terminal.history(), re.MULTILINE)
    assert terminal.value("alternate_on") == "0"
    assert terminal.value("cursor_flag") == "1"
    assert (folder / "before").read_text() == (folder / "after").read_text()


@pytest.mark.parametrize(
    ("way", "code"), [("q", 0), ("C-c", 130), ("C-\\", 131), ("TERM", 143), ("HUP", 129)]
)
def test_leaving_the_view_restores_the_terminal(
    terminal: Callable[..., Tmux], run: RunDir, tmp_path: Path, way: str, code: int
) -> None:
    shell = terminal()
    start(shell, f"{WATCH} {run.name}", tmp_path)

    assert shell.value("alternate_on") == "1"
    assert shell.value("cursor_flag") == "0"
    assert run.name in shell.screen()
    shell.press("x", "y")  # no key but q does anything, and none is echoed
    if way in ("TERM", "HUP"):
        child = f"/proc/{shell.value('pane_pid')}/task/{shell.value('pane_pid')}/children"
        shell.command("run-shell", f"kill -{way} $(cat {child})")
    else:
        shell.press(way)
    assert_as_before(shell, tmp_path, code)


@pytest.mark.full
@pytest.mark.parametrize(("way", "code"), [("q", 0), ("C-c", 130)])
def test_a_squeue_that_hangs_ends_with_the_view(
    terminal: Callable[..., Tmux], run: RunDir, tmp_path: Path, way: str, code: int
) -> None:
    where = {"stage": "pretrain", "attempt": 2, "indices": [0], "job_ids": ["7"]}
    append_event(run, "submit", scheduler="slurm", **where)
    programs = tmp_path / "programs"
    programs.mkdir()
    # It ignores what Ctrl-C sends to all processes of a terminal.
    hang = f"trap '' INT\nsleep 600 &\necho $$ $! >{tmp_path}/pids\nwait\n"
    (programs / "squeue").write_text(f"#!/bin/sh\n{hang}")
    (programs / "squeue").chmod(0o755)
    shell = terminal(PATH=f"{programs}:{os.environ['PATH']}")
    start(shell, f"{WATCH} {run.name}", tmp_path)
    wait_until(lambda: len((tmp_path / "pids").read_text().split()) == 2)
    pids = map(int, (tmp_path / "pids").read_text().split())
    shell.press(way)

    assert_as_before(shell, tmp_path, code)
    for pid in pids:
        wait_until(lambda pid=pid: (found := processes.read(pid)) is None or found.state == "Z")


def test_the_view_follows_the_size_and_the_run(
    terminal: Callable[..., Tmux], run: RunDir, tmp_path: Path, finish: Callable[..., None]
) -> None:
    shell = terminal(120, 30)
    start(shell, f"{WATCH} {run.name}", tmp_path)
    shell.wait_for_text("steps 1 to 20")
    shell.command("resize-window", "-x", "40", "-y", "20")
    whole = re.compile(rf"{run.name[:20]}.*\n── stages ──────.*\nq leaves.*\n", re.DOTALL)
    narrow = shell.wait_for(
        lambda shown: shown.count("\n") == 20 and whole.fullmatch(shown) is not None
    )
    metric_lines.append(run, *map(metric_lines.step, range(21, 31)))
    shell.wait_for_text("steps 1 to 30")
    finish(run, "pretrain", 0)
    shell.wait_for_text("100%")

    assert max(map(len, narrow.splitlines())) <= 40
    shell.press("q")
    assert_as_before(shell, tmp_path, 0)


def test_the_view_can_be_suspended(
    terminal: Callable[..., Tmux], run: RunDir, tmp_path: Path
) -> None:
    shell = terminal()
    start(shell, f"{WATCH} {run.name}", tmp_path)
    shell.press("C-z")
    stopped = shell.wait_for_text("Stopped")
    shell.type("fg")
    shell.wait_for_text("q leaves")
    shell.press("q")

    assert "q leaves" not in stopped
    assert_as_before(shell, tmp_path, 0)


def test_a_run_that_is_removed_ends_the_view_with_the_reason(
    terminal: Callable[..., Tmux], run: RunDir, tmp_path: Path
) -> None:
    shell = terminal(120)
    start(shell, f"{WATCH} {run.name}", tmp_path)
    run.root.rename(tmp_path / "elsewhere")  # at once: a view that reads half of it reports that

    assert_as_before(shell, tmp_path, 2)
    assert "the run directory was moved or removed" in shell.screen().replace("\n", "")


def test_all_runs_have_a_view_of_their_own(
    terminal: Callable[..., Tmux], run: RunDir, tmp_path: Path
) -> None:
    shell = terminal(70, 12)
    start(shell, WATCH, tmp_path)

    assert run.name in shell.wait_for_text("runs in ")
    shell.press("q")
    assert_as_before(shell, tmp_path, 0)


def test_a_view_without_job_control_is_not_suspended(
    terminal: Callable[..., Tmux], run: RunDir, tmp_path: Path
) -> None:
    """Nobody could continue it: `xterm -e meditron …`, `ssh -t HOST meditron …`."""
    shell = terminal()
    shell.command("set-option", "remain-on-exit", "on")
    start(shell, f"exec sh -c '{WATCH} {run.name}; echo $? >code; mv code ended'", tmp_path)
    shell.press("C-z")

    def ended(shown: str) -> bool:
        shell.press("q")  # again, if the first came before the view was drawn again
        return (tmp_path / "ended").exists()

    shell.wait_for(ended)
    assert (tmp_path / "ended").read_text() == "0\n"


def test_a_console_without_braille_gets_ascii(
    terminal: Callable[..., Tmux], run: RunDir, tmp_path: Path
) -> None:
    shell = terminal(80, 24, TERM="linux")
    start(shell, f"{WATCH} {run.name}", tmp_path)

    assert shell.screen().isascii()


@pytest.mark.parametrize("kind", ["dumb", "unknown"])
def test_a_terminal_without_cursor_control_gets_plain_text(
    terminal: Callable[..., Tmux], run: RunDir, kind: str
) -> None:
    shell = terminal(100, 30, TERM=kind)
    shell.type(f"{WATCH} {run.name}")
    shell.wait_for_text("stage ")

    assert shell.value("alternate_on") == "0"
    assert f"in  {run.root}" in shell.screen()
    shell.press("C-c")
    shell.wait_for_text("interrupted")


@pytest.mark.parametrize("keyboard", ["/dev/null", "&-"])
def test_a_view_without_a_keyboard_ends_with_a_signal(
    terminal: Callable[..., Tmux], run: RunDir, tmp_path: Path, keyboard: str
) -> None:
    shell = terminal()
    start(shell, f"{WATCH} {run.name} <{keyboard}", tmp_path)
    shell.press("C-c")

    assert_as_before(shell, tmp_path, 130)


def test_an_unknown_run_is_refused_before_the_screen_is_taken(
    terminal: Callable[..., Tmux], meditron: Bench
) -> None:
    meditron.submit(stage="curate")
    shell = terminal()
    shell.type(f"{WATCH} nosuchrun")

    assert "no run" in shell.wait_for_text("error: ")
