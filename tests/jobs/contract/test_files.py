"""Whole-file writes and flushes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.contract.files import append_lines, write_bytes

from ...disks import mounted

REPOSITORY = Path(__file__).parents[3]

FLUSH = """
import resource, sys
from pathlib import Path
from jobs.contract.files import fsync_tree
import concurrent.futures.thread
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 4_000_000  # no room for the stack of a thread
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
fsync_tree(Path(sys.argv[1]))
"""


def test_a_folder_is_flushed_where_the_address_space_has_no_room_for_threads(
    tmp_path: Path,
) -> None:
    for number in range(20):
        (tmp_path / f"{number}.json").write_text("{}")

    done = subprocess.run(
        [sys.executable, "-c", FLUSH, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_of_the_storage_names_the_file(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "64k") as disk:
        with pytest.raises(OSError, match=r"No space left on device: '.*/record\.json'") as raised:
            write_bytes(disk / "record.json", bytes(1 << 20))

        assert raised.value.filename == str(disk / "record.json")
        assert list(disk.iterdir()) == []


def test_a_folder_that_takes_no_file_is_reported_by_the_file_that_was_meant() -> None:
    with pytest.raises(OSError, match=r"'/proc/page\.html'"):
        write_bytes(Path("/proc/page.html"), b"")


def test_an_error_of_appending_names_the_file() -> None:
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        append_lines(Path("/dev/full"), ["a line"])
