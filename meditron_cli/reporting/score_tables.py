"""Tables of scores: each with its baselines, beside published ones, paired, and by parts of their
questions. They fit 100 columns; ``report --json`` has more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.contract.units import plural
from meditron_cli.reporting.published import FAMILIES, Table, number

WIDTH = 100
SUBJECT_CELL = len("62.5% (63.6%)")
OF_SUBJECTS = ("mmlu", "mmlu_pro", "truthfulqa", "headqa", "med_concepts_qa")
"""Kinds of benchmarks whose subjects are printed; those of others are in ``report --json``."""

Items = Sequence[Mapping[str, Any]]


def tables(results: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the tables of the scores in the content of ``report --json``."""
    yield (
        "evaluation",
        (
            *("benchmark", "checkpoint", "mode", "accuracy", "95 % interval", "chance"),
            *("majority", "questions", "p", "remarks"),
        ),
        [evaluation_row(item) for item in results["evaluations"]],
    )
    yield (
        "answers (of valid: accuracy among those that could be read; ECE: calibration error)",
        (
            *("benchmark", "checkpoint, mode", "valid", "of valid", "precision", "recall", "F1"),
            *("macro-F1", "ECE"),
        ),
        [answers_row(item) for item in results["evaluations"] if "macro_f1" in item],
    )
    yield (
        "beside published results (per cent; not significant: the 95 % interval holds 0)",
        (
            *("benchmark", "checkpoint, mode", "ours", "published", "of", "points"),
            "significant",
        ),
        [beside_row(item) for item in results["published"]],
    )
    yield "protocol, ours for theirs", ("what", "where"), protocol_rows(results["published"])
    yield (
        "paired tests (p of McNemar's exact test, Holm's correction over benchmarks)",
        ("benchmark", "first", "second", "points", "95 % interval", "won/lost", "p"),
        [paired_row(item) for item in results["paired"]],
    )
    yield from subject_tables(results["subjects"])
    yield (
        "questions that were found in training data (and what they were found in was left out)",
        (
            *("benchmark", "checkpoint, mode", "found", "accuracy", "95 % interval"),
            *("others", "accuracy"),
        ),
        [contamination_row(item) for item in results["contamination"]],
    )


def evaluation_row(item: Mapping[str, Any]) -> tuple[object, ...]:
    """Return the row of one benchmark on one checkpoint."""
    return (
        item["benchmark"],
        item["checkpoint_name"],
        item["protocol"],
        f"{item['accuracy']:.1%}",
        interval(item["ci95"]),
        f"{item['chance']:.1%}",
        f"{item['majority']:.1%}" if "majority" in item else None,
        item["n"],
        f"{item['p_value']:.2g}",
        "; ".join(remarks(item)) or None,
    )


UNREAD = ("unparsable", "cut_off")
"""Counts of answers in text that a reader of their score has to know."""


