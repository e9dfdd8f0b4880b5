"""Settings of a drill's trainings: the tiny model, long enough for all faults. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jobs.contract.units import plural
from meditron_cli.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.contract.rundir import RunDir
    from meditron_cli.config.cluster_schema import Cluster
    from meditron_cli.config.experiment_schema import Experiment
    from meditron_cli.drill.faults import Fault

SIZE = "tiny"
STAGES = ("curate", "tokenize", "index", "pretrain")
UNDISTURBED = "drill-undisturbed"
DISTURBED = "drill-disturbed"
TOKENS = "drill-tokens"

EXPERIMENT = """\
name: drill-tokens
curate:
  sources: [sample/corpus]
  shards: 2
  tasks: 1
tokenize:
  tokenizer: sample/tokenizer.json
"""

LAST_STEPS = 100
"""Training steps after the last fault. Guessed."""
MICRO_BATCHES = {"cpu": 8, "cuda": 32}
"""Micro-batches per rank and step, so that a step of the tiny model takes long enough."""
STEP_SECONDS = {"cpu": 0.1, "cuda": 0.5}
"""Of such a step: measured with four ranks on two cores; guessed on GPUs."""
START_SECONDS = 60
"""From a fault to the next step, without queueing. Guessed."""
LEAD_SECONDS = 120
"""More than the rest of a lowered time limit, so that Slurm signals to save at its next check."""
LARGEST_TENSOR = LARGEST_PIPELINE = 2
"""The tiny model has two key-value groups and four layers."""


def settings(cluster: Cluster, nodes: int | None, faults: Sequence[Fault]) -> tuple[str, ...]:
    """Return the drill's ``--set`` values; the user's own override them.

    Args:
        nodes: to train on; None for two, if the partition has them.
        faults: that the training must last for.

    Raises:
        ConfigError: the partition has fewer nodes.
    """
    partition = cluster.gpu_partition
    count = nodes or min(2, partition.nodes)
    if count > partition.nodes:
        raise ConfigError(
            f"a drill on {plural(count, 'node')} does not fit partition {partition.name}, which "
            f"has {partition.nodes}",
            hint="choose fewer with --nodes",
        )
    ranks = count * (partition.node.gpus or 2)
    layout = cluster.defaults.get("parallel", {})
    tensor = min(layout.get("tensor", 1), LARGEST_TENSOR, ranks)
    pipeline = min(layout.get("pipeline", 1), LARGEST_PIPELINE, ranks // tensor)
    data = ranks // (tensor * pipeline)
    return (
        "model.weights=random",  # a profile may preset the base model of its site's trainings
        f"parallel.tensor={tensor}",
        f"parallel.pipeline={pipeline}",
        "parallel.virtual=1",
        f"parallel.data={data}",
        "pretrain.micro_batch_size=1",
        f"pretrain.global_batch_size={data * MICRO_BATCHES[cluster.device]}",
        f"pretrain.train_steps={LAST_STEPS + sum(fault.steps for fault in faults)}",
        "pretrain.max_epochs=null",
        "pretrain.warmup_steps=20",
        "pretrain.save_interval=20",
        "pretrain.validation_interval=0",
        "pretrain.validation_batches=1",
        f"pretrain.signal_lead_seconds={LEAD_SECONDS}",
        "notify=[]",  # its faults are no news
        "supervision.step_limit_seconds=30",
        "supervision.retry_delay_seconds=0",
    )


def own_tokens(run: RunDir, experiment: Experiment) -> tuple[str, ...]:
    """Return the ``--set`` values that train on the tokens of a run."""
    shards = range(experiment.curate.shards)
    prefixes = ", ".join(f"{run.root}/tokens/train/{shard:05d}" for shard in shards)
    return (
        f"pretrain.data=[{prefixes}]",
        f"pretrain.validation_data=[{run.root}/tokens/validation/00000]",
    )


def named(name: str) -> str:
    """Return the ``--set`` value that names a run."""
    return f"name={name}"


def announcement(cluster: Cluster, experiment: Experiment, faults: Sequence[Fault]) -> str:
    """Return the text that a drill prints before it starts."""
    layout, steps = experiment.parallel, experiment.pretrain.train_steps
    ranks = layout.tensor * layout.pipeline * layout.data
    nodes = ranks // (cluster.gpu_partition.node.gpus or ranks)
    seconds = 2 * steps * STEP_SECONDS[cluster.device] + START_SECONDS * (len(faults) + 3)
    lines = [
        f"drill on {cluster.name}: training of a {SIZE} model with {plural(ranks, 'rank')} on "
        f"{plural(nodes, 'node')} for {plural(steps, 'step')}, once undisturbed and once with "
        "these faults:",
        *(f"  {number}. {fault.description}" for number, fault in enumerate(faults, 1)),
        f"About {plural(math.ceil(seconds / 60), 'minute')}, without queueing. Only the drill's "
        "own jobs are affected; Ctrl-C cancels them.",
    ]
    return "\n".join(lines)
