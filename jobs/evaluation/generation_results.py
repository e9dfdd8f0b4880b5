"""The results of answers in text, which the task that ends last makes."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from jobs.contract import done_markers
from jobs.contract.corpus import benchmark_files
from jobs.contract.corpus.benchmark_files import SUBJECT_GROUPS
from jobs.contract.files import write_bytes, write_json
from jobs.contract.stage_specs import GenerateSpec
from jobs.contract.units import plural
from jobs.evaluation import items as item_store
from jobs.evaluation import measures, parser, significance
from jobs.evaluation.exported_model import RECORD, ExportedModel
from jobs.evaluation.generation_items import COT, SC_COT, Prompt
from jobs.evaluation.generation_work import Work
from jobs.evaluation.items import Answer
from jobs.evaluation.parser import LEGACY
from jobs.evaluation.safety import ANSWERS, text_digest
from jobs.evaluation.scoring import commonest_share, constant_answer, spread
from jobs.evaluation.voting import Vote, legacy_majority, majority
from jobs.prompts import plain, templates
from jobs.questions.question import OPEN, WORDED, Question
from jobs.runtime.context import Context

QUESTIONS, RESULTS = "questions.jsonl", "results.json"
LENGTH = "length"
SHOWN = ("text", "finish", "logprob")
"""Fields of a stored generation that ``questions.jsonl`` has too."""
BOOLEAN_KINDS = ("truthfulqa",)
"""Kinds whose whole reply must be the answer, as released, beside those answered by words."""
EXPLAINED_KINDS = ("medmcqa", "pubmedqa")
"""Kinds whose right answer stands behind its explanation in modes with reasoning, as released."""


@dataclass(frozen=True)
class Verdict:
    """The answer to a question, of one sample or of a vote."""

    predicted: int | None
    """Index of a choice; None without an answer."""
    right: bool
    given: tuple[str, ...]
    """The answer in each sample, as it is shown."""


def judge(prompt: Prompt, answers: Sequence[Answer], spec: GenerateSpec) -> Verdict:
    """Return the answer in the generated texts of one question."""
    question, texts = prompt.question, [answer.payload["text"] for answer in answers]
    if spec.legacy:
        return judge_as_released(question, texts, spec)
    found = [parser.parse(text, question.choices, question.style) for text in texts]
    votes = [
        Vote(each, answer.payload["logprob"]) for each, answer in zip(found, answers, strict=True)
    ]
    predicted = majority(votes, f"{spec.seed}:{question.id}")
    names = plain.continuations(question)
    shown = tuple("" if each is None else names[each] for each in found)
    return Verdict(predicted, predicted == question.answer, shown)


def judge_as_released(question: Question, texts: Sequence[str], spec: GenerateSpec) -> Verdict:
    """Return the answer by the rules of the released evaluation."""
    cot = spec.mode in (COT, SC_COT)
    medical = spec.kind == "mmlu" and question.subject in SUBJECT_GROUPS["medical"]
    # With several samples the released script reads no worked examples.
    few_shot = spec.shots > 0 and spec.mode != SC_COT
    whole = question.style == WORDED or spec.kind in BOOLEAN_KINDS
    # The released script takes "medical" in the name of a benchmark for a chain of thought.
    replies = [
        LEGACY.reply(text, whole=whole, few_shot=few_shot, cot=cot or medical) for text in texts
    ]
    reply = legacy_majority(replies, LEGACY)
    names = [name.lower() for name in plain.continuations(question)]
    predicted = names.index(reply) if LEGACY.is_valid(reply) and reply in names else None
    explained = cot and spec.kind in EXPLAINED_KINDS
    answer = LEGACY.answer(templates.gold(question, templates.CODE, explained), replies[0])
    right = LEGACY.is_right(reply, answer)
    return Verdict(
        predicted, right, tuple(each if LEGACY.is_valid(each) else "" for each in replies)
    )


def question_records(
    prompts: Sequence[Prompt], answers: Sequence[Answer], spec: GenerateSpec
) -> list[dict[str, Any]]:
    """Return one record per question and seed of its demonstrations.

    Args:
        prompts: in their order.
        answers: ``spec.samples`` of them per prompt.
        spec: of the score.
    """
    records = []
    for number, prompt in enumerate(prompts):
        own = answers[number * spec.samples : (number + 1) * spec.samples]
        verdict = judge(prompt, own, spec)
        records.append(
            {
                "id": prompt.question.id,
                "subject": prompt.question.subject,
                "seed": prompt.seed,
                "choices": list(prompt.question.choices),
                "options": list(plain.continuations(prompt.question)),
                "predicted": verdict.predicted,
                "answer": prompt.question.answer,
                "points": float(verdict.right),
                "samples": [
                    {"answer": given, **{name: answer.payload[name] for name in SHOWN}}
                    for answer, given in zip(own, verdict.given, strict=True)
                ],
            }
        )
    return records


def summarise(
    records: Sequence[Mapping[str, Any]], questions: Sequence[Question]
) -> dict[str, Any]:
    """Return the accuracy with its interval, baselines and what was not answered.

    Fields are those of a score by likelihood; where the questions were answered behind several
    draws of demonstrations, ``accuracy`` is the mean over these. ``unparsable`` counts answers
    without a choice, ``cut_off`` generations that reached the limit of tokens.

    Args:
        records: one per question and seed, all questions of a seed in their order.
        questions: those that were put.
    """
    n, points = len(questions), [record["points"] for record in records]
    rounds = [math.fsum(points[start : start + n]) for start in range(0, len(points), n)]
    correct = statistics.fmean(rounds)
    chances = [1 / len(question.choices) for question in questions]
    chance, commonest = statistics.fmean(chances), commonest_share(records)
    p_value = significance.p_value_above_chance(correct, chances)
    if commonest > chance:
        p_value = significance.p_value_above_majority(correct, commonest, n)
    given = [() if each["predicted"] is None else (each["predicted"],) for each in records]
    samples = [sample for record in records for sample in record["samples"]]
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "ci95": list(significance.wilson_interval(correct, n)),
        "chance": chance,
        "majority": commonest,
        "p_value": p_value,
        "constant": constant_answer(records) if all(given) else None,
        "unparsable": sum(not each for each in given),
        "cut_off": sum(sample["finish"] == LENGTH for sample in samples),
        "generations": len(samples),
        **measures.fields([record["answer"] for record in records], given, points),
        **spread([{"correct": each, "accuracy": each / n} for each in rounds]),
        "subjects": measures.by_group([record["subject"] for record in records], points),
    }


def finish(context: Context, model: ExportedModel, work: Work) -> None:
    """Write the results if all questions are answered, and the task's done marker in any case.

    Tasks that end at once write the same bytes: everything in them follows from the answers.
    """
    spec = cast(GenerateSpec, work.spec)
    stored = work.store.read()
    outputs: list[str] = []
    summary: dict[str, Any] = {"benchmark": spec.benchmark, "answers": work.share_size}
    if not item_store.missing(work.expected, stored.answers):
        answers = item_store.join(work.expected, stored.answers, work.store.path)
        known = about(model, work, answers) | {"seconds": round(stored.seconds, 3)}
        if work.prompts[0].question.style == OPEN:
            summary = known
            outputs = write(context, {ANSWERS: open_answers(work.prompts, answers)})
        else:
            records = question_records(work.prompts, answers, spec)
            questions = [prompt.question for prompt in work.prompts]
            several = len({prompt.seed for prompt in work.prompts})
            summary = summarise(records, questions[: len(questions) // several]) | known
            outputs = write(context, {QUESTIONS: records}, summary)
        work.store.remove_others()
        if work.truncated:
            print(
                f"{spec.benchmark}: {work.truncated} of {plural(len(work.prompts), 'prompt')} had "
                "more tokens than the model reads and lost their beginning",
                flush=True,
            )
    read = [
        *(str(file) for file in benchmark_files.files(Path(spec.path), spec.kind, spec.options)),
        spec.tokenizer.path,
        context.run.name_of(model.folder / RECORD),
    ]
    context.finish(
        inputs=[done_markers.describe_file(context.run, name) for name in read],
        outputs=[done_markers.describe_file(context.run, name) for name in outputs],
        summary=summary,
    )


def about(model: ExportedModel, work: Work, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return what identifies a score."""
    spec = cast(GenerateSpec, work.spec)
    programs = {json.dumps(answer.payload["by"], sort_keys=True) for answer in answers}
    return {
        "mode": spec.mode,
        "score": "generation",
        "legacy": spec.legacy,
        "benchmark": spec.benchmark,
        "kind": spec.kind,
        "checkpoint": spec.checkpoint,
        "checkpoint_step": model.step,
        "model": spec.model,
        "template": spec.template,
        "digests": work.digests,
        "backend": [json.loads(program) for program in sorted(programs)],
        "shots": spec.shots,
        "samples": spec.samples,
        "temperature": spec.temperature,
        "frequency_penalty": spec.frequency_penalty,
        "max_tokens": spec.max_tokens,
        "seed": spec.seed,
        "bos": bool(spec.tokenizer.vocabulary.bos_token),
        "seq_length": model.context,
        "limit": spec.limit,
        "truncated": work.truncated,
        "prompts": len(work.prompts),
        "first_prompt": work.prompts[0].text,
    }


def open_answers(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Return the answers to questions that have no score."""
    return [
        {
            "id": prompt.question.id,
            "theme": prompt.question.subject,
            "prompt": prompt.question.text,
            "text": answer.payload["text"],
            "finish": answer.payload["finish"],
            "sha256": text_digest(answer.payload["text"]),
        }
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def write(
    context: Context, records: Mapping[str, Sequence[Any]], results: dict[str, Any] | None = None
) -> list[str]:
    """Write files of records, by name, and the results of a score; return their names."""
    folder = Path(cast(GenerateSpec, context.task.spec).output_dir)
    names = []
    for name, lines in records.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        names.append(str(folder / name))
        write_bytes(context.path(names[-1]), text.encode())
    if results is not None:
        names.append(str(folder / RESULTS))
        write_json(context.path(names[-1]), results)
    return names
