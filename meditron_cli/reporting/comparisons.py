"""Scores of a run beside published ones, beside each other, and by parts of their questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.contract.corpus.benchmark_files import SUBJECT_GROUPS
from jobs.contract.files import read_lines
from jobs.contract.rundir import RunDir
from jobs.evaluation import comparison, measures, significance
from meditron_cli.reporting import published
from meditron_cli.reporting.published import FAMILIES, Place, PublishedScore
from meditron_cli.reporting.scores import MMLU_MEDICAL, Score

MEDICAL = SUBJECT_GROUPS["medical"]
PUBLISHED_SAMPLES = 5
"""Of self-consistency in the paper; the released code takes 10."""


def beside(
    scores: Sequence[Score], size: float | None, families: Sequence[str] = FAMILIES
) -> list[dict[str, Any]]:
    """Return each score of ours with each published one that it is compared with.

    Args:
        scores: of a run.
        size: parameters of its model in units of 10^9; without it nothing is compared.
        families: beginnings of the names of models that are compared with.
    """
    if not size:
        return []
    return [
        {
            "benchmark": ours.benchmark,
            "checkpoint_name": ours.checkpoint,
            "protocol": ours.protocol,
            "place": ours.place,
            "accuracy": ours.results["accuracy"],
            "published": share(theirs.value),
            "spread": None if theirs.spread is None else share(theirs.spread),
            "model": theirs.model,
            "table": theirs.table,
            "page": theirs.page,
            **difference(ours.results, theirs),
            "differs": list(differences(ours, theirs, size)),
        }
        for ours in scores
        for theirs in published.beside(place(ours, ours.published_name, size), families)
    ]


def place(score: Score, benchmark: str, size: float) -> Place:
    """Return where a score, or a part of it, stands among the published ones."""
    return Place(benchmark, score.mode, bool(score.model), size, score.step)


def share(per_cent: float) -> float:
    """Return a printed percentage as a share, without further digits."""
    return round(per_cent / 100, 6)


def difference(results: Mapping[str, Any], theirs: PublishedScore) -> dict[str, Any]:
    """Return our accuracy minus the published one, its 95 % interval, and whether that holds 0."""
    change = results["accuracy"] - theirs.value / 100
    if not theirs.n:
        return {"difference": change, "ci95": None, "within": None}
    low, high = significance.difference_interval(
        (theirs.value / 100 * theirs.n, theirs.n),
        (results["accuracy"] * results["n"], results["n"]),
    )
    return {"difference": change, "ci95": [low, high], "within": low <= 0 <= high}


def differences(ours: Score, theirs: PublishedScore, size: float) -> Iterator[str]:
    """Yield, in few words, what differs between our protocol and the published one."""
    known, is_mmlu = ours.results, theirs.benchmark == MMLU_MEDICAL
    if theirs.size and not 0.8 < size / theirs.size < 1.25:
        yield f"size {size:.2g}B for {theirs.size:.3g}B"
    for what, own, wanted in (
        ("n", known["n"], theirs.n),
        ("subjects", len(set(ours.subjects.values())) or None, len(MEDICAL) if is_mmlu else None),
        ("shots", ours.shots, theirs.shots),
        ("seeds", len(ours.seeds) or None if ours.shots else None, len(theirs.seeds) or None),
        ("samples", known.get("samples"), PUBLISHED_SAMPLES if ours.mode == "sc-cot" else None),
    ):
        if None not in (own, wanted) and own != wanted:
            yield f"{what} {own:,} for {wanted:,}"
    if ours.mode == theirs.mode == "top-token" and not known.get("legacy"):
        yield "likelihood" if known.get("score") != "generation" else "parser"
    if (template := known.get("template")) not in (None, "", "code"):
        yield f"template {template}"


def pairs(scores: Sequence[Score], others: Sequence[Score] = ()) -> list[dict[str, Any]]:
    """Return paired comparisons of scores of the same questions, joined by id: those of a run with
    each other, or those of two runs that have the same place in both.

    Scores are paired only where the digests of their benchmarks are the same, and their questions.
    P-values are corrected over the benchmarks of a comparison (Holm).
    """
    models: dict[str, set[str]] = {}
    for score in (*scores, *others):
        models.setdefault(score.digest, set()).update({score.model} - {""})
    families: dict[tuple[str, ...], list[tuple[Score, Score]]] = {}
    for both in across(scores, others) if others else within(scores):
        roles = tuple(role(score, len(models[score.digest])) for score in both)
        families.setdefault(roles, []).append(both)
    return [one for names, family in families.items() for one in family_of(names, family)]


def family_of(
    names: Sequence[str], family: Sequence[tuple[Score, Score]]
) -> Iterator[dict[str, Any]]:
    """Yield the comparisons of the same two on several benchmarks, and the mean difference."""
    compared = [pair(*both) for both in family]
    corrected = comparison.holm([one["p_value"] for one in compared])
    samples = [resampled(*both, stream) for stream, both in enumerate(family)]
    for one, p_value, sample in zip(compared, corrected, samples, strict=True):
        one["p_holm"], one["family"] = p_value, len(family)
        yield {**one, "ci95": interval([sample])}
    if len(family) > 1:
        yield {
            "benchmark": f"mean of {len(family)}",
            "first": names[0],
            "second": names[1],
            "n": sum(one["n"] for one in compared),
            "difference": sum(one["difference"] for one in compared) / len(family),
            **dict.fromkeys(("gained", "lost", "p_value", "p_holm")),
            "family": len(family),
            "ci95": interval(samples),
        }


def role(score: Score, models: int) -> str:
    """Return what a score is of, the same for all benchmarks of which each has a finetuned model of
    its own.

    Args:
        score: of a run.
        models: finetuned models that are scored on its benchmark.
    """
    return f"finetuned {score.protocol}" if score.model and models == 1 else name(score)


def name(score: Score) -> str:
    return f"{score.checkpoint} {score.protocol}"


def within(scores: Sequence[Score]) -> Iterator[tuple[Score, Score]]:
    """Yield the pairs of a run, in the order of the second."""
    ordered = sorted(scores, key=lambda score: score.order[1:])
    for count, second in enumerate(ordered):
        earlier = [
            first
            for first in ordered[:count]
            if first.digest == second.digest != "" and is_paired(first, second)
        ]
        for first in partners(second, earlier):
            yield first, second


def partners(score: Score, earlier: Sequence[Score]) -> list[Score]:
    """Return what a score is compared with, of those that come before it: the first and the last of
    its protocol, the first of its own checkpoint, and for a finetuned model the last checkpoint of
    pretraining.
    """
    alike = [
        one
        for one in earlier
        if one.protocol == score.protocol and bool(one.model) == bool(score.model)
    ]
    own = [one for one in earlier if one.checkpoint == score.checkpoint]
    bases = [one for one in earlier if score.model and not one.model]
    last = [one for one in bases if one.step == bases[-1].step]
    chosen = [*alike[:1], *alike[-1:], *own[:1], *last[:1]]
    return list({one.place: one for one in chosen}.values())


def across(scores: Sequence[Score], others: Sequence[Score]) -> Iterator[tuple[Score, Score]]:
    """Yield the pairs of two runs: scores of the same checkpoint, as a run names it, and mode."""
    for first in scores:
        for second in others:
            if (
                first.digest == second.digest != ""
                and first.place.partition("/")[2] == second.place.partition("/")[2]
                and is_paired(first, second)
            ):
                yield first, second


def is_paired(first: Score, second: Score) -> bool:
    """Return whether two scores of one benchmark have the same questions."""
    return first.questions == second.questions != {}


def pair(first: Score, second: Score) -> dict[str, Any]:
    """Return the comparison of two scores."""
    found = comparison.compare(first.points, second.points)
    return {
        "benchmark": first.benchmark,
        "first": name(first),
        "second": name(second),
        "n": found.n,
        "difference": found.difference,
        "gained": found.gained,
        "lost": found.lost,
        "p_value": found.p_value,
    }


def resampled(first: Score, second: Score, stream: int) -> Any:
    """Return the bootstrap's differences of two scores; None where numpy is not installed."""
    try:
        same = first.seeds == second.seeds
        return comparison.differences(first.points, second.points, same, stream=stream)
    except ImportError:
        return None


