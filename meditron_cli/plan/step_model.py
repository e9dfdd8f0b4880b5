"""Compute the time of a training step from a model of compute and communication. Pure.

All times are computed, none is measured; docs/plan.md compares them with published steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobs.contract.stage_specs import ModelSpec, ParallelSpec
from meditron_cli.plan.hardware import Machine
from meditron_cli.plan.layout import BatchLayout

EXPOSED_SHARE = 0.2
"""Share of tensor-parallel communication that is not hidden where products and collectives overlap
in pieces, as with transformer-engine's user buffers (guess).
"""


@dataclass(frozen=True)
class Engine:
    """The properties of a training program that its speed depends on."""

    fused_attention: bool = True
    """Attention never writes its scores to memory, and skips those that the causal mask hides."""
    fused_kernels: bool = True
    """Norms, rotary positions and the gated MLP's product are one kernel each."""
    fused_accumulation: bool = False
    """Products of a weight's gradient add to the fp32 sum themselves (needs apex's extension)."""
    overlaps_tensor: bool = False
    """Tensor-parallel communication overlaps with the products beside it, in pieces."""
    overlaps_pipeline: bool = False
    """Messages between pipeline stages overlap with compute in the interleaved schedule."""
    overlaps_reduction: bool = True
    """Gradients are reduced during the last micro-batch's backward pass."""
    overlaps_gather: bool = False
    """Weights are gathered during the first micro-batch's forward pass (distributed optimizer)."""
    splits_messages: bool = False
    """Tensor-parallel ranks send a part of a message each; sequence parallelism does so anyway."""


OURS = Engine(overlaps_pipeline=True, overlaps_gather=True)
"""What ``jobs.engine`` does on CUDA with transformer-engine; unproven, no GPU has run it."""


