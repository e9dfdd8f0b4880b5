"""Scored positions, positions and boundaries of documents, from tokens alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from jobs.engine import micro_batch

from .conftest import SPEC

END = 9

TOKENS = torch.tensor([[1, 2, END, 3, END, END, 4, 5], [END, 1, 1, 1, 1, 1, 1, END]])
"""Two sequences: one of three documents, an empty one and a begun one; and a row that begins with
the end of one and ends with an end.
"""

LABELS = torch.tensor([[2, END, 3, END, END, 4, 5, 6], [1, 1, 1, 1, 1, 1, END, 7]])


def prepare(**options: bool) -> dict[str, torch.Tensor | None]:
    return micro_batch.prepare(TOKENS, LABELS, END, dataclasses.replace(SPEC, **options))


def test_published_settings_score_everything_and_mark_nothing():
    batch = prepare()

    assert batch["tokens"] is TOKENS
    assert batch["labels"] is LABELS
    assert batch["scored"].all()
    assert batch["positions"] is batch["boundaries"] is None


def test_the_token_after_an_end_of_document_is_not_scored():
    scored = prepare(eod_mask_loss=True)["scored"]

    assert scored.int().tolist() == [[1, 1, 0, 1, 0, 0, 1, 1], [0, 1, 1, 1, 1, 1, 1, 0]]


def test_positions_count_from_the_start_of_each_document():
    positions = prepare(reset_position_ids=True)["positions"]

    assert positions.tolist() == [[0, 1, 2, 0, 1, 0, 0, 1], [0, 0, 1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("reset_position_ids", [False, True])
def test_attention_within_documents_packs_the_rows(reset_position_ids):
    batch = prepare(
        reset_attention_mask=True, eod_mask_loss=True, reset_position_ids=reset_position_ids
    )

    assert batch["tokens"].tolist() == [TOKENS.flatten().tolist()]
    assert batch["labels"].tolist() == [LABELS.flatten().tolist()]
    assert batch["scored"].int().tolist() == [[1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0]]
    assert batch["positions"] is None
    assert batch["boundaries"].tolist() == [0, 3, 5, 6, 8, 9, 16]
    assert batch["boundaries"].dtype is torch.int32
