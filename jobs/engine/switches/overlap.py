"""Decide what communication overlaps with computation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from jobs.contract.stage_specs import ParallelSpec

_is_on: ContextVar[bool] = ContextVar("is_on", default=True)


@dataclass(frozen=True)
class Overlap:
    """The communication that megatron.core starts early and waits for late.

    It is the same on every device. gloo runs it on CPU ranks, where the results are tested; that it
    hides time on GPUs is unproven.
    """

    gradients: bool
    """Gradients of a bucket are reduced while the backward pass computes those before it."""
    parameters: bool
    """Parameters of a bucket are gathered when the next forward pass reads those before it."""
    stages: bool
    """Messages between pipeline stages are under way while a stage computes its next piece."""


def overlap(parallel: ParallelSpec) -> Overlap:
    """Return what can overlap in a layout.

    Only the distributed optimizer gathers parameters. Only the interleaved schedule overlaps
    messages: megatron.core 0.16.1 refuses it in the plain one, and without it the interleaved one
    needs more than two stages, since messages between the same two would be in no order
    (``_batched_p2p_ops``).
    """
    copies = parallel.data > 1 and _is_on.get()
    return Overlap(
        gradients=copies,
        parameters=copies and parallel.distributed_optimizer,
        stages=parallel.virtual > 1,
    )


@contextmanager
def without_copies() -> Iterator[None]:
    """Overlap no communication between data-parallel copies in the block, with which a selftest
    compares. Messages between stages stay as they are: without overlap, the interleaved schedule
    needs more than two stages.
    """
    token = _is_on.set(False)
    try:
        yield
    finally:
        _is_on.reset(token)
