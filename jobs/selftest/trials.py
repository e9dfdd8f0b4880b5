"""The trials of a selftest, in order. Each returns what it measured and judges nothing.

``jobs.engine.device.session`` must begin before this module is imported, since it imports
megatron.core.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed

from jobs.contract.errors import FAILED, Stopped, TaskError
from jobs.contract.job import node_name
from jobs.contract.stage_specs import SelftestSpec
from jobs.engine import device as devices
from jobs.engine import layers
from jobs.runtime.context import Context
from jobs.runtime.heartbeat import Phase
from jobs.selftest import comparisons, nodes
from jobs.selftest.comparisons import Measures, NotHere
from jobs.selftest.peak import Peak
from jobs.selftest.record import Record, write_error
from jobs.selftest.speeds import measure
from jobs.selftest.trainings import Bench


def run(context: Context, spec: SelftestSpec, device: torch.device) -> None:
    """Run the trials that have no result; all ranks call it.

    Raises:
        TaskError: a trial failed; the next attempt runs those behind it.
        Stopped: a stop was requested.
    """
    bench = Bench(context, spec, device)
    facts = describe(bench)
    record: list[Record] = []
    devices.decide_once(bench.write_inputs)
    if context.rank == 0:
        record.append(Record(context.run, spec.output_dir, facts))
    for number, (name, trial) in enumerate(TRIALS.items()):
        if context.rank == 0:
            context.progress(number, len(TRIALS), "trials")
        if devices.decide_once(partial(is_known, record, name)):
            continue
        run_one(bench, record[0] if record else None, name, trial)
    if context.rank == 0:
        context.progress(len(TRIALS), len(TRIALS), "trials")
        context.finish([], [], {"trials": len(TRIALS), "bytes": 0})


def is_known(record: list[Record], name: str) -> bool:
    """Return whether a trial has a result; called on rank 0, which has the record."""
    return record[0].has(name)


def run_one(bench: Bench, record: Record | None, name: str, trial: Trial) -> None:
    """Run one trial and record what it measured.

    Raises:
        TaskError: it failed.
        Stopped: a stop was requested.
    """
    context = bench.context
    if record:
        record.begin(name)
    context.heart.beat(Phase.STARTUP, 0)
    try:
        measures = trial(bench)
    except Stopped:
        if record:
            record.withdraw(name)
        raise
    except NotHere as reason:
        if record:
            record.leave_out(name, str(reason))
        return
    except Exception as error:  # whatever it is, it is the trial's result
        write_error(context.run, bench.spec.output_dir, name, context.rank, error)
        raise TaskError(
            f"trial {name} failed: {type(error).__name__}: {error}",
            "{meditron logs} shows the traceback",
            FAILED,
        ) from error
    if record:
        record.end(name, measures)


def describe(bench: Bench) -> Measures:
    """Return the ranks, their nodes, GPU and programs."""
    names: list[Any] = [None] * bench.world_size
    torch.distributed.all_gather_object(names, node_name(os.environ))
    is_cuda = not devices.is_cpu(bench.device)
    return {
        "device": bench.spec.training.device,
        "precision": bench.spec.training.precision,
        "ranks": bench.world_size,
        "nodes": sorted(set(names)),
        "gpu": torch.cuda.get_device_name(bench.device) if is_cuda else "",
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if is_cuda else "",
        "transformer_engine": is_cuda and layers.has_transformer_engine(),
    }


def shape(bench: Bench) -> Measures:
    """Train the shape at full width, and measure memory, step time and saves.

    It is the first trial, as groups of ranks keep NCCL's buffers; on CPUs behind a training that
    has loaded what every training loads.
    """
    if devices.is_cpu(bench.device):
        bench.reference()
    peak = Peak(bench.device)
    training = bench.train("shape", bench.large())
    peaks: list[Any] = [None] * bench.world_size
    torch.distributed.all_gather_object(peaks, peak.bytes())
    size, seconds = training.saves[-1] if training.saves else (0, 0.0)
    return {
        "memory_bytes": max(peaks),
        "step_seconds": comparisons.usual(training),
        "save_bytes": size,
        "save_seconds": seconds,
        **{
            name: sum(getattr(period, name) for period in training.periods)
            for name in ("seconds", "data", "communication")
        },
    }


def speeds(bench: Bench) -> Measures:
    """Measure products, memory and collectives."""
    per_node = bench.context.task.ranks_per_node
    return measure(bench.spec.training, bench.device, per_node)


Trial = Callable[[Bench], Measures]

TRIALS: dict[str, Trial] = {
    "shape": shape,
    "speeds": speeds,
    "environment": nodes.environment,
    "tensor-parallel": comparisons.tensor_parallel,
    "pipeline": comparisons.pipeline,
    "layers": comparisons.local_layers,
    "documents": comparisons.documents,
    "other-layout": comparisons.other_layout,
    "lengths": comparisons.lengths,
    "resume": comparisons.resume,
    "deterministic": comparisons.deterministic,
    "overlap": comparisons.overlapping,
    "copies": nodes.copies,
    "profile": comparisons.profile,
    "nsys": nodes.recorded_by_nsys,
}
"""By name, in order."""
