"""Compute 3D-parallel layouts: divisibility, parameters, memory, floating-point work. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.contract.stage_specs import ModelSpec, ParallelSpec


@dataclass(frozen=True)
class BatchLayout:
    """The sequences of a step, and their division into micro-batches."""

    micro: int
    global_: int
    data_parallel: int

    @property
    def accumulation(self) -> int:
        """Return the micro-batches of each data-parallel replica in one step."""
        return self.global_ // (self.micro * self.data_parallel)


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest GPU; computed, not measured."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    save: int
    """Of host memory, while a checkpoint is written."""

    @property
    def states(self) -> int:
        """Return the bytes independent of the batch: weights, gradients and optimizer."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """Return the bytes at the peak of a step."""
        return self.states + self.activations


def padded_vocabulary(vocab_size: int, multiple: int) -> int:
    """Return the rows of the embedding: the next multiple of ``multiple``, whatever the layout.

    Megatron-LM pads to 128 times the tensor-parallel size, so that MEDITRON-70B's 32,017 tokens
    had 32,768 rows at TP 8; a multiple of 1,024 gives the same.
    """
    return -(-vocab_size // multiple) * multiple


def stage_parameters(model: ModelSpec, parallel: ParallelSpec) -> int:
    """Return the parameters on one rank of the fullest pipeline stage.

    The first stage holds the embedding, the last the output layer, or a copy of the embedding where
    that is the output layer; with one stage both lie on it.
    """
    layers = model.layers // parallel.pipeline * model.layer_parameters
    embedding = model.padded_vocab_size * model.hidden_size
    if parallel.pipeline == 1:
        embedding = model.embedding_parameters
    return (layers + embedding) // parallel.tensor


def memory(model: ModelSpec, parallel: ParallelSpec, batch: BatchLayout, precision: str) -> Memory:
    """Return the bytes on the fullest rank in training.

    States: weights in ``precision``, fp32 gradients, fp32 master weights and two Adam moments (18
    bytes a parameter in bf16); the distributed optimizer divides the last 12 by the data-parallel
    size. It also gathers the fp32 weights and both moments of all its data-parallel peers into the
    host memory of every rank to save them (``get_parameter_state_dp_zero`` of megatron.core
    0.16.1's ``distrib_optimizer.py``), 12 bytes a parameter of the rank; the GPU holds one gradient
    bucket of them at a time, which is not counted, and neither are buffers of libraries.
    """
    count = stage_parameters(model, parallel)
    weight = 2 if precision == "bf16" else 4
    optimizer = count * (12 if precision == "bf16" else 8)
    if parallel.distributed_optimizer:
        optimizer //= parallel.data
    return Memory(
        weights=count * weight,
        gradients=count * 4,
        optimizer=optimizer,
        activations=activations(model, parallel, batch, precision),
        save=count * 12 if parallel.distributed_optimizer else 0,
    )


def activations(
    model: ModelSpec, parallel: ParallelSpec, batch: BatchLayout, precision: str
) -> int:
    """Return the bytes of activations on the fullest rank.

    A layer's: Korthikanti et al. 2022 (arXiv 2205.05198), equations 2 to 4, for 16 bit; fp32 takes
    twice that. Queries, keys, values and the attention's output (8 of the 34 bytes) are as wide as
    the query heads together. The first pipeline stage keeps those of as many micro-batches as there
    are stages, or as there are; the last has one, and fp32 logits. One layer at a time is computed
    again, which ``full`` recomputation holds beside its inputs. The equations' masks and GELU stand
    for SwiGLU and no dropout here, and attention that never stores its scores takes less.
    """
    tokens = model.seq_length * batch.micro
    width = tokens * model.hidden_size
    t = parallel.tensor
    scores = 5 * model.attention_heads * model.seq_length * tokens // t
    heads = 8 * tokens * model.attention_heads * model.head_dim // t
    dense = heads + 16 * width // t + 10 * width // (t if parallel.sequence_parallel else 1)
    inputs = 2 * width // (t if parallel.sequence_parallel else 1)
    kept, again = {
        "none": (dense + scores, 0),
        "selective": (dense, scores),
        "full": (inputs, dense + scores),
    }[parallel.recompute]
    scale = 1 if precision == "bf16" else 2
    per_batch = kept * (model.layers // parallel.pipeline)
    logits = 4 * tokens * model.padded_vocab_size // t
    first = per_batch * min(parallel.pipeline, batch.accumulation)
    if parallel.pipeline == 1:
        return (first + again) * scale + logits
    return max((first + again) * scale, (per_batch + again) * scale + logits)


def flops_per_token(model: ModelSpec) -> float:
    """Return the floating-point operations per training token: 6 N plus attention's 12 L h s.

    Narayanan et al. 2021 (arXiv 2104.04473). N counts the output layer but not the embedding, which
    is looked up; tied, they are one tensor, which counts. h is the width of the query heads.
    """
    looked_up = 0 if model.tied_embeddings else model.padded_vocab_size * model.hidden_size
    width = model.attention_heads * model.head_dim
    return 6.0 * (model.parameters - looked_up) + 12.0 * model.layers * width * model.seq_length


def layout_errors(model: ModelSpec, parallel: ParallelSpec, micro: int, global_: int) -> list[str]:
    """Return one sentence per broken divisibility rule, with the keys to change."""
    t, p, d = parallel.tensor, parallel.pipeline, parallel.data
    rules = [
        (model.attention_heads, t, "model.attention_heads", "parallel.tensor"),
        (model.kv_heads, t, "model.kv_heads", "parallel.tensor"),
        (model.ffn_hidden_size, t, "model.ffn_hidden_size", "parallel.tensor"),
        (model.layers, p, "model.layers", "parallel.pipeline"),
        (
            global_,
            micro * d,
            "pretrain.global_batch_size",
            "pretrain.micro_batch_size x parallel.data",
        ),
    ]
    if parallel.sequence_parallel:
        rules.append((model.seq_length, t, "model.seq_length", "parallel.tensor"))
    errors = [_indivisible(*rule) for rule in rules if rule[0] % rule[1]]
    return errors + embedding_errors(model, t, "parallel.tensor")


def embedding_errors(model: ModelSpec, tensor: int, key: str) -> list[str]:
    """Return a sentence where a tensor size, named by its key, does not divide the padded rows."""
    if model.padded_vocab_size % tensor == 0:
        return []
    return [
        f"the embedding's rows, {model.padded_vocab_size}, are not divisible by {key} = {tensor}; "
        f"set model.vocab_multiple to a multiple of {tensor}"
    ]


def _indivisible(value: int, divisor: int, name: str, by: str) -> str:
    below = value // divisor * divisor
    near = f"{below} or {below + divisor}" if below else str(divisor)
    return f"{name} = {value} is not divisible by {by} = {divisor}; {near} would be"
