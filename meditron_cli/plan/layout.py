"""Compute 3D-parallel layouts: divisibility and floating-point work. Pure."""

from __future__ import annotations

from collections.abc import Mapping
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


def padded_vocabulary(vocab_size: int, multiple: int) -> int:
    """Return the rows of the embedding: the next multiple of ``multiple``, whatever the layout.

    Megatron-LM pads to 128 times the tensor-parallel size, so that MEDITRON-70B's 32,017 tokens
    had 32,768 rows at TP 8; a multiple of 1,024 gives the same.
    """
    return -(-vocab_size // multiple) * multiple


def layout_errors(
    model: ModelSpec,
    parallel: ParallelSpec,
    micro: int,
    global_: int,
    lengths: Mapping[str, int] | None = None,
) -> list[str]:
    """Return one sentence per broken divisibility rule, with the keys to change.

    Args:
        lengths: tokens of a sequence in phases, by key.
    """
    t, p, d = parallel.tensor, parallel.pipeline, parallel.data
    v = parallel.virtual
    layers_by = "parallel.pipeline" if v == 1 else "parallel.pipeline x parallel.virtual"
    rules = [
        (model.attention_heads, t, "model.attention_heads", "parallel.tensor"),
        (model.kv_heads, t, "model.kv_heads", "parallel.tensor"),
        (model.ffn_hidden_size, t, "model.ffn_hidden_size", "parallel.tensor"),
        (model.layers, p * v, "model.layers", layers_by),
        (
            global_,
            micro * d,
            "pretrain.global_batch_size",
            "pretrain.micro_batch_size x parallel.data",
        ),
    ]
    if v > 1 and global_ % (micro * d) == 0:  # the interleaved schedule of megatron.core 0.16.1
        batches = "pretrain.micro_batch_size x parallel.data x parallel.pipeline"
        rules.append((global_, micro * d * p, "pretrain.global_batch_size", batches))
    if parallel.sequence_parallel:
        every = {"model.seq_length": model.seq_length, **(lengths or {})}
        rules += [(length, t, key, "parallel.tensor") for key, length in every.items()]
    errors = [_indivisible(*rule) for rule in rules if rule[0] % rule[1]]
    if v > 1 and p == 1:
        errors.append(
            f"parallel.virtual = {v} divides the layers of pipeline stages, and parallel.pipeline "
            "is 1; set parallel.virtual to 1, or raise parallel.pipeline"
        )
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
