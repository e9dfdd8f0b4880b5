"""Llama, its loss and AdamW in plain PyTorch, in float64: a reference that shares nothing with the
engine but the names of weights and the layout of the query, key and value projection.

Sources: Touvron et al., arXiv 2302.13971 (norms, SwiGLU), Su et al., arXiv 2104.09864 (RoPE),
Ainslie et al., arXiv 2305.13245 (grouped queries), Loshchilov and Hutter, arXiv 1711.05101 (AdamW).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from jobs.contract.stage_specs import ModelSpec, OptimizerSpec, PretrainSpec

Weights = dict[str, torch.Tensor]


def scores(
    weights: Weights,
    model: ModelSpec,
    tokens: torch.Tensor,
    documents: torch.Tensor,
    places: torch.Tensor,
) -> torch.Tensor:
    """Return logits ``[batch, sequence, vocab_size]``.

    Args:
        weights: by name; those of layers have the layer first.
        model: the model.
        tokens: ``[batch, sequence]``.
        documents: the number of each token's document, within which it attends.
        places: the position of each token.
    """
    hidden = weights["embedding.word_embeddings.weight"][tokens]
    for layer in range(model.layers):
        one = {
            name.removeprefix("decoder.layers."): weight[layer]
            for name, weight in weights.items()
            if name.startswith("decoder.layers.")
        }
        normed = norm(hidden, one["self_attention.linear_qkv.layer_norm_weight"], model.norm_eps)
        hidden = hidden + attention(one, model, normed, documents, places)
        normed = norm(hidden, one["mlp.linear_fc1.layer_norm_weight"], model.norm_eps)
        gate, up = (normed @ one["mlp.linear_fc1.weight"].T).chunk(2, -1)
        hidden = hidden + (gate * torch.sigmoid(gate) * up) @ one["mlp.linear_fc2.weight"].T
    hidden = norm(hidden, weights["decoder.final_layernorm.weight"], model.norm_eps)
    return hidden @ weights["output_layer.weight"][: model.vocab_size].T


def parts(tokens: torch.Tensor, eod: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the number of each token's document in its row, and its place in it."""
    documents, places = torch.zeros_like(tokens), torch.zeros_like(tokens)
    for row, values in enumerate(tokens.tolist()):
        for index in range(1, len(values)):
            ended = values[index - 1] == eod
            documents[row, index] = documents[row, index - 1] + ended
            places[row, index] = 0 if ended else places[row, index - 1] + 1
    return documents, places


