"""Compute the rotary position embedding. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from jobs.contract.stage_specs import RopeScaling


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> torch.Tensor:
    """Return the angle per position of each pair of a head: float32 ``[head_dim / 2]``, on the CPU.

    Pair ``i`` turns by ``theta ** (-2 i / head_dim)`` (Su et al., arXiv 2104.09864, 3.2.2). With
    scaling, pairs that turn around within ``original_max_position / high_freq_factor`` positions
    keep their frequency, those that need more than ``original_max_position / low_freq_factor`` have
    it divided by ``factor``, and those between take a mean of both, weighted by the turns within
    ``original_max_position`` (``apply_scaling`` of Llama 3.1 in github.com/meta-llama/llama-models,
    ``models/llama3/reference_impl/model.py``).

    Operations and their order are those of transformers, so that results are equal to the last bit.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    kept = 1.0 / theta**exponents
    if scaling is None:
        return kept
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    wavelengths = 2 * math.pi / kept
    turns = scaling.original_max_position / wavelengths
    share = (turns - low) / (high - low)
    between = (1 - share) * kept / scaling.factor + share * kept
    is_long = wavelengths > scaling.original_max_position / low
    is_short = wavelengths < scaling.original_max_position / high
    return torch.where(is_long, kept / scaling.factor, torch.where(is_short, kept, between))


class Turn(NamedTuple):
    """The rotation of each position, float32 ``[sequence, 1 or batch, 1, head_dim]``."""

    cos: torch.Tensor
    sin: torch.Tensor


def turn(angles: torch.Tensor) -> Turn:
    """Return the rotation by some angles, the same in both halves of a head."""
    return Turn(angles.cos(), angles.sin())


def rotated(heads: torch.Tensor, by: Turn) -> torch.Tensor:
    """Return heads turned by their positions' angles, computed in float32.

    Cosine and sine in bfloat16 would be wrong by up to 2 ** -9, and the angles between positions
    with them; Megatron-LLM, which trained MEDITRON, turns in float32 too.

    Args:
        heads: ``[sequence, batch, heads, head_dim]``; coordinate ``i`` is paired with ``i`` plus
            half the width.
        by: the rotation of their positions.

    Returns:
        The shape and dtype of ``heads``.
    """
    wide = heads.float()
    first, second = wide.chunk(2, -1)
    turned = wide * by.cos + torch.cat((-second, first), -1) * by.sin
    return turned.to(heads.dtype)


def within_documents(angles: torch.Tensor, boundaries: torch.Tensor) -> torch.Tensor:
    """Return the angles of one packed row, whose positions count from the start of each document.

    Args:
        angles: ``[longest document or more, 1, 1, head_dim]``.
        boundaries: of ``jobs.engine.micro_batch.boundaries``.
    """
    starts = torch.repeat_interleave(boundaries[:-1], boundaries.diff())
    return angles[torch.arange(len(starts), device=starts.device) - starts]
