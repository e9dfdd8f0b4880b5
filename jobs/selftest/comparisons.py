"""The trials of a selftest that compare trainings. Each returns what it measured, and no verdict.

``jobs.engine.device.session`` must begin before this module is imported, since it imports
megatron.core.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from jobs.checkpoints import manifest
from jobs.engine import device as devices
from jobs.engine import layers
from jobs.engine.switches import determinism
from jobs.engine.switches.overlap import overlap, without_copies
from jobs.runtime import profile_record
from jobs.runtime.profile_record import ProfileRequest
from jobs.selftest import traces
from jobs.selftest.trainings import Bench, Training

WARM_UP_STEPS = 2
"""Steps whose time does not count: kernels are loaded and compiled."""

PROFILE = ProfileRequest("selftest", steps=2, ranks=(0,), memory=True)

Measures = dict[str, Any]


class NotHere(Exception):
    """A trial that these ranks cannot run; the text gives the reason. All ranks raise it."""


def tensor_parallel(bench: Bench) -> Measures:
    """Train in a layout without and in one with tensor parallelism, from the same weights."""
    reference = bench.reference()
    return compared(reference, split(bench, reference))


def split(bench: Bench, reference: Training) -> Training:
    """Return the small training with two tensor-parallel ranks, trained once.

    Raises:
        NotHere: they do not divide the ranks.
    """
    require_pairs(bench, "tensor-parallel ranks")
    return bench.once("tensor-2", bench.small(tensor=2), reference.checkpoint(0))


def require_pairs(bench: Bench, what: str) -> None:
    """Refuse an odd number of ranks.

    Raises:
        NotHere: it is odd.
    """
    if bench.world_size % 2:
        raise NotHere(f"two {what} do not divide {bench.world_size}")


def pipeline(bench: Bench) -> Measures:
    """Train with two pipeline stages, in one piece and in two pieces each, from the same weights;
    messages of the latter overlap with computation.
    """
    require_pairs(bench, "pipeline stages")
    reference = bench.reference()
    start = reference.checkpoint(0)
    plain = bench.train("pipeline", bench.small(pipeline=2), start)
    pieces = bench.train("interleaved", bench.small(pipeline=2, virtual=2), start)
    return {"layouts": [compared(reference, plain), compared(reference, pieces)]}


def local_layers(bench: Bench) -> Measures:
    """Train with megatron.core's own layers and with transformer-engine's, from the same weights,
    and continue each with the other's checkpoint.
    """
    require_transformer_engine(bench)
    reference, half = bench.reference(), bench.spec.steps // 2
    local = bench.once("local", bench.small(), reference.checkpoint(0), layers.LOCAL)
    onwards = bench.train("local-to-te", bench.small(), local.checkpoint(half))
    back = bench.train("te-to-local", bench.small(), reference.checkpoint(half), layers.LOCAL)
    return {
        **compared(reference, local),
        "loaded": [compared(reference, onwards), compared(reference, back)],
    }


def require_transformer_engine(bench: Bench) -> None:
    """Refuse ranks whose layers are megatron.core's own.

    Raises:
        NotHere: they are.
    """
    if devices.is_cpu(bench.device):
        raise NotHere("transformer-engine's layers need CUDA, and the device is cpu")
    if not layers.has_transformer_engine():
        raise NotHere("transformer-engine is not importable on these nodes")


def documents(bench: Bench) -> Measures:
    """Train with attention within documents, by transformer-engine's packed sequences and by local
    layers document for document.
    """
    require_transformer_engine(bench)
    reference = bench.reference()
    spec, start = dataclasses.replace(bench.small(), reset_attention_mask=True), reference
    packed = bench.train("packed", spec, start.checkpoint(0))
    apart = bench.train("apart", spec, start.checkpoint(0), layers.LOCAL)
    return {**compared(apart, packed), "effect": largest(reference.losses, packed.losses)}


def other_layout(bench: Bench) -> Measures:
    """Continue each of two layouts from the checkpoint of the other."""
    reference, half = bench.reference(), bench.spec.steps // 2
    other = split(bench, reference)
    widened = bench.train("1-to-2", bench.small(tensor=2), reference.checkpoint(half))
    narrowed = bench.train("2-to-1", bench.small(), other.checkpoint(half))
    return {"loaded": [compared(reference, widened), compared(reference, narrowed)]}


def lengths(bench: Bench) -> Measures:
    """Train on sequences of twice the length from half-way on: without tensor parallelism, with it,
    and from the checkpoint of half-way, where no kernel, cache or table is made for shorter ones.
    """
    require_pairs(bench, "tensor-parallel ranks")
    reference, half = bench.reference(), bench.spec.steps // 2
    one = bench.train("longer", bench.longer(), reference.checkpoint(0))
    other = bench.train("longer-2", bench.longer(tensor=2), reference.checkpoint(0))
    fresh = bench.train("longer-alone", bench.longer(), one.checkpoint(half))
    return {
        "trainings": [compared(one, other), compared(one, fresh)],
        "effect": largest(reference.losses, one.losses),
    }


def resume(bench: Bench) -> Measures:
    """Resume half-way in the same layout, and compare with the uninterrupted training."""
    reference, steps = bench.reference(), bench.spec.steps
    resumed = bench.train("resumed", bench.small(), reference.checkpoint(steps // 2))
    return bits(bench, reference, resumed)


def deterministic(bench: Bench) -> Measures:
    """Train twice with all switches of a deterministic training; the second time saves are
    synchronous.
    """
    start = bench.reference().checkpoint(0)
    spec = dataclasses.replace(bench.small(), deterministic=True)
    with determinism.switched_on():
        first = bench.train("deterministic", spec, start)
        again = bench.train("repeated", dataclasses.replace(spec, async_save=False), start)
    return bits(bench, first, again)


def overlapping(bench: Bench) -> Measures:
    """Train without overlap of communication between copies; on GPUs at full width too."""
    if not overlap(bench.small().parallel).gradients:
        raise NotHere("there is one rank, which has nothing to communicate")
    reference, large = bench.reference(), bench.large()
    times: Measures = {"seconds_with": None, "seconds_without": None}
    with without_copies():
        alone = bench.train("no-overlap", bench.small(), reference.checkpoint(0))
    if not devices.is_cpu(bench.device) and overlap(large.parallel).gradients:
        with without_copies():
            apart = bench.train("shape-no-overlap", large)
        shape = bench.once("shape", large)
        times = {"seconds_with": usual(shape), "seconds_without": usual(apart)}
    return {**compared(reference, alone), **times}


def profile(bench: Bench) -> Measures:
    """Train with a profile of some steps, and count what its trace holds."""
    reference = bench.reference()
    watched = bench.train("profiled", bench.small(), reference.checkpoint(0), profile=PROFILE)
    found = devices.decide_once(partial(traced, watched))
    return {**compared(reference, watched), **found}


def traced(training: Training) -> Measures:
    """Return what the profile of a training holds."""
    records = profile_record.read_records(training.run, PROFILE)
    if 0 not in records:
        return {"error": "rank 0 has written no record"}
    record, folder = records[0], training.run.profile(PROFILE.name)
    if record.error:
        return {"error": record.error}
    memory = (folder / record.memory).stat().st_size if record.memory else 0
    return {"error": "", **traces.counts(folder / record.trace), "memory_bytes": memory}


def bits(bench: Bench, one: Training, other: Training) -> Measures:
    """Return where two trainings differ at all."""
    contents = [
        devices.decide_once(partial(weights_of, training.checkpoint(bench.spec.steps)))
        for training in (one, other)
    ]
    return {
        **compared(one, other),
        "differing_steps": [
            step for step, loss in other.losses.items() if loss != one.losses[step]
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


def usual(training: Training) -> float | None:
    """Return the median seconds of a step, on rank 0."""
    times = [seconds for step, seconds in training.seconds.items() if step > WARM_UP_STEPS]
    return median(times) if times else None
