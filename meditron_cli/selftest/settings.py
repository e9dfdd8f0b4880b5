"""Settings of a selftest: its ranks, and the training whose memory and time are measured. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.contract.stage_specs import SELFTEST
from jobs.contract.units import plural
from meditron_cli.errors import ConfigError
from meditron_cli.plan import memory, spec_parts, step_times
from meditron_cli.plan.hardware import machine_of, missing_figures
from meditron_cli.selftest.judges import Planned

if TYPE_CHECKING:
    from meditron_cli.config.cluster_schema import Cluster
    from meditron_cli.config.experiment_schema import Experiment
    from meditron_cli.config.load import Loaded

STAGE = SELFTEST

SIZES = {"cuda": "7b", "cpu": "tiny"}
"""The recipe whose width is measured, per device."""
LAYERS = 2
STEPS = 8
"""Of the training whose time is measured."""
CPU_RANKS = 2
"""On nodes without GPUs."""

CPU_MICRO_BATCH = 2
CPU_SHAPE = (
    "model.hidden_size=512",
    "model.ffn_hidden_size=1408",
    "model.attention_heads=8",
    "model.kv_heads=4",
    "model.seq_length=256",
)
"""Wide enough on CPUs for the tensors to outweigh the interpreter, and small enough for seconds."""


def settings(
    cluster: Cluster, recipe: Experiment, nodes: int | None, *, is_small: bool
) -> tuple[str, ...]:
    """Return the selftest's ``--set`` values; the user's own override them.

    The layout has the recipe's tensor-parallel size, or the largest that divides a node, and no
    pipeline, so that two layers are enough.

    Args:
        recipe: of the size that is measured.
        nodes: to run on; None for two, if the partition has them.
        is_small: the shape is ``CPU_SHAPE``, not the recipe's.

    Raises:
        ConfigError: the partition has fewer nodes.
    """
    partition = cluster.gpu_partition
    count = nodes or min(2, partition.nodes)
    if count > partition.nodes:
        raise ConfigError(
            f"a selftest on {plural(count, 'node')} does not fit partition {partition.name}, which "
            f"has {partition.nodes}",
            hint="choose fewer with --nodes",
        )
    per_node = partition.node.gpus or CPU_RANKS
    tensor = largest_divisor(per_node, recipe.parallel.tensor)
    data = count * per_node // tensor
    micro = max(1, recipe.pretrain.micro_batch_size * tensor // recipe.parallel.tensor)
    if is_small:
        micro = CPU_MICRO_BATCH
    return (
        "name=selftest",
        "model.weights=random",
        f"model.layers={LAYERS}",
        f"parallel.tensor={tensor}",
        "parallel.pipeline=1",
        f"parallel.data={data}",
        "parallel.recompute=none",
        f"pretrain.micro_batch_size={micro}",
        f"pretrain.global_batch_size={2 * micro * data}",
        *(CPU_SHAPE if is_small else ()),
        f"pretrain.train_steps={STEPS}",
        "pretrain.decay_steps=null",
        "pretrain.warmup_steps=1",
        "evaluate.checkpoints=[last]",
        "export.step=[]",
        "notify=[]",
        "supervision.attempts_without_progress=1",
        "supervision.retry_delay_seconds=0",
    )


def largest_divisor(number: int, most: int) -> int:
    """Return the largest divisor of a number that is at most ``most``."""
    return next(size for size in range(min(number, most), 0, -1) if number % size == 0)


def announcement(cluster: Cluster, experiment: Experiment) -> str:
    """Return the text that a selftest prints before it starts."""
    layout = experiment.parallel
    ranks = layout.tensor * layout.pipeline * layout.data
    nodes = ranks // (cluster.gpu_partition.node.gpus or ranks)
    return (
        f"selftest on {cluster.name}: one job with {plural(ranks, 'rank')} on "
        f"{plural(nodes, 'node')}, a few minutes without queueing; Ctrl-C cancels it"
    )


def planned(loaded: Loaded) -> Planned:
    """Return what a plan computes of the training that is measured, from the profile's figures
    alone and not from those of an earlier selftest.
    """
    experiment, cluster = loaded.experiment, loaded.cluster
    model, parallel = spec_parts.model_spec(experiment), spec_parts.parallel_spec(experiment)
    batch, precision = spec_parts.batch_of(experiment), experiment.pretrain.precision
    node = cluster.gpu_partition.node
    node = node.model_copy(update={"reached": type(node.reached)()})
    machine = machine_of(node, parallel.world_size)
    lacking = ", ".join(missing_figures(node, parallel.world_size))
    no_time = f"the profile lacks {lacking}" if lacking else ""
    if cluster.device != "cuda":
        machine, no_time = None, "a plan computes that of GPUs alone"
    if precision != "bf16":
        no_time = no_time or f"times are computed for bf16 alone, not {precision}"
    need = memory.fullest(model, parallel, batch, precision, cluster.device)
    return Planned(
        memory_bytes=need.total,
        without_engine_bytes=0
        if cluster.device != "cuda"
        else memory.without_engine(model, parallel, batch, precision, need.stage),
        step_seconds=step_times.step_seconds(model, parallel, batch, precision, node)
        if not no_time
        else None,
        no_time=no_time,
        speeds={}
        if machine is None
        else {
            "product_tflops": machine.product / 1e12,
            "memory_gb_s": machine.memory / 1e9,
            "link_gb_s": machine.link / 1e9,
            "network_gb_s": machine.network / 1e9 if node.network_gb_s else 0.0,
        },
    )
