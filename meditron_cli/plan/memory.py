"""Compute the memory of each pipeline stage's ranks, by part. Pure; nothing is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.contract.stage_specs import ModelSpec, ParallelSpec, PretrainSpec
from jobs.contract.units import GIB
from meditron_cli.plan.layout import BatchLayout

if TYPE_CHECKING:
    from meditron_cli.config.training.pretrain import Pretrain

CUDA_CONTEXT = GIB
"""Of the CUDA context, kernels and cuBLAS workspaces on one GPU (guess)."""
NCCL_GROUP = 688 * 2**20
"""Of NCCL's buffers for one group of ranks on one GPU (published: github.com/NVIDIA/nccl, issue
964, for groups of three and four A100 in a node; two take 544).
"""
FRAGMENTATION = 0.05
"""Share of what a step allocates and frees that the allocator cannot reuse (guess)."""
SPLIT_TEMPORARIES = 4
"""Bytes per parameter of torch's ``foreach`` AdamW: the square roots of all second moments at once.
The fused Adam of transformer-engine has none; the plan counts the larger.
"""


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank of one pipeline stage; computed, not measured."""

    stage: int
    """Of the pipeline, from 0."""
    weights: int
    gradients: int
    optimizer: int
    temporaries: int
    """Of the optimizer, while it steps; activations are freed by then."""
    activations: int
    """Stored for backward passes."""
    backward: int
    """Of one layer, while its gradients are computed."""
    logits: int
    """On the last stage: logits and their loss, or their gradients; layers' gradients come later.
    """
    context: int
    """CUDA and NCCL."""
    save: int
    """Of host memory, for the copy from which an asynchronous save writes."""
    kept: int
    """The same, for weights that are kept without an optimizer."""

    @property
    def states(self) -> int:
        """Return the bytes independent of the batch: weights, gradients and optimizer."""
        return self.weights + self.gradients + self.optimizer

    @property
    def working(self) -> int:
        """Return the bytes that a step allocates and frees, at their peak."""
        return max(self.passes, self.temporaries)

    @property
    def passes(self) -> int:
        """Return the bytes of forward and backward passes at their peak."""
        return self.activations + max(self.backward, self.logits)

    @property
    def fragmentation(self) -> int:
        """Return the bytes that the allocator holds and cannot use; none without CUDA."""
        return round(self.working * FRAGMENTATION) if self.context else 0

    @property
    def total(self) -> int:
        """Return the bytes at the peak of a step."""
        return self.states + self.working + self.context + self.fragmentation

    def copied(self, copies: int, limit: float = math.inf) -> int:
        """Return the bytes of host memory that so many ``copies`` take, each up to a limit."""
        return int(sum(min(need, limit) for need in (self.save, self.kept)[:copies]))


def copies(pretrain: PretrainSpec | Pretrain) -> int:
    """Return how many copies in host memory asynchronous saves have: that of checkpoints, and that
    of weights that are kept, which may be saved at the same step.
    """
    if not pretrain.async_save:
        return 0
    return 2 if pretrain.keep_steps and pretrain.keep_weights_only else 1


def copies_without_limit(pretrain: PretrainSpec | Pretrain) -> int:
    """Return how many copies need half of a node's memory: none where a setting limits them."""
    return copies(pretrain) if pretrain.save_memory_gb is None else 0


def copy_limit(pretrain: PretrainSpec, ranks_per_node: int) -> float:
    """Return the bytes that the setting leaves a rank's copy."""
    if pretrain.save_memory_gb is None:
        return math.inf
    return pretrain.save_memory_gb * GIB / ranks_per_node


def stage_parameters(model: ModelSpec, parallel: ParallelSpec, stage: int) -> int:
    """Return the parameters on one rank of a pipeline stage, norms outside of layers left out.

    The first stage holds the embedding, the last the output layer, or a copy of the embedding where
    that is the output layer; with one stage both lie on it.
    """
    layers = model.layers // parallel.pipeline * model.layer_parameters
    rows = model.padded_vocab_size * model.hidden_size
    is_first, is_last = stage == 0, stage == parallel.pipeline - 1
    edges = model.embedding_parameters if is_first and is_last else rows * (is_first or is_last)
    return (layers + edges) // parallel.tensor


def fullest(
    model: ModelSpec, parallel: ParallelSpec, batch: BatchLayout, precision: str, device: str
) -> Memory:
    """Return the memory of a rank of the fullest pipeline stage."""
    return max(stages(model, parallel, batch, precision, device), key=lambda memory: memory.total)


