"""Evaluate stage: score one checkpoint on one benchmark by log-likelihood, with lm-eval."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jobs.checkpoints import manifest, selection
from jobs.checkpoints.manifest import CheckpointRecord
from jobs.checkpoints.selection import Choice
from jobs.contract import done_markers
from jobs.contract.corpus import benchmark_files
from jobs.contract.errors import Stopped
from jobs.contract.files import remove_partial, write_bytes, write_json
from jobs.contract.stage_specs import EvaluateSpec
from jobs.contract.units import plural
from jobs.data import tokenizer_file
from jobs.evaluation.scoring import Samples, question_records, run_harness, summarise
from jobs.questions import readers
from jobs.questions.question import Question, require_examples, stratified
from jobs.runtime.context import Context
from jobs.runtime.heartbeat import Phase

if TYPE_CHECKING:
    import torch


def run(context: Context) -> None:
    """Score the spec's checkpoint and write ``results.json`` and ``questions.jsonl``.

    Raises:
        TaskError: the benchmark or the tokenizer cannot be used, the checkpoint is missing or
            belongs to an unfinished run, or a log-likelihood is not finite.
        Stopped: a stop was requested; no output remains.
    """
    spec = cast(EvaluateSpec, context.task.spec)
    tokenizer_file.require_unchanged(context.run, spec.tokenizer)
    questions, examples = choose(readers.read(Path(spec.path), spec.kind), spec)
    choice = Choice(context.path(spec.checkpoint_dir), spec.checkpoint, spec.target_step)
    with selection.lease(context, choice):
        evaluate(context, choice, questions, examples)


def evaluate(
    context: Context, choice: Choice, questions: Sequence[Question], examples: Sequence[Question]
) -> None:
    """Score the checkpoint on the questions and write the results."""
    spec = cast(EvaluateSpec, context.task.spec)
    checkpoint, record = selection.find(choice, spec.model, spec.tokenizer, "evaluated")
    keep_to_itself(context.scratch)
    if context.rank == 0:
        context.progress(0, len(questions), "questions", phase="startup")
    try:
        samples, truncated = score(context, checkpoint, record, questions, examples)
    except OSError:
        selection.require_same(checkpoint, record)
        raise
    finally:
        if context.rank == 0:
            shutil.rmtree(context.scratch, ignore_errors=True)
    context.heart.beat(Phase.LEAVING)
    records = question_records(samples, questions)
    if context.rank != 0:
        return
    results = summarise(records, samples, questions) | {
        "benchmark": spec.benchmark,
        "checkpoint_step": record.iteration,
        "shots": spec.shots,
        "truncated": truncated,
        "seconds": round(time.time() - context.started, 3),
    }
    if truncated:
        print(
            f"{spec.benchmark}: {truncated} of {plural(len(questions), 'prompt')} had more tokens "
            "than the model reads and lost their beginning",
            flush=True,
        )
    selection.require_same(checkpoint, record)
    write_results(context, checkpoint, results, records)


def choose(
    questions: Sequence[Question], spec: EvaluateSpec
) -> tuple[list[Question], list[Question]]:
    """Return the questions to score and the worked examples that precede each of them.

    The examples are the same for all questions, drawn from the train split with a seed, as in the
    released MEDITRON evaluation (epfLLM/meditron:evaluation/benchmarks.py).

    Raises:
        TaskError: fewer ``train`` records than ``shots``.
    """
    train = require_examples(spec.path, questions, spec.shots)
    test = [question for question in questions if question.split == "test"]
    sample = stratified(test, spec.limit, spec.seed) if spec.limit else test
    return sample, random.Random(spec.seed).sample(train, spec.shots)


def keep_to_itself(scratch: Path) -> None:
    """Keep the Hugging Face libraries out of the home folder and quiet.

    They read these variables at import, so call this before the first import.
    """
    os.environ.update(
        HF_HOME=str(scratch / "huggingface"),
        LM_HARNESS_CACHE_PATH=str(scratch / "harness"),
        TOKENIZERS_PARALLELISM="false",
        TQDM_DISABLE="1",
    )


def score(
    context: Context,
    checkpoint: Path,
    record: CheckpointRecord,
    questions: Sequence[Question],
    examples: Sequence[Question],
) -> tuple[Samples, int]:
    """Build the model, load its weights and score the questions.

    Returns:
        The harness's samples in the order of the questions, and the number of truncated prompts.
    """
    from jobs.data.tokenizer_file import Encoder
    from jobs.engine import device as devices
    from jobs.evaluation.harness_model import MegatronLM

    spec = cast(EvaluateSpec, context.task.spec)
    encoder = Encoder.load(spec.tokenizer)
    with devices.session(context, spec.device) as device:
        from jobs.engine import model
        from jobs.engine.checkpoint import load_weights

        model.start_parallel(spec.parallel, spec.seed)
        network = model.build(spec.model, spec.parallel, spec.precision, device, for_inference=True)
        load_weights(checkpoint, network, context.heart.touch)
        lm = MegatronLM(
            lambda tokens, places: model.logits_at(network, tokens.to(device), places),
            encoder,
            max_length=record.as_trained(spec.model).seq_length,
            batch_size=spec.batch_size,
            after_batch=StopCheck(context, len(questions), device),
        )
        return run_harness(lm, spec.benchmark, questions, examples), lm.truncated


class StopCheck:
    """The callback between batches: stops all ranks if one has a request, and reports progress."""

    def __init__(self, context: Context, count: int, device: torch.device) -> None:
        self._context = context
        self._count = count
        self._device = device
        self._reported = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Record that ``done`` of ``total`` requests are scored.

        Raises:
            Stopped: a rank received a signal, or the run has a STOP file; all ranks stop together.
        """
        scored = done * self._count // total
        self._context.heart.beat(Phase.STEP, scored)
        if self._stop_requested():
            raise Stopped(f"stopped after {scored} of {plural(self._count, 'question')}")
        now = time.monotonic()
        if self._context.rank == 0 and (now - self._reported >= 1 or done == total):
            self._reported = now
            self._context.progress(scored, self._count, "questions", phase="step")

    def _stop_requested(self) -> bool:
        import torch

        requested = bool(self._context.stop) or self._context.run.is_stop_requested()
        if self._context.world_size == 1:
            return requested
        flag = torch.tensor(int(requested), device=self._device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)


def write_results(
    context: Context,
    checkpoint: Path,
    results: dict[str, Any],
    records: list[dict[str, Any]],
) -> None:
    """Write both files and, last, the done marker with their inputs."""
    spec = cast(EvaluateSpec, context.task.spec)
    folder = Path(spec.output_dir)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    written = [str(folder / name) for name in ("questions.jsonl", "results.json")]
    for name in written:
        remove_partial(context.path(name))
    write_bytes(context.path(written[0]), lines.encode())
    write_json(context.path(written[1]), results)
    read = [
        *(str(file) for file in benchmark_files.files(Path(spec.path), spec.kind)),
        spec.tokenizer.path,
        context.run.name_of(checkpoint / manifest.RECORD),
    ]
    context.finish(
        inputs=[done_markers.describe_file(context.run, name) for name in read],
        outputs=[done_markers.describe_file(context.run, name) for name in written],
        summary=results,
    )
