"""Summarize a plan for people: layout, memory, work, time, cost. Pure; no I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jobs.contract.stage_specs import PretrainSpec
from jobs.contract.units import GIB, plural
from meditron_cli.plan import layout
from meditron_cli.plan.model import Lead, Plan, Resources
from meditron_cli.plan.step_times import MFU, best_save_interval, step_seconds

if TYPE_CHECKING:
    from jobs.contract.specs import TaskSpec
    from meditron_cli.config.cluster_schema import Cluster, Node


def stage_rows(plan: Plan) -> list[dict[str, Any]]:
    """Return one row per stage: its resources, its number of jobs, the stages before it."""
    return [
        {
            "stage": stage.stage,
            "tasks": len(stage.tasks),
            "jobs": len(stage.chunks),
            "nodes": stage.resources.nodes,
            "ranks": stage.resources.nodes * stage.resources.ranks_per_node,
            "gpus": stage.resources.nodes * stage.resources.gpus_per_node,
            "cpus_per_rank": stage.resources.cpus_per_rank,
            "memory_gb": stage.resources.memory_gb,
            "time_minutes": stage.resources.time_minutes,
            "partition": stage.resources.partition,
            "after": list(stage.after),
        }
        for stage in plan.stages
    ]


def training(
    spec: PretrainSpec, cluster: Cluster, resources: Resources, lead: Lead
) -> dict[str, Any]:
    """Return the figures of a training: sizes in bytes, time in seconds; all computed, save a
    measured signal lead time.

    Time is floating-point work over ``MFU`` of the profile's peak, and None where the profile
    names none.
    """
    node = cluster.gpu_partition.node
    batch = layout.BatchLayout(spec.micro_batch_size, spec.global_batch_size, spec.parallel.data)
    need = layout.memory(spec.model, spec.parallel, batch, spec.precision)
    tokens_per_step = spec.global_batch_size * spec.model.seq_length
    tokens = tokens_per_step * spec.train_steps
    return {
        "tensor": spec.parallel.tensor,
        "pipeline": spec.parallel.pipeline,
        "data": spec.parallel.data,
        "sequence_parallel": spec.parallel.sequence_parallel,
        "ranks": spec.parallel.world_size,
        "nodes": resources.nodes,
        "weights": spec.weights or None,
        "parameters": spec.model.parameters,
        "padded_vocab_size": spec.model.padded_vocab_size,
        "vocabulary": asdict(spec.tokenizer.vocabulary),
        "micro_batch_size": spec.micro_batch_size,
        "gradient_accumulation": batch.accumulation,
        "global_batch_size": spec.global_batch_size,
        "tokens_per_step": tokens_per_step,
        "train_steps": spec.train_steps,
        "tokens": tokens,
        "weights_bytes": need.weights,
        "gradients_bytes": need.gradients,
        "optimizer_bytes": need.optimizer,
        "activations_bytes": need.activations,
        "memory_bytes": need.total,
        "save_bytes": need.save,
        "gpu_memory_bytes": node.gpu_memory_gb * GIB,
        "checkpoint_bytes": spec.model.checkpoint_bytes(spec.precision),
        **duration(spec, node, resources),
        "save_interval": spec.save_interval,
        "best_save_interval": best_save_interval(
            lead.times, resources.nodes, resources.time_minutes * 60
        ),
        **signal(lead, cluster),
    }


def signal(lead: Lead, cluster: Cluster) -> dict[str, Any]:
    """Return the figures of saving before a job ends; the grace period is None if not known."""
    return {
        "lead_seconds": lead.seconds,
        "lead_source": lead.source,
        "save_seconds": lead.times.save_seconds,
        "step_seconds": lead.times.step_seconds,
        "pace_source": lead.times_source,
        "grace_seconds": cluster.gpu_partition.grace_seconds,
        "submit_from_jobs": cluster.scheduler != "slurm" or cluster.slurm.submit_from_jobs,
    }


def startup(task: TaskSpec, lead: Lead, is_given: bool) -> dict[str, Any]:
    """Return the start-up limit of training, and its origin: ``given``, or how the speed is known
    by which it was computed.
    """
    return {
        "startup_limit_seconds": task.supervision.startup_limit_seconds,
        "startup_limit_source": "given" if is_given else lead.times_source,
    }


def duration(spec: PretrainSpec, node: Node, resources: Resources) -> dict[str, float | None]:
    """Return seconds and GPU-hours at the guessed MFU, and the number of jobs."""
    minutes = resources.time_minutes
    tokens = spec.global_batch_size * spec.model.seq_length
    step = step_seconds(spec.model, tokens, spec.parallel.world_size, node)
    if step is None:
        return {"seconds": None, "gpu_hours": None, "jobs": None, "job_minutes": minutes}
    seconds = step * spec.train_steps
    work = minutes * 60 - resources.signal_lead_seconds
    return {
        "seconds": seconds,
        "gpu_hours": seconds * spec.parallel.world_size / 3600,
        "jobs": math.ceil(seconds / work),
        "job_minutes": minutes,
    }


def training_lines(facts: dict[str, Any]) -> list[str]:
    """Return the figures of ``training`` as sentences."""
    parallel = "with" if facts["sequence_parallel"] else "without"
    lines = [
        f"layout       tensor {facts['tensor']} x pipeline {facts['pipeline']} x data "
        f"{facts['data']} = {plural(facts['ranks'], 'rank')} on {plural(facts['nodes'], 'node')}, "
        f"{parallel} sequence parallelism",
        f"model        {count(facts['parameters'])} parameters, vocabulary padded to "
        f"{facts['padded_vocab_size']}",
        vocabulary_line(facts["vocabulary"]),
        weights_line(facts),
        f"batch        {facts['micro_batch_size']} x {facts['gradient_accumulation']} accumulated "
        f"x {facts['data']} data parallel = {facts['global_batch_size']} sequences, "
        f"{count(facts['tokens_per_step'])} tokens per step",
        f"target       {plural(facts['train_steps'], 'step')}, {count(facts['tokens'])} tokens",
        f"memory       {size(facts['memory_bytes'])} per rank, computed: weights "
        f"{size(facts['weights_bytes'])}, gradients {size(facts['gradients_bytes'])}, optimizer "
        f"{size(facts['optimizer_bytes'])}, activations {size(facts['activations_bytes'])}"
        + (f"; the GPU has {size(facts['gpu_memory_bytes'])}" if facts["gpu_memory_bytes"] else ""),
        f"checkpoint   {size(facts['checkpoint_bytes'])}, computed"
        + (
            f"; to write it, a rank takes {size(facts['save_bytes'])} of the node's memory"
            if facts["save_bytes"]
            else ""
        ),
    ]
    if facts["seconds"] is not None:
        lines.append(
            f"time         about {facts['seconds'] / 3600:,.1f} h and {facts['gpu_hours']:,.0f} "
            f"GPU-hours at a guessed {MFU:.0%} of peak, pipeline bubble included"
        )
        if facts["jobs"] > 1:
            lines.append(jobs_line(facts))
    lines.append(startup_line(facts))
    if facts["best_save_interval"]:
        lines.append(saves_line(facts))
    return [*lines, signal_line(facts)]


def weights_line(facts: dict[str, Any]) -> str:
    """Return which weights training starts from, and where they are."""
    weights, folder = facts["weights"], facts.get("weights_folder")
    if folder:
        weights = folder if folder == weights else f"{weights}, in {folder}"
    return f"weights      {weights or 'none named'}"


def vocabulary_line(facts: dict[str, Any]) -> str:
    """Return where the tokens come from, how new ones start, and which have a role."""
    base, added = facts["base_size"], facts["added_tokens"]
    tokens = f"{base} tokens"
    if added:
        ids = f"ids {base} to {base + len(added) - 1}" if added[1:] else f"id {base}"
        tokens = (
            f"{base} tokens of the base model and {len(added)} added ({ids}, "
            f"{len(facts['control_tokens'])} of them control tokens, rows by {facts['new_rows']})"
        )
    start = f"{facts['bos_token']} before and " if facts["bos_token"] else "no BOS, "
    ends = f"{facts['eod_token']} after each document"
    if facts["eos_token"] != facts["eod_token"]:
        ends += f"; {facts['eos_token']} ends a generation"
    return f"vocabulary   {tokens}; {start}{ends}"


def jobs_line(facts: dict[str, Any]) -> str:
    """Return how many jobs training takes, and what submits the next."""
    after = "each submits the next"
    if not facts["submit_from_jobs"]:
        after = "`meditron recover` on the login node submits the next"
    jobs = plural(facts["jobs"], "job")
    return f"jobs         about {jobs} of {facts['job_minutes'] / 60:g} h; {after}"


def saves_line(facts: dict[str, Any]) -> str:
    """Return how often training saves, and the interval of least cost."""
    hours = facts["save_interval"] * facts["step_seconds"] / 3600
    return (
        f"saves        every {plural(facts['save_interval'], 'step')}, about {hours:,.2f} h; "
        f"every {facts['best_save_interval']} would cost least: Young's formula at 6.5 failures in "
        "1000 node-days (published), at most a quarter of a job, and 30 minutes where saves are "
        "cheap"
    )


def signal_line(facts: dict[str, Any]) -> str:
    """Return the signal lead time, and its reason."""
    why = {
        "given": "set by pretrain.signal_lead_seconds",
        "measured": "measured in this run",
        "estimated": "estimated from the checkpoint's size until the run has saved",
    }[facts["lead_source"]]
    grace = facts["grace_seconds"]
    return (
        f"signal       {facts['lead_seconds']} s before the time limit, {why}; a save takes about "
        f"{facts['save_seconds']:,.1f} s, {facts['pace_source']}"
        + ("" if grace is None else f"; the grace period is {grace} s")
    )


def startup_line(facts: dict[str, Any]) -> str:
    """Return the start-up limit, and its reason."""
    speed = facts["checkpoint_bytes"] / facts["save_seconds"] / 1e9 if facts["save_seconds"] else 0
    why = {
        "given": "set by supervision.startup_limit_seconds",
        "measured": f"computed from the checkpoint at {speed:.1f} GB/s, measured in this run",
        "estimated": f"computed from the checkpoint at a guessed {speed:.1f} GB/s",
    }[facts["startup_limit_source"]]
    return f"start-up     {facts['startup_limit_seconds']} s until the first step, {why}"


def count(value: float) -> str:
    """Return a count in short: ``48.2B``, ``3.3M``."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Return bytes in binary units: ``19.4 GiB``."""
    for limit, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value / 1024:.1f} KiB"


def table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Return columns and cells of ``stage_rows``."""
    columns = [
        "stage", "tasks", "jobs", "nodes", "ranks", "gpus", "cpus_per_rank", "memory_gb",
        "time_minutes", "partition",
    ]  # fmt: skip
    cells = [[*(row[column] for column in columns), ", ".join(row["after"])] for row in rows]
    titles = {"memory_gb": "memory GiB"}
    return [*(titles.get(name, name.replace("_", " ")) for name in columns), "after"], cells
