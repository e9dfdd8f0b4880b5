"""Generate stage: an exported model answers a benchmark in text, and its answers are scored.

Several tasks may share the questions (``jobs.evaluation.items``): each appends its answers to one
file, and the one that finds all of them there writes the results. What is computed together does
not depend on the number of tasks, nor on what a killed attempt has left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, cast

from jobs.contract.errors import Stopped, TaskError
from jobs.contract.stage_specs import GenerateSpec
from jobs.contract.units import plural
from jobs.data import tokenizer_file
from jobs.data.tokenizer_file import Encoder
from jobs.evaluation import generation_results, generation_work
from jobs.evaluation.exported_model import ExportedModel
from jobs.evaluation.generation_work import Work
from jobs.evaluation.items import Answer
from jobs.generation import backends
from jobs.generation.backend import Backend, Generation, seed_of
from jobs.runtime.context import Context
from jobs.runtime.heartbeat import Phase

POLL_SECONDS = 1.0
"""Between two looks at the file STOP, and two reports of progress."""


def run(context: Context) -> None:
    """Answer the task's share of the questions; the task that finds all answered writes
    ``results.json`` and ``questions.jsonl``.

    Raises:
        TaskError: the benchmark, the tokenizer or the exported folder cannot be used, or answers
            were given to other prompts.
        Stopped: a stop was requested; answers remain, results do not.
    """
    spec = cast(GenerateSpec, context.task.spec)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    context.progress(0, 1, "answers", phase="startup")
    tokenizer_file.require_unchanged(context.run, spec.tokenizer)
    model = ExportedModel.read(context.path(spec.folder))
    encoder = Encoder.load(spec.tokenizer)
    model.require_tokens(encoder)
    work = generation_work.plan(context, model, encoder)
    if batches := work.to_do(context):
        alive = Alive(context, work, batches)
        backend = backends.load(
            spec.backend, model.folder, device=spec.device, tensor=spec.tensor, alive=alive
        )
        while batches:
            answer(work, backend, alive, batches)
            batches = work.to_do(context)
    context.heart.beat(Phase.LEAVING)
    context.progress(work.share_size, work.share_size, "answers", phase="step")
    if ExportedModel.read(model.folder).digest != model.digest:
        message = f"{model.folder}: another export has replaced it since this task began"
        raise TaskError(message, "submit the stage `generate` again")
    generation_results.finish(context, model, work)


class Alive:
    """The callback of a backend: a heartbeat, progress, and a stop where one is requested."""

    def __init__(self, context: Context, work: Work, batches: Sequence[int]) -> None:
        self._context = context
        self._total = work.share_size
        self._due = 0.0
        left = sum(len(work.batches[number]) for number in batches) * work.spec.samples
        self.done = max(0, self._total - left)
        """Answers of the share."""

    def __call__(self) -> None:
        """Report that something was computed.

        Raises:
            Stopped: a stop was requested.
        """
        self._context.heart.beat(Phase.STEP, self.done)
        stopped = bool(self._context.stop)
        if (now := time.monotonic()) >= self._due:
            self._due = now + POLL_SECONDS
            stopped = stopped or self._context.run.is_stop_requested()
            self._context.progress(self.done, self._total, "answers", phase="step")
        if stopped:
            raise Stopped(f"stopped after {self.done} of {plural(self._total, 'answer')}")


def answer(work: Work, backend: Backend, alive: Alive, batches: Sequence[int]) -> None:
    """Answer some batches, and store each."""
    for number in batches:
        started = time.monotonic()
        prompts = [work.prompts[place] for place in work.batches[number]]
        seeds = [seed_of(work.spec.seed, f"{each.question.id}:{each.seed}") for each in prompts]
        found = backend.generate([each.ids for each in prompts], work.sampling, seeds)
        answers = [
            Answer(*key, work.expected[key], payload(generation, backend))
            for prompt, samples in zip(prompts, found, strict=True)
            for key, generation in zip(prompt.keys(work.spec.samples), samples, strict=True)
        ]
        work.store.append(answers, time.monotonic() - started)
        alive.done = min(alive.done + len(answers), work.share_size)
        alive()


def payload(generation: Generation, backend: Backend) -> dict[str, Any]:
    """Return a generation as it is stored, with the program that made it."""
    return {**vars(generation), "tokens": list(generation.tokens), "by": backend.flags}
