"""The model, its vocabulary and its layout, as several stages have them. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

ASIDE = "aside"
"""Key in the metadata of a field that another field decides, or that only checks use: specs that
differ only there have one digest.
"""

CPU_STAGE_GIB_PER_CORE = 4
"""Memory that a stage on a CPU node requests, as far as the node has it. What a stage may do with
memory to spare, such as verifying generations, is bounded by it, also where nothing enforces it."""


@dataclass(frozen=True)
class VocabularySpec:
    """The tokens added to a base vocabulary, and the tokens with a role."""

    base_size: int
    """Tokens of the base model; added tokens have the ids from here on."""
    unused_rows: int
    """Rows of the base model's embedding behind its last token; added tokens take them first."""
    added_tokens: tuple[str, ...]
    """In the order of their ids."""
    control_tokens: tuple[str, ...]
    """Those of ``added_tokens`` that no text contains: they are marked special."""
    new_rows: str
    """Initial embedding and output rows of added tokens: ``repeat-last-row`` of the base model,
    ``mean`` of its rows, or ``copy:<token>``.
    """
    eod_token: str
    """Appended after each document; must be in the vocabulary."""
    bos_token: str
    """Put before each document; empty for none."""
    eos_token: str
    """Ends a generation."""

    @property
    def base_rows(self) -> int:
        """Return the rows of the base model's embedding."""
        return self.base_size + self.unused_rows

    @property
    def size(self) -> int:
        """Return the tokens, added ones included."""
        return self.base_size + len(self.added_tokens)


@dataclass(frozen=True)
class TokenizerRef:
    """A tokenizer by the file that the run was made with."""

    path: str
    """Absolute path of a ``tokenizer.json``."""
    sha256: str
    vocabulary: VocabularySpec
    grown: tuple[str, ...] = ()
    """Tokens that a finetuning adds behind those of the file, in this order, when it is loaded;
    they are special. The weights of a checkpoint without them grow by their rows by the rule
    ``new_rows``, whose base then is the checkpoint's vocabulary.
    """


@dataclass(frozen=True)
class RopeScaling:
    """The frequency scaling of Llama 3.1 and later (``rope_type: llama3`` of transformers)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int
    """Context length, in tokens, before the scaling."""


@dataclass(frozen=True)
class ModelSpec:
    """A decoder of the Llama family: RMSNorm, SwiGLU, RoPE, grouped-query attention."""

    layers: int
    hidden_size: int
    ffn_hidden_size: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    seq_length: int
    vocab_size: int
    """Rows before padding: a row per token, and unused rows of the base model."""
    padded_vocab_size: int
    """Rows of the embedding, whatever the layout; those from ``vocab_size`` on are never scored."""
    rope_theta: float
    rope_scaling: RopeScaling | None
    norm_eps: float
    init_std: float
    tied_embeddings: bool
    """The output layer is the embedding."""
    qkv_bias: bool
    """Query, key and value projections have biases (Qwen 2)."""
    qk_norm: bool
    """Each query and key head is normalised before RoPE (Qwen 3)."""
    post_norm: bool
    """Norms are behind attention and MLP, and one norm each spans all query and all key heads
    (OLMo 2)."""

    @property
    def architecture(self) -> dict[str, Any]:
        """Return what determines the shapes of weights and their mathematics, apart from the
        vocabulary.
        """
        settings = ("seq_length", "vocab_size", "padded_vocab_size", "init_std")
        fields = {name: value for name, value in asdict(self).items() if name not in settings}
        return {**fields, "activation": "swiglu", "norm": "rmsnorm"}

    @property
    def layer_parameters(self) -> int:
        """Return the parameters of one decoder layer: q, k, v, output, gated MLP and norms."""
        query, key = self.attention_heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden_size * (2 * query + 2 * key)
        if self.qkv_bias:
            attention += query + 2 * key
        if self.qk_norm:
            attention += 2 * self.head_dim
        if self.post_norm:
            attention += query + key
        return attention + 3 * self.hidden_size * self.ffn_hidden_size + 2 * self.hidden_size

    @property
    def embedding_parameters(self) -> int:
        """Return the parameters of the embedding and of an output layer of its own."""
        return (1 if self.tied_embeddings else 2) * self.padded_vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """Return the parameters of the whole model, padding rows of the vocabulary included.

        With 32,000 rows this gives Llama-2's published 6,738,415,616 (7B) and 68,976,648,192 (70B).
        """
        return self.layers * self.layer_parameters + self.embedding_parameters + self.hidden_size

    def flops_per_token(self, *, attention: bool = True) -> float:
        """Return the floating-point operations per training token: 6 N plus attention's 12 L h s.

        Narayanan et al. 2021 (arXiv 2104.04473). N counts the output layer but not the embedding,
        which is looked up; tied, they are one tensor, which counts. h is the width of the query
        heads. What is computed again does not count, and the causal mask halves nothing.
        """
        looked_up = 0 if self.tied_embeddings else self.padded_vocab_size * self.hidden_size
        scores = 12.0 * self.layers * self.attention_heads * self.head_dim * self.seq_length
        return 6.0 * (self.parameters - looked_up) + (scores if attention else 0.0)

    def weights_bytes(self, precision: str) -> int:
        """Return the bytes of a checkpoint with weights alone."""
        return self.parameters * (2 if precision == "bf16" else 4)

    def checkpoint_bytes(self, precision: str) -> int:
        """Return the bytes of one checkpoint: weights, fp32 master weights and two Adam moments.

        In fp32 too: the distributed optimizer keeps its own copy of the weights beside the model's.
        """
        return self.weights_bytes(precision) + self.parameters * 3 * 4


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
    virtual: int = 1
    """Pieces of each pipeline stage's layers in the interleaved schedule; 1 is plain 1F1B."""

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline * self.data


TOLERANCE = 1e-4
"""Default of the largest difference of a logit in fp32 that is accepted, as a share of the largest
logit. The tests of Megatron-LLM accept a mean difference of 1e-3
(epfLLM/Megatron-LLM:tests/test_llama_weights.py)."""


@dataclass(frozen=True)
class VerifySpec:
    """Compare the logits of imported or exported weights with those of the checkpoint."""

    enabled: bool
    tokens: int
    """Of each text."""
    tolerance: float = TOLERANCE
    """Largest difference of a logit that is accepted, as a share of the largest logit."""
