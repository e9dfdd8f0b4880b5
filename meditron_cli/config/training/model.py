"""The model of an experiment: its vocabulary, architecture and layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from meditron_cli.config.field_types import COPY, NewRows, Token, Weights
from meditron_cli.config.section import Section


class Vocabulary(Section):
    """Tokens added to the base model's vocabulary, and tokens with a role."""

    added_tokens: tuple[Token, ...] = ()
    """Tokens after the base vocabulary, in the order of their ids; base model and added tokens
    together have model.vocab_size. `meditron tokenizer build` puts them into a tokenizer.json."""
    unused_rows: Annotated[int, Field(ge=0)] = 0
    """Rows of the base model's embedding behind its tokenizer's last token, as Qwen's have: its
    vocab_size less the tokens. Added tokens take them first, and begin with new_rows."""
    control_tokens: tuple[Token, ...] = ()
    """Those of added_tokens that no text may contain: written out in a text, such a token is
    ordinary text, unless tokenize.special_tokens_in_text is on. The others are markup of texts
    and always become their ids."""
    new_rows: NewRows = "repeat-last-row"
    """Initial rows of added tokens: ``repeat-last-row`` of the base model (as MEDITRON did), the
    ``mean`` of its rows, or ``copy:TOKEN``."""
    eod_token: Token = "<EOD>"
    """Token appended after each document; must be in the vocabulary."""
    bos_token: str = ""
    """Token put before each document; empty for none, as MEDITRON did."""
    eos_token: str = ""
    """Token that ends a generation; default: eod_token, the one trained on."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that tokens differ, control tokens are added ones, and tokens with a role are no
        markup of texts.
        """
        for key in ("added_tokens", "control_tokens"):
            tokens = getattr(self, key)
            for index, token in enumerate(tokens):
                if token in tokens[:index]:
                    yield f"{key}.{index}", f"{token!r} is listed twice"
        if strange := [token for token in self.control_tokens if token not in self.added_tokens]:
            yield "control_tokens", f"not among added_tokens: {', '.join(strange)}"
        for key in ("eod_token", "bos_token", "eos_token"):
            token = getattr(self, key)
            if token in set(self.added_tokens) - set(self.control_tokens):
                message = f"{token!r} is an added token that texts may contain; list it in "
                yield key, f"{message}control_tokens too"
        source = self.new_rows.removeprefix(COPY)
        if source != self.new_rows and source in self.added_tokens:
            yield "new_rows", f"{source!r} is an added token itself; copy one of the base model"


class RopeScaling(Section):
    """Frequency scaling of RoPE as in Llama 3.1 (``rope_type: llama3`` of transformers)."""

    factor: Annotated[float, Field(ge=1)]
    """By how much low frequencies are stretched."""
    low_freq_factor: PositiveFloat = 1.0
    """Wavelengths above original_max_position over this are stretched in full."""
    high_freq_factor: PositiveFloat = 4.0
    """Wavelengths below original_max_position over this are kept."""
    original_max_position: PositiveInt = 8192
    """Context length before scaling, in tokens."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that frequencies lie between the two bounds."""
        if self.low_freq_factor >= self.high_freq_factor:
            yield (
                "low_freq_factor",
                f"{self.low_freq_factor:g} is not below high_freq_factor, "
                f"{self.high_freq_factor:g}",
            )


class Model(Section):
    """A decoder of the Llama family: RMSNorm, SwiGLU, RoPE, grouped-query attention."""

    weights: Weights | None = None
    """Weights that training starts from: ``random``, a folder (``/models/Llama-2-7b-hf``,
    ``./base``), or a name on the Hugging Face hub (``meta-llama/Llama-2-7b-hf``, with
    ``@REVISION`` for one revision)."""
    layers: Annotated[PositiveInt, Field(le=10_000)]
    """Transformer layers."""
    hidden_size: Annotated[PositiveInt, Field(le=1_000_000)]
    """Width of the residual stream."""
    ffn_hidden_size: Annotated[PositiveInt, Field(le=10_000_000)]
    """Width of the gated feed-forward layer."""
    attention_heads: PositiveInt
    """Query heads."""
    kv_heads: PositiveInt
    """Key-value heads (groups); equal to attention_heads for plain multi-head attention."""
    head_dim: PositiveInt | None = None
    """Width of a head; default: hidden_size over attention_heads."""
    seq_length: Annotated[PositiveInt, Field(le=100_000_000)]
    """Tokens per training sequence."""
    vocab_size: Annotated[PositiveInt, Field(le=100_000_000)]
    """Rows of the embedding before padding: those of the base model, and of added tokens that its
    vocabulary.unused_rows do not hold."""
    vocab_multiple: PositiveInt = 128
    """The embedding's rows are padded to a multiple of this, which parallel.tensor divides."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the rotary position embedding."""
    rope_scaling: RopeScaling | None = None
    """Frequency scaling of RoPE; null for none."""
    norm_eps: PositiveFloat = 1e-5
    """Epsilon of RMSNorm."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of initial weights."""
    tied_embeddings: bool = False
    """Whether the output layer is the embedding."""
    qkv_bias: bool = False
    """Whether query, key and value projections have biases (Qwen 2)."""
    qk_norm: bool = False
    """Whether each query and key head is normalised (Qwen 3)."""
    post_norm: bool = False
    """Whether norms are behind attention and MLP, and span all query and all key heads (OLMo 2)."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that heads divide the width, groups the heads, and that RoPE finds pairs."""
        if self.head_dim is not None:
            if self.head_dim % 2:
                yield "head_dim", f"a head would be {self.head_dim} wide; RoPE needs an even width"
        elif self.hidden_size % self.attention_heads:
            yield (
                "attention_heads",
                f"{self.attention_heads} does not divide hidden_size, {self.hidden_size}",
            )
        elif self.hidden_size // self.attention_heads % 2:
            width = self.hidden_size // self.attention_heads
            yield "attention_heads", f"a head would be {width} wide; RoPE needs an even width"
        if self.attention_heads % self.kv_heads:
            yield (
                "kv_heads",
                f"{self.kv_heads} does not divide attention_heads, {self.attention_heads}",
            )
        if self.qk_norm and self.post_norm:
            yield "qk_norm", "post_norm normalises queries and keys as a whole; set one of the two"


class Parallel(Section):
    """3D layout of tensor x pipeline x data GPUs."""

    tensor: PositiveInt = 1
    """Tensor-parallel size (TP); keep it within a node."""
    pipeline: PositiveInt = 1
    """Pipeline-parallel size (PP); divides the layers."""
    virtual: PositiveInt = 1
    """Pieces of each pipeline stage's layers: more than 1 is the interleaved schedule, whose bubble
    is that many times smaller; pipeline x virtual divides the layers."""
    data: PositiveInt = 1
    """Data-parallel size (DP)."""
    sequence_parallel: bool | None = None
    """Split activations of norms along the sequence; default: on when tensor > 1."""
    distributed_optimizer: bool = True
    """Shard optimizer state over data-parallel ranks."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations recomputed in the backward pass instead of stored."""