def remarks(item: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a reader of a score has to know beside it."""
    if item.get("sd") is not None:
        yield f"±{item['sd']:.1%} over seeds"
    if item.get("constant") is not None:
        yield f"always {item['constant']!r}"
    yield from (f"{item[name]} {name.replace('_', ' ')}" for name in UNREAD if item.get(name))
    if permuted := item.get("permutations"):
        orders, same = plural(len(permuted["accuracies"]), "more order"), permuted["consistency"]
        spread = "" if permuted["sd"] is None else f" ±{permuted['sd']:.1%}"
        yield f"{permuted['mean']:.1%}{spread} in {orders} of options, {same:.0%} the same answers"
    if item.get("truncated"):
        yield f"{plural(item['truncated'], 'prompt')} truncated"
    if item.get("ties"):
        yield plural(item["ties"], "tie")
    if not item.get("compared", True):
        yield "finetuned without comparison with these questions"


def answers_row(item: Mapping[str, Any]) -> tuple[object, ...]:
    """Return the row of the measures of one score beside its accuracy."""
    weighted = ("weighted_precision", "weighted_recall", "weighted_f1")
    names = ("valid", "accuracy_valid", *weighted, "macro_f1")
    return (
        item["benchmark"],
        contender(item),
        *(None if item.get(name) is None else f"{item[name]:.1%}" for name in names),
        f"{item['calibration_error']:.3f}" if "calibration_error" in item else None,
    )


def interval(ends: Sequence[float]) -> str:
    """Return ``70.0% to 80.0%``."""
    return " to ".join(f"{end:.1%}" for end in ends)


def points(share: float) -> str:
    """Return a difference in points: ``+3.4``."""
    return f"{100 * share:+.1f}"


def beside_row(item: Mapping[str, Any]) -> tuple[object, ...]:
    """Return the row of one score beside a published one."""
    spread = "" if item["spread"] is None else f"±{100 * item['spread']:.3g}"
    return (
        item["benchmark"],
        f"{item['checkpoint_name']} {item['protocol']}",
        f"{100 * item['accuracy']:.1f}",
        number(round(100 * item["published"], 3)) + spread,
        f"{item['model']}, {item['table']}",
        points(item["difference"]),
        None if item["within"] is None else "no" if item["within"] else "yes",
    )


def protocol_rows(found: Items) -> list[tuple[object, ...]]:
    """Return each difference between our protocol and a published one, and where it is found."""
    where: dict[str, dict[str, None]] = {}
    for item in found:
        for difference in item["differs"]:
            where.setdefault(difference, {})[item["benchmark"]] = None
    every = {item["benchmark"] for item in found}
    return [
        (difference, "all" if len(names) == len(every) > 1 else ", ".join(names))
        for difference, names in where.items()
    ]


def paired_row(item: Mapping[str, Any]) -> tuple[object, ...]:
    """Return the row of one paired comparison."""
    ends = item["ci95"] and [100 * end for end in item["ci95"]]
    return (
        item["benchmark"],
        item["first"],
        item["second"],
        points(item["difference"]),
        None if ends is None else f"{ends[0]:+.1f}, {ends[1]:+.1f}",
        None if item["gained"] is None else f"{item['gained']}/{item['lost']}",
        None if item["p_holm"] is None else f"{item['p_holm']:.2g}",
    )


def subject_tables(found: Items) -> Iterator[Table]:
    """Yield tables for each benchmark that is made of subjects: in columns the scores, as many as
    fit.
    """
    benchmarks = (item["benchmark"] for item in found if item["kind"] in OF_SUBJECTS)
    for benchmark in dict.fromkeys(benchmarks):
        own = [item for item in found if item["benchmark"] == benchmark]
        sizes = {item["subject"]: item["n"] for item in own}
        cells = {(item["subject"], contender(item)): subject_cell(item) for item in own}
        models = dict.fromkeys(one["model"] for item in own for one in nearest(item)[:1])
        longest = max(sizes, key=len)
        title = f"{benchmark} by subject"
        if models:
            title += f" (in brackets {', '.join(models)} as published)"
        for shown in fitting(list(dict.fromkeys(contender(item) for item in own)), longest):
            rows = [
                (subject, n, *(cells.get((subject, one)) for one in shown))
                for subject, n in sizes.items()
            ]
            yield title, ("subject", "questions", *shown), rows


def fitting(names: Sequence[str], first: str) -> Iterator[list[str]]:
    """Yield the names of columns, as many at a time as fit beside those of subjects."""
    left, chosen = 0, list[str]()
    for name in names:
        width = max(len(name), SUBJECT_CELL) + 2
        if chosen and width > left:
            yield chosen
            chosen = []
        left = (left if chosen else WIDTH - len(first) - len("questions") - 2) - width
        chosen.append(name)
    if chosen:
        yield chosen


def nearest(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the published scores of the paper's own model, else of those that there are."""
    own = [one for one in item["published"] if one["model"].startswith(FAMILIES[0])]
    return own or list(item["published"])


def subject_cell(item: Mapping[str, Any]) -> str:
    """Return ``62.5% (63.6%)``: our accuracy, and the published one."""
    known = "".join(f" ({one['value']:.1%})" for one in nearest(item)[:1])
    return f"{item['accuracy']:.1%}{known}"


def contender(item: Mapping[str, Any]) -> str:
    return f"{item['checkpoint_name']} {item['protocol']}"


def contamination_row(item: Mapping[str, Any]) -> tuple[object, ...]:
    """Return the row of one score on questions that were found in training documents."""
    inside, outside = item["matched"], item["not_matched"]
    return (
        item["benchmark"],
        contender(item),
        inside["n"],
        f"{inside['accuracy']:.1%}",
        interval(inside["ci95"]),
        outside["n"] if outside else 0,
        f"{outside['accuracy']:.1%}" if outside else None,
    )
