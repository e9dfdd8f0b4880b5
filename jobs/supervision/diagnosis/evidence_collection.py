"""What is known of a start that has ended: put together from what its ranks left, what srun and
Slurm say, and how far training is. Standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobs.checkpoints import manifest, retention
from jobs.contract import done_markers, rundir, specs
from jobs.contract.attempt_history import TaskHistory
from jobs.contract.files import FormatError, read_json
from jobs.contract.job import Job
from jobs.contract.metrics_log import MetricsReader
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
"""Of the ranks' log: what led to the end stands there."""


def evidence(  # noqa: PLR0913 - one argument per source of evidence
    attempt: AttemptRef,
    task: specs.TaskSpec | None,
    job: Job,
    seen: Observed,
    said: SlurmReport,
    past: TaskHistory,
    metrics: MetricsReader,
) -> Evidence:
    """Return all that is known of an attempt that is over; ``task`` is None where it cannot be
    read.
    """
    words = read_text(attempt.srun_log)
    ended = said.ended or time.time()
    facts = AttemptFacts(
        stage=attempt.stage,
        number=attempt.number,
        job_id=job.job_id,
        began=attempt.began,
        ended=ended,
        run=attempt.run.name,
        world_size=task.ranks if task else 0,
        by_person=past.is_by_person(attempt.number),
        done=task is not None and is_done(attempt, task),
        cancelled=past.is_cancelled,
        stop_requested=past.is_stopped or attempt.run.stop_file.exists(),
        recorded_signals=past.signals.get(attempt.number, ()),
    )
    traces = Traces(
        ranks=tuple(rank_exits(read_rank_exits(attempt), seen.failures, ended)),
        failed_node=srun_output.failed_node(words) or said.failed_node,
        oom_kills=max(seen.oom_kills, srun_output.oom_kills(words), int(said.out_of_memory)),
        log_signs=log_patterns.find(tail(attempt.ranks_log).splitlines(), is_labelled(task)),
    )
    step_after = checkpoint_step(attempt.run, task, past, metrics)
    steps = Progress(attempt.step, step_after, last_step(attempt, task))
    return Evidence(facts, seen, traces, said, steps)


def is_done(attempt: AttemptRef, task: specs.TaskSpec) -> bool:
    """Whether the task's marker stands."""
    marker = attempt.run.done(attempt.stage, attempt.index)
    return marker.exists() and done_markers.is_done(
        attempt.run, attempt.stage, attempt.index, specs.digest(task.spec)
    )


def read_rank_exits(attempt: AttemptRef) -> list[RankExit]:
    """What the ranks wrote on leaving (``jobs.__main__``), the first to leave first; a file that is
    no record is left out.
    """
    found = []
    for path in attempt.files("rank-exit"):
        try:
            found.append(rank_exit(read_json(path)))
        except (OSError, FormatError, KeyError):
            continue
    return sorted(found, key=lambda item: item.time)


def rank_exit(words: dict[str, Any]) -> RankExit:
    """Read one rank's exit record."""
    return RankExit(
        rank=words["rank"],
        node=words["node"],
        code=words["code"],
        time=words["time"],
        kind=words["kind"],
        message=words["message"],
        frame=words.get("frame", ""),
        hint=words["hint"],
    )


def rank_exits(
    words: Iterable[RankExit], failures: Iterable[srun_output.FailedTask], ended: float
) -> list[RankExit]:
    """How ranks left, the cause first: a death that no lost peer leads to, then those that left
    words in the order they left, then those of which only the code is known.
    """
    left = list(words)
    spoken = {item.rank for item in left}
    mute = [item for item in failures if item.rank not in spoken]
    sudden = [item for item in mute if item.is_cause and item.code in local_ranks.SUDDEN]
    rest = [item for item in mute if item not in sudden]
    began = min((item.time for item in left), default=ended)
    return [
        *(RankExit(item.rank, item.node, item.code, began) for item in sudden),
        *left,
        *(RankExit(item.rank, item.node, item.code, ended) for item in rest),
    ]


def checkpoint_step(
    run: rundir.RunDir, task: specs.TaskSpec | None, past: TaskHistory, metrics: MetricsReader
) -> int | None:
    """The step of the newest valid checkpoint, 0 before the first; None where it is not known,
    where nothing can be used of what was saved, and for a stage without checkpoints.
    """
    if task is None or task.training is None:
        return None
    folder = run.path(task.training.checkpoint_dir)
    try:
        found = manifest.find_latest(folder)
        if found is not None and found[1].iteration:
            return found[1].iteration
        paths = list(folder.iterdir()) if folder.is_dir() else []
        lost = any(manifest.step_of(p) > 0 and manifest.was_finished(p) for p in paths)
        lost = lost or retention.highest_saved(past, metrics.current().highest_saved) > 0
    except OSError:
        return None
    return None if lost else 0


def last_step(attempt: AttemptRef, task: specs.TaskSpec | None) -> int | None:
    """The last step this start has on record, saved or not; None where there is none."""
    if task is None or task.training is None:
        return None
    try:
        progress = read_json(attempt.run.progress(attempt.stage, attempt.index))
    except (OSError, FormatError):
        return None
    return int(progress["done"]) if progress.get("attempt") == attempt.number else None


def is_labelled(task: specs.TaskSpec | None) -> bool:
    """Whether each line of the ranks' log begins with its rank (``srun --label``)."""
    return task is None or task.launcher == "srun"


def read_text(path: Path) -> str:
    """A log as text; empty when it is missing or cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def tail(path: Path) -> str:
    """The last MiB of a log as text; empty when it is missing or cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
