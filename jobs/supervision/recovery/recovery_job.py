"""Goes on with tasks whose supervisor could not see to it itself: its node died, it was killed, or
Slurm had to say first how the job ended. A small job behind each stage does so, and ``meditron
watch`` on the login node. Standard library, and submitit inside the one function that submits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jobs.contract import attempt_history
from jobs.contract.attempt_history import History, Start
from jobs.contract.errors import CONFIGURATION
from jobs.contract.events import append_event, read_events
from jobs.contract.files import read_small
from jobs.contract.outcomes import CONTINUES, AttemptOutcome, Decision, RetryAction
from jobs.contract.rundir import RunDir
from jobs.contract.specs import read_task
from jobs.health import node_ledger
from jobs.slurm import dependencies, queries, submission_log
from jobs.slurm.client import Client
from jobs.slurm.queries import AccountRow
from jobs.slurm.states import JobInfo, JobState, was_cancelled
from jobs.slurm.submission import SubmitError
from jobs.supervision import attempt_records
from jobs.supervision.diagnosis import evidence_collection
from jobs.supervision.diagnosis.evidence import Evidence, RecoveryOptions
from jobs.supervision.diagnosis.postmortem import examine
from jobs.supervision.recovery import closing, resubmission

PATIENCE_SECONDS = 420.0
"""For Slurm to say how jobs ended; the recovery job lasts ten minutes."""
AGAIN_SECONDS = 20.0
NEW_JOB_SECONDS = 120.0
"""So long may a job that was just submitted be unknown to the accounting."""


@dataclass(frozen=True)
class StageRecovery:
    """What came of looking after a stage once."""

    said: tuple[str, ...] = ()
    """Sentences for people: what was done, or why nothing was."""
    unclear: bool = False
    """Slurm does not say how a job ended, or took no new one: look again later."""


@dataclass(frozen=True)
class UnfinishedTask:
    """An unfinished task of a stage."""

    index: int
    past: History

    @property
    def job_id(self) -> str:
        """The job that it was last given to."""
        return self.past.submissions[-1].job_id


def run_recovery(run_dir: str, stage: str, number: str) -> None:
    """Look after a stage until Slurm has said how its jobs ended, and write what was done.

    Raises:
        SystemExit: this is not the run's own code.
    """
    from jobs.contract.code_check import wrong_code

    run = RunDir(Path(run_dir))
    stray = wrong_code(run)
    if stray:
        attempt_records.say(stray)
        raise SystemExit(CONFIGURATION)
    said = wait_and_look(run, stage, Client(os.environ), PATIENCE_SECONDS)
    if said:
        append_event(run, "recovery_job", stage=stage, attempt=int(number), said=said)


def wait_and_look(run: RunDir, stage: str, client: Client, seconds: float) -> list[str]:
    """Look after a stage again and again while something is unclear; answers all that was said."""
    deadline = time.monotonic() + seconds
    said: dict[str, None] = {}
    while True:
        look = look_after(run, stage, client, "recovery_job")
        for sentence in look.said:
            if sentence not in said:
                attempt_records.say(sentence)
        said.update(dict.fromkeys(look.said))
        if not look.unclear:
            return list(said)
        if time.monotonic() > deadline:
            last = f"{stage}: Slurm does not say how its jobs ended; `meditron recover` goes on"
            attempt_records.say(last)
            return [*said, last]
        time.sleep(min(AGAIN_SECONDS, seconds / 10))


def look_after(run: RunDir, stage: str, client: Client, by: str) -> StageRecovery:
    """Go on with each unfinished task of a stage whose job is over, as policy decides.

    Silence from Slurm leads to nothing. Nobody else submits for the run meanwhile, and whoever
    comes second finds that the first has done it.

    Args:
        by: ``recovery_job`` or ``recover``.
    """
    try:
        with resubmission.waiting_lock(run):
            submission_log.settle(run, client)
            tasks = unfinished(run, stage)
            over, unclear = sort_out(
                tasks, client.states({run.name: [task.job_id for task in tasks]})[run.name]
            )
            rows = client.accounting([task.job_id for task in over], run.name) if over else {}
            if rows is None and client.keeps_accounts():
                return StageRecovery(unclear=True)
            told = CachedAccounting(client.environ, rows or {})
            wanted = Recoverer(run, stage, by, told, told.rows).decide_all(over)
        said, refused = go_on(run, stage, client, by, wanted)
    except SubmitError as error:
        return StageRecovery((f"{stage}: {error.message}",), unclear=True)
    said += repair(run, stage, client)
    return StageRecovery(tuple(said), unclear or refused)


def unfinished(run: RunDir, stage: str) -> list[UnfinishedTask]:
    """Tasks of a stage without a done marker that were given to a job; none once a person has asked
    for the end of the run.
    """
    found = [
        UnfinishedTask(index, attempt_history.fold(events, stage, index))
        for index, events in by_task(read_events(run), stage).items()
        if not run.done(stage, index).exists()
    ]
    return [
        task
        for task in found
        if task.past.submissions and not task.past.is_cancelled and not task.past.is_stopped
    ]


def by_task(events: Sequence[Mapping[str, Any]], stage: str) -> dict[int, list[Mapping[str, Any]]]:
    """Of each task of a stage, the events that its history is made of, in their order."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    shared: list[Mapping[str, Any]] = []
    for event in events:
        if event["event"] in ("cancel", "stop", "undo"):
            shared.append(event)
            for task in found.values():
                task.append(event)
        elif event.get("stage") == stage:
            indices = event.get("indices", [event["index"]] if "index" in event else [])
            for index in indices:
                found.setdefault(index, list(shared)).append(event)
    return found


