"""Inputs of a forward pass from tokens: scored positions, positions, boundaries of documents."""

from __future__ import annotations

from typing import Any

import torch

from jobs.contract.stage_specs import PretrainSpec

EMPTY: dict[str, Any] = dict.fromkeys(("tokens", "labels", "scored", "positions", "boundaries"))
"""On pipeline stages that read no tokens."""


def prepare(
    tokens: torch.Tensor, labels: torch.Tensor, eod: int, spec: PretrainSpec
) -> dict[str, torch.Tensor | None]:
    """Return the inputs of a forward pass.

    Args:
        tokens: int64 ``[micro_batch_size, seq_length]``.
        labels: the token after each one.
        eod: the token that ends a document.

    Returns:
        ``tokens``, ``labels`` and ``scored`` (of ``scored_positions``); ``positions``, None where
        they count from the start of a row; ``boundaries``, None where attention crosses documents.
        With ``reset_attention_mask`` the rows are one row, as in a packed sequence, in which
        megatron.core counts positions of its own: attention within documents depends on
        differences of rotary positions alone.
    """
    batch: dict[str, torch.Tensor | None] = {
        **EMPTY,
        "tokens": tokens,
        "labels": labels,
        "scored": scored_positions(tokens, eod, masked=spec.eod_mask_loss),
    }
    if spec.reset_attention_mask:
        one_row = {key: value.view(1, -1) for key, value in batch.items() if value is not None}
        return {**batch, **one_row, "boundaries": boundaries(tokens, eod)}
    if spec.reset_position_ids:
        batch["positions"] = positions(tokens, eod)
    return batch


def scored_positions(tokens: torch.Tensor, eod: int, *, masked: bool) -> torch.Tensor:
    """Return which positions the loss scores, bool of the shape of ``tokens``: with ``masked`` all
    but ends of documents, whose next token belongs to another document.
    """
    return tokens != eod if masked else torch.ones_like(tokens, dtype=torch.bool)


def positions(tokens: torch.Tensor, eod: int) -> torch.Tensor:
    """Return each token's position in its document's part of the row, int64 like ``tokens``."""
    places = torch.arange(tokens.size(1), device=tokens.device).expand_as(tokens)
    return places - (places * _starts(tokens, eod)).cummax(1).values


def boundaries(tokens: torch.Tensor, eod: int) -> torch.Tensor:
    """Return where documents begin in the rows one after another, and their whole length, int32
    ``[documents + 1]``; every row begins one.
    """
    starts = _starts(tokens, eod).flatten().nonzero().flatten()
    end = torch.tensor([tokens.numel()], device=tokens.device)
    return torch.cat([starts, end]).int()


def _starts(tokens: torch.Tensor, eod: int) -> torch.Tensor:
    starts = torch.ones_like(tokens, dtype=torch.bool)
    starts[:, 1:] = tokens[:, :-1] == eod
    return starts
