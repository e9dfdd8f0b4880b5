"""The settings of one task of each stage. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

STAGES = ("curate", "tokenize", "pretrain", "evaluate")
"""Stages in pipeline order."""

TRAINING_STAGES = ("pretrain",)
"""Stages with steps and checkpoints; tasks of the others start from scratch in each attempt."""

TOKENIZER_STAGES = ("tokenize", *TRAINING_STAGES, "evaluate")
"""Stages that read the tokenizer."""

SAVING_STAGES = (*TRAINING_STAGES, "evaluate")
"""Stages whose ranks poll the file STOP."""


def training_stage(stages: Iterable[str]) -> str | None:
    """Return the stage among these that trains; None without one."""
    return next((stage for stage in stages if stage in TRAINING_STAGES), None)


@dataclass(frozen=True)
class CurateSpec:
    """Read every source, drop bad, short and duplicate documents, write JSONL shards."""

    sources: tuple[str, ...]
    """Files or folders: .jsonl, .json, .gz and .zst of them, .parquet; absolute paths."""
    text_key: str
    id_key: str
    """Record key of the document id; without it the id is the digest of the text."""
    min_chars: int
    """Documents with fewer characters after normalisation are dropped."""
    on_bad_record: str
    """``fail`` stops at the first record that is not JSON or has no usable text; ``skip`` counts it
    and copies it to ``rejected.jsonl``.
    """
    shards: int
    """Number of training shards; a document's shard is its digest modulo this number."""
    validation_fraction: float
    """Share of documents, chosen by hashed id, in the validation split."""
    output_dir: str
    """Relative: ``corpus``. Holds ``train/00000.jsonl …``, ``validation/00000.jsonl``,
    ``manifest.json``.
    """


@dataclass(frozen=True)
class TokenizerRef:
    """A tokenizer by the file that the run was made with."""

    path: str
    """Absolute path of a ``tokenizer.json``."""
    sha256: str
    eod_token: str
    """Appended after each document; must be in the vocabulary."""


@dataclass(frozen=True)
class TokenizeSpec:
    """Turn one JSONL shard into one Megatron indexed dataset."""

    input: str
    """Relative path of a JSONL shard written by curate."""
    output_prefix: str
    """Relative path without suffix; ``.bin`` and ``.idx`` are added."""
    tokenizer: TokenizerRef
    text_key: str
    model_vocab_size: int
    """Rows of the model's embedding before padding; ids must be below it."""
    special_tokens_in_text: bool
    """False: a literal special token inside a text is encoded as ordinary text."""


@dataclass(frozen=True)
class ModelSpec:
    """A Llama-architecture decoder: RMSNorm, SwiGLU, RoPE, GQA, untied embeddings, no biases."""

    layers: int
    hidden_size: int
    ffn_hidden_size: int
    attention_heads: int
    kv_heads: int
    seq_length: int
    vocab_size: int
    """Rows used by the tokenizer, before padding."""
    padded_vocab_size: int
    """A multiple of ``vocab_multiple x tensor``."""
    rope_theta: float
    norm_eps: float
    init_std: float

    @property
    def layer_parameters(self) -> int:
        """Return the parameters of one decoder layer: q, k, v, output, gated MLP and two norms."""
        head = self.hidden_size // self.attention_heads
        attention = self.hidden_size * (2 * self.hidden_size + 2 * self.kv_heads * head)
        return attention + 3 * self.hidden_size * self.ffn_hidden_size + 2 * self.hidden_size

    @property
    def parameters(self) -> int:
        """Return the parameters of the whole model, padding rows of the vocabulary included.

        With 32,000 rows this gives Llama-2's published 6,738,415,616 (7B) and 68,976,648,192 (70B).
        """
        embeddings = 2 * self.padded_vocab_size * self.hidden_size
        return self.layers * self.layer_parameters + embeddings + self.hidden_size

    def checkpoint_bytes(self, precision: str) -> int:
        """Return the bytes of one checkpoint: weights, fp32 master weights and two Adam moments.

        In fp32 too: the distributed optimizer keeps its own copy of the weights beside the model's.
        """
        return self.parameters * ((2 if precision == "bf16" else 4) + 3 * 4)


@dataclass(frozen=True)
class ParallelSpec:
    """3D layout. World size is ``tensor x pipeline x data``."""

    tensor: int
    pipeline: int
    data: int
    sequence_parallel: bool
    distributed_optimizer: bool
    recompute: str
    """``none``, ``selective`` or ``full`` activation recomputation."""

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline * self.data


@dataclass(frozen=True)
class OptimizerSpec:
    """AdamW and its learning rate: linear warmup, then a cosine."""

    learning_rate: float
    min_learning_rate: float
    warmup_steps: int
    decay_steps: int
    """End of the cosine; may be larger than ``train_steps``."""
    adam_beta1: float
    adam_beta2: float
    adam_eps: float
    weight_decay: float
    clip_grad: float


@dataclass(frozen=True)
class PretrainSpec:
    """Start or resume pretraining until ``train_steps``."""

    model: ModelSpec
    parallel: ParallelSpec
    device: str
    """``cuda`` or ``cpu``."""
    precision: str
    """``bf16`` or ``fp32``."""
    train_prefixes: tuple[str, ...]
    """Indexed datasets without suffix, each weighted by its token count; empty ones are skipped."""
    validation_prefixes: tuple[str, ...]
    tokenizer: TokenizerRef
    micro_batch_size: int
    global_batch_size: int
    train_steps: int
    optimizer: OptimizerSpec
    seed: int
    validation_interval: int
    """Steps between validations; 0 turns them off (a last one still runs at the end)."""
    validation_batches: int
    """Global batches per validation."""
    save_interval: int
    keep_checkpoints: int
    """Newest checkpoints kept besides step 0 and the last; ``jobs.checkpoints.retention`` lists
    further exceptions.
    """
    checkpoint_dir: str
    """Relative: ``checkpoints``."""
    tensorboard_dir: str
    """Relative: ``tensorboard``."""
    cache_dir: str
    """Relative: ``tokens/cache``, for GPTDataset's index files."""


@dataclass(frozen=True)
class EvaluateSpec:
    """Score one checkpoint on one benchmark."""

    benchmark: str
    path: str
    """Absolute path of the benchmark's questions (a file, or a folder for pubmedqa)."""
    kind: str
    """``mcq``, ``pubmedqa``, ``mmlu`` or ``medmcqa``: the layout of the file."""
    checkpoint: str
    """``first`` (step 0), ``last`` (the target step) or a step number."""
    target_step: int
    """Training target; ``last`` is refused while the newest checkpoint is below it."""
    checkpoint_dir: str
    model: ModelSpec
    parallel: ParallelSpec
    """Layout of the evaluation itself: ``tensor`` ranks on one node; pipeline and data are 1."""
    device: str
    precision: str
    tokenizer: TokenizerRef
    shots: int
    """Worked examples before each question, from the benchmark's own ``train`` records."""
    limit: int
    """Questions scored, from the start; 0 means all."""
    batch_size: int
    seed: int
    output_dir: str
    """Relative: ``evaluations/<benchmark>/<checkpoint>``."""


Spec = CurateSpec | TokenizeSpec | PretrainSpec | EvaluateSpec


SPEC_TYPES: dict[str, type[Any]] = {
    "curate": CurateSpec,
    "tokenize": TokenizeSpec,
    "pretrain": PretrainSpec,
    "evaluate": EvaluateSpec,
}
