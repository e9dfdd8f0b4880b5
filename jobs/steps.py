"""What the metric lines of a run with several attempts say of its steps. Pure; standard library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

Line = dict[str, Any]


class Steps(NamedTuple):
    """The steps that the newest attempt builds on, each once."""

    trained: list[Line]
    """Lines with a training loss, by step."""
    validated: list[Line]
    """Lines with a validation loss, by step."""


def that_count(lines: Iterable[Line]) -> Steps:
    """Leave out what was done again, or undone by going back to an older checkpoint.

    A training step that does not follow the ones before it shows that an attempt went back to the
    checkpoint before that step: nothing told earlier about this step and later ones counts.

    Args:
        lines: of ``metrics.jsonl``, oldest first.
    """
    trained: dict[int, Line] = {}
    validated: dict[int, Line] = {}
    for line in lines:
        if "validation_loss" in line:
            validated[line["step"]] = line
        elif "loss" in line:
            if trained and line["step"] <= next(reversed(trained)):
                trained = _before(trained, line["step"])
                validated = _before(validated, line["step"])
            trained[line["step"]] = line
    return Steps(list(trained.values()), [validated[step] for step in sorted(validated)])


def _before(lines: dict[int, Line], step: int) -> dict[int, Line]:
    return {number: line for number, line in lines.items() if number < step}
