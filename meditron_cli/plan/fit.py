"""Check a plan against the cluster: partition, nodes, memory, time, array size. Pure; no I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.contract.metrics_log import EARLY_SECONDS
from jobs.contract.stage_specs import ModelSpec, ParallelSpec
from jobs.contract.units import GIB, plural
from meditron_cli.plan import layout, memory
from meditron_cli.plan.model import Lead

if TYPE_CHECKING:
    from meditron_cli.config.cluster_schema import Cluster, Partition


@dataclass(frozen=True)
class Findings:
    """Sentences about a plan: ``errors`` forbid it, ``warnings`` do not."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __add__(self, other: Findings) -> Findings:
        return Findings(self.errors + other.errors, self.warnings + other.warnings)

    def at(self, location: str) -> Findings:
        """Return the same sentences behind the location of their key; empty for a default."""
        prefix = f"{location}: " if location else ""
        errors, warnings = (
            tuple(prefix + sentence for sentence in sentences)
            for sentences in (self.errors, self.warnings)
        )
        return Findings(errors, warnings)


def error_findings(*sentences: str) -> Findings:
    """Return findings with errors only."""
    return Findings(errors=sentences)


def warning_findings(*sentences: str) -> Findings:
    """Return findings with warnings only."""
    return Findings(warnings=sentences)


def ranks_per_node(partition: Partition, device: str, world_size: int) -> int:
    """Return the ranks on one node: one per GPU; without GPUs in the profile, one per core."""
    slots = partition.node.gpus or (partition.node.cpus if device == "cpu" else 0)
    return min(slots, world_size)


def slot_kind(partition: Partition) -> str:
    """Return the resource that a rank occupies."""
    return "GPU" if partition.node.gpus else "core"


def shape_findings(cluster: Cluster, parallel: ParallelSpec) -> Findings:
    """Check that the layout fills the cluster's nodes."""
    partition = cluster.gpu_partition
    world = parallel.world_size
    per_node = ranks_per_node(partition, cluster.device, world)
    kind = slot_kind(partition)
    slots = partition.node.gpus or partition.node.cpus
    sizes = f"{parallel.tensor} x {parallel.pipeline} x {parallel.data}"
    if world > slots * partition.nodes:
        return error_findings(
            f"parallel.tensor x pipeline x data = {sizes} = {plural(world, 'rank')}, but cluster "
            f"{cluster.name} has {plural(slots * partition.nodes, kind)} "
            f"({plural(partition.nodes, 'node')} of {slots})"
        )
    if world % per_node:
        return error_findings(
            f"parallel.tensor x pipeline x data = {sizes} = {world} ranks do not fill whole "
            f"nodes of {plural(per_node, kind)}"
        )
    if per_node % parallel.tensor:
        return error_findings(
            f"parallel.tensor = {parallel.tensor} does not fit within a node of "
            f"{plural(per_node, kind)}; "
            "tensor parallelism must not cross nodes"
        )
    return Findings()


def time_findings(stage: str, minutes: int, partition: Partition) -> Findings:
    """Check that a time limit is within the partition's."""
    limit = partition.max_time_minutes
    if limit is None or minutes <= limit:
        return Findings()
    return error_findings(
        f"{stage}.time_minutes = {minutes} is over the {plural(limit, 'minute')} of partition "
        f"{partition.name}"
    )


def lead_findings(stage: str, minutes: int, lead_seconds: int) -> Findings:
    """Check that a job has time to work before Slurm signals it to save, which may happen
    ``EARLY_SECONDS`` early: no time is an error, less than half of the job a warning.
    """
    limit, lost = minutes * 60, lead_seconds + EARLY_SECONDS
    sentence = (
        f"{stage}.time_minutes = {minutes} leaves {max(0, limit - lost)} s to work: Slurm signals "
        f"the job {lead_seconds} s before the end, and up to {EARLY_SECONDS} s too early"
    )
    if lost >= limit:
        return error_findings(sentence)
    return warning_findings(sentence) if 2 * lost > limit else Findings()


def fitting_minutes(minutes: int, lead_seconds: int, limit: int | None) -> int | None:
    """Return the time limit nearest to ``minutes`` that has neither errors nor warnings; None where
    there is none.

    Args:
        minutes: the configured time limit.
        lead_seconds: as for ``lead_findings``; 0 without signals.
        limit: the partition's, in minutes; None without one.
    """
    least = math.ceil(2 * (lead_seconds + EARLY_SECONDS) / 60) if lead_seconds else 1
    nearest = max(minutes, least)
    if limit is None or nearest <= limit:
        return nearest
    return limit if least <= limit else None


def given_lead_findings(lead: Lead) -> Findings:
    """Check that the experiment's signal lead time is enough to save in: an error where saves were
    measured, a warning where they are estimated.
    """
    need = lead.times.leave_seconds
    if lead.source != "given" or lead.seconds >= need:
        return Findings()
    sentence = (
        f"pretrain.signal_lead_seconds = {lead.seconds} is shorter than a step and a save, which "
        f"take about {need:.0f} s ({lead.times_source}); leave it out to compute it"
    )
    return (
        error_findings(sentence) if lead.times_source == "measured" else warning_findings(sentence)
    )


