"""Page-locked host memory; that CUDA locks pages is unproven."""

from __future__ import annotations

import gc

import numpy as np

from jobs.engine.saving import page_lock


class Runtime:
    """The calls of CUDA's runtime that lock pages, which fail as it does for a locked address."""

    ALREADY_REGISTERED = 712

    def __init__(self) -> None:
        self.locked: set[int] = set()

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        if address in self.locked:
            return self.ALREADY_REGISTERED
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
