"""Does it fit the cluster? Partition, nodes, memory, time, array size. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.specs import ModelSpec, ParallelSpec
from meditron_cli.plan import layout

if TYPE_CHECKING:
    from meditron_cli.config.schema import Cluster, Partition


def ranks_per_node(partition: Partition, device: str, world_size: int) -> int:
    """Ranks on one node: a rank a GPU; without GPUs in the profile, a rank a core."""
    slots = partition.node.gpus or (partition.node.cpus if device == "cpu" else 0)
    return min(slots, world_size)


def shape_errors(cluster: Cluster, parallel: ParallelSpec) -> list[str]:
    """Why the layout cannot be laid over the cluster's nodes, a sentence each."""
    partition = cluster.gpu_partition
    world = parallel.world_size
    per_node = ranks_per_node(partition, cluster.device, world)
    kind = "GPUs" if partition.node.gpus else "cores"
    if per_node == 0:
        return [f"cluster {cluster.name} has no GPUs in partition {partition.name}"]
    available = (partition.node.gpus or partition.node.cpus) * partition.nodes
    sizes = f"{parallel.tensor} x {parallel.pipeline} x {parallel.data}"
    if world > available:
        return [
            f"parallel.tensor x pipeline x data = {sizes} = {world} ranks, but cluster "
            f"{cluster.name} has {available} {kind} ({partition.nodes} nodes of "
            f"{available // partition.nodes})"
        ]
    if world % per_node:
        return [
            f"parallel.tensor x pipeline x data = {sizes} = {world} ranks do not fill whole "
            f"nodes of {per_node} {kind}"
        ]
    if per_node % parallel.tensor:
        return [
            f"parallel.tensor = {parallel.tensor} does not fit within a node of {per_node} {kind}; "
            "tensor parallelism must not cross nodes"
        ]
    return []


def time_errors(stage: str, minutes: int, partition: Partition) -> list[str]:
    """A time limit beyond the partition's."""
    limit = partition.max_time_minutes
    if limit is None or minutes <= limit:
        return []
    return [
        f"{stage}.time_minutes = {minutes} is over the {limit} minutes of partition "
        f"{partition.name}"
    ]


def memory_findings(
    cluster: Cluster, model: ModelSpec, parallel: ParallelSpec, micro_batch: int, precision: str
) -> tuple[list[str], list[str]]:
    """Errors and warnings about GPU memory; none where the profile does not say how much there is.

    Weights, gradients and optimizer alone beyond the GPU are an error; with computed activations,
    which are
    an estimate, only a warning.
    """
    available = cluster.gpu_partition.node.gpu_memory_gb * layout.GIB
    if not available:
        return [], []
    need = layout.memory(model, parallel, micro_batch, precision)
    has = f"cluster {cluster.name} has {cluster.gpu_partition.node.gpu_memory_gb}"
    if need.states > available:
        return [
            f"weights, gradients and optimizer need {need.states / layout.GIB:.0f} GiB a GPU, "
            f"{has}; raise parallel.tensor or parallel.pipeline"
        ], []
    if need.total > available:
        return [], [
            f"about {need.total / layout.GIB:.0f} GiB a GPU are computed with activations, {has}; "
            "lower pretrain.micro_batch_size or set parallel.recompute"
        ]
    return [], []


def evaluation_errors(cluster: Cluster, model: ModelSpec, tensor: int, precision: str) -> list[str]:
    """Why an evaluation does not fit one node."""
    node = cluster.gpu_partition.node
    slots = ranks_per_node(cluster.gpu_partition, cluster.device, tensor)
    if tensor > slots:
        return [f"evaluate.tensor = {tensor} is more than the {slots} GPUs of one node"]
    weights = layout.parameters(model) * (2 if precision == "bf16" else 4) // tensor
    if node.gpu_memory_gb and weights > node.gpu_memory_gb * layout.GIB:
        return [
            f"the weights need {weights / layout.GIB:.0f} GiB a GPU in evaluation, cluster "
            f"{cluster.name} has {node.gpu_memory_gb}; raise evaluate.tensor"
        ]
    broken = [
        name
        for name, value in (
            ("attention_heads", model.attention_heads),
            ("kv_heads", model.kv_heads),
        )
        if value % tensor
    ]
    return [f"model.{name} is not divisible by evaluate.tensor = {tensor}" for name in broken]


def chunks(count: int, max_array_size: int) -> tuple[tuple[int, ...], ...]:
    """Task indices cut into arrays the site accepts.

    MaxArraySize caps the highest index, which is one less than the count, and every array starts
    at 0
    (verified on Slurm 22.05: with 101, ``--array=100-101`` is refused too).
    """
    return tuple(
        tuple(range(start, min(start + max_array_size, count)))
        for start in range(0, count, max_array_size)
    )


def placeholders(values: Sequence[tuple[str, str]]) -> list[str]:
    """Sentences for every ``<…>`` left in a profile, given (key, value) pairs."""
    return [
        f"{key} is still the placeholder {value}"
        for key, value in values
        if value.startswith("<") and value.endswith(">")
    ]
