"""The trials of a selftest, in order. Each returns what it measured and judges nothing.

``jobs.engine.device.session`` must begin before this module is imported, since it imports
megatron.core.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed

from jobs.checkpoints import manifest
from jobs.contract.errors import FAILED, Stopped, TaskError
from jobs.contract.job import node_name
from jobs.contract.stage_specs import SelftestSpec
from jobs.engine import device as devices
from jobs.engine import layers
from jobs.runtime.context import Context
from jobs.selftest.peak import Peak
from jobs.selftest.record import Record, write_error
from jobs.selftest.speeds import measure
from jobs.selftest.trainings import Bench, Training

WARM_UP_STEPS = 2
"""Steps whose time does not count: kernels are loaded and compiled."""

Measures = dict[str, Any]


class NotHere(Exception):
    """A trial that these ranks cannot run; the text gives the reason. All ranks raise it."""


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
    nodes: list[Any] = [None] * bench.world_size
    torch.distributed.all_gather_object(nodes, node_name(os.environ))
    is_cuda = not devices.is_cpu(bench.device)
    return {
        "device": bench.spec.training.device,
        "precision": bench.spec.training.precision,
        "ranks": bench.world_size,
        "nodes": sorted(set(nodes)),
        "gpu": torch.cuda.get_device_name(bench.device) if is_cuda else "",
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if is_cuda else "",
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
    times = [seconds for step, seconds in training.seconds.items() if step > WARM_UP_STEPS]
    size, seconds = training.saves[-1] if training.saves else (0, 0.0)
    return {
        "memory_bytes": max(peaks),
        "step_seconds": median(times) if times else None,
        "save_bytes": size,
        "save_seconds": seconds,
    }


def speeds(bench: Bench) -> Measures:
    """Measure products, memory and collectives."""
    per_node = bench.context.task.ranks_per_node
    return measure(bench.spec.training, bench.device, per_node)


def tensor_parallel(bench: Bench) -> Measures:
    """Train in a layout without and in one with tensor parallelism, from the same weights."""
    reference = bench.reference()
    return compared(reference, split(bench, reference))


def split(bench: Bench, reference: Training) -> Training:
    """Return the small training with two tensor-parallel ranks, trained once.

    Raises:
        NotHere: they do not divide the ranks.
    """
    if bench.world_size % 2:
        raise NotHere(f"two tensor-parallel ranks do not divide {bench.world_size}")
    return bench.once("tensor-2", bench.small(2), reference.checkpoint(0))


def local_layers(bench: Bench) -> Measures:
    """Train with megatron.core's own layers and with transformer-engine's, from the same weights,
    and continue each with the other's checkpoint.
    """
    if devices.is_cpu(bench.device):
        raise NotHere("transformer-engine's layers need CUDA, and the device is cpu")
    if not layers.has_transformer_engine():
        raise NotHere("transformer-engine is not importable on these nodes")
    reference, half = bench.reference(), bench.spec.steps // 2
    local = bench.once("local", bench.small(1), reference.checkpoint(0), layers.LOCAL)
    onwards = bench.train("local-to-te", bench.small(1), local.checkpoint(half))
    back = bench.train("te-to-local", bench.small(1), reference.checkpoint(half), layers.LOCAL)
    return {
        **compared(reference, local),
        "loaded": [compared(reference, onwards), compared(reference, back)],
    }


def other_layout(bench: Bench) -> Measures:
    """Continue each of two layouts from the checkpoint of the other."""
    reference, half = bench.reference(), bench.spec.steps // 2
    other = split(bench, reference)
    widened = bench.train("1-to-2", bench.small(2), reference.checkpoint(half))
    narrowed = bench.train("2-to-1", bench.small(1), other.checkpoint(half))
    return {"loaded": [compared(reference, widened), compared(reference, narrowed)]}


def resume(bench: Bench) -> Measures:
    """Resume half-way in the same layout, and compare with the uninterrupted training."""
    reference, steps = bench.reference(), bench.spec.steps
    resumed = bench.train("resumed", bench.small(1), reference.checkpoint(steps // 2))
    contents = [
        devices.decide_once(partial(weights_of, training.checkpoint(steps)))
        for training in (reference, resumed)
    ]
    return {
        **compared(reference, resumed),
        "differing_steps": [
            step for step, loss in resumed.losses.items() if loss != reference.losses[step]
        ],
        "equal_checkpoints": contents[0] == contents[1],
    }


def weights_of(checkpoint: Path) -> list[tuple[int, str]]:
    """Return length and digest of every part of a checkpoint's shards, which hold weights and
    optimizer state; which file holds which does not count.
    """
    files = manifest.manifest(checkpoint).items()
    parts = [part for name, its_parts in files if name.endswith(".distcp") for part in its_parts]
    return sorted((part.bytes, part.xxh3) for part in parts)


def compared(one: Training, other: Training) -> Measures:
    """Return the largest relative differences over the steps that both have trained."""
    steps = sorted(one.losses.keys() & other.losses.keys())
    return {
        "steps": len(steps),
        "loss": largest(one.losses, other.losses),
        "norm": largest(one.norms, other.norms),
        "first_loss": one.losses.get(min(steps, default=0)),
        "last_loss": one.losses.get(max(steps, default=0)),
    }


def largest(one: dict[int, float], other: dict[int, float]) -> float:
    """Return the largest relative difference of two series at the steps that both have."""
    return max((abs(other[key] / one[key] - 1) for key in one.keys() & other.keys()), default=0.0)


Trial = Callable[[Bench], Measures]

TRIALS: dict[str, Trial] = {
    "shape": shape,
    "speeds": speeds,
    "tensor-parallel": tensor_parallel,
    "layers": local_layers,
    "other-layout": other_layout,
    "resume": resume,
}
"""By name, in order."""
