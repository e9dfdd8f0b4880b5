"""Estimate the time of a training's steps and saves, and compute the signal lead time. Pure; no
I/O.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jobs.contract.metrics_log import StepTimes
from jobs.contract.stage_specs import ModelSpec, ParallelSpec
from jobs.contract.units import GIB
from meditron_cli.plan.hardware import machine_of
from meditron_cli.plan.layout import BatchLayout
from meditron_cli.plan.model import Lead
from meditron_cli.plan.step_model import Work, step_time

if TYPE_CHECKING:
    from meditron_cli.config.cluster_schema import Node

WRITE_BYTES_PER_SECOND = 2e9
"""Guessed speed at which a job's checkpoint reaches shared storage, on the slow side: one site
reports 920 GB in about 40 s (launch scripts of github.com/swiss-ai/Megatron-LM).
"""

STARTUP_SECONDS = 1200
"""Guessed time to import, to find the other ranks and to index the tokens, on the slow side."""
READ_FACTOR = 3
"""Guessed largest ratio of a start's reading time to a save's writing time of the same bytes."""

LARGE_BYTES = 10 * GIB
"""Guessed checkpoint size from which an estimate is raised to ``FLOOR_SECONDS``."""
FLOOR_SECONDS = 600
"""Signal lead time that the launch scripts of github.com/swiss-ai/Megatron-LM use for 70B."""

NODE_FAILURES_PER_SECOND = 6.5e-3 / 86400
"""Published for a cluster of 16,000 A100 GPUs over eleven months (arXiv 2410.21680)."""
OFTEN_SECONDS = 1800.0
"""Largest interval between saves where saves are cheap (guess)."""
CHEAP_SHARE = 0.05
"""Share of that interval up to which a save is cheap (guess)."""


def step_seconds(
    model: ModelSpec,
    parallel: ParallelSpec,
    batch: BatchLayout,
    precision: str,
    node: Node,
) -> float | None:
    """Return the computed time of a step; None in fp32, without GPUs, or where the profile lacks a
    speed.
    """
    machine = machine_of(node, parallel.world_size)
    if machine is None or precision != "bf16":
        return None
    return step_time(Work(model, parallel, batch), machine).seconds


def save_seconds(checkpoint_bytes: int) -> float:
    """Return the time of a save at the guessed speed."""
    return checkpoint_bytes / WRITE_BYTES_PER_SECOND


def startup_limit_of(configured: int | None, read: int, times: StepTimes, saved: int) -> int:
    """Return the start-up limit in seconds: the experiment's, else the time without any reading and
    that of reading a checkpoint at the speed of this run's saves, or at the guessed one.

    Args:
        read: bytes of the checkpoint, or of the part of it that the stage reads; 0 for none.
        times: measured or estimated.
        saved: bytes of the saves in ``times``.
    """
    if configured is not None:
        return configured
    seconds = times.save_seconds * read / saved
    return STARTUP_SECONDS + round(READ_FACTOR * seconds)


def best_save_interval(times: StepTimes, nodes: int, job_seconds: float) -> int | None:
    """Return the steps from one save to the next that cost least, by Young's formula: the square
    root of twice the time that a save blocks training times the mean time between failures of the
    nodes (J. W. Young, CACM 17(9), 1974); at least the time in which a save is written, at most a
    quarter of a job, and half an hour where saves are cheap. None if the time of a step is not
    known.
    """
    if times.step_seconds is None:
        return None
    seconds = math.sqrt(2 * times.waited_seconds / (nodes * NODE_FAILURES_PER_SECOND))
    is_cheap = times.waited_seconds <= CHEAP_SHARE * OFTEN_SECONDS
    seconds = max(seconds, times.save_seconds)  # the next save waits for this one
    seconds = min(seconds, job_seconds / 4, OFTEN_SECONDS if is_cheap else math.inf)
    return max(1, int(seconds / times.step_seconds))


def lead_of(
    configured: int | None, measured: StepTimes | None, estimated: StepTimes, checkpoint_bytes: int
) -> Lead:
    """Return the signal lead time and its origin: the experiment, else the run's measured saves,
    else an estimate from the checkpoint's size.
    """
    times, source = (measured, "measured") if measured else (estimated, "estimated")
    if configured is not None:
        return Lead(configured, "given", times, source)
    if measured is not None:
        return Lead(measured.lead_seconds, "measured", times, source)
    floor = FLOOR_SECONDS if checkpoint_bytes >= LARGE_BYTES else 0
    return Lead(max(estimated.lead_seconds, floor), "estimated", times, source)
