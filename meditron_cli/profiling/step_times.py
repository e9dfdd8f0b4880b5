"""The time of a rank's steps by what it went into, from a trace of torch's profiler. Pure.

A trace is in Chrome's trace event format: complete events (``ph`` X) with begin ``ts`` and duration
``dur`` in microseconds. With a GPU, its kernels and copies are what computes; on a CPU, the
operators of ATen in threads other than gloo's. Kernels of NCCL, and the ranges of gloo, are
communication. Each moment of a step counts once: as compute if anything computes, else as
communication, which is then exposed, else as waiting for data, else as idle.

A kernel of NCCL names its process group in its arguments (pytorch/kineto,
libkineto/src/output_json.cpp). Ranges of gloo name the operation alone, which takes the place of
the group. Traces of GPUs are unproven.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.runtime.profile_record import DATA, STEP
from meditron_cli.profiling.intervals import (
    Intervals,
    difference,
    intersection,
    length,
    union,
)

GPU_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset")
OPERATOR = "aten::"
GLOO = "gloo:"
NCCL = "nccl"
GROUP = "Process Group Description"
GROUP_NUMBER = "Process Group Name"
NAMES = {
    "TENSOR_MODEL_PARALLEL_GROUP": "tensor",
    "PIPELINE_MODEL_PARALLEL_GROUP": "pipeline",
    "DATA_PARALLEL_GROUP": "data",
    "DATA_PARALLEL_GROUP_WITH_CP": "data",
    "INTRA_PARTIAL_DATA_PARALLEL_GROUP_WITH_CP": "data",
    "MODEL_PARALLEL_GROUP": "model",
    "EMBEDDING_GROUP": "embedding",
    "default_pg": "all ranks",
}
"""megatron.core's descriptions of process groups (megatron/core/parallel_state.py), and torch's
of the one of all ranks; others keep their own.
"""
MEMORY = "[memory]"
ALLOCATED = "Total Allocated"


Event = Mapping[str, Any]


@dataclass(frozen=True)
class Communication:
    """The communication of one process group, in seconds per step."""

    total: float
    exposed: float
    """Not overlapped by compute."""


@dataclass(frozen=True)
class RankTimes:
    """The time of a rank's steps, in seconds per step; ``compute``, ``exposed``, ``data`` and
    ``idle`` add up to ``step``.
    """

    steps: int
    step: float
    compute: float
    exposed: float
    """Communication of any group without compute at the same time."""
    data: float
    idle: float
    groups: Mapping[str, Communication]
    """By process group, on CPUs by operation; several may communicate at the same time."""
    peak_bytes: int | None
    """Most bytes allocated in these steps; None where the trace has no allocations."""


class NoSteps(Exception):
    """A trace has no steps."""


def rank_times(events: Iterable[Event]) -> RankTimes:
    """Return where the time of the steps in a trace went.

    Args:
        events: the trace's ``traceEvents``.

    Raises:
        NoSteps: no step is marked in it.
    """
    events = list(events)
    spans = [event for event in events if event.get("ph") == "X" and "dur" in event]
    steps = [_interval(event) for event in spans if _is_range(event, STEP)]
    if not steps:
        raise NoSteps
    window = union(steps)
    on_gpu = any(event.get("cat") in GPU_CATEGORIES for event in spans)
    busy = _gpu_compute(spans) if on_gpu else _cpu_compute(spans)
    compute = intersection(union(map(_interval, busy)), window)
    by_group = {
        group: intersection(union(times), window) for group, times in _communication(spans).items()
    }
    communicating = union(interval for times in by_group.values() for interval in times)
    exposed = difference(communicating, compute)
    waiting = intersection(union(_interval(e) for e in spans if _is_range(e, DATA)), window)
    data = difference(difference(waiting, compute), communicating)
    known = union([*compute, *exposed, *data])

    def per_step(intervals: Intervals) -> float:
        return length(intervals) / 1e6 / len(steps)

    return RankTimes(
        steps=len(steps),
        step=per_step(window),
        compute=per_step(compute),
        exposed=per_step(exposed),
        data=per_step(data),
        idle=per_step(difference(window, known)),
        groups={
            group: Communication(per_step(times), per_step(difference(times, compute)))
            for group, times in sorted(by_group.items())
            if times
        },
        peak_bytes=_peak_bytes(events, window),
    )


def _interval(event: Event) -> tuple[float, float]:
    return event["ts"], event["ts"] + event["dur"]


def _is_range(event: Event, name: str) -> bool:
    """Return whether an event is one of our ranges, on the CPU's side of the trace."""
    return event.get("cat") == "user_annotation" and event["name"] == name


def _gpu_compute(spans: Iterable[Event]) -> Iterator[Event]:
    """Yield kernels and copies of the GPU, without NCCL's."""
    for event in spans:
        if event.get("cat") in GPU_CATEGORIES and not _is_nccl(event):
            yield event


def _cpu_compute(spans: Sequence[Event]) -> Iterator[Event]:
    """Yield operators of ATen; those in gloo's threads are parts of its communication."""
    steps = {event["tid"] for event in spans if _is_range(event, STEP)}
    workers = {event["tid"] for event in spans if _is_gloo(event)} - steps
    for event in spans:
        is_operator = event.get("cat") == "cpu_op" and event["name"].startswith(OPERATOR)
        if is_operator and event["tid"] not in workers:
            yield event


def _communication(spans: Iterable[Event]) -> dict[str, list[tuple[float, float]]]:
    """Return the intervals of communication, by process group or by operation of gloo."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in spans:
        if _is_nccl(event):
            found[_group(event.get("args", {}))].append(_interval(event))
        elif _is_gloo(event):
            found[event["name"]].append(_interval(event))
    return found


def _is_nccl(event: Event) -> bool:
    return event.get("cat") == "kernel" and event["name"].startswith(NCCL)


def _is_gloo(event: Event) -> bool:
    return event.get("cat") == "user_annotation" and event["name"].startswith(GLOO)


def _group(arguments: Mapping[str, Any]) -> str:
    """Return the name of a kernel's process group."""
    described = str(arguments.get(GROUP, ""))
    if described not in ("", "undefined"):
        return NAMES.get(described, described.lower())
    number = arguments.get(GROUP_NUMBER)
    return f"group {number}" if number else "unknown group"


def _peak_bytes(events: Iterable[Event], window: Intervals) -> int | None:
    """Return the most bytes allocated at any event of memory inside the steps."""
    inside = [
        event["args"][ALLOCATED]
        for event in events
        if event.get("name") == MEMORY and window[0][0] <= event["ts"] <= window[-1][1]
    ]
    return max(inside, default=None)