def grace_findings(partition: Partition, lead: Lead, save_interval: int, gpus: int) -> Findings:
    """Check that a preempted job can save within the grace period; state the loss otherwise."""
    grace, need = partition.grace_seconds, lead.times.leave_seconds
    if grace is None or need <= grace:
        return Findings()
    lost = loss(lead.times.step_seconds, save_interval, gpus)
    return warning_findings(
        f"partition {partition.name} has a grace period of {grace} s, and a step and a save take "
        f"about {need:.0f} s ({lead.times_source}): a preempted job cannot save and loses at most "
        f"{lost}, fewer with a smaller pretrain.save_interval"
    )


def loss(step_seconds: float | None, steps: int, gpus: int) -> str:
    """Return ``500 steps (about 83 minutes, 178 GPU-hours)``, as far as it is known."""
    if step_seconds is None:
        return plural(steps, "step")
    seconds = step_seconds * steps
    cost = f", {seconds * gpus / 3600:,.1f} GPU-hours" if gpus else ""
    return f"{plural(steps, 'step')} (about {seconds / 60:,.1f} minutes{cost})"


def interval_findings(minutes: int, lead: Lead, save_interval: int) -> Findings:
    """Check that a job lasts longer than the steps from one save to the next."""
    step, work = lead.times.step_seconds, minutes * 60 - lead.seconds
    if step is None or step * save_interval <= work:
        return Findings()
    return warning_findings(
        f"pretrain.save_interval = {save_interval} is about {step * save_interval / 60:,.0f} min "
        f"of training ({lead.times_source}), and a job trains for "
        f"{work / 60:,.0f}: one that fails loses all its steps; lower it"
    )


def core_findings(stage: str, cpus: int, partition: Partition) -> Findings:
    """Check that one node has the cores of a task of a stage."""
    if cpus <= partition.node.cpus:
        return Findings()
    return error_findings(
        f"{stage}.cpus = {cpus} is more than the {plural(partition.node.cpus, 'core')} of a node "
        f"in {partition.name}"
    )


def copy_findings(partition: Partition, limit_gb: float | None) -> Findings:
    """Check that a node has the memory that is set for copies of checkpoints."""
    has = partition.node.memory_gb
    if limit_gb is None or limit_gb <= has:
        return Findings()
    return error_findings(
        f"pretrain.save_memory_gb = {limit_gb:g} is more than the {has} GiB of a node in "
        f"{partition.name}"
    )


def memory_findings(
    cluster: Cluster,
    model: ModelSpec,
    parallel: ParallelSpec,
    batch: layout.BatchLayout,
    precision: str,
    *,
    copies: int,
) -> Findings:
    """Check that a rank fits its GPU or its share of a CPU node, and a save the node's memory; GPUs
    whose memory the profile does not give are not checked. ``copies`` are those of
    ``memory.copies``.

    Weights, gradients and optimizer alone beyond the memory are an error; with activations and
    what libraries take, which are computed with guesses, only a warning.
    """
    need = memory.fullest(model, parallel, batch, precision, cluster.device)
    findings = save_findings(cluster, need.copied(copies), parallel.world_size)
    if cluster.device == "cpu":
        return findings + host_memory_findings(cluster, need, parallel.world_size)
    available = cluster.gpu_partition.node.gpu_memory_gb * GIB
    if not available:
        return findings
    has = f"cluster {cluster.name} has {cluster.gpu_partition.node.gpu_memory_gb}"
    if need.states > available:
        return error_findings(
            f"weights, gradients and optimizer need {need.states / GIB:.0f} GiB per GPU, "
            f"{has}; raise parallel.tensor or parallel.pipeline"
        )
    if need.total > available:
        findings += warning_findings(
            f"about {need.total / GIB:.0f} GiB per GPU are computed with activations and "
            f"libraries, {has}; lower pretrain.micro_batch_size or set parallel.recompute"
        )
    return findings


def host_memory_findings(cluster: Cluster, need: memory.Memory, world_size: int) -> Findings:
    """Check that the CPU ranks of a node fit into its memory together."""
    partition = cluster.gpu_partition
    ranks = ranks_per_node(partition, cluster.device, world_size)
    available = partition.node.memory_gb * GIB
    has = f"the node of cluster {cluster.name} has {partition.node.memory_gb}"
    if need.states * ranks > available:
        return error_findings(
            f"weights, gradients and optimizer need {need.states * ranks / GIB:,.0f} GiB "
            f"on a node (ranks: {ranks}), {has}; use fewer ranks, a smaller model or more nodes"
        )
    if need.total * ranks > available:
        return warning_findings(
            f"about {need.total * ranks / GIB:,.0f} GiB on a node (ranks: {ranks}) are "
            f"computed with activations, {has}; lower pretrain.micro_batch_size or set "
            "parallel.recompute"
        )
    return Findings()


def sharing_findings(ranks: int, cores: int) -> Findings:
    """Return a warning where ranks share the cores of this machine; 0 cores stand for Slurm."""
    if not cores or ranks <= cores:
        return Findings()
    return warning_findings(f"{ranks} ranks share the {cores} cores of this machine")


