"""Summarize a plan for people: layout, memory, work, time, cost. Pure; no I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from jobs.contract.stage_specs import PhaseStart, PretrainSpec
from jobs.contract.units import GIB, plural
from meditron_cli.plan import data_summary, layout, memory
from meditron_cli.plan.disk import disk_need
from meditron_cli.plan.figures import count, seconds_text, size, speed_text
from meditron_cli.plan.footprint import footprint
from meditron_cli.plan.hardware import Machine, machine_of, measured_figures, missing_figures
from meditron_cli.plan.model import Lead, Plan, Resources
from meditron_cli.plan.step_model import Work, step_time
from meditron_cli.plan.step_times import best_save_interval

if TYPE_CHECKING:
    from jobs.contract.specs import TaskSpec
    from meditron_cli.config.cluster_schema import Cluster
    from meditron_cli.plan.search import Candidate


SPEED_BYTES = GIB
"""Bytes from which the time of a save is shown as a speed (guess)."""


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
    """
    node = cluster.gpu_partition.node
    batch = layout.BatchLayout(spec.micro_batch_size, spec.global_batch_size, spec.parallel.data)
    longest = replace(spec.model, seq_length=spec.longest)
    stages = memory.stages(longest, spec.parallel, batch, spec.precision, spec.device)
    need, copies = max(stages, key=lambda stage: stage.total), memory.copies(spec)
    return {
        "tensor": spec.parallel.tensor,
        "pipeline": spec.parallel.pipeline,
        "virtual": spec.parallel.virtual,
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
        "tokens_per_step": spec.step_tokens(1),
        "train_steps": spec.train_steps,
        "max_epochs": spec.max_epochs,
        **data_summary.figures(spec),
        "tokens": spec.tokens(spec.train_steps),
        **memory_bytes(need),
        "without_engine_bytes": 0
        if spec.device == "cpu"
        else memory.without_engine(longest, spec.parallel, batch, spec.precision, need.stage),
        "stages": [memory_bytes(stage) for stage in stages],
        "save_bytes": need.copied(copies, memory.copy_limit(spec, resources.ranks_per_node)),
        "save_share_bytes": need.copied(copies),
        "gpu_memory_bytes": node.gpu_memory_gb * GIB,
        "checkpoint_bytes": spec.model.checkpoint_bytes(spec.precision),
        "disk_bytes": disk_need(spec).total,
        "export_bytes": spec.model.weights_bytes(spec.precision),
        **duration(spec, cluster, batch, resources),
        "save_interval": spec.save_interval,
        "keep_steps": list(spec.keep_steps),
        "keep_weights_only": spec.keep_weights_only,
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


def memory_bytes(need: memory.Memory) -> dict[str, int]:
    """Return the memory of a rank of one pipeline stage, by part."""
    return {
        "stage": need.stage,
        "memory_bytes": need.total,
        "weights_bytes": need.weights,
        "gradients_bytes": need.gradients,
        "optimizer_bytes": need.optimizer,
        "optimizer_temporaries_bytes": need.temporaries,
        "activations_bytes": need.activations,
        "backward_bytes": need.backward,
        "logits_bytes": need.logits,
        "context_bytes": need.context,
        "fragmentation_bytes": need.fragmentation,
    }


def duration(
    spec: PretrainSpec, cluster: Cluster, batch: layout.BatchLayout, resources: Resources
) -> dict[str, Any]:
    """Return the computed time of a step by part, what it gives for the whole training, and the
    number of jobs; None, and the reason, where no time can be computed.
    """
    node, gpus, minutes = (
        cluster.gpu_partition.node,
        spec.parallel.world_size,
        resources.time_minutes,
    )
    keys = ("step", "phase_steps", "seconds", "mfu", "mfu_without_attention", "gpu_hours")
    figures: dict[str, Any] = {
        **dict.fromkeys((*keys, "kwh", "kg_co2", "price", "jobs")),
        "job_minutes": minutes,
        "pue": cluster.accounting.pue,
        "currency": cluster.accounting.currency,
        "measured_speeds": list(measured_figures(node)),
        "no_time": "",
    }
    machine = machine_of(node, gpus)
    if spec.device != "cuda":
        return figures
    if spec.precision != "bf16":
        return figures | {"no_time": f"times are computed for bf16 alone, not {spec.precision}"}
    if machine is None:
        lacking = ", ".join(missing_figures(node, gpus))
        return figures | {"no_time": f"the profile of {cluster.name} lacks {lacking}"}
    ends = [*(start.first_step for start in spec.starts[1:]), spec.train_steps]
    steps = [end - start.first_step for start, end in zip(spec.starts, ends, strict=True)]
    each = [phase_step(spec, start, batch, machine) for start in spec.starts]
    seconds = sum(count * one["step"]["seconds"] for count, one in zip(steps, each, strict=True))
    work = minutes * 60 - resources.signal_lead_seconds
    return figures | {
        **each[0],
        "seconds": seconds,
        "phase_steps": each,
        **asdict(footprint(seconds, gpus, node.gpu_watts, cluster.accounting)),
        "jobs": math.ceil(seconds / work),
    }


def phase_step(
    spec: PretrainSpec, start: PhaseStart, batch: layout.BatchLayout, machine: Machine
) -> dict[str, Any]:
    """Return the computed time of a step of a phase by part, and its share of the peak."""
    model = replace(spec.model, seq_length=start.sequence_length)
    step = step_time(Work(model, spec.parallel, batch), machine)
    available = step.seconds * spec.parallel.world_size * machine.peak
    tokens = spec.global_batch_size * start.sequence_length
    return {
        "step": {**asdict(step), "seconds": step.seconds},
        "mfu": tokens * model.flops_per_token() / available,
        "mfu_without_attention": tokens * model.flops_per_token(attention=False) / available,
    }


def training_lines(facts: dict[str, Any]) -> list[str]:
    """Return the figures of ``training`` as sentences."""
    parallel = "with" if facts["sequence_parallel"] else "without"
    pieces = f" in {facts['virtual']} pieces each" if facts["virtual"] > 1 else ""
    lines = [
        f"layout       tensor {facts['tensor']} x pipeline {facts['pipeline']}{pieces} x data "
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
        *data_summary.lines(facts),
        memory_line(facts),
        f"checkpoint   {size(facts['checkpoint_bytes'])}, computed{copy_text(facts)}",
        f"step 0       {size(facts['export_bytes'])}, computed: weights alone, as in an export",
    ]
    lines += time_lines(facts)
    lines.append(startup_line(facts))
    lines.append(f"disk         {size(facts['disk_bytes'])} at most for all checkpoints, computed")
    if facts["best_save_interval"]:
        lines.append(saves_line(facts))
    if facts["keep_steps"]:
        steps = ", ".join(map(str, facts["keep_steps"]))
        what = "weights" if facts["keep_weights_only"] else "checkpoints"
        lines.append(f"kept         {what} of steps {steps}, beside the newest")
    return [*lines, signal_line(facts)]


def copy_text(facts: dict[str, Any]) -> str:
    """Return what a rank copies to host memory to write a checkpoint; empty without copies."""
    held, share = facts["save_bytes"], facts["save_share_bytes"]
    if not share:
        return ""
    if held == share:
        return f"; each rank copies {size(share)} to host memory to write it"
    return (
        f"; each rank copies {size(share)} to write it through {size(held)} of host memory, and "
        "training waits while the rest is written"
    )


def memory_line(facts: dict[str, Any]) -> str:
    """Return the memory of the fullest rank by part, and what its GPU has; parts that are freed
    before its peak, or come after it, are left out.
    """
    late = max(("logits", "backward"), key=lambda part: facts[f"{part}_bytes"])
    passes = facts["activations_bytes"] + facts[f"{late}_bytes"]
    in_passes = facts["optimizer_temporaries_bytes"] <= passes
    parts = {
        "weights": "weights_bytes",
        "gradients": "gradients_bytes",
        "optimizer": "optimizer_bytes",
        **(
            {
                "activations": "activations_bytes",
                "logits" if late == "logits" else "a layer's gradients": f"{late}_bytes",
            }
            if in_passes
            else {"its temporaries": "optimizer_temporaries_bytes"}
        ),
        "CUDA and NCCL": "context_bytes",
        "fragmentation": "fragmentation_bytes",
    }
    text = ", ".join(f"{name} {size(facts[key])}" for name, key in parts.items() if facts[key])
    where = f" of stage {facts['stage']}" if facts["pipeline"] > 1 else ""
    has = f"; the GPU has {size(facts['gpu_memory_bytes'])}" if facts["gpu_memory_bytes"] else ""
    more = facts["without_engine_bytes"]
    has += f"; {size(more)} more without transformer-engine" if more else ""
    return f"memory       {size(facts['memory_bytes'])} per rank{where}, computed: {text}{has}"


def time_lines(facts: dict[str, Any]) -> list[str]:
    """Return the time of a step, of the training, and its footprint; why there is none instead."""
    if facts["seconds"] is None:
        return [f"time         not computed: {facts['no_time']}"] if facts["no_time"] else []
    lines = [
        step_line(facts),
        f"time         {facts['seconds'] / 86400:,.1f} days and {facts['gpu_hours']:,.0f} "
        "GPU-hours, computed, with transformer-engine; validation, saves and restarts are not "
        "counted",
    ]
    if facts["jobs"] > 1:
        lines.append(jobs_line(facts))
    if facts["kwh"] is not None or facts["price"] is not None:
        lines.append(footprint_line(facts))
    return lines


def step_line(facts: dict[str, Any]) -> str:
    """Return the time of a step by part, and the share of the peak that it reaches."""
    names = {
        "compute": "compute",
        "tensor": "tensor-parallel communication",
        "bubble": "pipeline bubble",
        "pipeline": "messages between stages",
        "data": "gradients and weights between copies",
        "optimizer": "optimizer",
    }
    step = facts["step"]
    parts = ", ".join(
        f"{name} {step[key]:.2f}" for key, name in names.items() if step[key] >= 0.005
    )
    lengths = sequence_lengths(facts)
    of_length = f" with sequences of {lengths[0]} tokens" if lengths[1:] else ""
    return (
        f"step         {step['seconds']:,.2f} s{of_length}, computed: {parts}; "
        f"{facts['mfu']:.1%} of the peak, "
        f"{facts['mfu_without_attention']:.1%} without attention{measured_words(facts)}"
    )


def sequence_lengths(facts: dict[str, Any]) -> list[int]:
    """Return the tokens of a sequence in each phase, each once, in their order."""
    return list(dict.fromkeys(phase["sequence_length"] for phase in facts.get("phases") or []))


def measured_words(facts: dict[str, Any]) -> str:
    """Return which speeds the time was computed from that were measured; empty without any."""
    measured = facts["measured_speeds"]
    return f"; speeds measured by a selftest: {', '.join(measured)}" if measured else ""


def footprint_line(facts: dict[str, Any]) -> str:
    """Return energy, emissions and price, as far as the profile gives what determines them."""
    parts = []
    if facts["kwh"] is not None:
        overhead = "without the data centre's overhead" if facts["pue"] is None else ""
        pue = overhead or f"at a PUE of {facts['pue']:g}"
        parts.append(f"{facts['kwh'] / 1000:,.1f} MWh {pue}")
    if facts["kg_co2"] is not None:
        parts.append(f"{facts['kg_co2']:,.0f} kg CO2")
    if facts["price"] is not None:
        parts.append(f"{facts['price']:,.0f} {facts['currency']}".rstrip())
    return f"footprint    {', '.join(parts)}; computed from the GPU-hours"


def search_rows(found: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Return a row per layout that was found; all figures are computed."""
    return [
        {
            "tensor": one.parallel.tensor,
            "pipeline": one.parallel.pipeline,
            "virtual": one.parallel.virtual,
            "data": one.parallel.data,
            "micro_batch_size": one.batch.micro,
            "recompute": one.parallel.recompute,
            "step_seconds": one.step.seconds,
            "mfu": one.mfu,
            "memory_bytes": one.memory.total,
            "set": list(one.settings),
        }
        for one in found
    ]


def search_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Return columns and cells of ``search_rows``."""
    keys = ("tensor", "pipeline", "virtual", "data", "micro_batch_size", "recompute")
    columns = [*(key.removesuffix("_size").replace("_", " ") for key in keys)]
    columns += ["step s", "MFU", "memory"]
    cells: list[list[object]] = [
        [
            *(row[key] for key in keys),
            f"{row['step_seconds']:,.2f}",
            f"{row['mfu']:.1%}",
            size(row["memory_bytes"]),
        ]
        for row in rows
    ]
    return columns, cells


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
    longest = " of the longest sequences" if sequence_lengths(facts)[1:] else ""
    return (
        f"saves        every {plural(facts['save_interval'], 'step')}, about {hours:,.2f} h"
        f"{longest}; "
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
        f"{seconds_text(facts['save_seconds'])}, {facts['pace_source']}"
        + ("" if grace is None else f"; the grace period is {grace} s")
    )


def startup_line(facts: dict[str, Any]) -> str:
    """Return the start-up limit, and its reason. A save of few bytes mostly waits for the disk to
    answer, so that only its time is shown.
    """
    written, seconds = facts["checkpoint_bytes"], facts["save_seconds"]
    if facts["startup_limit_source"] == "given":
        why = "set by supervision.startup_limit_seconds"
    elif facts["startup_limit_source"] == "estimated":
        why = f"computed from the checkpoint at a guessed {speed_text(written / seconds)}"
    elif written < SPEED_BYTES or not seconds:
        why = f"computed from saves of {seconds_text(seconds)}, measured in this run"
    else:
        speed = speed_text(written / seconds)
        why = f"computed from the checkpoint at {speed}, measured in this run"
    limit = facts["startup_limit_seconds"]
    return f"start-up     at most {limit} s until the first step, else it is a hang; {why}"


def table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Return columns and cells of ``stage_rows``."""
    columns = [
        "stage", "tasks", "jobs", "nodes", "ranks", "gpus", "cpus_per_rank", "memory_gb",
        "time_minutes", "partition",
    ]  # fmt: skip
    cells = [[*(row[column] for column in columns), ", ".join(row["after"])] for row in rows]
    titles = {"memory_gb": "memory GiB"}
    return [*(titles.get(name, name.replace("_", " ")) for name in columns), "after"], cells
