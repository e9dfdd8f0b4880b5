"""What a drill trains: the tiny model on the sample corpus, long enough to be hit. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meditron_cli.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.rundir import RunDir
    from meditron_cli.config.schema import Cluster, Experiment

SIZE = "tiny"
UNDISTURBED = "drill-undisturbed"
HIT = "drill-hit"
TOKENS = "drill-tokens"

EXPERIMENT = """\
name: drill-tokens
curate:
  sources: [sample/corpus]
  shards: 2
tokenize:
  tokenizer: sample/tokenizer.json
"""

STEPS_A_FAULT = 120
"""Between two faults there is time for a start, two checkpoints and a look at the files. Guess."""
MICRO_BATCHES = {"cpu": 2, "cuda": 32}
"""A rank's micro-batches in a step: they make a step of a tiny model take about a tenth of a
second on a core, and about half of one on a GPU, so that there is time to hit it. Guess.
"""


def settings(cluster: Cluster, nodes: int | None, faults: int) -> tuple[str, ...]:
    """``--set`` of the drill, below the user's own.

    Args:
        nodes: how many to train on; None for two where the partition has them.

    Raises:
        ConfigError: the partition has fewer nodes.
    """
    partition = cluster.gpu_partition
    wanted = nodes or min(2, partition.nodes)
    if wanted > partition.nodes:
        raise ConfigError(
            f"a drill on {wanted} nodes does not fit partition {partition.name}, which has "
            f"{partition.nodes}",
            hint="choose fewer with --nodes",
        )
    ranks = wanted * (partition.node.gpus or 2)
    layout = cluster.defaults.get("parallel", {})
    model_parallel = layout.get("tensor", 1) * layout.get("pipeline", 1)
    data = max(1, ranks // model_parallel)
    return (
        f"parallel.data={data}",
        "pretrain.micro_batch_size=1",
        f"pretrain.global_batch_size={data * MICRO_BATCHES[cluster.device]}",
        f"pretrain.train_steps={STEPS_A_FAULT * (faults + 1)}",
        "pretrain.warmup_steps=20",
        "pretrain.save_interval=20",
        "pretrain.validation_interval=0",
        "pretrain.validation_batches=1",
        "supervision.step_limit_seconds=30",
        "supervision.retry_delay_seconds=0",
    )


def own_tokens(run: RunDir, experiment: Experiment) -> tuple[str, ...]:
    """``--set`` that trains on the tokens a run has made."""
    shards = range(experiment.curate.shards)
    prefixes = ", ".join(f"{run.root}/tokens/train/{shard:05d}" for shard in shards)
    return (
        f"pretrain.data=[{prefixes}]",
        f"pretrain.validation_data=[{run.root}/tokens/validation/00000]",
    )


def named(name: str) -> str:
    """``--set`` of the name of one of the drill's runs."""
    return f"name={name}"


def sentence(cluster: Cluster, experiment: Experiment, does: Sequence[str]) -> str:
    """What the drill is going to do, before it does so."""
    layout = experiment.parallel
    ranks = layout.tensor * layout.pipeline * layout.data
    steps = experiment.pretrain.train_steps
    lines = [
        f"drill on {cluster.name}: {ranks} ranks train a {SIZE} model for {steps} steps, once "
        "undisturbed and once with these faults on the way:",
        *(f"  {number}. {text}" for number, text in enumerate(does, 1)),
        "Nothing but the drill's own jobs is touched; Ctrl-C cancels them.",
    ]
    return "\n".join(lines)
