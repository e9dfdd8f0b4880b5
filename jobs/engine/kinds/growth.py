"""Rows of new tokens in the embedding and the output layer of a model that is loaded.

This module imports torch and megatron.core, so import it only within
``jobs.engine.device.session``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed

from jobs.engine import device as devices

with devices.quiet():
    from megatron.core import parallel_state

MEAN = "mean"
COPY = "copy:"


def grow(pieces: Sequence[torch.nn.Module], first: int, rule: str, copied: int = -1) -> None:
    """Give all rows from one on, padding rows too, the values that a rule makes of those before it.
    All ranks call it together; optimizers copy weights after it.

    Args:
        pieces: of this rank's model, in any layout.
        first: the first row that is new.
        rule: ``VocabularySpec.new_rows``: ``mean`` of the rows before, ``copy:<token>``, or the row
            of the last token before.
        copied: id of the token that ``copy:`` names.
    """
    source = copied if rule.startswith(COPY) else first - 1
    for weight in _weights(pieces):
        rows = weight.data  # [padded rows / tensor, hidden_size]
        begin = len(rows) * parallel_state.get_tensor_model_parallel_rank()
        total = torch.zeros(rows.size(1), dtype=torch.float64, device=rows.device)
        if rule == MEAN:
            total += rows[: max(0, first - begin)].sum(0, dtype=torch.float64) / first
        elif 0 <= source - begin < len(rows):
            total += rows[source - begin]
        torch.distributed.all_reduce(total, group=parallel_state.get_tensor_model_parallel_group())
        rows[max(0, first - begin) :] = total.to(rows.dtype)


def _weights(pieces: Sequence[torch.nn.Module]) -> Iterator[Any]:
    """Yield the weights with a row per token that this rank has; tied ones once on each stage."""
    for piece in pieces:
        network: Any = getattr(piece, "module", piece)  # of Float16Module
        if network.pre_process:
            yield network.embedding.word_embeddings.weight
        if network.post_process and network.output_layer.weight is not None:
            yield network.output_layer.weight
