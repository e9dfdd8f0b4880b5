"""Write this rank's collectives when the supervisor asks for them, from torch's flight recorder.

A thread waits for the request, so that a rank that hangs in a collective still answers. NCCL's own
watchdog writes a record only when a collective times out, minutes after the supervisor has seen the
hang. On NCCL unproven on hardware; over gloo the tests run it.
"""

from __future__ import annotations

import threading
import time

from jobs.contract.files import write_bytes
from jobs.runtime.context import Context
from jobs.runtime.log import log

POLL_SECONDS = 1.0
RECORDERS = ("_dump_nccl_trace_json", "_dump_fr_trace_json")
"""Functions of torch that return a record: of NCCL, and of gloo."""


def answer_requests(context: Context) -> None:
    """Start the thread, once the process group exists."""
    if context.world_size > 1:
        threading.Thread(target=_answer, args=(context,), daemon=True).start()


def _answer(context: Context) -> None:
    answered = 0
    while True:
        time.sleep(POLL_SECONDS)
        requested = context.heart.record_requests()
        if requested == answered:
            continue
        answered = requested
        try:
            write_record(context)
        except Exception as error:  # a rank must not fail for a record of its hang
            log(f"rank {context.rank} could not write its collectives: {error}")


def write_record(context: Context) -> None:
    """Write ``flight-<task>-<rank>.json`` of the attempt."""
    folder = context.run.attempt(context.task.stage, context.attempt)
    name = f"flight-{context.task.index:05d}-{context.rank}.json"
    write_bytes(folder / name, record())


def record() -> bytes:
    """Return the collectives of this process as JSON: of NCCL where it has any, else of gloo."""
    import torch._C._distributed_c10d as c10d

    found: list[bytes] = [
        getattr(c10d, name)(True, False) for name in RECORDERS if hasattr(c10d, name)
    ]
    return max(found, key=len)
