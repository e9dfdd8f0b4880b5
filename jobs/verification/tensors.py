"""The values of every tensor of a folder beside those of a checkpoint, some rows at a time.

Logits on a few texts use few rows of an embedding; this compares all of them, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobs.conversion import weight_map
from jobs.verification.sides import Checkpoint, Rounded, Weights

if TYPE_CHECKING:
    import torch

Range = tuple[int, int]
"""The first row, and the one behind the last."""


@dataclass
class Tensors:
    """The comparison of the values of a folder's tensors with those of a checkpoint."""

    compared: int = 0
    bytes: int = 0
    """Of the folder that were compared."""
    different: list[str] = field(default_factory=list)
    """Names of tensors with another bit, in both rounded to the type that both can hold."""
    largest: float = 0.0
    """Largest absolute difference of a value; NaN where one is not finite."""

    def count(self, name: str, gap: float | None, size: int) -> None:
        """Count a part of a tensor; ``gap`` is None where both are equal."""
        self.bytes += size
        if gap is None:
            return
        if name not in self.different[-1:]:
            self.different.append(name)
        self.largest = max(self.largest, gap, key=lambda value: (math.isnan(value), value))


def compare(
    weights: Weights,
    checkpoint: Checkpoint,
    rounded: Rounded,
    rows: Sequence[Range],
    after: Callable[[int, int], None],
) -> Tensors:
    """Return the comparison of every tensor; memory holds one of the checkpoint's, or an eighth of
    a vocabulary.

    Args:
        weights: the folder; a copy of a tied embedding in it is compared with that embedding.
        checkpoint: of the same model.
        rounded: brings tensors of both to one type.
        rows: of a vocabulary that both have.
        after: called with the number of tensors of ours that are done, and of all.

    Raises:
        TaskError: a file became shorter, or the checkpoint is damaged.
        OSError: the storage does not respond.
    """
    found, model = Tensors(), checkpoint.model
    units = [
        (row, layer)
        for row in weight_map.rows(model)
        for layer in (range(model.layers) if row.in_layers else (None,))
    ]
    for number, (row, layer) in enumerate(units, 1):
        found.compared += len(row.theirs)
        if row.transform == weight_map.VOCABULARY:
            ((name, _),) = row.theirs
            pairs = _vocabulary(weights, checkpoint, name, row.ours, rows)
        else:
            names = [name.format(layer) for name, _ in row.theirs]
            pairs = _whole(
                weights,
                names,
                weight_map.split(row, model, checkpoint.reader.read(row.ours, layer)),
            )
        for name, one, other in pairs:
            found.count(name, gap(rounded(one), rounded(other)), one.nbytes)
        after(number, len(units))
    if model.tied_embeddings and weight_map.TIED_OUTPUT in weights.folder.tensors:
        found.compared += 1
        copies = zip(
            weights.blocks(weight_map.TIED_OUTPUT),
            weights.blocks(weight_map.EMBEDDING),
            strict=False,
        )
        for one, other in copies:
            found.count(weight_map.TIED_OUTPUT, gap(one, other), one.nbytes)
    return found


def _vocabulary(
    weights: Weights, checkpoint: Checkpoint, name: str, key: str, rows: Sequence[Range]
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    step = -(-checkpoint.model.padded_vocab_size // weight_map.MOST_CHUNKS)
    for start, theirs in weights.parts(name, step):
        ours = checkpoint.reader.read(key, None, (start, start + len(theirs)))
        for first, last in rows:
            part = slice(max(0, first - start), max(0, last - start))
            yield name, theirs[part], ours[part]


def _whole(
    weights: Weights, names: Sequence[str], ours: Sequence[torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    for name, tensor in zip(names, ours, strict=True):
        start = 0
        for block in weights.blocks(name):
            yield name, block, tensor[start : start + len(block)]
            start += len(block)


def gap(one: torch.Tensor, other: torch.Tensor) -> float | None:
    """Return the largest absolute difference of tensors of one shape; None if every bit is equal,
    infinity if their types or shapes differ.
    """
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return math.inf
    bits = {2: torch.int16, 4: torch.int32}[one.element_size()]
    if torch.equal(one.contiguous().view(bits), other.contiguous().view(bits)):
        return None
    return float((one.double() - other.double()).abs().max())
