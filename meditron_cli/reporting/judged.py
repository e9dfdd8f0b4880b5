"""Tables of judged answers, apart from those of exact scores. They fit 100 columns; ``report
--json`` has more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.contract import done_markers
from jobs.contract.files import read_small
from jobs.contract.json_fields import from_fields
from jobs.contract.rundir import RunDir
from jobs.contract.units import plural
from meditron_cli.reporting.published import Table

JUDGED = "judged"
DIGITS = 8
"""Of a judge's digest that are printed."""

Item = Mapping[str, Any]


def of_run(run: RunDir) -> list[dict[str, Any]]:
    """Return the results of a run's judge, without damaged ones and those that a task will replace,
    by benchmark and model.
    """
    found = map(read_small, done_markers.current_results(run))
    judged = [
        {name: value for name, value in one.items() if name != "format"}
        for one in found
        if one.get("mode") == JUDGED and is_judgement(one)
    ]
    return sorted(judged, key=lambda one: (one["benchmark"], one["checkpoint"], one["other"]))


@dataclass(frozen=True)
class Judgement:
    """The fields of a judge's result that reports show; of rubrics, or of a pair."""

    benchmark: str
    checkpoint: str
    other: str
    n: int
    verdicts: int
    unparsable: int
    judge: dict[str, Any]
    score: float | None = None
    ci95: tuple[float, ...] | None = None
    first: int = 0
    second: int = 0
    neither: int = 0
    p_value: float = 0.0
    human: dict[str, Any] | None = None


@dataclass(frozen=True)
class Judge:
    """The model that judged."""

    name: str
    sha256: str
    temperature: float


@dataclass(frozen=True)
class Agreement:
    """The agreement of a judge with people."""

    n: int
    kappa: float | None


def is_judgement(value: Item) -> bool:
    """Return whether a file has the fields of a judge's result."""
    try:
        found = from_fields(Judgement, value)
        from_fields(Judge, found.judge)
        if found.human and found.human.get("n"):
            from_fields(Agreement, found.human)
    except ValueError:
        return False
    needed = ("first", "second", "neither", "p_value") if found.other else ("score", "ci95")
    return all(name in value for name in needed)


def tables(found: Sequence[Item]) -> Iterator[Table]:
    """Yield the table of scores by rubrics and that of pairs."""
    yield (
        "judged by rubrics (the opinion of a model, not an exact score; bootstrap interval)",
        ("benchmark", "of", "score", "95 % interval", "replies", "judge", "people", "remarks"),
        [rubric_row(item) for item in found if not item["other"]],
    )
    yield (
        "judged pairs (a preference counts if it is given in both orders)",
        ("benchmark", "first", "second", "won/lost/neither", "p", "judge", "people", "remarks"),
        [pair_row(item) for item in found if item["other"]],
    )


def rubric_row(item: Item) -> tuple[object, ...]:
    """Return the row of one model's replies."""
    ends = item["ci95"]
    return (
        item["benchmark"],
        item["checkpoint"],
        None if item["score"] is None else f"{item['score']:.1%}",
        None if ends is None else " to ".join(f"{end:.1%}" for end in ends),
        item["n"],
        judge_cell(item["judge"]),
        people_cell(item.get("human")),
        "; ".join(remarks(item)) or None,
    )


def pair_row(item: Item) -> tuple[object, ...]:
    """Return the row of two models' replies to the same conversations."""
    return (
        item["benchmark"],
        item["checkpoint"],
        item["other"],
        f"{item['first']}/{item['second']}/{item['neither']}",
        f"{item['p_value']:.2g}",
        judge_cell(item["judge"]),
        people_cell(item.get("human")),
        "; ".join(remarks(item)) or None,
    )


def judge_cell(judge: Item) -> str:
    """Return a judge's name, the beginning of its digest, and its temperature unless it is 0."""
    heat = f", T={judge['temperature']:g}" if judge["temperature"] else ""
    return f"{judge['name']} {judge['sha256'][:DIGITS]}{heat}"


def people_cell(human: Item | None) -> str:
    """Return the agreement with people's grades."""
    if not human or not human["n"]:
        return "judge not validated"
    kappa = "undefined" if human["kappa"] is None else f"{human['kappa']:.2f}"
    return f"kappa {kappa} ({plural(human['n'], 'grade')})"


def remarks(item: Item) -> Iterator[str]:
    """Yield what a reader of a judged score has to know beside it."""
    verdicts = plural(item["verdicts"], "verdict")
    if item["unparsable"]:
        yield f"{item['unparsable']} of {verdicts} unparsable"
    if item.get("unscored"):
        yield f"{item['unscored']} without a score"
    if item.get("by_place"):
        yield f"{item['by_place']} by place"
    if item.get("cut_off"):
        yield f"{plural(item['cut_off'], 'verdict')} cut off"
    if item.get("answers_cut_off"):
        yield f"{plural(item['answers_cut_off'], 'answer')} cut off"
    if item.get("truncated"):
        yield f"{plural(item['truncated'], 'question')} truncated"
