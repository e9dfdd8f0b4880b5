"""Reading ahead in a thread, without torch."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import defaultdict

import pytest

from jobs.engine.prefetch import DEPTH, Prefetcher


class Shelf:
    """Numbers to read, which records what was read, and where."""

    def __init__(self, last: int = 100) -> None:
        self.last = last
        self.read_keys: list[int] = []
        self.threads: set[int] = set()
        self.done: defaultdict[int, threading.Event] = defaultdict(threading.Event)
        self.closed = threading.Event()
        """Nothing is read from number 50 on until it is set."""

    def read(self, key: int) -> str:
        if key >= 50:
            self.closed.wait()
        self.read_keys.append(key)
        self.threads.add(threading.get_ident())
        self.done[key].set()
        if key % 10 == 7:
            raise ValueError(f"number {key} is damaged")
        return str(key)

    def following(self, key: int) -> int | None:
        return key + 1 if key < self.last else None


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def prefetcher(shelf):
    prefetcher = Prefetcher(shelf.read, shelf.following)
    yield prefetcher
    shelf.closed.set()
    prefetcher.close()


def test_results_come_in_order_from_one_other_thread_that_reads_each_once(shelf, prefetcher):
    assert [prefetcher.take(key) for key in range(7)] == [str(key) for key in range(7)]
    prefetcher.close()
    assert shelf.read_keys[:7] == list(range(7))
    assert len(shelf.threads) == 1
    assert threading.get_ident() not in shelf.threads


def test_what_follows_is_read_before_it_is_taken_and_no_more(shelf, prefetcher):
    prefetcher.take(0)
    for key in range(1, 1 + DEPTH):
        assert shelf.done[key].wait(60)
    prefetcher.close()
    assert shelf.read_keys == list(range(1 + DEPTH))


def test_nothing_is_read_beyond_the_last_key():
    shelf = Shelf(last=2)
    prefetcher = Prefetcher(shelf.read, shelf.following)
    assert [prefetcher.take(key) for key in range(3)] == ["0", "1", "2"]
    prefetcher.close()
    assert shelf.read_keys == [0, 1, 2]


def test_a_jump_forwards_or_back_reads_from_there(prefetcher):
    keys = (0, 1, 20, 21, 3, 4)
    assert [prefetcher.take(key) for key in keys] == [str(key) for key in keys]


def test_an_error_is_raised_where_its_result_is_taken_not_before(prefetcher):
    assert [prefetcher.take(key) for key in (4, 5, 6)] == ["4", "5", "6"]
    with pytest.raises(ValueError, match="number 7 is damaged"):
        prefetcher.take(7)
    assert prefetcher.take(8) == "8"


def test_the_end_drops_what_was_not_begun(shelf, prefetcher):
    assert prefetcher.take(49) == "49"
    shelf.closed.set()
    prefetcher.close()
    assert shelf.read_keys[0] == 49
    assert len(shelf.read_keys) <= 1 + DEPTH


def test_a_process_that_fails_does_not_wait_for_a_read():
    code = """
import threading
from jobs.engine.prefetch import Prefetcher
begun, never = threading.Event(), threading.Event()

def read(key):
    if key:
        begun.set()
        never.wait()
    return key

prefetcher = Prefetcher(read, lambda key: key + 1)
prefetcher.take(0)
begun.wait()
prefetcher.close()
raise SystemExit(7)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 7
