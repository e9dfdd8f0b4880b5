"""Put questions to a model through lm-eval, and summarise the answers."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.contract.errors import FAILED, TaskError

if TYPE_CHECKING:
    from jobs.evaluation.benchmarks import Question

Samples = list[dict[str, Any]]
"""The harness's record of each question: ``doc``, ``filtered_resps``, ``acc``, ``acc_norm`` …"""


def put(lm: Any, name: str, asked: Sequence[Question], examples: Sequence[Question]) -> Samples:
    """Put questions to a model of the harness, each after the same worked examples."""
    import logging

    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate

    # It warns that a data set of ours could have had arguments.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    test = datasets.Dataset.from_list([document(question) for question in asked])
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
    """A question as the harness's task reads it."""
    return {
        "prompt": question.prompt,
        "continuations": list(question.continuations),
        "answer": question.answer,
    }


def question_records(samples: Samples, asked: Sequence[Question]) -> list[dict[str, Any]]:
    """One record a question, log-likelihoods in nats in the order of the choices.

    Raises:
        TaskError: a log-likelihood is not a number, so the weights or the arithmetic are broken.
    """
    records = []
    for question, sample in zip(asked, samples, strict=True):
        likelihoods = [value for value, _ in sample["filtered_resps"]]
        if not all(math.isfinite(value) for value in likelihoods):
            raise TaskError(
                f"question {question.id}: the model answers {likelihoods}, not log-likelihoods",
                "the checkpoint's weights are broken; look at the training loss before it",
                FAILED,
            )
        records.append(
            {
                "id": question.id,
                "subject": question.subject,
                "choices": list(question.choices),
                "loglikelihoods": likelihoods,
                "predicted": likelihoods.index(max(likelihoods)),
                "answer": question.answer,
                "correct": bool(sample["acc"]),
            }
        )
    return records


def summarise(samples: Samples, asked: Sequence[Question]) -> dict[str, Any]:
    """Accuracy and how far it can be trusted.

    ``chance`` is the accuracy of guessing; ``majority`` that of always giving the commonest answer
    (0.552 on PubMedQA's test split, where it is what a model has to beat); ``p_value`` is exact and
    one-sided, against guessing; ``accuracy_norm`` divides log-likelihoods by the choices' lengths.
    """
    from jobs.evaluation import significance

    n = len(asked)
    correct = round(sum(sample["acc"] for sample in samples))
    chances = [1 / len(question.choices) for question in asked]
    commonest = Counter(question.answer for question in asked).most_common(1)[0][1]
    return {
        "mode": "loglikelihood",
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "accuracy_norm": sum(sample["acc_norm"] for sample in samples) / n,
        "ci95": list(significance.wilson_interval(correct, n)),
        "chance": statistics.fmean(chances),
        "majority": commonest / n,
        "p_value": significance.p_value_above_chance(correct, chances),
    }