def interval(samples: Sequence[Any]) -> list[float] | None:
    """Return the 95 % interval of a mean difference; None without numpy."""
    return None if samples[0] is None else list(comparison.interval(samples))


def by_subject(
    scores: Sequence[Score], size: float | None, families: Sequence[str] = FAMILIES
) -> list[dict[str, Any]]:
    """Return the accuracy of each subject or category of a benchmark that has several, with that
    of the models that ``beside`` compares with, where it was published.
    """
    rows = []
    for score in scores:
        if len(set(score.subjects.values())) < 2:
            continue
        groups = measures.by_group([score.subjects[name] for name in score.points], means(score))
        for subject, found in groups.items():
            where = place(score, f"{score.published_name}/{subject}", size or 1)
            known = published.beside(where, families) if size else []
            rows.append(
                {
                    "benchmark": score.benchmark,
                    "checkpoint_name": score.checkpoint,
                    "protocol": score.protocol,
                    "kind": score.kind,
                    "subject": subject,
                    **found,
                    "published": [{"model": one.model, "value": share(one.value)} for one in known],
                }
            )
    return rows


def means(score: Score) -> list[float]:
    """Return the points of each question, averaged over seeds."""
    return [sum(points) / len(points) for points in score.points.values()]


def contamination(run: RunDir, scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Return the accuracy on the questions that were found in what a model was trained with, and on
    the others.
    """
    found = {model: found_in_training(run, model) for model in {score.model for score in scores}}
    rows = []
    for score in scores:
        questions = found[score.model].get(score.benchmark, ())
        points = dict(zip(score.points, means(score), strict=True))
        parts = measures.matched(points, questions)
        if parts["matched"]:
            rows.append(
                {
                    "benchmark": score.benchmark,
                    "checkpoint_name": score.checkpoint,
                    "protocol": score.protocol,
                    **parts,
                }
            )
    return rows


def found_in_training(run: RunDir, model: str) -> dict[str, set[str]]:
    """Return, by benchmark, the ids of the questions that were found in documents of the run's
    corpus, or in items of a finetuned model's training set; none of these was trained on.
    """
    places = [("corpus/contamination.jsonl", "item")]
    if model:
        places.append((f"finetune/{model}/rows/contained.jsonl", "question"))
    found: dict[str, set[str]] = {}
    for path, key in places:
        for match in read_lines(run.path(path)):
            found.setdefault(str(match.get("benchmark")), set()).add(str(match.get(key)))
    return found
