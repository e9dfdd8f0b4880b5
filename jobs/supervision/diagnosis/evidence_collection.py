"""What is known of a start that has ended: put together from what its ranks left, what srun and
Slurm say, and how far training is. Standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.checkpoints import manifest, retention
from jobs.contract import done_markers, rundir, specs
from jobs.contract.attempt_history import TaskHistory
from jobs.contract.files import FormatError, read_json
from jobs.contract.job import Job
from jobs.contract.outcomes import Diagnosis, Hang, NodeFinding
from jobs.slurm import srun_output
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.diagnosis import log_patterns
from jobs.supervision.diagnosis.evidence import Evidence, RankExit, RecoveryOptions
from jobs.supervision.ranks import local_ranks

LOG_TAIL_BYTES = 1 << 20
"""Of the ranks' log: what led to the end stands there."""


@dataclass(frozen=True)
class Observed:
    """What the supervisor itself saw of a start; a start it did not see has none of it."""

    code: int | None = None
    """Of the ranks' step; None when they were never started."""
    ranks_started: bool = False
    failures: tuple[srun_output.FailedTask, ...] = ()
    signals: tuple[int, ...] = ()
    findings: tuple[NodeFinding, ...] = ()
    hang: Hang | None = None
    oom_kills: int = 0
    message: str = ""
    hint: str = ""
    configuration: bool = False
    diagnosis: Diagnosis | None = None
    """Of the attempt's own supervisor, for whoever closes the attempt after it."""


HERE = RecoveryOptions()


@dataclass(frozen=True)
class SlurmReport:
    """What Slurm says of the job."""

    state: str = ""
    """Its first word; empty when it says none."""
    preempted: bool = False
    cancelled: bool = False
    cancelled_by: str = ""
    """``owner``, ``admin`` or empty for not known."""
    out_of_memory: bool = False
    supervisor_signal: int = 0
    failed_node: str = ""
    """The only node of the job that Slurm calls down now."""
    ended: float | None = None
    """When the job ended; None while it runs, or where Slurm does not answer."""
    site: RecoveryOptions = HERE


def evidence(
    place: AttemptRef,
    task: specs.TaskSpec | None,
    job: Job,
    seen: Observed,
    said: SlurmReport,
    past: TaskHistory,
) -> Evidence:
    """Return all that is known of an attempt that is over; ``task`` is None where it cannot be
    read.
    """
    words = read_text(place.srun_log)
    ended = said.ended or time.time()
    return Evidence(
        stage=place.stage,
        attempt=place.attempt,
        job_id=job.job_id,
        began=place.began,
        ended=ended,
        done=task is not None and is_done(place, task),
        cancelled=past.is_cancelled or said.cancelled,
        cancelled_by="owner" if past.is_cancelled else said.cancelled_by,
        stop_asked=past.is_stopped or place.run.stop_file.exists(),
        signals=seen.signals,
        preempted=said.preempted,
        slurm_state=said.state,
        ranks=tuple(rank_exits(read_rank_exits(place), seen.failures, ended)),
        code=seen.code,
        ranks_started=seen.ranks_started,
        supervisor_signal=said.supervisor_signal,
        failed_node=srun_output.failed_node(words) or said.failed_node,
        oom_kills=max(seen.oom_kills, srun_output.oom_kills(words), int(said.out_of_memory)),
        findings=seen.findings,
        hang=seen.hang,
        log_signatures=log_patterns.find(tail(place.ranks_log).splitlines(), is_labelled(task)),
        step_before=place.step,
        step_after=checkpoint_step(place.run, task),
        last_step=last_step(place, task),
        message=seen.message,
        code_hint=seen.hint,
        configuration=seen.configuration,
        site=said.site,
        run=place.run.name,
        world_size=task.ranks if task else 0,
        by_person=past.is_by_person(place.attempt),
        known=seen.diagnosis,
    )


def is_done(place: AttemptRef, task: specs.TaskSpec) -> bool:
    """Whether the task's marker stands."""
    marker = place.run.done(place.stage, place.index)
    return marker.exists() and done_markers.is_done(
        place.run, place.stage, place.index, specs.digest(task.spec)
    )


def read_rank_exits(place: AttemptRef) -> list[RankExit]:
    """What the ranks wrote on leaving (``jobs.__main__``), the first to leave first; a file that is
    no record is left out.
    """
    found = []
    for path in place.files("rank-exit"):
        try:
            found.append(rank_exit(read_json(path)))
        except (OSError, FormatError, KeyError):
            continue
    return sorted(found, key=lambda item: item.time)


def rank_exit(words: dict[str, Any]) -> RankExit:
    """One rank's last words."""
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


def checkpoint_step(run: rundir.RunDir, task: specs.TaskSpec | None) -> int | None:
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
        lost = lost or retention.highest_saved(run) > 0
    except OSError:
        return None
    return None if lost else 0


def last_step(place: AttemptRef, task: specs.TaskSpec | None) -> int | None:
    """The last step this start has on record, saved or not; None where there is none."""
    if task is None or task.training is None:
        return None
    try:
        progress = read_json(place.run.progress(place.stage, place.index))
    except (OSError, FormatError):
        return None
    return int(progress["done"]) if progress.get("attempt") == place.attempt else None


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