def norm(values: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return values / (values.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def attention(
    one: Weights,
    spec: ModelSpec,
    hidden: torch.Tensor,
    documents: torch.Tensor,
    places: torch.Tensor,
) -> torch.Tensor:
    """Return the output of causal attention among positions of the same document."""
    per_group = spec.attention_heads // spec.kv_heads
    mixed = (hidden @ one["self_attention.linear_qkv.weight"].T).unflatten(
        -1, (spec.kv_heads, per_group + 2, spec.head_dim)
    )
    visible = (documents[:, :, None] == documents[:, None, :]).tril()
    heads = []
    for head in range(spec.attention_heads):
        group = mixed[:, :, head // per_group]
        query = rotated(group[:, :, head % per_group], spec, places)
        key = rotated(group[:, :, per_group], spec, places)
        fit = query @ key.transpose(1, 2) / math.sqrt(spec.head_dim)
        heads.append(fit.masked_fill(~visible, -math.inf).softmax(-1) @ group[:, :, per_group + 1])
    return torch.cat(heads, -1) @ one["self_attention.linear_proj.weight"].T


def rotated(values: torch.Tensor, spec: ModelSpec, places: torch.Tensor) -> torch.Tensor:
    """Return values turned by their places; coordinate ``i`` is paired with ``i + half``."""
    half = spec.head_dim // 2
    speed = spec.rope_theta ** (-torch.arange(half, dtype=values.dtype) / half)
    angle = places[..., None] * speed
    first, second = values[..., :half], values[..., half:]
    turned = (
        first * angle.cos() - second * angle.sin(),
        second * angle.cos() + first * angle.sin(),
    )
    return torch.cat(turned, -1)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the loss of each label."""
    return logits.logsumexp(-1) - logits.gather(-1, labels[..., None])[..., 0]


def row_loss(weights: Weights, model: ModelSpec, row: torch.Tensor) -> torch.Tensor:
    """Return the loss of each token of a row but its first, from those before it alone."""
    tokens = row[None, :-1]
    places = torch.arange(tokens.size(1))[None]
    return cross_entropy(scores(weights, model, tokens, 0 * tokens, places), row[None, 1:])[0]


def batch_loss(
    weights: Weights, spec: PretrainSpec, tokens: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return the loss of a global batch, ``[global_batch_size, seq_length]``."""
    documents, places = parts(tokens, eod=spec.model.vocab_size - 1)
    if not spec.reset_attention_mask:
        documents = torch.zeros_like(documents)
    if not spec.reset_position_ids:
        places = torch.arange(tokens.size(1)).expand_as(tokens)
    losses = cross_entropy(scores(weights, spec.model, tokens, documents, places), labels)
    scored = (tokens != spec.model.vocab_size - 1) | (not spec.eod_mask_loss)
    if spec.loss_average == "tokens":
        return losses[scored].mean()
    micro_batches = zip(
        losses.split(spec.micro_batch_size), scored.split(spec.micro_batch_size), strict=True
    )
    # The loss of a micro-batch without a scored token is 0.
    means = [part[mask].sum() / max(int(mask.sum()), 1) for part, mask in micro_batches]
    return torch.stack(means).mean()


def train(
    weights: Weights,
    optimizer: OptimizerSpec,
    losses: Sequence[Callable[[Weights], torch.Tensor]],
) -> list[tuple[float, float]]:
    """Train ``weights`` in place, one step per loss; return each step's loss and gradient norm."""
    torch.set_num_threads(1)  # of small matrices, threads mostly wait for each other
    moments = {
        name: [torch.zeros_like(one), torch.zeros_like(one)] for name, one in weights.items()
    }
    records = []
    for step, loss_of in enumerate(losses, 1):
        leaves = {name: one.detach().requires_grad_() for name, one in weights.items()}
        loss = loss_of(leaves)
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        size = math.sqrt(sum(float(one.square().sum()) for one in gradients.values()))
        records.append((loss.item(), size))
        scale = min(1.0, optimizer.clip_grad / (size + 1e-6))
        for name, gradient in gradients.items():
            rate = learning_rate(optimizer, step)
            if "norm" not in name:
                weights[name] *= 1 - rate * optimizer.weight_decay
            direction = adam_direction(gradient * scale, moments[name], optimizer, step)
            weights[name] -= rate * direction
    return records


def adam_direction(
    gradient: torch.Tensor, moments: list[torch.Tensor], optimizer: OptimizerSpec, step: int
) -> torch.Tensor:
    """Update the moments in place and return Adam's direction of a step, counted from 1."""
    first, second = moments
    beta1, beta2 = optimizer.adam_beta1, optimizer.adam_beta2
    first.mul_(beta1).add_(gradient * (1 - beta1))
    second.mul_(beta2).add_(gradient.square() * (1 - beta2))
    size = (second / (1 - beta2**step)).sqrt() + optimizer.adam_eps
    return first / (1 - beta1**step) / size


def learning_rate(optimizer: OptimizerSpec, step: int) -> float:
    """Return the rate of a step: linear up to the peak, then half a cosine down."""
    if step <= optimizer.warmup_steps:
        return optimizer.learning_rate * step / optimizer.warmup_steps
    done = (step - optimizer.warmup_steps) / (optimizer.decay_steps - optimizer.warmup_steps)
    span = optimizer.learning_rate - optimizer.min_learning_rate
    return optimizer.min_learning_rate + span * (1 + math.cos(math.pi * min(done, 1.0))) / 2
