"""Measure what the time of a step depends on: products, memory, and collectives.

``jobs.engine.device.session`` must begin before this module is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.distributed

from jobs.contract.stage_specs import PretrainSpec

REPEATS = 10
WARM_UP = 3
MESSAGE_BYTES = {"cuda": 1 << 29, "cpu": 1 << 24}
"""Of an all-reduce, large enough to reach the speed of the links; on CPUs, in milliseconds."""
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 26}


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the median time of a call, after some to warm up, with the device idle around it."""
    times = []
    for number in range(WARM_UP + REPEATS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if number >= WARM_UP:
            times.append(time.perf_counter() - began)
    return median(times)


def product_tflops(spec: PretrainSpec, device: torch.device) -> float:
    """Return the speed of the largest product of a layer: a micro-batch's tokens through the gated
    MLP's first projection, on one rank, in TFLOP/s.
    """
    tokens = spec.micro_batch_size * spec.model.seq_length
    columns = 2 * spec.model.ffn_hidden_size // spec.parallel.tensor
    dtype = torch.bfloat16 if spec.precision == "bf16" else torch.float32
    left = torch.randn(tokens, spec.model.hidden_size, device=device).to(dtype)
    right = torch.randn(spec.model.hidden_size, columns, device=device).to(dtype)
    seconds = seconds_of(lambda: left @ right)
    return 2 * tokens * columns * spec.model.hidden_size / seconds / 1e12


def memory_gb_s(device: torch.device) -> float:
    """Return the speed of a copy in this rank's memory: bytes read and written, in GB/s."""
    size = COPY_BYTES[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds_of(lambda: target.copy_(source)) / 1e9


def collective(group: Any, ranks: int, device: torch.device) -> tuple[float, bool]:
    """Return the speed of an all-reduce of one large message over a group of ranks, in GB/s, and
    whether its sums are exact.

    A ring sends 2 (n - 1) / n of the message from each rank (Thakur et al. 2005), which is counted
    as in ``busbw`` of NVIDIA's nccl-tests (doc/PERFORMANCE.md).
    """
    size = MESSAGE_BYTES[device.type]
    message = torch.zeros(size // 4, dtype=torch.float32, device=device)
    seconds = seconds_of(lambda: torch.distributed.all_reduce(message, group=group))
    message.fill_(torch.distributed.get_rank(group) + 1)
    torch.distributed.all_reduce(message, group=group)
    is_exact = bool((message == ranks * (ranks + 1) // 2).all())
    return 2 * size * (ranks - 1) / ranks / seconds / 1e9, is_exact


def measure(spec: PretrainSpec, device: torch.device, per_node: int) -> dict[str, Any]:
    """Measure all speeds; every rank calls it together, and the slowest rank counts.

    Args:
        per_node: ranks of a node; rank numbers count within a node first.

    Returns:
        ``product_tflops`` and ``memory_gb_s`` per rank, ``link_gb_s`` from one rank to the others
        of its node, ``network_gb_s`` from a node to the others; None where there are no others.
        ``exact``: whether every sum of a collective was.
    """
    world = torch.distributed.get_world_size()
    torch.distributed.barrier()
    own: dict[str, float] = {"product_tflops": product_tflops(spec, device)}
    own["memory_gb_s"] = memory_gb_s(device)
    exact = True
    nodes = [list(range(first, first + per_node)) for first in range(0, world, per_node)]
    groups = [torch.distributed.new_group(ranks) for ranks in nodes]  # every rank makes them all
    if per_node > 1:
        group = groups[torch.distributed.get_rank() // per_node]
        own["link_gb_s"], exact = collective(group, per_node, device)
    if len(nodes) > 1:
        own["network_gb_s"], is_exact = collective(None, world, device)
        exact = exact and is_exact
    for group in groups:
        torch.distributed.destroy_process_group(group)
    every: list[Any] = [None] * world
    torch.distributed.all_gather_object(every, (own, exact))
    slowest = {name: min(values[name] for values, _ in every) for name in own}
    missing = dict.fromkeys(("link_gb_s", "network_gb_s"))
    return {**missing, **slowest, "exact": all(is_exact for _, is_exact in every)}