@dataclass(frozen=True)
class Work:
    """One training step. The last two settings have no key here, but published runs have them."""

    model: ModelSpec
    parallel: ParallelSpec
    batch: BatchLayout
    context: int = 1
    """Context-parallel size: ranks that share a sequence."""
    lighter_edges: bool = False
    """The first and the last stage have one layer fewer than the others."""

    @property
    def tokens(self) -> float:
        """Return the tokens of a micro-batch on one rank."""
        return self.batch.micro * self.model.seq_length / self.context

    @property
    def copies(self) -> int:
        """Return the ranks that hold the same weights and reduce their gradients."""
        return self.parallel.data * self.context

    @property
    def stage_layers(self) -> tuple[int, ...]:
        """Return the layers of each pipeline stage."""
        stages = self.parallel.pipeline
        if not self.lighter_edges:
            return (self.model.layers // stages,) * stages
        most = (self.model.layers + 2) // stages
        return (most - 1, *(most,) * (stages - 2), most - 1)


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, by part; their sum is the step."""

    compute: float
    """On the slowest stage, with recomputation."""
    tensor: float
    """Exposed tensor-parallel communication."""
    bubble: float
    """Waiting for the pipeline to fill and to drain."""
    pipeline: float
    """Exposed messages between stages."""
    data: float
    """Exposed reduction of gradients and gathering of weights."""
    optimizer: float

    @property
    def seconds(self) -> float:
        """Return the time of the step."""
        return self.compute + self.tensor + self.bubble + self.pipeline + self.data + self.optimizer


@dataclass(frozen=True)
class Layer:
    """Seconds of one layer and one micro-batch on one rank."""

    forward: float
    backward: float
    again: float
    """Recomputed in the backward pass."""
    tensor: float
    """Exposed tensor-parallel communication, of both passes and of what is recomputed."""

    @property
    def compute(self) -> float:
        """Return the time without communication."""
        return self.forward + self.backward + self.again


def step_time(work: Work, machine: Machine, engine: Engine = OURS) -> StepTime:
    """Return the time of a step: m micro-batches on the slowest stage, then the other stages once.

    With equal stages of time u, that is (m + p - 1) u, the 1F1B schedule; interleaving divides the
    p - 1 by its pieces (Narayanan et al. 2021, arXiv 2104.04473, section 2.2).
    """
    layer = layer_time(work, machine, engine)
    output = output_time(work, machine, engine)
    computes = [count * layer.compute for count in work.stage_layers]
    computes[-1] += output
    tensors = [count * layer.tensor for count in work.stage_layers]
    totals = [sum(pair) for pair in zip(computes, tensors, strict=True)]
    slowest = max(range(len(totals)), key=totals.__getitem__)
    batches = work.batch.accumulation
    return StepTime(
        compute=batches * computes[slowest],
        tensor=batches * tensors[slowest],
        bubble=(sum(totals) - totals[slowest]) / work.parallel.virtual,
        pipeline=messages_time(work, machine, engine),
        data=reduction_time(work, machine, engine, layer),
        optimizer=optimizer_time(work, machine),
    )


def layer_time(work: Work, machine: Machine, engine: Engine) -> Layer:
    """Return the time of a layer: matrix products, attention, and kernels that memory bounds.

    A backward pass takes twice a forward's products and bytes. Bytes per token of kernels without
    reuse: 20 h for two norms and two residual sums, 4 (q + k) for rotary positions, 6 f for the
    gated MLP; without fused kernels 76 h, 24 (q + k) and 10 f, by counting the reads and writes of
    each operation of a norm, a rotation and a gate in fp32. Fused attention works on half of the
    scores and computes them again in the backward pass (2.5 times the forward's; Dao 2023, arXiv
    2307.08691); attention that is not fused reads and writes them (13 bytes a score).
    """
    model, tokens, t = work.model, work.tokens, work.parallel.tensor
    query, key = model.attention_heads * model.head_dim, model.kv_heads * model.head_dim
    width, inner = model.hidden_size, model.ffn_hidden_size
    products = sum(
        product_time(machine, tokens, rows, columns)
        for rows, columns in (
            ((query + 2 * key) / t, width),
            (width, query / t),
            (2 * inner / t, width),
            (width, inner / t),
        )
    )
    scores = 4 * model.seq_length * tokens * query / t
    if engine.fused_attention:
        attention, backward = scores / 2 / machine.attention, 2.5 * scores / 2 / machine.attention
    else:
        traffic = 13 * model.attention_heads * model.seq_length * tokens / t
        attention = scores / machine.product + traffic / machine.memory
        backward = 2 * attention
    norms, rotary, gate = (20, 4, 6) if engine.fused_kernels else (76, 24, 10)
    whole = norms * width / (t if work.parallel.sequence_parallel else 1)
    traffic = tokens * (whole + (rotary * (query + key) + gate * inner) / t)
    kernels = traffic / machine.memory
    forward = products + attention + kernels
    again = {"none": 0.0, "selective": attention, "full": forward}[work.parallel.recompute]
    summing = accumulation_time(model.layer_parameters / t, machine, engine)
    return Layer(
        forward=forward,
        backward=2 * products + backward + 2 * kernels + summing,
        again=again,
        tensor=tensor_time(work, machine, engine),
    )


def product_time(machine: Machine, m: float, n: float, k: float) -> float:
    """Return the time of an m x k by k x n matrix product in bf16: its floating-point operations,
    and reading and writing each matrix once, which slows products with a short side.
    """
    return 2 * m * n * k / machine.product + 2 * (m * k + k * n + m * n) / machine.memory


def accumulation_time(parameters: float, machine: Machine, engine: Engine) -> float:
    """Return the time to add a micro-batch's gradients to their fp32 sums: 10 bytes a parameter
    beside the product's result, or none where the product adds them while it computes.
    """
    return 0.0 if engine.fused_accumulation else 10 * parameters / machine.memory


def ring_time(size: float, ranks: int, speed: float) -> float:
    """Return the time of a reduce-scatter or an all-gather of ``size`` bytes over a ring: each rank
    sends all but its own part (Thakur et al. 2005, "Optimization of Collective Communication
    Operations in MPICH"). An all-reduce is both.
    """
    return size * (ranks - 1) / ranks / speed if ranks > 1 else 0.0


def tensor_time(work: Work, machine: Machine, engine: Engine) -> float:
    """Return the exposed tensor-parallel communication of a layer.

    Two all-reduces of a micro-batch's activations in the forward pass, and in the backward pass of
    sequence parallelism one more, as two all-gathers; the other collectives of the backward pass
    overlap with the product of the weight's gradient (Korthikanti et al. 2022, arXiv 2205.05198,
    section 4.2; ``tensor_parallel/layers.py`` of megatron.core 0.16.1). Full recomputation repeats
    those of the forward pass.
    """
    parallel = work.parallel
    size = 2 * work.tokens * work.model.hidden_size
    count = 2 + parallel.sequence_parallel + (2 if parallel.recompute == "full" else 0)
    exposed = EXPOSED_SHARE if engine.overlaps_tensor else 1.0
    return 2 * ring_time(size, parallel.tensor, machine.link) * count * exposed


def output_time(work: Work, machine: Machine, engine: Engine) -> float:
    """Return the time of the output layer and its loss for one micro-batch: three products, 20
    bytes of traffic a logit, and the sum of gradients.
    """
    rows = work.model.padded_vocab_size / work.parallel.tensor
    product = product_time(machine, work.tokens, rows, work.model.hidden_size)
    summing = accumulation_time(rows * work.model.hidden_size, machine, engine)
    return 3 * product + 20 * work.tokens * rows / machine.memory + summing


def messages_time(work: Work, machine: Machine, engine: Engine) -> float:
    """Return the exposed messages between pipeline stages.

    A stage exchanges activations with the next stage and gradients with the previous one, for each
    micro-batch and each of its pieces; both directions at once. Those that fill and drain the
    pipeline never overlap. All GPUs of a node send at once
    where stages lie on different nodes.
    """
    parallel = work.parallel
    if parallel.pipeline == 1:
        return 0.0
    is_split = parallel.sequence_parallel or engine.splits_messages
    size = 2 * work.tokens * work.model.hidden_size / (parallel.tensor if is_split else 1)
    ranks = parallel.tensor * parallel.pipeline * work.copies
    speed = machine.network / machine.gpus if ranks > machine.gpus else machine.link
    count = parallel.pipeline - 1
    if parallel.virtual == 1 or not engine.overlaps_pipeline:
        count += work.batch.accumulation * parallel.virtual
    return 2 * size * count / speed


def reduction_time(work: Work, machine: Machine, engine: Engine, layer: Layer) -> float:
    """Return the exposed reduction of fp32 gradients, and with the distributed optimizer the
    exposed gathering of bf16 weights.

    Rings of as many groups as a node has share its network. What overlaps is hidden by the backward
    or forward pass of one micro-batch.
    """
    copies, parallel = work.copies, work.parallel
    inside = max(1, min(copies, machine.gpus // parallel.tensor))
    speed = machine.link
    if copies > inside:
        speed = min(speed, machine.network / machine.gpus * inside)
    count = rank_parameters(work)
    layers = max(work.stage_layers)
    reduction = ring_time(4 * count, copies, speed)
    gathering = ring_time(2 * count, copies, speed)
    if not parallel.distributed_optimizer:  # an all-reduce: the second half is of gradients too
        reduction, gathering = 2 * reduction, 0.0
    if engine.overlaps_reduction:
        reduction = max(0.0, reduction - layers * layer.backward)
    if engine.overlaps_gather:
        gathering = max(0.0, gathering - layers * layer.forward)
    return reduction + gathering


def rank_parameters(work: Work) -> float:
    """Return the parameters of a rank that holds the output layer."""
    model, layers = work.model, max(work.stage_layers)
    output = model.padded_vocab_size * model.hidden_size
    return (layers * model.layer_parameters + output) / work.parallel.tensor


def optimizer_time(work: Work, machine: Machine) -> float:
    """Return the time of an optimizer step, by its traffic: 30 bytes a parameter of this rank's
    share (gradient, master weight and both moments read, the last three and the weight written),
    and 12 a parameter to clear gradients and to compute their norm.
    """
    count = rank_parameters(work)
    share = count / (work.copies if work.parallel.distributed_optimizer else 1)
    return (30 * share + 12 * count) / machine.memory