def sort_out(
    tasks: Iterable[UnfinishedTask], infos: Mapping[str, JobInfo]
) -> tuple[list[UnfinishedTask], bool]:
    """Tasks whose jobs are surely over, and whether Slurm leaves any in doubt."""
    over, unclear, now = [], False, time.time()
    for task in tasks:
        info = infos[task.job_id]
        lagging = (
            info.state is JobState.MISSING
            and not info.reason
            and now - task.past.submissions[-1].time < NEW_JOB_SECONDS
        )
        if info.is_over and not lagging:
            over.append(task)
        unclear |= lagging or info.state is JobState.UNKNOWN
    return over, unclear


class CachedAccounting(Client):
    """Slurm, whose accounting has been asked about all jobs at once."""

    def __init__(self, environ: Mapping[str, str], rows: dict[str, list[AccountRow]]) -> None:
        super().__init__(environ)
        self.rows = rows

    def accounting(
        self, job_ids: Sequence[str], run: str = ""
    ) -> dict[str, list[AccountRow]] | None:
        return self.rows or None


@dataclass(frozen=True)
class Recoverer:
    """What follows from the end of tasks that nobody is left to decide about."""

    run: RunDir
    stage: str
    by: str
    client: Client | None = None
    """None without Slurm."""
    rows: Mapping[str, list[AccountRow]] = field(default_factory=dict)
    """What the accounting says of their jobs; empty where it says nothing."""

    def decide_all(self, tasks: Iterable[UnfinishedTask]) -> dict[UnfinishedTask, Decision]:
        """What is to happen with tasks whose jobs are over, where that is anything."""
        found = ((task, self.decide(task)) for task in tasks)
        return {task: decision for task, decision in found if decision is not None}

    def decide(self, task: UnfinishedTask) -> Decision | None:
        """What is to happen with a task whose job is over; None where that is nothing."""
        closed = {start.attempt: self.close(task, start) for start in task.past.starts}
        ending, newest = self.last_ending(task), max(closed, default=0)
        if newest > (ending.attempt if ending else 0):
            decision: Decision | None = closed[newest]
        else:  # what was said of a later start decides
            left = self.unsettled(task)
            decision = self.close(task, left) if left else self.undone(task)
        return decision if decision and decision.action is not RetryAction.FINISH else None

    def unsettled(self, task: UnfinishedTask) -> Start | None:
        """The start of which Slurm had to say first how it ended, or the one that never was."""
        ending = self.last_ending(task)
        if ending is None:
            return self.never_was(task)
        if ending.action is not RetryAction.WAIT:
            return None
        path = self.run.attempt(self.stage, ending.attempt) / f"start-{task.index:05d}.json"
        told = read_small(path)
        restarts, on = int(told.get("restarts", 0)), tuple(told.get("nodes", ()))
        return Start(
            self.stage, task.index, ending.attempt, ending.job_id, restarts, on, ending.began,
            ending.step_before,
        )  # fmt: skip

    def last_ending(self, task: UnfinishedTask) -> AttemptOutcome | None:
        """How the last start in the task's present job ended."""
        first = task.past.submissions[-1].attempt
        endings = [item for item in task.past.endings if item.attempt >= first]
        return endings[-1] if endings else None

    def never_was(self, task: UnfinishedTask) -> Start:
        """A job that ended before its supervisor could say that it had started."""
        submitted = task.past.submissions[-1]
        rows = self.rows.get(task.job_id, [])
        began = (queries.seconds(rows[-1].start) if rows else None) or submitted.time
        spec = read_task(self.run, self.stage, task.index)
        step = evidence_collection.checkpoint_step(self.run, spec)
        return Start(
            self.stage, task.index, submitted.attempt, task.job_id, max(0, len(rows) - 1), (),
            began, step,
        )  # fmt: skip

    def close(self, task: UnfinishedTask, start: Start) -> Decision:
        """Write how a start ended, and what follows from it."""
        spec = read_task(self.run, self.stage, task.index)
        here = RecoveryOptions(
            scheduler="slurm" if self.client else "local",
            in_allocation=False,
            can_requeue=False,
            can_submit=self.client is None or self.client.has("sbatch"),
        )
        found = examine(self.run, start, spec, self.client, here)
        found = replace(found, ended=self.end_of(task, start, found))
        path = node_ledger.ledger_of(self.run, spec)
        entries = node_ledger.active(node_ledger.read(path), time.time()) if path else ()
        decision = closing.close(self.run, start, found, entries, self.by)
        if path:
            node_ledger.append(path, decision.suspects)
        return decision

    def end_of(self, task: UnfinishedTask, start: Start, found: Evidence) -> float:
        """When a start ended: what its own record says, else the accounting; its supervisor may
        have been dead for long.
        """
        told = read_small(self.run.exit_record(self.stage, start.attempt, task.index))
        row = queries.start_row(self.rows.get(start.job_id, []), start.began)
        known = told.get("ended") or (queries.seconds(row.end) if row else None)
        return float(known or found.ended)

    def undone(self, task: UnfinishedTask) -> Decision | None:
        """What was decided when the last start ended, but not done: sbatch had refused, or the
        supervisor was killed. What Slurm says was cancelled is left alone.
        """
        ending = self.last_ending(task)
        rows = self.rows.get(task.job_id, [])
        if ending is None or (rows and was_cancelled(rows[-1].state)):
            return None
        told = read_small(self.run.exit_record(self.stage, ending.attempt, task.index))
        if ending.action not in CONTINUES:
            return None
        left = ending.ended + float(told.get("delay", 0.0)) - time.time()
        return Decision(
            RetryAction.SUBMIT,
            str(told.get("reason", "")),
            delay=max(0.0, left),
            exclude=tuple(told.get("exclude", ())),
        )


