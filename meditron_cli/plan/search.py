"""Rank the layouts that fit a cluster by the computed time of a step. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from jobs.contract.stage_specs import ParallelSpec
from meditron_cli.errors import ConfigError
from meditron_cli.plan import fit, memory
from meditron_cli.plan.hardware import machine_of, missing_figures
from meditron_cli.plan.layout import BatchLayout
from meditron_cli.plan.spec_parts import batch_of, model_spec, models_of, parallel_spec
from meditron_cli.plan.step_model import StepTime, Work, step_time

if TYPE_CHECKING:
    from meditron_cli.config.cluster_schema import Cluster
    from meditron_cli.config.experiment_schema import Experiment

RECOMPUTE = ("none", "full")
"""``selective`` is slower than ``none`` and, with fused attention, stores as much."""
LARGEST_MICRO_BATCH = 64


@dataclass(frozen=True)
class Candidate:
    """A layout that fits, with its computed time and memory."""

    parallel: ParallelSpec
    batch: BatchLayout
    step: StepTime
    memory: memory.Memory
    mfu: float
    """Model's floating-point operations, attention included, over the peak."""

    @property
    def settings(self) -> tuple[str, ...]:
        """Return the values of ``--set`` that choose it."""
        return (
            f"parallel.tensor={self.parallel.tensor}",
            f"parallel.pipeline={self.parallel.pipeline}",
            f"parallel.virtual={self.parallel.virtual}",
            f"parallel.data={self.parallel.data}",
            f"parallel.recompute={self.parallel.recompute}",
            f"pretrain.micro_batch_size={self.batch.micro}",
        )


def ranked(cluster: Cluster, experiment: Experiment) -> list[Candidate]:
    """Return the layouts of as many GPUs as the experiment's own layout has that divide, fit the
    nodes and their memory in every phase; fastest in the first phase first, of equally fast ones
    the one with the most free memory.

    The global batch, sequence parallelism and the distributed optimizer are the experiment's.

    Raises:
        ConfigError: no step time can be computed, or no layout fits.
    """
    model, configured = model_spec(experiment), parallel_spec(experiment)
    node, precision = cluster.gpu_partition.node, experiment.pretrain.precision
    copies = memory.copies_without_limit(experiment.pretrain)
    world = configured.world_size
    if cluster.device != "cuda" or precision != "bf16":
        raise ConfigError(
            f"a layout is searched by the time of a step on GPUs in bf16, not with device "
            f"{cluster.device} and precision {precision}",
            hint="`meditron clusters` lists profiles with device cuda"
            if cluster.device != "cuda"
            else "--set pretrain.precision=bf16, if the GPUs compute it",
        )
    machine = machine_of(node, world)
    if machine is None:
        lacking = missing_figures(node, world)
        raise ConfigError(
            f"no time of a step is computed: the profile of {cluster.name} lacks "
            f"{', '.join(lacking)}",
            hint="add what is missing to the profile; `meditron explain "
            f"cluster.{lacking[0]} --cluster local` explains the first key",
        )
    models = models_of(experiment)
    found = []
    for parallel, batch in layouts(cluster, experiment):
        if not fit.is_fitting(cluster, models, parallel, batch, precision, copies=copies):
            continue
        step = step_time(Work(model, parallel, batch), machine)
        tokens = batch.global_ * model.seq_length
        mfu = tokens * model.flops_per_token() / (step.seconds * world * machine.peak)
        need = memory.fullest(models[-1], parallel, batch, precision, cluster.device)
        found.append(Candidate(parallel, batch, step, need, mfu))
    if not found:
        raise ConfigError(
            f"no layout of {world} GPUs divides the model and fits cluster {cluster.name}",
            hint="--set parallel.data=N changes the number of GPUs; "
            "`meditron explain parallel` lists the keys of the layout",
        )
    return sorted(found, key=lambda one: (one.step.seconds, one.memory.total))


def layouts(cluster: Cluster, experiment: Experiment) -> Iterator[tuple[ParallelSpec, BatchLayout]]:
    """Yield every way to divide the GPUs, the layers and the batch, with each recomputation."""
    configured, global_batch = parallel_spec(experiment), batch_of(experiment).global_
    world = configured.world_size
    splits_sequence = experiment.parallel.sequence_parallel is not False
    for tensor in divisors(cluster.gpu_partition.node.gpus):
        for pipeline in divisors(experiment.model.layers):
            data, rest = divmod(world, tensor * pipeline)
            if rest or data == 0 or global_batch % data:
                continue
            pieces = divisors(experiment.model.layers // pipeline) if pipeline > 1 else [1]
            for micro in divisors(global_batch // data):
                if micro > LARGEST_MICRO_BATCH:
                    break
                for virtual, recompute in product(pieces, RECOMPUTE):
                    parallel = replace(
                        configured,
                        tensor=tensor,
                        pipeline=pipeline,
                        virtual=virtual,
                        data=data,
                        sequence_parallel=splits_sequence and tensor > 1,
                        recompute=recompute,
                    )
                    yield parallel, BatchLayout(micro, global_batch, data)


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, ascending."""
    return [size for size in range(1, number + 1) if number % size == 0]
