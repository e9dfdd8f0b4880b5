"""The order of rows, their division among micro-batches, and what they count."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy
import pytest

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import FinetuneSpec
from jobs.data.indexed_dataset import IndexedWriter
from jobs.engine.kinds import row_layout
from jobs.engine.kinds.row_layout import Grid
from jobs.engine.kinds.rows import Order, Rows, RowVolume

from ...model_specs import model_spec


def lengths_of(seed: int, count: int = 24, longest: int = 64) -> list[int]:
    source = random.Random(seed)
    return [source.randint(1, longest) for _ in range(count)]


def test_each_epoch_reads_every_row_once_in_an_order_of_its_own() -> None:
    order = Order(10, seed=3)

    epochs = [order.take(10 * epoch, 10).tolist() for epoch in range(3)]

    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    whole = [row for epoch in epochs for row in epoch]
    assert order.take(7, 16).tolist() == whole[7:23]
    assert Order(10, seed=3).take(10, 10).tolist() == epochs[1]
    assert Order(10, seed=4).take(0, 10).tolist() != epochs[0]


@pytest.mark.parametrize("by_length", [True, False])
@pytest.mark.parametrize("grid", [Grid(1, 1), Grid(4, 1), Grid(2, 3), Grid(3, 4)])
def test_rows_side_by_side_are_all_there_once(grid: Grid, by_length: bool) -> None:
    lengths = lengths_of(0)

    division = row_layout.side_by_side(lengths, grid, by_length=by_length)

    places = sorted(place for rank in division for rows in rank for place in rows)
    assert places == list(range(len(lengths)))
    assert all(len(rows) == grid.size for rank in division for rows in rank)
    assert len({len(rank) for rank in division}) == 1


def test_rows_in_their_order_are_divided_as_sequences_are() -> None:
    division = row_layout.side_by_side([1] * 8, Grid(2, 2), by_length=False)

    assert division == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


def test_rows_of_like_length_share_a_micro_batch() -> None:
    (rank,) = row_layout.side_by_side([9, 2, 8, 1], Grid(2, 1), by_length=True)

    assert rank == [[0, 2], [1, 3]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("capacity", [64, 100, 256, 10_000])
@pytest.mark.parametrize("grid", [Grid(1, 1), Grid(1, 2), Grid(1, 4), Grid(1, 2, 4)])
def test_packed_rows_fit_and_every_rank_has_as_many(seed: int, capacity: int, grid: Grid) -> None:
    lengths = lengths_of(seed)

    division = row_layout.packed(lengths, grid, capacity)

    places = sorted(place for rank in division for rows in rank for place in rows)
    assert places == list(range(len(lengths)))
    assert len(division) == grid.data
    counts = {len(rank) for rank in division}
    assert len(counts) == 1
    assert counts.pop() % grid.even == 0
    loads = [sum(lengths[place] for place in rows) for rank in division for rows in rank]
    assert 0 < min(loads) <= max(loads) <= capacity


def test_packed_rows_leave_little_room() -> None:
    lengths = lengths_of(1, count=256)

    division = row_layout.packed(lengths, Grid(1, 2), 1024)

    loads = [sum(lengths[place] for place in rows) for rank in division for rows in rank]
    assert sum(loads) / (len(loads) * max(loads)) > 0.95
    assert sum(loads) / (len(loads) * 1024) > 0.9


def test_steps_have_the_tokens_and_operations_of_their_rows() -> None:
    model = model_spec(
        layers=2, hidden_size=8, ffn_hidden_size=16, attention_heads=2, kv_heads=2,
        seq_length=64, vocab_size=32, padded_vocab_size=32,
    )  # fmt: skip
    lengths, order = numpy.array(lengths_of(2, count=10), dtype=numpy.int32), Order(10, 5)
    spec = cast(FinetuneSpec, SimpleNamespace(model=model, global_batch_size=4))
    volume = RowVolume(spec, lengths, order)

    read = [lengths[order.take(4 * step, 4)].astype(int) for step in range(6)]

    assert [volume.step_tokens(step) for step in range(1, 7)] == [rows.sum() for rows in read]
    assert volume.tokens(6) == sum(rows.sum() for rows in read)
    linear, quadratic = model.flops_per_token(attention=False), 12.0 * 2 * 8
    for step, rows in enumerate(read, 1):
        whole = rows.sum() * linear + (rows**2).sum() * quadratic
        assert volume.flops(step, attention=True) == pytest.approx(whole)
        assert volume.flops(step, attention=False) == pytest.approx(rows.sum() * linear)


def write(prefix: Path, rows: list[list[int]], answers: Any) -> None:
    writer = IndexedWriter(prefix, "uint16")
    for row in rows:
        writer.add(numpy.array(row, "<u2"), numpy.array([len(row)], "i4"))
    writer.publish()
    numpy.save(prefix.with_name(f"{prefix.name}.answers.npy"), numpy.array(answers, "i4"))


def test_rows_are_read_by_their_number(tmp_path: Path) -> None:
    write(tmp_path / "train", [[1, 2, 3], [4, 5]], [1, 1])

    rows = Rows.open(tmp_path / "train")
    rows.require(longest=2)

    assert (rows[0].tolist(), rows[1].tolist()) == ([1, 2, 3], [4, 5])


@pytest.mark.parametrize(
    ("rows", "answers", "words"),
    [
        ([[1, 2], [1, 2, 3, 4]], [0, 1], "row 1 has more than 2 tokens before its last"),
        ([[1, 2], [3]], [1, 0], "row 1 has no token that is scored"),
        ([[1, 2], [3, 4]], [2, 1], "row 0 has no token that is scored"),
        ([[1, 2], [3, 4]], [1], "2 rows and 1 answers"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(
    tmp_path: Path, rows: list[list[int]], answers: list[int], words: str
) -> None:
    write(tmp_path / "train", rows, answers)

    with pytest.raises(TaskError, match=words):
        Rows.open(tmp_path / "train").require(longest=2)


@pytest.mark.parametrize("suffix", [".idx", ".answers.npy"])
def test_a_missing_file_is_named(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "train", [[1, 2]], [1])
    (tmp_path / f"train{suffix}").unlink()

    with pytest.raises(TaskError, match=rf"train{suffix}: No such file"):
        Rows.open(tmp_path / "train")
