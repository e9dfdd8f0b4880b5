"""Collect evidence about an attempt that has ended, from rank records, logs, srun, Slurm and
checkpoints. Standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobs.checkpoints import manifest, retention
from jobs.contract import done_markers, progress_record, rundir, specs
from jobs.contract.attempt_history import TaskHistory
from jobs.contract.files import FormatError, read_json
from jobs.contract.job import Job
from jobs.contract.metrics_log import MetricsReader
from jobs.health.monitor import records
from jobs.slurm import srun_output
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.diagnosis import log_patterns
from jobs.supervision.diagnosis.evidence import (
    AttemptFacts,
    Evidence,
    Observed,
    Progress,
    RankExit,
    SlurmReport,
    Traces,
)
from jobs.supervision.ranks import local_ranks

LOG_TAIL_BYTES = 1 << 20
"""Of the ranks' log; the cause of the end is in its last part."""


def evidence(  # noqa: PLR0913 - one argument per source of evidence
    attempt: AttemptRef,
    task: specs.TaskSpec | None,
    job: Job,
    observed: Observed,
    slurm: SlurmReport,
    history: TaskHistory,
    metrics: MetricsReader,
) -> Evidence:
    """Return the evidence about an attempt that has ended; ``task`` is None where it cannot be
    read.
    """
    srun_text = read_text(attempt.srun_log)
    ended = slurm.ended or time.time()
    joules, source = records.energy(records.read_reports(attempt.folder, attempt.index, job.nodes))
    facts = AttemptFacts(
        stage=attempt.stage,
        number=attempt.number,
        job_id=job.job_id,
        began=attempt.began,
        ended=ended,
        run=attempt.run.name,
        world_size=task.ranks if task else 0,
        by_person=history.is_by_person(attempt.number),
        done=task is not None and is_done(attempt, task),
        cancelled=history.is_cancelled,
        stop_requested=history.is_stopped or attempt.run.is_stop_requested(),
        energy_j=joules,
        energy_source=source,
    )
    traces = Traces(
        ranks=tuple(rank_exits(read_rank_exits(attempt), observed.failures, ended)),
        failed_node=srun_output.failed_node(srun_text) or slurm.failed_node,
        oom_kills=max(
            observed.oom_kills, srun_output.oom_kills(srun_text), int(slurm.out_of_memory)
        ),
        log_signs=log_patterns.find(tail(attempt.ranks_log).splitlines(), is_labelled(task)),
    )
    step_after = checkpoint_step(attempt.run, task, history, metrics)
    progress = Progress(attempt.step, step_after, last_step(attempt, task, metrics))
    return Evidence(facts, observed, traces, slurm, progress)


def is_done(attempt: AttemptRef, task: specs.TaskSpec) -> bool:
    """Return whether the task has a valid done marker."""
    marker = attempt.run.done(attempt.stage, attempt.index)
    return marker.exists() and done_markers.is_done(
        attempt.run, attempt.stage, attempt.index, specs.digest(task.spec)
    )


def read_rank_exits(attempt: AttemptRef) -> list[RankExit]:
    """Return the ranks' exit records (``jobs.runtime.rank_exit``), the first exit first; unreadable
    files are skipped.
    """
    records = []
    for path in attempt.files("rank-exit"):
        try:
            records.append(rank_exit(read_json(path)))
        except (OSError, FormatError, KeyError):
            continue
    return sorted(records, key=lambda record: record.time)


def rank_exit(record: dict[str, Any]) -> RankExit:
    """Read one rank's exit record."""
    return RankExit(
        rank=record["rank"],
        node=record["node"],
        code=record["code"],
        time=record["time"],
        kind=record["kind"],
        message=record["message"],
        frame=record.get("frame", ""),
        hint=record["hint"],
    )


def rank_exits(
    recorded: Iterable[RankExit], failures: Iterable[srun_output.FailedTask], ended: float
) -> list[RankExit]:
    """Return the ranks' exits, the cause first: a death that no lost peer causes, then exits with a
    record in their order, then those of which only the code is known.
    """
    records = list(recorded)
    ranks = {item.rank for item in records}
    unrecorded = [item for item in failures if item.rank not in ranks]
    sudden = [item for item in unrecorded if item.is_cause and item.code in local_ranks.SUDDEN]
    rest = [item for item in unrecorded if item not in sudden]
    began = min((item.time for item in records), default=ended)
    return [
        *(RankExit(item.rank, item.node, item.code, began) for item in sudden),
        *records,
        *(RankExit(item.rank, item.node, item.code, ended) for item in rest),
    ]


def checkpoint_step(
    run: rundir.RunDir, task: specs.TaskSpec | None, history: TaskHistory, metrics: MetricsReader
) -> int | None:
    """Return the step of the newest valid checkpoint, 0 before the first; None where it is not
    known, where no saved checkpoint is usable, and for a stage without checkpoints.
    """
    if task is None or task.training is None:
        return None
    folder = run.path(task.training.checkpoint_dir)
    try:
        newest = manifest.find_latest(folder)
        if newest is not None and newest[1].iteration:
            return newest[1].iteration
        paths = list(folder.iterdir()) if folder.is_dir() else []
        lost = any(manifest.step_of(p) > 0 and manifest.was_finished(p) for p in paths)
        lost = lost or retention.highest_saved(history, metrics.current().highest_saved) > 0
    except OSError:
        return None
    return None if lost else 0


def last_step(
    attempt: AttemptRef, task: specs.TaskSpec | None, metrics: MetricsReader
) -> int | None:
    """Return the last recorded step of this attempt, saved or not; None without one.

    A step is in the metrics once it has ended, and in the progress some seconds later.
    """
    if task is None or task.training is None:
        return None
    progress = progress_record.read(attempt.run, attempt.stage, attempt.index)
    found = [int(progress.done)] if progress and progress.attempt == attempt.number else []
    lines = metrics.current().steps
    if lines and lines[-1].attempt == attempt.number:
        found.append(lines[-1].step)
    return max(found, default=None)


def is_labelled(task: specs.TaskSpec | None) -> bool:
    """Return whether each line of the ranks' log begins with its rank (``srun --label``)."""
    return task is None or task.launcher == "srun"


def read_text(path: Path) -> str:
    """Return a log as text; empty when it is missing or cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def tail(path: Path) -> str:
    """Return the last MiB of a log as text; empty when it is missing or cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
