"""Waiting for storage that takes no files; a limit on file sizes stands for a full disk."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.runtime.storage import (
    is_writable,
    refuses_files,
    retry_until_written,
    wait_until_writable,
)

from ...system import require_root


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


@contextmanager
def as_other_user() -> Iterator[None]:
    """Let this process read and write what others may, and not what only root may."""
    require_root("become another user")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_refuses_files_when_it_is_full_or_forbidden_but_not_when_it_is_gone(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o700)
    run = tmp_path / "run"
    run.mkdir()

    with full_disk():
        full = refuses_files(run)
    with as_other_user():
        forbidden = refuses_files(run)
    writable, gone = refuses_files(run), refuses_files(tmp_path / "removed")

    assert (full, forbidden, writable, gone) == (True, True, False, False)


def test_a_folder_that_cannot_be_reached_is_waited_for(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    run = tmp_path / "run"
    run.mkdir()
    polls: list[None] = []

    with as_other_user():
        reached = wait_until_writable(run, 600, lambda: polls.append(None) or len(polls) > 1)

    assert (reached, len(polls)) == (False, 2)


def test_a_write_that_is_refused_is_repeated_until_it_succeeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "events.jsonl"
    file.mkdir()  # a folder in a file's place stands for storage that takes nothing
    calls: list[None] = []

    def write() -> int:
        calls.append(None)
        if len(calls) == 3:
            file.rmdir()
        return file.write_text("1")

    result = retry_until_written(write, tmp_path, 600, "no event", pause=0.0)

    assert (result, len(calls), file.read_text()) == (1, 3, "1")
    assert capsys.readouterr().err.count("no event: [Errno 21]") == 1


def test_a_write_that_is_refused_to_the_end_raises_its_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        retry_until_written(lambda: tmp_path.write_text("1"), tmp_path, 0.0, "no event", pause=0.0)


def test_a_stop_request_or_a_removed_folder_ends_the_repetition_of_a_write(tmp_path: Path) -> None:
    for folder, is_stopped in ((tmp_path, True), (tmp_path / "removed", False)):
        calls: list[None] = []

        def write(calls: list[None] = calls) -> int:
            calls.append(None)
            return tmp_path.write_text("1")

        with pytest.raises(IsADirectoryError):
            retry_until_written(write, folder, 600, "no event", lambda stop=is_stopped: stop)
        assert len(calls) == 1