def stages(
    model: ModelSpec, parallel: ParallelSpec, batch: BatchLayout, precision: str, device: str
) -> tuple[Memory, ...]:
    """Return the memory of a rank of each pipeline stage in training.

    States: weights in ``precision``, fp32 gradients, fp32 master weights and two Adam moments (18
    bytes a parameter in bf16, as in ZeRO, arXiv 1910.02054, plus fp32 gradients); the distributed
    optimizer divides the last 12 by the data-parallel size. An asynchronous save copies a rank's
    share of the checkpoint, which data-parallel ranks divide, to host memory
    (``jobs.engine.saving.shard_writer``).
    """
    return tuple(
        _stage(model, parallel, batch, precision, device, stage)
        for stage in range(parallel.pipeline)
    )


def _stage(
    model: ModelSpec,
    parallel: ParallelSpec,
    batch: BatchLayout,
    precision: str,
    device: str,
    stage: int,
) -> Memory:
    count = stage_parameters(model, parallel, stage)
    is_cuda, is_last = device == "cuda", stage == parallel.pipeline - 1
    weight, optimizer = (2, 12) if precision == "bf16" else (4, 8)
    shards = parallel.data if parallel.distributed_optimizer else 1
    sizes = (parallel.tensor, parallel.pipeline, parallel.data, parallel.world_size)
    groups = sum(size > 1 for size in sizes)
    return Memory(
        stage=stage,
        weights=count * weight,
        gradients=count * 4,
        optimizer=count * optimizer // shards,
        temporaries=_temporaries(count, shards, parallel, is_cuda),
        activations=activations(model, parallel, batch, precision, device, stage),
        backward=backward(model, parallel, batch, precision, device),
        logits=logits(model, parallel, batch, precision, device) if is_last else 0,
        context=CUDA_CONTEXT + NCCL_GROUP * groups if is_cuda else 0,
        save=count * (weight + 12) // parallel.data,
        kept=count * weight // parallel.data,
    )


def _temporaries(count: int, shards: int, parallel: ParallelSpec, is_cuda: bool) -> int:
    """Return the bytes of the optimizer's temporaries, of parameters on a rank and ranks that share
    their states.

    On CPUs gloo copies all that a reduce-scatter of gradients reads, and torch's AdamW has
    temporaries of one parameter at a time, which are left out.
    """
    if is_cuda:
        return count * SPLIT_TEMPORARIES // shards
    return count * 4 if parallel.distributed_optimizer else 0


def bytes_per_number(precision: str) -> int:
    """Return the bytes of one activation."""
    return 2 if precision == "bf16" else 4


def layer_activations(
    model: ModelSpec, parallel: ParallelSpec, tokens: int, precision: str, device: str
) -> int:
    """Return the bytes that one layer stores for its backward pass.

    On CUDA with transformer-engine, after Korthikanti et al. 2022 (arXiv 2205.05198), section 4,
    for a Llama layer without dropout, in numbers per token: the inputs of both norms and of both
    first projections (4 h), queries, keys, values and attention's output (2 q + 2 k), the gate, the
    other half and their product (3 f), for h, q, k and f the widths of the model, of query and key
    heads, and of the MLP. Fused attention stores no scores.

    On CPUs, as measured: a norm stores its input and that times its inverse root in fp32 beside its
    output; values are part of the projection, which is stored whole (3 q + 3 k), with one fp32
    number per head of attention's softmax; a gate without a fused kernel stores five tensors (5 f).

    Tensor parallelism divides all but the norms, sequence parallelism those too.

    Args:
        tokens: of one micro-batch.
    """
    t, number = parallel.tensor, bytes_per_number(precision)
    query, key = model.attention_heads * model.head_dim, model.kv_heads * model.head_dim
    has_head_norms = model.qk_norm or model.post_norm
    if device == "cuda":
        norms = 4 * number * model.hidden_size
        divided = number * (2 * query + 2 * key + 3 * model.ffn_hidden_size)
        divided += number * (query + key) if has_head_norms else 0
    else:
        norms = 2 * (8 + number) * model.hidden_size
        divided = number * (3 * query + 3 * key + 5 * model.ffn_hidden_size)
        divided += 4 * model.attention_heads + (8 * (query + key) if has_head_norms else 0)
    return tokens * norms // _of_sequence(parallel) + tokens * divided // t


def _of_sequence(parallel: ParallelSpec) -> int:
    """Return the ranks that share the tokens between layers."""
    return parallel.tensor if parallel.sequence_parallel else 1


