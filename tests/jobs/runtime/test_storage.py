"""Waiting for storage that takes no files; a limit on file sizes stands for a full disk."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.runtime.storage import is_writable, wait_until_writable


@pytest.fixture
def full_disk() -> Iterator[Callable[[], None]]:
    """Let this process write nothing until the fixture's value is called, or the test ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def free() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    yield free
    free()


def test_a_full_disk_is_waited_for_until_it_has_room(
    tmp_path: Path, full_disk: Callable[[], None]
) -> None:
    polls = iter((lambda: False, lambda: full_disk() or False))

    before = is_writable(tmp_path)
    after = wait_until_writable(tmp_path, 600, lambda: next(polls)())

    assert (before, after) == (False, True)
    assert list(tmp_path.iterdir()) == []


def test_a_stop_request_ends_the_wait(tmp_path: Path, full_disk: Callable[[], None]) -> None:
    assert not wait_until_writable(tmp_path, 600, lambda: True)


def test_a_removed_folder_is_not_waited_for(tmp_path: Path) -> None:
    assert not wait_until_writable(tmp_path / "removed", 600)
