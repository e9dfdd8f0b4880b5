"""Count what a trace of torch's profiler holds. Standard library only."""

from __future__ import annotations

import json
from pathlib import Path

from jobs.runtime.profile_record import STEP


def counts(trace: Path) -> dict[str, int]:
    """Return the numbers of ``steps`` in a trace, of ``kernels`` on the GPU, and of the kernels
    that name their group of ranks (``grouped``), as those of NCCL do.
    """
    events = json.loads(trace.read_text())["traceEvents"]
    kernels = [event for event in events if event.get("cat") == "kernel"]
    return {
        "traced_steps": sum(
            event.get("name") == STEP and event.get("cat") == "user_annotation" for event in events
        ),
        "kernels": len(kernels),
        "grouped": sum("Process Group Name" in event.get("args", {}) for event in kernels),
    }
