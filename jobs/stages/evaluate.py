"""One checkpoint × one benchmark: accuracy by log-likelihood, lm-evaluation-harness, offline."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jobs.checkpoints import leases, manifest, retention
from jobs.contract import done_markers
from jobs.contract.errors import Stopped, TaskError
from jobs.contract.files import write_bytes, write_json
from jobs.contract.stage_specs import EvaluateSpec
from jobs.data import tokenizer_file
from jobs.evaluation.scoring import Samples, put, question_records, summarise
from jobs.runtime.context import Context
from jobs.runtime.heartbeat import Phase

if TYPE_CHECKING:
    import torch

    from jobs.evaluation.benchmarks import Question


def run(context: Context) -> None:
    """Score the checkpoint the spec names and leave ``results.json`` and ``questions.jsonl``.

    Raises:
        TaskError: the benchmark or the tokenizer cannot be used, the checkpoint is not there or
            belongs to an unfinished run, or the model answers something that is not a number.
        Stopped: asked to stop; nothing is left behind.
    """
    from jobs.evaluation import benchmarks

    spec = cast(EvaluateSpec, context.task.spec)
    tokenizer_file.require_unchanged(context.run, spec.tokenizer, spec.tokenizer_sha256)
    asked, examples = choose(benchmarks.read(Path(spec.path), spec.kind), spec)
    with lease(context, spec):
        evaluate(context, asked, examples)


def lease(context: Context, spec: EvaluateSpec) -> AbstractContextManager[None]:
    """Keep the checkpoint from being deleted by a training that goes on; one rank does it for all.

    Raises:
        OSError: the storage takes nothing.
    """
    folder = context.path(spec.checkpoint_dir)
    if context.rank != 0 or not folder.is_dir():
        return nullcontext()
    holder = leases.holder_of(context, os.environ)
    return leases.leased(folder, manifest.name(step_asked_for(spec)), holder)


def evaluate(context: Context, asked: Sequence[Question], examples: Sequence[Question]) -> None:
    """Put the questions to the checkpoint, and leave what it answered."""
    spec = cast(EvaluateSpec, context.task.spec)
    checkpoint, step = find_checkpoint(context.path(spec.checkpoint_dir), spec)
    work_offline(context.scratch)
    if context.rank == 0:
        context.progress(0, len(asked), "questions", phase="startup")
    try:
        samples, truncated = score(context, checkpoint, asked, examples)
    finally:
        if context.rank == 0:
            shutil.rmtree(context.scratch, ignore_errors=True)
    context.heart.beat(Phase.LEAVING)
    records = question_records(samples, asked)
    if context.rank != 0:
        return
    results = summarise(samples, asked) | {
        "benchmark": spec.benchmark,
        "checkpoint_step": step,
        "shots": spec.shots,
        "truncated": truncated,
        "seconds": round(time.time() - context.started, 3),
    }
    leave(context, checkpoint, results, records)


def choose(
    questions: Sequence[Question], spec: EvaluateSpec
) -> tuple[list[Question], list[Question]]:
    """The questions to ask and the worked examples before each of them, the same for all.

    The released MEDITRON evaluation also puts the same examples before every question, drawn from
    the train split with a seed (epfLLM/meditron:evaluation/benchmarks.py).

    Raises:
        TaskError: fewer ``train`` records than ``shots``.
    """
    train = [question for question in questions if question.split == "train"]
    if len(train) < spec.shots:
        raise TaskError(
            f"{spec.path}: {spec.shots} worked examples are asked for, "
            f"the benchmark has {len(train)} train records",
            "set `shots` to 0, or add train records to the benchmark",
        )
    test = [question for question in questions if question.split == "test"]
    return test[: spec.limit or None], random.Random(spec.seed).sample(train, spec.shots)


def step_asked_for(spec: EvaluateSpec) -> int:
    """The step whose checkpoint the spec means."""
    named = {"first": 0, "last": spec.target_step}
    return named[spec.checkpoint] if spec.checkpoint in named else int(spec.checkpoint)


def find_checkpoint(folder: Path, spec: EvaluateSpec) -> tuple[Path, int]:
    """Folder and step of the checkpoint the spec means.

    Raises:
        TaskError: it is missing or damaged, holds another model, or is called ``last`` while the
            newest one is below the target: an unfinished model is never evaluated as the last.
    """
    step = step_asked_for(spec)
    found = manifest.at_step(folder, step)
    if found is None and retention.came_back(folder / manifest.name(step)):
        found = manifest.at_step(folder, step)
    if found is None:
        newest = manifest.find_latest(folder)
        raise missing(folder, spec, step, newest[1].iteration if newest else None)
    path, record = found
    if record.model != manifest.model_digest(spec.model):
        raise TaskError(
            f"{path}: holds a model of another shape than this evaluation's",
            "evaluate the run with the size it was trained with",
        )
    return path, record.iteration


def missing(folder: Path, spec: EvaluateSpec, step: int, newest: int | None) -> TaskError:
    """The error for a checkpoint that is not there, saying what is."""
    if newest is None:
        return TaskError(f"{folder}: no valid checkpoint", "run pretraining first")
    if spec.checkpoint == "last" and newest < step:
        return TaskError(
            f"{folder}: training is at step {newest} of {step}; no unfinished model is evaluated",
            "let pretraining finish first, or evaluate `first` or a step number",
        )
    return TaskError(
        f"{folder}: no valid checkpoint of step {step}; the newest is of step {newest}",
        "evaluate `first`, `last` or a step that was kept (`keep_checkpoints`)",
    )


def work_offline(scratch: Path) -> None:
    """Keep the Hugging Face libraries off the network, out of the home folder and quiet.

    They read these variables when they are imported, so this comes before the first import.
    """
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        HF_EVALUATE_OFFLINE="1",
        HF_HOME=str(scratch / "huggingface"),
        LM_HARNESS_CACHE_PATH=str(scratch / "harness"),
        TOKENIZERS_PARALLELISM="false",
        TQDM_DISABLE="1",
    )


def score(
    context: Context,
    checkpoint: Path,
    asked: Sequence[Question],
    examples: Sequence[Question],
) -> tuple[Samples, int]:
    """Build the model, load its weights and put the questions to it.

    Returns:
        The harness's samples in the order of ``asked``, and how many prompts were cut to fit.
    """
    from jobs.data.tokenizer_file import Encoder
    from jobs.engine import device
    from jobs.evaluation.harness_model import MegatronLM

    spec = cast(EvaluateSpec, context.task.spec)
    encoder = Encoder.load(spec.tokenizer, spec.eod_token)
    place = device.start(
        spec.device,
        context.rank,
        context.world_size,
        context.local_rank,
        context.task.cpus_per_rank,
    )
    try:
        from jobs.engine import checkpoint as saved
        from jobs.engine import model

        model.start_parallel(spec.parallel, place, spec.seed)
        network = model.build(spec.model, spec.parallel, spec.precision, place, for_inference=True)
        saved.load_weights(checkpoint, network)
        lm = MegatronLM(
            lambda tokens: model.logits(network, tokens.to(place)),
            encoder,
            max_length=spec.model.seq_length,
            batch_size=spec.batch_size,
            after_batch=StopCheck(context, len(asked), place),
        )
        return put(lm, spec.benchmark, asked, examples), lm.truncated
    finally:
        device.end()


class StopCheck:
    """Between batches: leave when any rank was asked to, say how far it is about once a second."""

    def __init__(self, context: Context, questions: int, place: torch.device) -> None:
        self._context = context
        self._questions = questions
        self._place = place
        self._said = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Note that ``done`` of ``total`` requests have their answer.

        Raises:
            Stopped: a rank has a signal, or the run has a STOP file; all ranks leave together.
        """
        questions = done * self._questions // total
        self._context.heart.beat(Phase.STEP, questions)
        if self._asked_to_stop():
            raise Stopped(f"stopped after {questions} of {self._questions} questions")
        now = time.monotonic()
        if self._context.rank == 0 and (now - self._said >= 1 or done == total):
            self._said = now
            self._context.progress(questions, self._questions, "questions", phase="step")

    def _asked_to_stop(self) -> bool:
        import torch

        asked = bool(self._context.stop) or self._context.run.stop_file.exists()
        if self._context.world_size == 1:
            return asked
        flag = torch.tensor(int(asked), device=self._place)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)


def leave(
    context: Context,
    checkpoint: Path,
    results: dict[str, Any],
    records: list[dict[str, Any]],
) -> None:
    """Write both files and, last, the done marker with what they were made from."""
    from jobs.evaluation import benchmarks

    spec = cast(EvaluateSpec, context.task.spec)
    folder = Path(spec.output_dir)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_bytes(context.path(str(folder / "questions.jsonl")), lines.encode())
    write_json(context.path(str(folder / "results.json")), results)
    read = [
        *(str(file) for file in benchmarks.files(Path(spec.path), spec.kind)),
        spec.tokenizer,
        f"{spec.checkpoint_dir}/{checkpoint.name}/{manifest.RECORD}",
    ]
    written = [str(folder / "questions.jsonl"), str(folder / "results.json")]
    context.finish(
        inputs=[done_markers.describe_file(context.run, name) for name in read],
        outputs=[done_markers.describe_file(context.run, name) for name in written],
        summary=results,
    )
