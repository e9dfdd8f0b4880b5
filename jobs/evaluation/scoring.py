"""Score questions with lm-eval, and summarise the results."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.contract.errors import FAILED, TaskError
from jobs.prompts import plain

if TYPE_CHECKING:
    from jobs.questions.question import Question

Samples = list[dict[str, Any]]
"""The harness's records, one per question: ``doc``, ``filtered_resps``, ``acc``, ``acc_norm`` …"""


def run_harness(
    lm: Any, name: str, questions: Sequence[Question], examples: Sequence[Question]
) -> Samples:
    """Score questions with a model of the harness, each after the same worked examples."""
    import logging

    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate

    # It warns that a custom data set could have had arguments.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    test = datasets.Dataset.from_list([document(question) for question in questions])
    task = ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda: {"test": test},
            "test_split": "test",
            "num_fewshot": len(examples),
            "fewshot_config": {
                "sampler": "first_n",
                "samples": [document(question) for question in examples],
            },
            "output_type": "multiple_choice",
            "doc_to_text": "prompt",
            "doc_to_choice": "continuations",
            "doc_to_target": "answer",
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True}
                for metric in ("acc", "acc_norm")
            ],
        }
    )
    results = evaluate(lm, {name: task}, bootstrap_iters=0)
    samples: Samples = results["samples"][name]
    return sorted(samples, key=lambda sample: sample["doc_id"])


def document(question: Question) -> dict[str, Any]:
    """Return a question as the harness's task reads it."""
    return {
        "prompt": plain.prompt(question),
        "continuations": list(plain.continuations(question)),
        "answer": question.answer,
    }


def question_records(samples: Samples, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Return one record per question, with log-likelihoods in nats in the order of the choices.

    Raises:
        TaskError: a log-likelihood is not finite, so the weights or the arithmetic are broken.
    """
    records = []
    for question, sample in zip(questions, samples, strict=True):
        likelihoods = [value for value, _ in sample["filtered_resps"]]
        if not all(math.isfinite(value) for value in likelihoods):
            raise TaskError(
                f"question {question.id}: the log-likelihoods {likelihoods} are not finite",
                "the checkpoint's weights are broken; check the training loss before it",
                FAILED,
            )
        best = [n for n, value in enumerate(likelihoods) if value == max(likelihoods)]
        records.append(
            {
                "id": question.id,
                "subject": question.subject,
                "choices": list(question.choices),
                "loglikelihoods": likelihoods,
                "predicted": best[0],
                "tied": len(best),
                "answer": question.answer,
                "points": (question.answer in best) / len(best),
            }
        )
    return records


def summarise(
    records: Sequence[Mapping[str, Any]], samples: Samples, questions: Sequence[Question]
) -> dict[str, Any]:
    """Return the accuracy with its confidence interval and baselines.

    Of ``k`` choices that are equally likely, each has 1/k of a point. ``chance`` is the accuracy of
    guessing, ``majority`` that of giving the commonest answer to each question (0.552 on PubMedQA's
    test split); ``p_value`` is exact and one-sided, against the larger of the two.
    ``constant`` is the choice that the model gives to every question; None where it gives several.
    ``accuracy_norm`` divides log-likelihoods by the choices' lengths.
    """
    from jobs.evaluation import significance

    n = len(questions)
    points = math.fsum(record["points"] for record in records)
    chances = [1 / len(question.choices) for question in questions]
    chance, majority = statistics.fmean(chances), commonest_share(questions)
    p_value = significance.p_value_above_chance(points, chances)
    if majority > chance:
        p_value = significance.p_value_above_majority(points, majority, n)
    return {
        "mode": "loglikelihood",
        "n": n,
        "correct": points,
        "accuracy": points / n,
        "accuracy_norm": sum(sample["acc_norm"] for sample in samples) / n,
        "ci95": list(significance.wilson_interval(points, n)),
        "chance": chance,
        "majority": majority,
        "p_value": p_value,
        "ties": sum(record["tied"] > 1 for record in records),
        "constant": constant_answer(records, questions),
    }


def commonest_share(questions: Sequence[Question]) -> float:
    """Return the share of questions with the commonest answer."""
    return Counter(question.answer for question in questions).most_common(1)[0][1] / len(questions)


def constant_answer(
    records: Sequence[Mapping[str, Any]], questions: Sequence[Question]
) -> str | None:
    """Return the choice that is given to every question: its letter, its text where all questions
    have the same, else its number from 1; None where not every answer is the same.
    """
    if len(questions) < 2 or len({record["predicted"] for record in records}) > 1:
        return None
    place = records[0]["predicted"]
    names = {plain.continuations(question)[place] for question in questions}
    return names.pop() if len(names) == 1 else f"choice {place + 1}"
