"""How long a training's saves and steps will take, and how early its jobs must be asked to save.
Pure; no I/O.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jobs.contract.metrics_log import StepTimes
from jobs.contract.stage_specs import ModelSpec
from meditron_cli.plan import layout
from meditron_cli.plan.model import Lead

if TYPE_CHECKING:
    from meditron_cli.config.schema import Node

MFU = 0.40
"""Guessed share of peak that training reaches, with the pipeline's bubble and all else that is no
computing; MEDITRON-70B's published one is 0.423 (section 4.1).
"""

WRITE_BYTES_PER_SECOND = 2e9
"""Guessed speed at which a job's checkpoint reaches shared storage, on the slow side: one site
writes 920 GB in about 40 s (design SLURM, section 3b).
"""

LARGE_BYTES = 10 * layout.GIB
"""From this size of a checkpoint on, a guess, no estimate below ``FLOOR_SECONDS`` is trusted."""
FLOOR_SECONDS = 600
"""What peers grant models of 70B (design SLURM, section 3b)."""

NODE_FAILURES_PER_SECOND = 6.5e-3 / 86400
"""Published for a cluster of 16,000 A100 GPUs over eleven months (arXiv 2410.21680)."""
OFTEN_SECONDS = 1800.0
"""No more than this is to be lost where saves are cheap (design RESILIENCE, section 8) ..."""
CHEAP_SHARE = 0.05
"""... which they are up to this share of it (guess)."""


def step_seconds(
    model: ModelSpec, tokens_per_step: int, world_size: int, node: Node
) -> float | None:
    """Time of a step at the guessed ``MFU``; None where the profile names no GPUs or no peak."""
    peak = node.peak_bf16_tflops * 1e12 * world_size
    if not peak or not node.gpus:
        return None
    return tokens_per_step * layout.flops_per_token(model) / (peak * MFU)


def save_seconds(checkpoint_bytes: int) -> float:
    """Time of a save at the guessed speed."""
    return checkpoint_bytes / WRITE_BYTES_PER_SECOND


def best_save_interval(pace: StepTimes, nodes: int, job_seconds: float) -> int | None:
    """Steps from one save to the next that cost least: those of Young's formula, the square root of
    twice a save's time times the mean time between failures of the nodes (design RESILIENCE,
    section 8); at most a quarter of a job, and half an hour where saves are cheap. None where the
    time of a step is not known.
    """
    if pace.step_seconds is None:
        return None
    seconds = math.sqrt(2 * pace.save_seconds / (nodes * NODE_FAILURES_PER_SECOND))
    is_cheap = pace.save_seconds <= CHEAP_SHARE * OFTEN_SECONDS
    seconds = min(seconds, job_seconds / 4, OFTEN_SECONDS if is_cheap else math.inf)
    return max(1, int(seconds / pace.step_seconds))


def lead_of(
    given: int | None, measured: StepTimes | None, estimated: StepTimes, checkpoint_bytes: int
) -> Lead:
    """How long before its time limit a job is asked to save, and why: as the experiment says, else
    as the run's own saves say, else as its checkpoint's size lets expect.
    """
    pace, pace_source = (measured, "measured") if measured else (estimated, "estimated")
    if given is not None:
        return Lead(given, "given", pace, pace_source)
    if measured is not None:
        return Lead(measured.lead_seconds, "measured", pace, pace_source)
    floor = FLOOR_SECONDS if checkpoint_bytes >= LARGE_BYTES else 0
    return Lead(max(estimated.lead_seconds, floor), "estimated", pace, pace_source)
