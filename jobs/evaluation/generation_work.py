"""Answers in text in work: the prompts of a score in batches, the share of a task, the store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import GenerateSpec, JudgeSpec
from jobs.data.tokenizer_file import Encoder
from jobs.evaluation import generation_items
from jobs.evaluation import items as item_store
from jobs.evaluation.exported_model import ExportedModel
from jobs.evaluation.generation_items import Prompt
from jobs.evaluation.items import AnswerFile, ItemKey, digest_of
from jobs.evaluation.likelihood_work import benchmark_digest, has_ended
from jobs.evaluation.parser import STOP
from jobs.generation.backend import Sampling
from jobs.questions import readers
from jobs.questions.question import OPEN, Question
from jobs.runtime.context import Context


@dataclass(frozen=True)
class Work:
    """All prompts of a score, the same for each of its tasks."""

    spec: GenerateSpec | JudgeSpec
    prompts: list[Prompt]
    batches: list[list[int]]
    """Places of the prompts that are answered together."""
    sampling: Sampling
    store: AnswerFile
    digests: dict[str, str]
    """Of the benchmark, of the prompts and of the checkpoint."""

    @cached_property
    def expected(self) -> dict[ItemKey, str]:
        """Return the digest of the prompt of each answer."""
        return {
            key: digest_of(prompt.ids)
            for prompt in self.prompts
            for key in prompt.keys(self.spec.samples)
        }

    @property
    def share_size(self) -> int:
        """Return the answers of the task's share."""
        share = item_store.share(self.batches, self.spec.part, self.spec.parts)
        return sum(map(len, share)) * self.spec.samples

    @property
    def truncated(self) -> int:
        """Return the prompts that lost their beginning."""
        return sum(prompt.is_truncated for prompt in self.prompts)

    def to_do(self, context: Context) -> list[int]:
        """Return the batches that the task has to answer: those of its share without an answer, and
        those of shares whose tasks have ended and whose answers were lost since.
        """
        others = set(range(self.spec.parts)) - {self.spec.part}
        ended = {part for part in others if has_ended(context, part)}
        answers = self.store.read().answers  # behind it: what those tasks stored is there
        left = [
            number
            for number, batch in enumerate(self.batches)
            if any(
                key not in answers
                for place in batch
                for key in self.prompts[place].keys(self.spec.samples)
            )
        ]
        return [number for number in left if number % self.spec.parts in {self.spec.part, *ended}]


def stops(spec: GenerateSpec, question: Question) -> tuple[str, ...]:
    """Return the texts that end an answer. One to an open question may have headings of Markdown,
    where the end of its turn is a token.
    """
    return () if question.style == OPEN and spec.template else (STOP,)


def plan(run: RunDir, spec: GenerateSpec, model: ExportedModel, encoder: Encoder) -> Work:
    """Put all questions, and put the prompts into batches.

    Raises:
        TaskError: the benchmark cannot be used, or stored answers were given to other prompts.
    """
    room = generation_items.room_for_prompts(model.context, spec, str(model.folder))
    questions = readers.read(Path(spec.path), spec.kind, spec.options)
    prompts, ends = generation_items.ask(questions, spec, encoder, room)
    batches = generation_items.batches(prompts, max(1, spec.batch_size // spec.samples))
    sampling = Sampling(
        samples=spec.samples,
        temperature=spec.temperature,
        max_tokens=spec.max_tokens,
        stops=stops(spec, prompts[0].question),
        stop_tokens=tuple(dict.fromkeys((*ends, *model.stop_tokens(encoder)))),
        frequency_penalty=spec.frequency_penalty,
    )
    digests = {
        "benchmark": benchmark_digest(Path(spec.path), spec.kind, spec.options),
        "prompts": digest_of([prompt.ids for prompt in prompts]),
        "checkpoint": model.checkpoint,
    }
    decisive = (spec.backend, spec.device, spec.tensor, spec.seed, vars(sampling), batches)
    key = digest_of(digests, model.digest, *decisive)
    store = AnswerFile(run.path(spec.output_dir), key)
    work = Work(spec, prompts, batches, sampling, store, digests)
    item_store.require_same_prompts(work.expected, store.read().answers, store.path)
    return work
