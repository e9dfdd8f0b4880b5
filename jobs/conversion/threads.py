"""Threads of a conversion: how many, and each copies by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jobs.contract.job import usable_cores
from jobs.runtime.context import Context


def side_by_side(context: Context) -> int:
    """Return how many files a task writes side by side: one more than cores, since a thread waits
    while its file becomes durable.
    """
    return min(max(1, context.task.cpus_per_rank), usable_cores() + 1)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Compute with one thread of torch inside the block, also in threads that begin there.

    Conversions copy with threads of their own. Those that torch adds for a copy wait spinning, a
    fifth of the processor time of an export (measured on two cores).
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