def save_findings(cluster: Cluster, save: int, world_size: int) -> Findings:
    """Check that half of a node's memory holds what its ranks copy in a save, in bytes each."""
    partition = cluster.gpu_partition
    need = save * ranks_per_node(partition, cluster.device, world_size)
    if need <= partition.node.memory_gb * GIB / 2:
        return Findings()
    return warning_findings(
        f"an asynchronous save copies about {need / GIB:.0f} GiB to the memory of each node, of "
        f"which half of {partition.node.memory_gb} GiB is for it in cluster {cluster.name}; "
        "training waits while the rest is written, unless parallel.data is raised"
    )


def fitting_layout(
    cluster: Cluster,
    models: Sequence[ModelSpec],
    parallel: ParallelSpec,
    batch: layout.BatchLayout,
    precision: str,
    *,
    copies: int,
) -> ParallelSpec | None:
    """Return the nearest layout that divides and fits the cluster, or None.

    Nearest is: as many of the requested ranks as fit, then the tensor size, then
    the pipeline.

    Args:
        models: the architecture with each sequence length, the longest last.
    """
    partition, model = cluster.gpu_partition, models[-1]
    slots = partition.node.gpus or partition.node.cpus
    most = min(parallel.world_size, slots * partition.nodes)
    tensors = [size for size in range(1, parallel.tensor + 1) if slots % size == 0]
    pipelines = [size for size in range(1, model.layers + 1) if model.layers % size == 0]
    layouts = [
        candidate
        for tensor in tensors
        for pipeline in pipelines
        for data in range(1, most // (tensor * pipeline) + 1)
        if is_fitting(
            cluster,
            models,
            candidate := replace(
                parallel,
                tensor=tensor,
                pipeline=pipeline,
                data=data,
                virtual=parallel.virtual if pipeline > 1 else 1,
            ),
            replace(batch, data_parallel=data),
            precision,
            copies=copies,
        )
    ]
    return max(
        layouts, key=lambda one: (one.world_size, one.tensor, -one.pipeline, one.data), default=None
    )


def is_fitting(
    cluster: Cluster,
    models: Sequence[ModelSpec],
    parallel: ParallelSpec,
    batch: layout.BatchLayout,
    precision: str,
    *,
    copies: int,
) -> bool:
    """Return whether a layout has neither errors nor warnings."""
    if any(layout.layout_errors(one, parallel, batch.micro, batch.global_) for one in models):
        return False
    if shape_findings(cluster, parallel).errors:
        return False
    found = memory_findings(cluster, models[-1], parallel, batch, precision, copies=copies)
    return found == Findings()


def slot_findings(partition: Partition, slots: int, setting: tuple[str, int]) -> Findings:
    """Check that one node has as many GPUs as a setting, a key and its value, asks for."""
    key, tensor = setting
    if tensor <= slots:
        return Findings()
    present = plural(slots, slot_kind(partition))
    return error_findings(f"{key} = {tensor} is more than the {present} of one node")


def evaluation_findings(
    cluster: Cluster,
    partition: Partition,
    model: ModelSpec,
    setting: tuple[str, int],
    precision: str,
) -> Findings:
    """Check that an evaluation's layout divides and fits one node of its partition.

    Args:
        setting: the key of its tensor parallelism, and the value.
    """
    key, tensor = setting
    node = partition.node
    slots = ranks_per_node(partition, cluster.device, tensor)
    if (found := slot_findings(partition, slots, setting)).errors:
        return found
    weights = model.parameters * (2 if precision == "bf16" else 4) // tensor
    if node.gpu_memory_gb and weights > node.gpu_memory_gb * GIB:
        return error_findings(
            f"the weights need {weights / GIB:.0f} GiB per GPU in evaluation, cluster "
            f"{cluster.name} has {node.gpu_memory_gb}; raise {key}"
        )
    if cluster.device == "cpu" and weights * tensor > node.memory_gb * GIB:
        return error_findings(
            f"the weights need {weights * tensor / GIB:.0f} GiB on a node in evaluation, "
            f"the node of cluster {cluster.name} has {node.memory_gb}; evaluate a smaller model"
        )
    cut = (
        ("model.attention_heads", model.attention_heads),
        ("model.kv_heads", model.kv_heads),
        ("model.ffn_hidden_size", model.ffn_hidden_size),
    )
    return error_findings(
        *(
            f"{name} = {value} is not divisible by {key} = {tensor}"
            for name, value in cut
            if value % tensor
        ),
        *layout.embedding_errors(model, tensor, key),
    )


def chunks(count: int, max_array_size: int) -> tuple[tuple[int, ...], ...]:
    """Split task indices into arrays that the site accepts.

    MaxArraySize caps the highest index, which is one less than the count, and every array starts
    at 0 (verified on Slurm 22.05: with 101, ``--array=100-101`` is refused too).
    """
    return tuple(
        tuple(range(start, min(start + max_array_size, count)))
        for start in range(0, count, max_array_size)
    )
