"""Sessions of tests at once: what is shown, the exit status, and an interrupt."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .disks import mounted
from .ranks import wait_until
from .side_by_side import in_memory

REPOSITORY = Path(__file__).parents[1]
PROGRAM = (
    "import sys; from tests.side_by_side import run; words = sys.argv[1:];"
    "sys.exit(run(*(words[place : place + 3] for place in range(0, len(words), 3))))"
)
WAIT = """
import os, sys, time
from pathlib import Path
try:
    Path(sys.argv[1]).touch()
    time.sleep(300)
except KeyboardInterrupt:
    print("cleaned up", sys.argv[1].rpartition("/")[2])
    sys.exit(2)
"""


def start(*commands: tuple[str, str]) -> subprocess.Popen[str]:
    """Start Python programs with one argument each."""
    words = [word for code, argument in commands for word in (sys.executable, code, argument)]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(WAIT)
    return path


@pytest.mark.parametrize(
    ("codes", "status"), [((0, 0, 0), 0), ((0, 1, 0), 1), ((0, 0, 2), 2), ((3, 0, 1), 3)]
)
def test_the_status_is_that_of_the_part_that_failed(
    tmp_path: Path, codes: tuple[int, int, int], status: int
) -> None:
    path = tmp_path / "ends.py"
    path.write_text("import sys; print('ran', sys.argv[1]); sys.exit(int(sys.argv[1][-1]))")

    words = [f"{name}{code}" for name, code in zip("abc", codes, strict=True)]
    process = start(*((str(path), word) for word in words))
    output, _ = process.communicate()

    assert process.returncode == status
    lines = output.splitlines()
    assert lines[:3] == [f"ran {word}" for word in words]
    assert [end.partition(": ")[2] for end in lines[3:]] == [
        f"exit status {code}" if code else "passed" for code in codes
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_each_once_and_is_waited_for(
    tmp_path: Path, program: Path, number: signal.Signals
) -> None:
    begun = [tmp_path / "one", tmp_path / "other", tmp_path / "third"]
    process = start(*((str(program), str(file)) for file in begun))
    wait_until(lambda: all(file.exists() for file in begun) or process.poll() is not None)

    process.send_signal(number)
    output, _ = process.communicate()

    assert process.returncode == 2
    assert output.splitlines()[:3] == ["cleaned up one", "cleaned up other", "cleaned up third"]


@pytest.mark.parametrize(
    ("size", "free", "used"),
    [
        ("5g", 9 << 30, True),
        ("3g", 9 << 30, False),
        ("5g", 7 << 30, False),
        ("5g,noexec", 9 << 30, False),
    ],
)
def test_a_session_is_in_memory_where_that_has_room(
    tmp_path: Path, size: str, free: int, used: bool
) -> None:
    with mounted(tmp_path / "memory", size) as folder:
        words = in_memory(folder, free)

    assert words == ["env", f"TMPDIR={folder}"] * used


def test_a_session_is_on_the_disk_where_no_memory_is_mounted(tmp_path: Path) -> None:
    assert in_memory(tmp_path / "none", 9 << 30) == []
