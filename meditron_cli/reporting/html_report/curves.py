"""Curves of trainings, thinned to what a screen can show, as rows that charts read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jobs.contract.metrics_log import CountedSteps, StepLine
from meditron_cli.reporting.attempts import Attempt

POINTS = 1000
"""Most points of a curve; each stands for the same number of steps, with their mean and extremes.
"""
MARKS = 200
"""Most marks of attempts on the curves of a training; those that lie together share one."""

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Training:
    """A training whose curves are drawn, among others of its kind."""

    name: str
    """Of the run, or of the finetuned model; empty for a single one."""
    counted: CountedSteps
    attempts: Sequence[Attempt]


STEP_COLUMNS = (
    "training", "first", "step", "tokens",
    "loss", "loss_low", "loss_high",
    "grad", "grad_low", "grad_high",
    "speed", "speed_low", "speed_high",
    "rate",
)  # fmt: skip


def step_rows(trainings: Iterable[Training]) -> Iterator[Row]:
    """Yield the points of the trainings' curves: tokens, losses, norms, tokens/s, learning rate."""
    for training in trainings:
        trained = training.counted.trained
        size = -(-len(trained) // POINTS)
        steps = iter(trained)
        while group := list(islice(steps, size)):
            yield (training.name, *point(group))


def point(group: Sequence[StepLine]) -> Row:
    """Return the point of some steps in a row."""
    last = group[-1]
    return (
        group[0].step,
        last.step,
        last.tokens,
        *extremes([line.loss for line in group]),
        *extremes([line.grad_norm for line in group]),
        *extremes([line.tokens_per_s for line in group]),
        short(last.learning_rate),
    )


def extremes(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, least and largest value."""
    return short(sum(values) / len(values)), short(min(values)), short(max(values))


def short(value: float) -> float:
    """Return a number with the digits that a chart can show."""
    return float(f"{value:.5g}")


VALIDATION_COLUMNS = ("training", "corpus", "step", "tokens", "loss")


def validation_rows(trainings: Iterable[Training]) -> Iterator[Row]:
    """Yield the validation losses of the trainings per corpus; of one corpus without its name."""
    for training in trainings:
        validated = training.counted.validated
        tokens = tokens_by_step(training.counted)
        names = list(dict.fromkeys(name for line in validated for name in line.corpora))
        for line in validated[:: -(-len(validated) // POINTS) or 1]:
            at = (line.step, tokens.get(line.step, 0))
            if len(names) < 2:
                yield (training.name, "all", *at, short(line.loss))
                continue
            for name in names:
                if name in line.corpora:
                    yield (training.name, name, *at, short(line.corpora[name]["loss"]))


def tokens_by_step(counted: CountedSteps) -> dict[int, int]:
    """Return the tokens after each step; those of a skipped one are the tokens before it."""
    found = {line.step: line.tokens for line in counted.trained}
    for line in counted.skipped:
        found[line.step] = found.get(line.step - 1, 0)
    return found


MARK_COLUMNS = ("training", "tokens", "text")


def mark_rows(trainings: Sequence[Training]) -> Iterator[Row]:
    """Yield the tokens at which attempts resumed, with how the attempt before ended."""
    most = max((tokens_seen(training) for training in trainings), default=0)
    for training in trainings:
        tokens, places = tokens_by_step(training.counted), dict[int, list[tuple[int, str]]]()
        for before, attempt in zip(training.attempts, training.attempts[1:], strict=False):
            at = tokens.get(attempt.step or 0, 0)
            text = (
                f"attempt {attempt.number} from step {attempt.step or 0:,}, after {before.outcome}"
            )
            places.setdefault(at * MARKS // most if most else 0, []).append((at, text))
        for marks in places.values():
            at, text = marks[0]
            more = f" … {len(marks)} attempts in all" if len(marks) > 1 else ""
            yield training.name, at, text + more


def tokens_seen(training: Training) -> int:
    """Return the tokens of a training so far."""
    trained = training.counted.trained
    return trained[-1].tokens if trained else 0


Data = dict[str, Any]


def dataset(columns: Sequence[str], rows: Iterable[Row]) -> Data:
    """Return rows with the names of their columns once, which takes a third of the space."""
    return {"columns": columns, "rows": list(rows)}


def datasets(kind: str, trainings: Sequence[Training]) -> dict[str, Data]:
    """Return the data of the charts of some trainings, by name."""
    return {
        f"{kind}-steps": dataset(STEP_COLUMNS, step_rows(trainings)),
        f"{kind}-validations": dataset(VALIDATION_COLUMNS, validation_rows(trainings)),
        f"{kind}-marks": dataset(MARK_COLUMNS, mark_rows(trainings)),
    }
