"""Records of scored questions, and summaries of them."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.contract.errors import FAILED, TaskError
from jobs.evaluation import measures
from jobs.evaluation.items import Answer
from jobs.evaluation.likelihood_items import Asked


def question_records(asked: Sequence[Asked], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Return one record per question and seed of the demonstrations, with log-likelihoods in nats
    in the order of the choices, and with what was chosen under each permutation of them.

    Args:
        asked: ``jobs.evaluation.likelihood_items.ask``.
        answers: to each of these.

    Raises:
        TaskError: a log-likelihood is not finite, so the weights or the arithmetic are broken.
    """
    records: dict[tuple[str, int], dict[str, Any]] = {}
    for item, answer in zip(asked, answers, strict=True):
        likelihoods = finite(answer)
        best = [n for n, value in enumerate(likelihoods) if value == max(likelihoods)]
        question = item.put.question
        chosen = {
            "predicted": item.order[best[0]],
            "tied": len(best),
            "points": (question.answer in best) / len(best),
        }
        if item.key.sample:
            record = records[item.key.id, item.key.seed]
            record.setdefault("permutations", []).append({"order": list(item.order), **chosen})
        else:
            records[item.key.id, item.key.seed] = {
                "id": question.id,
                "seed": item.key.seed,
                "subject": question.subject,
                "choices": list(question.choices),
                "options": list(item.put.options),
                "loglikelihoods": likelihoods,
                "answer": question.answer,
                **chosen,
            }
    return list(records.values())


def finite(answer: Answer) -> list[float]:
    """Return the log-likelihoods of an answer.

    Raises:
        TaskError: one is not finite.
    """
    likelihoods: list[float] = answer.payload["loglikelihoods"]
    if not all(map(math.isfinite, likelihoods)):
        raise TaskError(
            f"question {answer.id}: the log-likelihoods {likelihoods} are not finite",
            "the checkpoint's weights are broken; check the training loss before it",
            FAILED,
        )
    return likelihoods


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the accuracy with its confidence interval and baselines.

    Of ``k`` choices that are equally likely, each has 1/k of a point. ``chance`` is the accuracy of
    guessing, ``majority`` that of giving the commonest answer to each question (0.552 on PubMedQA's
    test split); ``p_value`` is exact and one-sided, against the larger of the two.
    ``constant`` is the choice that the model gives to every question; None where it gives several.
    ``accuracy_norm`` divides log-likelihoods by the choices' lengths; ``accuracy_first`` takes the
    first of equally likely choices, as the released programs and lm-eval do.

    Where the questions were scored behind several draws of demonstrations, ``seeds`` has the
    accuracy of each, ``accuracy`` is their mean, ``sd`` and ``variance`` are those of the sample of
    seeds; ``ties`` counts all.

    Args:
        records: one per question and seed, all questions of a seed in their order.
    """
    from jobs.evaluation import significance

    by_seed: dict[int, list[Mapping[str, Any]]] = {}
    for record in records:
        by_seed.setdefault(record["seed"], []).append(record)
    one_each = next(iter(by_seed.values()))
    n = len(one_each)
    seeds = [
        {
            "seed": seed,
            "correct": math.fsum(record["points"] for record in own),
            "accuracy": math.fsum(record["points"] for record in own) / n,
            "accuracy_norm": accuracy_norm(own),
            "ties": sum(record["tied"] > 1 for record in own),
        }
        for seed, own in by_seed.items()
    ]
    points = statistics.fmean(float(one["correct"]) for one in seeds)
    chances = [1 / len(record["options"]) for record in one_each]
    chance, majority = statistics.fmean(chances), commonest_share(one_each)
    p_value = significance.p_value_above_chance(points, chances)
    if majority > chance:
        p_value = significance.p_value_above_majority(points, majority, n)
    return {
        "n": n,
        "correct": points,
        "accuracy": points / n,
        "accuracy_norm": statistics.fmean(float(one["accuracy_norm"]) for one in seeds),
        "accuracy_first": statistics.fmean(item["predicted"] == item["answer"] for item in records),
        "ci95": list(significance.wilson_interval(points, n)),
        "chance": chance,
        "majority": majority,
        "p_value": p_value,
        "ties": sum(int(one["ties"]) for one in seeds),
        "constant": constant_answer(records),
        **measured(records),
        **spread(seeds),
        **over_permutations(records),
    }


def measured(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return precision, recall, F1 and the calibration error of all records."""
    likelihoods = [record["loglikelihoods"] for record in records]
    scored = [record["points"] for record in records]
    given = [
        [place for place, value in enumerate(values) if value == max(values)]
        for values in likelihoods
    ]
    return {
        **measures.fields([record["answer"] for record in records], given, scored),
        "calibration_error": measures.calibration_error(likelihoods, scored),
    }


def spread(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how far accuracies behind several draws of demonstrations differ; nothing of one."""
    if len(seeds) < 2:
        return {}
    found = measures.spread([float(one["accuracy"]) for one in seeds])
    return {"seeds": list(seeds), "sd": found["sd"], "variance": found["variance"]}


def over_permutations(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the accuracy under each permutation of the options, its mean and standard deviation,
    and the consistency: how often two of the orders, that of the file included, lead to the same
    choice. Nothing where the options were not permuted.
    """
    shuffled = [record["permutations"] for record in records if "permutations" in record]
    if not shuffled:
        return {}
    accuracies = [
        statistics.fmean(item["points"] for item in column)
        for column in zip(*shuffled, strict=True)
    ]
    same = [
        agreement([record["predicted"], *(item["predicted"] for item in record["permutations"])])
        for record in records
    ]
    return {
        "permutations": {
            "accuracies": accuracies,
            "mean": statistics.fmean(accuracies),
            "sd": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
            "consistency": statistics.fmean(same),
        }
    }


def agreement(chosen: Sequence[int]) -> float:
    """Return the share of the pairs of choices that are equal."""
    n = len(chosen)
    equal = sum(count * (count - 1) for count in Counter(chosen).values())
    return equal / (n * (n - 1))


def accuracy_norm(records: Sequence[Mapping[str, Any]]) -> float:
    """Return the accuracy of the choices with the largest log-likelihood per character, as lm-eval
    computes ``acc_norm``: of equal ones the first is chosen.
    """
    hits = 0
    for record in records:
        pairs = zip(record["loglikelihoods"], record["options"], strict=True)
        scores = [value / len(option) for value, option in pairs]
        hits += scores.index(max(scores)) == record["answer"]
    return hits / len(records)


def commonest_share(records: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of questions with the commonest answer."""
    return Counter(record["answer"] for record in records).most_common(1)[0][1] / len(records)


def constant_answer(records: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the choice that is given to every question: its letter, its text where all questions
    have the same, else its number from 1; None where not every answer is the same.
    """
    if len(records) < 2 or len({record["predicted"] for record in records}) > 1:
        return None
    place = records[0]["predicted"]
    names = {record["options"][place] for record in records}
    return str(names.pop()) if len(names) == 1 else f"choice {place + 1}"