def go_on(
    run: RunDir, stage: str, client: Client, by: str, wanted: Mapping[UnfinishedTask, Decision]
) -> tuple[list[str], bool]:
    """Submit what is to go on, as one submission; what was said, and whether Slurm took it."""
    said = sentences(stage, wanted)
    going = {task: found for task, found in wanted.items() if found.action in CONTINUES}
    if not going:
        return said, False
    exclude = dict.fromkeys(name for found in going.values() for name in found.exclude)
    indices = [task.index for task in going]
    replaces = [task.job_id for task in going]
    try:
        ids = resubmission.resubmit(
            run, stage, indices, replaces=replaces, by=by, exclude=tuple(exclude),
            delay=max(found.delay for found in going.values()), client=client,
        )  # fmt: skip
    except SubmitError as error:
        return [*said, f"{stage}: {error.message}"], True
    if not ids:
        return [resubmission.held_back(run, stage, indices, replaces)], False
    return [*said, f"{stage}: {', '.join(ids)} goes on"], False


def sentences(stage: str, wanted: Mapping[UnfinishedTask, Decision]) -> list[str]:
    """What was decided about tasks, and why, for people."""
    return [f"{stage} task {task.index}: {found.reason}" for task, found in wanted.items()]


def repair(run: RunDir, stage: str, client: Client) -> list[str]:
    """Have what still waits for replaced jobs wait for those of now; say what has vanished that
    was to come after the stage.
    """
    events = read_events(run)
    given = [
        index
        for event in submission_log.submits(events, stage)
        for index, _ in submission_log.given(event)
    ]
    if len(given) == len(set(given)):
        return []
    dependencies.retarget(client, submission_log.current_jobs(run, events, stage))
    return [
        f"{name}: its jobs have left the queue without a start; `meditron resume {run.name}` "
        "submits them again"
        for name in vanished(run, stage, client)
    ]


def vanished(run: RunDir, stage: str, client: Client) -> Iterator[str]:
    """Stages after this one whose waiting jobs Slurm has removed (kill_invalid_depend)."""
    for name, summary in read_small(run.plan).get("stages", {}).items():
        tasks = [t for t in unfinished(run, name) if not (t.past.starts or t.past.endings)]
        if stage not in summary.get("after", ()) or not tasks:
            continue
        infos = client.states({run.name: [task.job_id for task in tasks]})[run.name]
        if all(info.is_over for info in infos.values()):
            yield name
