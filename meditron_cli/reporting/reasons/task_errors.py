"""The reason why each unfinished task of a run failed: its exit record, else the end of its log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.contract.code_check import damage_sentence, damaged_files
from jobs.contract.errors import CONFIGURATION, FAILED
from jobs.contract.rundir import RunDir
from meditron_cli.reporting.log_filter import NOISE
from meditron_cli.runs import state, store
from meditron_cli.runs.record import RunRecord, TaskJob, exit_records
from meditron_cli.runs.views import RunView
from meditron_cli.scheduler.base import JobInfo, JobState

TAIL_BYTES = 64 * 1024
LINE_LIMIT = 300
"""Characters of a log line that a message quotes."""

UNFINISHED = ("failed", "stopped", "cancelled")
"""States of a run that ``resume`` continues."""

SHOWN = 5
"""Most tasks with the same error that are named."""

FINISHED = "finished: "
"""Beginning of the last line of a job whose task reached its target."""

ERROR_KEYS = ("message", "hint", "class", "code", "node", "cause", "action", "reason")


@dataclass(frozen=True)
class TaskFailure:
    """The end of an unfinished task, as ``status RUN --json`` prints it."""

    stage: str
    index: int
    fields: Mapping[str, object]
    """Those of ``ERROR_KEYS``; None where nothing is known."""

    @property
    def message(self) -> str:
        """Return one sentence; empty where the exit record has none."""
        return str(self.fields["message"] or "")

    @property
    def hint(self) -> str:
        """Return the hint; empty if unknown."""
        return str(self.fields["hint"] or "")

    @property
    def reason(self) -> str:
        """Return why there was no retry; empty if unknown."""
        return str(self.fields["reason"] or "")

    @property
    def code(self) -> int:
        """Return the task's exit code (``jobs.contract.errors``)."""
        return int(str(self.fields["code"]))

    def to_json(self) -> dict[str, object]:
        """Return the error as ``status RUN --json`` prints it."""
        return {"stage": self.stage, "task": self.index, **self.fields}


def of_run(
    run: RunDir, record: RunRecord, infos: Mapping[str, JobInfo], now: float
) -> list[TaskFailure]:
    """Return an error per unfinished task that ended, stages in order. A task that never started,
    as an earlier stage did not finish, has none.

    A job process that dies before its supervisor can write (no memory, no disk) has no exit record:
    damage to the run's code, which may prevent its own check, is the reason then, else the last
    line of the log.
    """
    recorded = [
        TaskFailure(end.stage, end.index, {key: end.to_json()[key] for key in ERROR_KEYS})
        for end in exit_records(record)
    ]
    views = state.derive_view(record, infos, now).stages
    dead = [
        (name, index, stage.jobs[index])
        for name, stage in record.stages.items()
        for index in sorted(stage.jobs)
        if index not in stage.exits and views[name].task_states.get(index) == "failed"
    ]
    damaged = damaged_files(run) if dead else []
    unrecorded = [unrecorded_error(run, *task, infos, damaged) for task in dead]
    order = list(record.stages)
    return sorted(
        [*recorded, *unrecorded], key=lambda error: (order.index(error.stage), error.index)
    )


def sentences(run: RunDir, view: RunView, errors: Sequence[TaskFailure]) -> Iterator[str]:
    """Yield the errors of tasks, equal errors of a stage once, each followed by its hint; then how
    a run that has ended continues, unless one of them names the command.
    """
    tasks: dict[tuple[str, str, str, str], list[int]] = {}
    for error in errors:
        reason = "" if error.reason == error.message else error.reason
        reason = reason.removeprefix(f"{error.message}; ")
        key = (error.stage, error.message, reason, error.hint)
        tasks.setdefault(key, []).append(error.index)
    for (stage, message, reason, hint), indices in tasks.items():
        yield f"{stage} {tasks_text(indices)}: {message}"
        if reason:
            yield reason
        if hint:
            yield f"hint: {hint}"
    resume = store.command(run, "resume")
    is_named = any(f"`{resume}" in text for key in tasks for text in key)
    if view.state in UNFINISHED and not is_named:
        yield f"hint: `{resume}` continues it"


def tasks_text(indices: Sequence[int]) -> str:
    """Return ``task 7``, ``tasks 0, 1, 2 and 5 more``."""
    if len(indices) == 1:
        return f"task {indices[0]}"
    more = f" and {len(indices) - SHOWN} more" if len(indices) > SHOWN else ""
    return f"tasks {', '.join(map(str, indices[:SHOWN]))}{more}"


def unrecorded_error(
    run: RunDir,
    stage: str,
    index: int,
    job: TaskJob,
    infos: Mapping[str, JobInfo],
    damaged: list[str],
) -> TaskFailure:
    """Return the error of a task whose job ended without an exit record.

    Args:
        damaged: the damaged files of the run's code.
    """
    info = infos.get(job.job_id)
    word = info.word if info and info.state is JobState.ENDED and job.scheduler == "slurm" else ""
    ended = f"job {job.job_id} ended{f' as {word}' if word else ''}"
    if damaged:
        why, hint = damage_sentence(run, damaged), f"`{store.command(run, 'resume')}` restores it"
    else:
        why, hint = last_line(run, stage, index, job) or "its log is empty", None
    fields = {
        "message": f"{ended} without an exit record; {why}",
        "hint": hint,
        "code": CONFIGURATION if damaged else FAILED,
    }
    return TaskFailure(stage, index, {**dict.fromkeys(ERROR_KEYS), **fields})


def last_line(run: RunDir, stage: str, index: int, job: TaskJob) -> str:
    """Return the last output of a task's job and its file; empty where it printed nothing.

    A local job's logs are named by process ids that are not recorded, so that all logs of
    the attempt count, the newest first, without those of tasks that finished.
    """
    folder = run.attempt(stage, job.attempt)
    logs = [*folder.glob(f"{job.job_id}_*.out"), folder / f"ranks-{index:05d}.log"]
    if job.scheduler == "local":
        logs = [*folder.glob("*.out"), *logs, folder / "runner.log"]
    for path in sorted((path for path in logs if path.is_file()), key=modified, reverse=True):
        line = last_line_of(path)
        if line and not line.startswith(FINISHED):
            return f"the last line of {path.relative_to(run.root)}: {line}"
    return ""


def modified(path: Path) -> float:
    """Return a file's modification time."""
    return path.stat().st_mtime


def last_line_of(path: Path) -> str:
    """Return the last line of a log that is neither empty nor a library's."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    written = (line.strip() for line in reversed(lines) if line.strip() and not NOISE.match(line))
    return next(written, "")[:LINE_LIMIT]
