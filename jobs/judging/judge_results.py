"""The results of a judge's verdicts, which the task that ends last makes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from jobs.contract import done_markers
from jobs.contract.files import sha256
from jobs.contract.stage_specs import JudgeSpec
from jobs.contract.units import plural
from jobs.evaluation import items as item_store
from jobs.evaluation.comparison import mcnemar
from jobs.evaluation.generation_results import LENGTH, write
from jobs.evaluation.items import Answer
from jobs.evaluation.safety import text_digest
from jobs.judging import agreement, verdicts
from jobs.judging.judge_model import JudgeModel, deciding_files
from jobs.judging.judge_work import Judgement, Reply
from jobs.questions import healthbench
from jobs.questions.human_grades import Grade, read_grades
from jobs.runtime.context import Context

JUDGEMENTS = "judgements.jsonl"
JUDGED = "judged"

Record = dict[str, Any]


def grouped(replies: Sequence[Reply], answers: Sequence[Answer]) -> list[list[Record]]:
    """Return the text and the end of each verdict, by reply."""
    payloads = iter([answer.payload for answer in answers])
    counts = [2 if reply.other else len(reply.rubric.criteria) for reply in replies]
    return [
        [{name: next_one[name] for name in ("text", "finish")} for next_one in taken]
        for taken in ([next(payloads) for _ in range(count)] for count in counts)
    ]


def rubric_records(replies: Sequence[Reply], given: Sequence[Sequence[Record]]) -> list[Record]:
    """Return one record per reply, with the verdict on each criterion."""
    records = []
    for reply, own in zip(replies, given, strict=True):
        criteria = reply.rubric.criteria
        found = [verdicts.met(each["text"]) for each in own]
        records.append(
            {
                "id": reply.answer.id,
                "tags": list(reply.rubric.tags),
                "sha256": [text_digest(reply.answer.text)],
                "finish": reply.answer.finish,
                "score": agreement.rubric_score(criteria, found),
                "verdicts": [
                    {"criterion": each.text, "points": each.points, "grade": grade, **said}
                    for each, grade, said in zip(criteria, found, own, strict=True)
                ],
            }
        )
    return records


def pair_records(replies: Sequence[Reply], given: Sequence[Sequence[Record]]) -> list[Record]:
    """Return one record per pair of replies, with the verdict in each order: 1 stands for the first
    reply of that order.
    """
    records = []
    for reply, own in zip(replies, given, strict=True):
        found = [verdicts.better(each["text"]) for each in own]
        texts = [one.text for one in (reply.answer, reply.other) if one]
        records.append(
            {
                "id": reply.answer.id,
                "tags": list(reply.rubric.tags),
                "sha256": [text_digest(text) for text in texts],
                "finish": reply.answer.finish,
                "preferred": verdicts.preferred(*found),
                "verdicts": [
                    {"grade": grade, **said} for grade, said in zip(found, own, strict=True)
                ],
            }
        )
    return records


def rubric_summary(records: Sequence[Record]) -> Record:
    """Return the score with its interval, also by theme."""
    scored = [record for record in records if record["score"] is not None]
    scores = [record["score"] for record in scored]
    grades = [verdict["grade"] for record in records for verdict in record["verdicts"]]
    themes: dict[str, list[float]] = {}
    for record in scored:
        for tag in record["tags"]:
            if tag.startswith(healthbench.THEME):
                name = tag.removeprefix(healthbench.THEME)
                themes.setdefault(name, []).append(record["score"])
    return {
        "score": agreement.clipped_mean(scores) if scores else None,
        "ci95": list(agreement.bootstrap_interval(scores)) if scores else None,
        "n": len(scores),
        "unscored": len(records) - len(scores),
        "verdicts": len(grades),
        "met": sum(grade is True for grade in grades),
        "themes": {
            name: {"n": len(own), "score": agreement.clipped_mean(own)}
            for name, own in sorted(themes.items())
        },
    }


def pair_summary(records: Sequence[Record]) -> Record:
    """Return how often each model's reply is preferred, and the p-value of the sign test."""
    found = [record["preferred"] for record in records]
    first, second = found.count(1), found.count(2)
    both = [[verdict["grade"] for verdict in record["verdicts"]] for record in records]
    return {
        "n": len(found) - found.count(None),
        "unscored": found.count(None),
        "verdicts": 2 * len(found),
        "first": first,
        "second": second,
        "neither": found.count(verdicts.EQUAL),
        "by_place": sum(pair in ([1, 1], [2, 2]) for pair in both),
        "p_value": mcnemar(first, second),
    }