def activations(
    model: ModelSpec,
    parallel: ParallelSpec,
    batch: BatchLayout,
    precision: str,
    device: str,
    stage: int,
) -> int:
    """Return the bytes of activations that a rank of a pipeline stage stores at once.

    A stage holds those of ``pieces_in_flight``, and beside them what it sent to the next stage, and
    on CPUs what it received, which norms copy. ``full`` recomputation stores the input of each
    layer; ``selective`` only spares what fused attention never stores.
    """
    tokens = model.seq_length * batch.micro
    message = bytes_per_number(precision) * tokens * model.hidden_size // _of_sequence(parallel)
    whole = layer_activations(model, parallel, tokens, precision, device)
    stored = message if parallel.recompute == "full" else whole
    first, last = stage == 0, stage == parallel.pipeline - 1
    if parallel.virtual > 1:  # the first and the last stage have pieces in the middle too
        first = last = False
    messages = (not last) + (not first and device != "cuda")
    layers = model.layers // (parallel.pipeline * parallel.virtual)
    return (stored * layers + message * messages) * pieces_in_flight(parallel, batch, stage)


def without_engine(
    model: ModelSpec, parallel: ParallelSpec, batch: BatchLayout, precision: str, stage: int
) -> int:
    """Return the bytes of activations that a rank of a pipeline stage stores on CUDA without
    transformer-engine, beyond those with it; they are not in ``Memory``.

    Local layers keep the projection of queries, keys and values whole, since values are a part of
    it, and attention one fp32 number per head. Their other operations store the same: torch's norm
    is fused on CUDA, and megatron.core's gate everywhere. The fp32 copies of queries and keys while
    they turn are there when the numbers of the layer's MLP are not.
    """
    query, key = model.attention_heads * model.head_dim, model.kv_heads * model.head_dim
    each = bytes_per_number(precision) * (query + key) + 4 * model.attention_heads
    layer = model.seq_length * batch.micro * each // parallel.tensor
    if parallel.recompute == "full":
        return layer
    layers = model.layers // (parallel.pipeline * parallel.virtual)
    return layer * layers * pieces_in_flight(parallel, batch, stage)


def pieces_in_flight(parallel: ParallelSpec, batch: BatchLayout, stage: int) -> int:
    """Return the pieces, each counted once per micro-batch, whose activations a stage holds at
    once.

    One-forward-one-backward (Narayanan et al. 2021, arXiv 2104.04473, section 2.2): stage s of p
    holds its one piece for p - s micro-batches, or for all where there are fewer. Interleaved with
    v pieces, it has begun 2 (p - s - 1) + (v - 1) p and then begins one more before it completes
    one (``get_pp_rank_microbatches`` of megatron.core 0.16.1); for the first stage these are
    1 + (p - 1) / (p v) times all of p micro-batches (Korthikanti et al. 2022, section 4.2.3).
    """
    p, v = parallel.pipeline, parallel.virtual
    begun = p - stage if v == 1 else 2 * (p - stage - 1) + (v - 1) * p + 1
    return min(begun, batch.accumulation * v)


def backward(
    model: ModelSpec, parallel: ParallelSpec, batch: BatchLayout, precision: str, device: str
) -> int:
    """Return the bytes of one layer while its gradients are computed: what is computed again with
    ``full`` recomputation, the gradients of its output and of the MLP's activations, and the
    gradient of the MLP's last weight, which is then added to the fp32 sum.
    """
    tokens = model.seq_length * batch.micro
    again = parallel.recompute == "full"
    layer = layer_activations(model, parallel, tokens, precision, device) if again else 0
    wide = model.ffn_hidden_size * (tokens + max(tokens, model.hidden_size)) // parallel.tensor
    return layer + bytes_per_number(precision) * (tokens * model.hidden_size + wide)


def logits(
    model: ModelSpec, parallel: ParallelSpec, batch: BatchLayout, precision: str, device: str
) -> int:
    """Return the bytes of logits and their loss, and of the last norm, for one micro-batch.

    megatron.core's vocabulary-parallel cross entropy (0.16.1) stores the softmax in fp32. In bf16
    the logits, and later their gradient, are there beside it; in fp32 all three are one tensor.
    When the softmax is gone, the gradients of the output layer's weight and input are made.
    """
    tokens, t, number = model.seq_length * batch.micro, parallel.tensor, bytes_per_number(precision)
    norm = (8 + number if device != "cuda" else 2 * number) * tokens * model.hidden_size
    columns = model.padded_vocab_size // t
    loss = (4 if precision == "fp32" else 6) * tokens * columns
    gradients = number * (tokens * columns + (tokens + columns) * model.hidden_size)
    return max(loss, gradients) + norm // _of_sequence(parallel)
