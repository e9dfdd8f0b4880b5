"""What a run did and found: one dictionary out of manifests, done markers, metrics and results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jobs import rundir, steps
from jobs.rundir import RunDir
from meditron_cli import view
from meditron_cli.view import RunRecord, RunView

PLACES = ("corpus", "tokens", "checkpoints", "tensorboard", "evaluations", "stages", "code")


def gather(run: RunDir, record: RunRecord, seen: RunView, now: float) -> dict[str, Any]:
    """Everything ``report --json`` prints; None where the run has not come so far."""
    spent = {name: stage_time(run, record, name) for name in record.stages}
    queued = [item["queued_s"] for item in spent.values() if item["queued_s"] is not None]
    return {
        "run": run.name,
        "dir": str(run.root),
        "state": seen.state,
        "cluster": record.cluster,
        "stages": {name: stage.to_json() for name, stage in seen.stages.items()},
        "corpus": corpus(run),
        "pretrain": pretrain(run),
        "evaluations": evaluations(run),
        "time": {
            "total_s": total_seconds(run, record, now),
            "queued_s": sum(queued) if queued else None,
            "stages": spent,
        },
        "goodput": goodput(run, record, now),
        "errors": [
            {"stage": stage, "task": index, "message": words.get("message", "")}
            for stage, index, words in view.last_words(record)
        ],
        "paths": {name: str(run.path(name)) for name in PLACES if run.path(name).exists()},
    }


def corpus(run: RunDir) -> dict[str, Any]:
    """Documents of the curated corpus and tokens made of them, from the done markers."""
    curated = summaries(run, "curate")
    tokenized = summaries(run, "tokenize")
    return {
        "documents": total(curated, "documents"),
        "tokens": total(tokenized, "tokens"),
        "curate": curated[0] if curated else None,
    }


def summaries(run: RunDir, stage: str) -> list[dict[str, Any]]:
    """What the finished tasks of a stage say of themselves, by index."""
    folder = run.stage(stage) / "done"
    markers = [view.read_small(path) for path in sorted(folder.glob("[0-9]*.json"))]
    return [marker["summary"] for marker in markers if marker]


def total(found: Iterable[Mapping[str, Any]], key: str) -> int | None:
    """The sum of a count over tasks; None when no task has it."""
    counts = [item[key] for item in found if key in item]
    return sum(counts) if counts else None


def pretrain(run: RunDir) -> dict[str, Any]:
    """Steps, first and last losses and speed, from the step records.

    Steps that were done again count once, those a resumed attempt went back on not at all. Losses
    are in nats per token.
    """
    trained, validated = steps.that_count(rundir.read_lines(run.metrics()))
    seconds = sum(line["seconds"] for line in trained)
    tokens = sum(line["tokens_per_s"] * line["seconds"] for line in trained)
    return {
        "steps": trained[-1]["step"] if trained else None,
        "tokens": trained[-1]["tokens"] if trained else None,
        "loss_first": trained[0]["loss"] if trained else None,
        "loss_last": trained[-1]["loss"] if trained else None,
        "validation_first": validated[0]["validation_loss"] if validated else None,
        "validation_last": validated[-1]["validation_loss"] if validated else None,
        "tokens_per_s": tokens / seconds if seconds else None,
        "step_seconds": seconds or None,
    }


def evaluations(run: RunDir) -> list[dict[str, Any]]:
    """Results by benchmark and checkpoint step."""
    files = run.path("evaluations").glob("*/*/results.json")
    found = [result for path in files if (result := view.read_small(path))]
    return sorted(
        ({key: value for key, value in result.items() if key != "format"} for result in found),
        key=lambda result: (result["benchmark"], result["checkpoint_step"]),
    )


def stage_time(run: RunDir, record: RunRecord, stage: str) -> dict[str, float | None]:
    """Seconds from first start to last end of a stage, spent in it over all tasks, and queued.

    Queued is the time between a submission and the first task that it started, less the time that
    the stages before still took; over all attempts.
    """
    exits = exit_records(run, stage)
    starts = [float(item["started"]) for item in exits]
    ends = [float(item["ended"]) for item in exits]
    return {
        "wall_s": max(ends) - min(starts) if exits else None,
        "busy_s": sum(end - start for start, end in zip(starts, ends, strict=True)) or None,
        "queued_s": queued_seconds(run, record, stage, exits),
    }


def exit_records(run: RunDir, stage: str) -> list[dict[str, Any]]:
    """Exit events of a stage's tasks, every attempt, oldest first."""
    return [
        event
        for event in rundir.read_events(run)
        if event["event"] == "exit" and event["stage"] == stage
    ]


def queued_seconds(
    run: RunDir, record: RunRecord, stage: str, exits: Iterable[Mapping[str, Any]]
) -> float | None:
    """Seconds that attempts waited for a place once they could have started."""
    ready = [
        float(item["ended"])
        for name in record.stages[stage].after
        for item in exit_records(run, name)
    ]
    waits: list[float] = []
    for event in view.few_events(run):
        if event["event"] != "submit" or event["stage"] != stage:
            continue
        starts = [float(item["started"]) for item in exits if item["attempt"] == event["attempt"]]
        if starts:
            before = [time for time in ready if time <= min(starts)]
            waits.append(max(0.0, min(starts) - max([event["time"], *before])))
    return sum(waits) if waits else None


def total_seconds(run: RunDir, record: RunRecord, now: float) -> float | None:
    """Seconds from the first submission to the last end, or to now while anything is unfinished."""
    if record.submitted is None:
        return None
    ends = [float(item["ended"]) for name in record.stages for item in exit_records(run, name)]
    whole = all(len(stage.done) == stage.total for stage in record.stages.values())
    return (max(ends) if whole and ends else now) - record.submitted


def goodput(run: RunDir, record: RunRecord, now: float) -> float | None:
    """Seconds in steps that count over seconds since pretraining was first submitted, queue
    included; until its end, or until now.

    None before the first step.
    """
    trained = steps.that_count(rundir.read_lines(run.metrics())).trained
    submitted = [
        event["time"]
        for event in view.few_events(run)
        if event["event"] == "submit" and event["stage"] == "pretrain"
    ]
    if not trained or not submitted:
        return None
    stage = record.stages["pretrain"]
    ended = len(stage.done) == stage.total
    end = max(line["time"] for line in trained) if ended else now
    elapsed = end - min(submitted)
    return min(1.0, sum(line["seconds"] for line in trained) / elapsed) if elapsed > 0 else None
