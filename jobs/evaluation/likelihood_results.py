"""The results of a score by likelihood, which the task that ends last writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from jobs.checkpoints import manifest
from jobs.checkpoints.manifest import CheckpointRecord
from jobs.contract import done_markers
from jobs.contract.corpus import benchmark_files
from jobs.contract.files import remove_partial, write_bytes, write_json
from jobs.contract.stage_specs import EvaluateSpec
from jobs.contract.units import plural
from jobs.evaluation import items as item_store
from jobs.evaluation import scoring
from jobs.evaluation.likelihood_work import Work
from jobs.runtime.context import Context

QUESTIONS = "questions.jsonl"


def finish(context: Context, checkpoint: Path, record: CheckpointRecord, work: Work) -> None:
    """Write the results if all items are answered, and the task's done marker in any case.

    Tasks that end at once write the same bytes: everything in them follows from the answers.
    """
    spec = cast(EvaluateSpec, context.task.spec)
    stored = work.store.read()
    outputs: list[str] = []
    summary: dict[str, Any] = {"benchmark": spec.benchmark, "items": work.share_size(context)}
    if not item_store.missing(work.expected, stored.answers):
        answers = item_store.join(work.expected, stored.answers, work.store.path)
        asked = [item.asked for item in work.items]
        records = scoring.question_records(asked, answers)
        summary = scoring.summarise(records) | about(spec, record, work)
        summary["seconds"] = round(stored.seconds, 3)
        outputs = write(context, summary, records)
        work.store.remove_others()
        if work.truncated:
            print(truncation(spec.benchmark, work.truncated, len(asked)), flush=True)
    read = [
        *(str(file) for file in benchmark_files.files(Path(spec.path), spec.kind, spec.options)),
        *([spec.instructions] if spec.instructions else []),
        spec.tokenizer.path,
        context.run.name_of(checkpoint / manifest.RECORD),
    ]
    context.finish(
        inputs=[done_markers.describe_file(context.run, name) for name in read],
        outputs=[done_markers.describe_file(context.run, name) for name in outputs],
        summary=summary,
    )


def about(spec: EvaluateSpec, record: CheckpointRecord, work: Work) -> dict[str, Any]:
    """Return what identifies a score."""
    return {
        "mode": spec.mode,
        "score": "likelihood",
        "backend": "megatron",
        "benchmark": spec.benchmark,
        "kind": spec.kind,
        "checkpoint_step": record.iteration,
        "digests": work.digests,
        "shots": spec.shots,
        "model": spec.finetuned or None,
        "template": spec.template or None,
        "demonstrations": spec.demonstrations if spec.shots else None,
        "bos": bool(spec.tokenizer.vocabulary.bos_token),
        "seq_length": work.max_length,
        "precision": spec.precision,
        "limit": spec.limit,
        "truncated": work.truncated,
        "prompts": len(work.items),
        "first_prompt": work.items[0].asked.put.prompt,
    }


def truncation(benchmark: str, truncated: int, prompts: int) -> str:
    """Return the warning about prompts that lost their beginning."""
    return (
        f"{benchmark}: {truncated} of {plural(prompts, 'prompt')} had more tokens than the model "
        "reads and lost their beginning"
    )


def write(context: Context, results: dict[str, Any], records: list[dict[str, Any]]) -> list[str]:
    """Write both files; return their names."""
    spec = cast(EvaluateSpec, context.task.spec)
    folder = Path(spec.output_dir)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    questions, summary = (str(folder / name) for name in (QUESTIONS, done_markers.RESULTS))
    if spec.parts == 1:  # other tasks may be writing the same files
        for name in (questions, summary):
            remove_partial(context.path(name))
    write_bytes(context.path(questions), lines.encode())
    write_json(context.path(summary), results)
    return [questions, summary]
