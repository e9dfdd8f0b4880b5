"""Page-locked host memory; that CUDA locks pages is unproven."""

from __future__ import annotations

import gc

import numpy as np

from jobs.engine.saving import page_lock


class Runtime:
    """The calls of CUDA's runtime that lock pages, which fail as it does for a locked address."""

    ALREADY_REGISTERED = 712

    OUT_OF_MEMORY = 2

    def __init__(self, most: int = 1 << 30) -> None:
        self.locked: set[int] = set()
        self.most = most
        self.last_error = 0
        """What CUDA raises at the next launch of a kernel."""
        self.calls = 0

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        self.calls += 1
        if address in self.locked:
            return self.ALREADY_REGISTERED
        if size > self.most:
            self.last_error = self.OUT_OF_MEMORY
            return self.last_error
        self.locked.add(address)
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        self.locked.remove(address)
        return 0


def test_pages_are_unlocked_when_their_memory_is_freed_and_no_earlier() -> None:
    runtime = Runtime()
    content = np.empty(4096, np.uint8)
    view = content[10:]

    assert page_lock.lock(content, runtime) == 0
    del content
    gc.collect()
    assert len(runtime.locked) == 1

    del view
    gc.collect()
    assert runtime.locked == set()


def test_pages_that_are_locked_already_are_an_error() -> None:
    runtime = Runtime()
    content = np.empty(4096, np.uint8)
    page_lock.lock(content, runtime)

    assert page_lock.lock(content, runtime) == Runtime.ALREADY_REGISTERED
    del content
    gc.collect()
    assert runtime.locked == set()


def test_memory_that_cuda_does_not_lock_is_a_warning_once_and_clears_the_error() -> None:
    runtime = Runtime(most=100)
    warnings: list[str] = []

    def clear() -> None:
        runtime.last_error = 0

    locks = page_lock.PageLocks(runtime, clear, warnings.append)
    for size in (100, 4096, 8192):
        locks.lock(np.empty(size, np.uint8))

    (warning,) = warnings
    assert warning.startswith("CUDA does not page-lock 4096 bytes of host memory (error 2 of ")
    assert runtime.last_error == 0
    assert runtime.calls == 2
