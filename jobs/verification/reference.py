"""A forward pass of the Llama family in plain torch: the mathematics of a Hugging Face folder.

Independent of megatron.core and of transformers, so that it can judge both. It reads one layer at a
time: memory holds that layer, the embedding or the output layer, and the activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn.functional import embedding, linear, silu

from jobs.contract.stage_specs import ModelSpec, RopeScaling

Read = Callable[[str], torch.Tensor]
"""Return a tensor of a folder by its name, in the dtype of the computation."""

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


class Reference:
    """A model of a Hugging Face folder."""

    def __init__(self, spec: ModelSpec, read: Read) -> None:
        """Keep the shape of a model and where its tensors come from.

        Args:
            spec: the model; its vocabulary sizes and ``seq_length`` are not used.
            read: called anew for each use of a tensor, once per layer and call of ``logits``.
        """
        self._spec = spec
        self._read = read

    @torch.inference_mode()
    def logits(
        self, texts: Sequence[torch.Tensor], after_layer: Callable[[int], None] = lambda n: None
    ) -> Iterator[torch.Tensor]:
        """Yield scores of the next token at every position, for one text after another.

        Args:
            texts: token ids, int64 ``[tokens]`` each.
            after_layer: called with the number of layers done.

        Returns:
            float32 ``[tokens, rows of the output layer]``; row ``i`` scores token ``i + 1``.
        """
        table = self._read(EMBEDDING)
        states = [embedding(text, table) for text in texts]
        del table
        frequencies = inverse_frequencies(
            self._spec.head_dim, self._spec.rope_theta, self._spec.rope_scaling
        )
        for number in range(self._spec.layers):
            layer = _Layer(self._spec, self._read, f"model.layers.{number}.")
            states = [layer(state, frequencies) for state in states]
            after_layer(number + 1)
        norm = self._read("model.norm.weight")
        head = self._read(EMBEDDING if self._spec.tied_embeddings else HEAD)
        for state in states:
            yield linear(rms_norm(state, norm, self._spec.norm_eps), head).float()


class _Layer:
    """One decoder layer with its weights in memory."""

    def __init__(self, spec: ModelSpec, read: Read, prefix: str) -> None:
        self._spec = spec
        other = "post_feedforward_layernorm" if spec.post_norm else "input_layernorm"
        names = ["post_attention_layernorm", other, "self_attn.o_proj"]
        names += [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
        names += [f"self_attn.{name}_proj" for name in "qkv"]
        names += [f"self_attn.{name}_norm" for name in "qk" if spec.qk_norm or spec.post_norm]
        self._weights = {name: read(f"{prefix}{name}.weight") for name in names}
        biased = [f"self_attn.{name}_proj" for name in "qkv" if spec.qkv_bias]
        self._biases = {name: read(f"{prefix}{name}.bias") for name in biased}

    def __call__(self, state: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
        """Return the state ``[tokens, hidden]`` after this layer.

        Norms are in front of attention and MLP (Touvron et al., arXiv 2302.13971, 2.2), or behind
        both (OLMo 2, arXiv 2501.00656, 2.1).
        """
        if self._spec.post_norm:
            found = self._attention(state, frequencies)
            state = state + self._norm("post_attention_layernorm", found)
            return state + self._norm("post_feedforward_layernorm", self._mlp(state))
        state = state + self._attention(self._norm("input_layernorm", state), frequencies)
        return state + self._mlp(self._norm("post_attention_layernorm", state))

    def _mlp(self, state: torch.Tensor) -> torch.Tensor:
        """Return a gated linear unit's output (SwiGLU; Shazeer, arXiv 2002.05202)."""
        gated = silu(self._linear("mlp.gate_proj", state)) * self._linear("mlp.up_proj", state)
        return self._linear("mlp.down_proj", gated)

    def _attention(self, state: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
        """Attend causally with grouped queries (Ainslie et al., arXiv 2305.13245), one group at a
        time: the scores of a group are its share of ``[heads, tokens, tokens]``.
        """
        spec, count = self._spec, len(state)
        heads = {}
        for name in "qkv":
            flat = self._linear(f"self_attn.{name}_proj", state)
            if spec.post_norm and name in "qk":
                flat = self._norm(f"self_attn.{name}_norm", flat)
            heads[name] = flat.view(count, -1, spec.head_dim)
        for name in "qk":
            if spec.qk_norm:
                heads[name] = self._norm(f"self_attn.{name}_norm", heads[name])
            heads[name] = rotate(heads[name], frequencies)
        queries = heads["q"].view(count, spec.kv_heads, -1, spec.head_dim)
        hidden = torch.ones(count, count, dtype=torch.bool).triu(1)
        groups = []
        for number in range(spec.kv_heads):
            key, value = heads["k"][:, number], heads["v"][:, number]
            scores = queries[:, number].transpose(0, 1) @ key.T / math.sqrt(spec.head_dim)
            shares = scores.float().masked_fill(hidden, -math.inf).softmax(-1).to(state.dtype)
            groups.append((shares @ value).transpose(0, 1))
        joined = torch.stack(groups, dim=1).reshape(count, -1)
        return self._linear("self_attn.o_proj", joined)

    def _linear(self, name: str, state: torch.Tensor) -> torch.Tensor:
        return linear(state, self._weights[name], self._biases.get(name))

    def _norm(self, name: str, state: torch.Tensor) -> torch.Tensor:
        return rms_norm(state, self._weights[name], self._spec.norm_eps)


def rms_norm(state: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return the root-mean-square norm of the last axis (Zhang and Sennrich, arXiv 1910.07467),
    computed in float32.
    """
    wide = state.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return scaled.to(state.dtype) * weight


def rotate(heads: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Return heads ``[tokens, heads, head_dim]`` rotated by their positions from 0 (Su et al.,
    arXiv 2104.09864), coordinate ``i`` paired with ``i + head_dim / 2`` as in Hugging Face folders.
    """
    angles = torch.outer(torch.arange(len(heads), dtype=torch.float32), frequencies).unsqueeze(1)
    cosine, sine = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> torch.Tensor:
    """Return the radians per position of each pair of coordinates, float32 ``[head_dim / 2]``.

    With a scaling, wavelengths beyond ``original_max_position / low_freq_factor`` are stretched by
    ``factor``, those below ``original_max_position / high_freq_factor`` are not, and those between
    are interpolated, as in the code published with Llama 3.1
    (meta-llama/llama-models:models/llama3/model.py).
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    plain = 1.0 / theta**exponents
    if scaling is None:
        return plain
    turns = scaling.original_max_position * plain / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - kept) * plain / scaling.factor + kept * plain