def with_people(records: Sequence[Record], grades: Sequence[Grade]) -> Record:
    """Return the agreement of a judge with people's grades of the same answers, by their digests;
    ``n`` of the grades are of these answers and of what has a verdict.
    """
    by_answer = {(record["id"], tuple(record["sha256"])): record for record in records}
    pairs: list[tuple[int, int]] = []
    for one in grades:
        grade, key = one.grade, (one.prompt, one.answers)
        if key not in by_answer and one.criterion < 0:
            # the pair in the other order
            key = (one.prompt, one.answers[::-1])
            grade = {1: 2, 2: 1}.get(grade, grade)
        record = by_answer.get(key)
        if record is None:
            continue
        if one.criterion < 0:
            verdict = record["preferred"]
        elif one.criterion < len(record["verdicts"]):
            verdict = record["verdicts"][one.criterion]["grade"]
        else:
            continue
        if verdict is not None:
            pairs.append((int(verdict), grade))
    agreeing = sum(one == other for one, other in pairs)
    return {
        "n": len(pairs),
        "agreement": agreeing / len(pairs) if pairs else None,
        "kappa": agreement.kappa(pairs),
    }


def finish(context: Context, model: JudgeModel, judgement: Judgement) -> None:
    """Write the results if all verdicts are there, and the task's done marker in any case."""
    spec, work = cast(JudgeSpec, context.task.spec), judgement.work
    stored = work.store.read()
    outputs: list[str] = []
    summary: Record = {"benchmark": spec.benchmark, "answers": work.share_size}
    if not item_store.missing(work.expected, stored.answers):
        answers = item_store.join(work.expected, stored.answers, work.store.path)
        given = grouped(judgement.replies, answers)
        if spec.other:
            records = pair_records(judgement.replies, given)
            figures = pair_summary(records)
        else:
            records = rubric_records(judgement.replies, given)
            figures = rubric_summary(records)
        summary = figures | about(spec, model, judgement, records, answers)
        summary["seconds"] = round(stored.seconds, 3)
        outputs = write(context, {JUDGEMENTS: records}, summary)
        work.store.remove_others()
        if work.truncated:
            print(
                f"{spec.benchmark}: {work.truncated} of {plural(len(work.prompts), 'question')} "
                "had more tokens than the judge reads and lost their beginning",
                flush=True,
            )
    named = [spec.path, spec.answers, spec.other_answers, spec.grades]
    inputs = [done_markers.describe_file(context.run, name) for name in named if name]
    inputs += [
        done_markers.describe_file(context.run, str(path), with_digest=False)
        for path in deciding_files(model.folder)
    ]
    context.finish(
        inputs=inputs,
        outputs=[done_markers.describe_file(context.run, name) for name in outputs],
        summary=summary,
    )


def about(
    spec: JudgeSpec,
    model: JudgeModel,
    judgement: Judgement,
    records: Sequence[Record],
    answers: Sequence[Answer],
) -> Record:
    """Return what identifies a judged score, what its judge did not do, and whom it agrees with."""
    work = judgement.work
    grades = [verdict["grade"] for record in records for verdict in record["verdicts"]]
    programs = {json.dumps(answer.payload["by"], sort_keys=True) for answer in answers}
    human = None
    if spec.grades:
        human = {"sha256": sha256(Path(spec.grades))}
        human |= with_people(records, read_grades(Path(spec.grades)))
    return {
        "mode": JUDGED,
        "benchmark": spec.benchmark,
        "kind": healthbench.KIND,
        "checkpoint": spec.checkpoint,
        "other": spec.other,
        "judge": {
            "name": model.folder.name,
            "folder": str(model.folder),
            "sha256": model.digest,
            "prompt_sha256": work.digests["judge_prompt"],
            "temperature": spec.temperature,
            "max_tokens": spec.max_tokens,
            "seed": spec.seed,
            "files": model.files,
        },
        "human": human,
        "digests": work.digests,
        "backend": [json.loads(program) for program in sorted(programs)],
        "unparsable": sum(grade is None for grade in grades),
        "cut_off": sum(answer.payload["finish"] == LENGTH for answer in answers),
        "answers_cut_off": sum(record["finish"] == LENGTH for record in records),
        "truncated": work.truncated,
        "prompts": len(work.prompts),
        "first_prompt": work.prompts[0].text,
    }
