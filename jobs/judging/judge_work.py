"""The work of a judge: its questions in batches, the share of a task, the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

from jobs.contract.errors import TaskError
from jobs.contract.files import read_lines, sha256
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import JudgeSpec
from jobs.evaluation import generation_items
from jobs.evaluation.generation_items import Prompt
from jobs.evaluation.generation_work import Work
from jobs.evaluation.items import AnswerFile, digest_of
from jobs.evaluation.safety import SafetyAnswer, parsed
from jobs.generation.backend import Sampling
from jobs.judging import verdicts
from jobs.judging.judge_model import JudgeModel
from jobs.questions import healthbench
from jobs.questions.healthbench import Rubric
from jobs.runtime.context import Context

GENERATE = "submit the stage `generate` first"


class Reply(NamedTuple):
    """An answer to judge, of two the other one too."""

    rubric: Rubric
    answer: SafetyAnswer
    other: SafetyAnswer | None


@dataclass(frozen=True)
class Judgement:
    """All that a judge is asked of one file of answers."""

    replies: list[Reply]
    work: Work
    """Its prompts are those of the first reply, then of the second …: one per criterion, or one per
    order of a pair."""


def plan(context: Context, model: JudgeModel) -> Judgement:
    """Read the answers, and put the judge's questions into batches.

    Raises:
        TaskError: answers are missing, or were given to other conversations, or a verdict leaves no
            room for a question in the judge's context.
    """
    spec = cast(JudgeSpec, context.task.spec)
    replies = read_replies(context.run, spec)
    frame = model.frame
    room = model.context - spec.max_tokens - len(frame.head) - len(frame.tail)
    if room < 1:
        raise TaskError(
            f"{model.folder}: the judge reads {model.context} tokens, in which {spec.max_tokens} "
            "of a verdict leave no room for a question",
            "set evaluate.judge.max_tokens lower",
        )
    asked = [(reply, *each) for reply in replies for each in questions(reply)]
    prompts = []
    for (reply, name, text), ids in zip(
        asked, model.encode([text for _, _, text in asked]), strict=True
    ):
        question = replace(reply.rubric.question, id=name)
        put = generation_items.put(question, text, ids, 0, room)
        prompts.append(replace(put, ids=(*frame.head, *put.ids, *frame.tail)))
    return Judgement(replies, work_of(context, spec, model, prompts))


def work_of(
    context: Context, spec: JudgeSpec, model: JudgeModel, prompts: Sequence[Prompt]
) -> Work:
    """Return the judge's questions in batches, with what identifies its verdicts."""
    batches = generation_items.batches(prompts, spec.batch_size)
    sampling = Sampling(
        temperature=spec.temperature, max_tokens=spec.max_tokens, stop_tokens=model.ends
    )
    files = [spec.answers, *([spec.other_answers] if spec.other_answers else [])]
    digests = {
        "benchmark": sha256(Path(spec.path)),
        "answers": digest_of([sha256(context.path(name)) for name in files]),
        "prompts": digest_of([prompt.ids for prompt in prompts]),
        "judge": model.digest,
        "judge_prompt": verdicts.digest(verdicts.PAIR if spec.other else verdicts.RUBRIC),
    }
    decisive = (spec.backend, spec.device, spec.tensor, spec.seed, vars(sampling), batches)
    store = AnswerFile(context.path(spec.output_dir), digest_of(digests, *decisive))
    return Work(spec, list(prompts), batches, sampling, store, digests)


def questions(reply: Reply) -> Iterator[tuple[str, str]]:
    """Yield name and text of what a judge is asked of a reply."""
    question, own = reply.rubric.question, reply.answer.text
    if reply.other is None:
        for number, criterion in enumerate(reply.rubric.criteria):
            yield f"{question.id}#{number}", verdicts.rubric_prompt(question, own, criterion.text)
        return
    for order, texts in enumerate(((own, reply.other.text), (reply.other.text, own))):
        yield f"{question.id}#{order}", verdicts.pair_prompt(question, *texts)


def read_replies(run: RunDir, spec: JudgeSpec) -> list[Reply]:
    """Return the answers to judge, in the order of their file.

    Raises:
        TaskError: there are none, they were given to other conversations than the benchmark's, or
            two models answered other ones.
    """
    rubrics = {one.question.id: one for one in healthbench.read_rubrics(Path(spec.path))}
    own, other = (
        {each.id: each for each in read_answers(run.path(name), rubrics)} if name else {}
        for name in (spec.answers, spec.other_answers)
    )
    if spec.other and own.keys() != other.keys():
        raise TaskError(
            f"{spec.other_answers}: answers to other conversations than {spec.answers} has",
            "give both benchmarks the same `limit`, then submit `generate` again",
        )
    return [Reply(rubrics[name], answer, other.get(name)) for name, answer in own.items()]


def read_answers(path: Path, rubrics: dict[str, Rubric]) -> list[SafetyAnswer]:
    """Return the answers of a file.

    Raises:
        TaskError: there are none, or one was given to another conversation.
    """
    if not path.is_file():
        raise TaskError(f"{path}: no answers to judge", GENERATE)
    answers = parsed(read_lines(path))
    if not answers:
        raise TaskError(f"{path}: no whole answer to judge", GENERATE)
    for answer in answers:
        rubric = rubrics.get(answer.id)
        if rubric is None or rubric.question.text != answer.prompt:
            raise TaskError(
                f"{path}: {answer.id} was asked something else than in the benchmark", GENERATE
            )
    return answers
