"""Waiting for storage that takes no files; a limit on file sizes stands for a full disk."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.runtime.storage import is_writable, wait_until_writable


@contextmanager
def full_disk() -> Iterator[Callable[[], None]]:
    """Let this process write no file until the yielded function is called, or the block ends.

    A block and not a fixture: pytest itself writes to a file between a test and its teardown.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def free() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield free
    finally:
        free()


def test_a_full_disk_is_waited_for_until_it_has_room(tmp_path: Path) -> None:
    with full_disk() as free:
        polls = iter((lambda: False, lambda: free() or False))

        before = is_writable(tmp_path)
        after = wait_until_writable(tmp_path, 600, lambda: next(polls)())

    assert (before, after) == (False, True)
    assert list(tmp_path.iterdir()) == []


def test_a_stop_request_ends_the_wait(tmp_path: Path) -> None:
    with full_disk():
        assert not wait_until_writable(tmp_path, 600, lambda: True)


def test_a_removed_folder_is_not_waited_for(tmp_path: Path) -> None:
    assert not wait_until_writable(tmp_path / "removed", 600)
