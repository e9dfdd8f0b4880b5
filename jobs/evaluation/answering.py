"""The work of a task that generates: its share of the answers, stored batch by batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.contract.errors import Stopped
from jobs.contract.units import plural
from jobs.evaluation.generation_work import Work
from jobs.evaluation.items import Answer
from jobs.generation import backends
from jobs.generation.backend import Backend, Generation, seed_of
from jobs.runtime.context import Context
from jobs.runtime.heartbeat import Phase

POLL_SECONDS = 1.0
"""Between two looks at the file STOP, and two reports of progress."""


def answer_share(context: Context, work: Work, folder: Path) -> None:
    """Answer the prompts of a task's share with the model of a folder.

    Raises:
        TaskError: the backend cannot use the folder.
        Stopped: a stop was requested; the answers so far are stored.
    """
    spec = work.spec
    if batches := work.to_do(context):
        alive = Alive(context, work, batches)
        backend = backends.load(
            spec.backend, folder, device=spec.device, tensor=spec.tensor, alive=alive
        )
        while batches:
            answer(work, backend, alive, batches)
            batches = work.to_do(context)
    context.heart.beat(Phase.LEAVING)
    context.progress(work.share_size, work.share_size, "answers", phase="step")


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
