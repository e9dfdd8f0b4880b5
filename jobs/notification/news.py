"""Turn events of a run's log into news for people. Standard library only."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from jobs.contract import events
from jobs.contract.attempt_history import HistoryReader, RunHistory, TaskHistory, Withdrawn
from jobs.contract.events import AlarmEvent, ExitEvent, ObservedEvent, Select, StartEvent
from jobs.contract.exit_record import ExitRecord
from jobs.contract.files import read_small
from jobs.contract.notification import EVENTS
from jobs.contract.outcomes import RetryAction, RootCause
from jobs.contract.rundir import RunDir

KINDS = ("start", "observed", "exit", "alarm")
"""The kinds of events that are news."""
OF_ATTEMPTS = (b"start", b"observed", b"exit")
LAST_ACTIONS = (RetryAction.FINISH, RetryAction.STOP)
BY_PERSONS = (RootCause.STOPPED, RootCause.CANCELLED)
NAMED_NODES = 4
"""Of the nodes of a start; the others are counted."""

INDEX = re.compile(rb'"index": ?(\d+)')
STAGE = re.compile(rb'"stage": ?"(\w+)"')


@dataclass(frozen=True)
class News:
    """Something to report."""

    event: str
    """One of ``jobs.contract.notification.EVENTS``."""
    key: str
    """Equal for the same thing, which is reported once."""
    group: str
    """Equal for things in one line, such as the failures of an array's tasks."""
    text: str
    time: float


class NewsReader:
    """Reads what of a run's events is news."""

    def __init__(self, run: RunDir, wanted: Set[str] = frozenset(EVENTS)) -> None:
        """Read nothing yet.

        Args:
            run: the run.
            wanted: events that anybody asked for; others are not looked into.
        """
        self._run = run
        self._wanted = wanted
        self._resumed: Set[int] = frozenset()
        self._history: RunHistory | None = None
        """Of the tasks that were resumed."""
        self._stages: dict[str, Any] | None = None
        self._undone: dict[str, int | None] = {}
        """A task of each stage that was last seen without a done marker."""

    def news(self, values: Iterable[Mapping[str, Any]]) -> Iterator[News]:
        """Yield the news among events, in their order."""
        parsed = list(events.parse(values))
        starts = [event for event in parsed if isinstance(event, StartEvent)]
        self._resumed, self._history = {start.index for start in starts if start.attempt > 1}, None
        for event in parsed:
            if isinstance(event, AlarmEvent):
                yield _alarm(event)
            elif isinstance(event, StartEvent):
                yield from self._of_start(event)
            elif isinstance(event, ObservedEvent):
                yield from self._of_end(event)

    def nothing_follows(self) -> bool:
        """Return whether every task of each stage that has begun has ended for good, so that no
        further news are expected unless a person resumes the run.
        """
        history = HistoryReader(self._run).current(_unless_running)
        begun = {stage for stage, _, _ in history.begun}
        tasks = [
            history.task(stage, index).ended
            for stage, planned in self._plan().items()
            for index in planned.get("tasks", ())
            if stage in begun
        ]
        return bool(tasks) and all(
            ended and ended[max(ended)].action in LAST_ACTIONS for ended in tasks
        )

    def _of_start(self, start: StartEvent) -> Iterator[News]:
        if self._wanted.isdisjoint(("started", "resumed")):
            return
        task = self._task(start)
        own = task.ended.get(start.attempt)
        if own and own.follows is not None:  # the end of an earlier attempt prevented this one
            return
        event, text = "started", f"{start.stage} started"
        earlier = range(start.attempt - 1, 0, -1)
        before = next((number for number in earlier if number in task.started), 0)
        if before:
            event = "resumed"
            text = f"{self._label(start)} resumed" + (f" from step {start.step}" * bool(start.step))
        text += f" on {_names(start.nodes)}" if start.nodes else ""
        last = task.ended.get(before) or task.observed.get(before)
        text += f"; before: {last.message}" if last and last.message else ""
        key = f"{event} {start.stage} {start.attempt}"
        yield News(event, key, f"{event} {start.stage}", text, start.time)

    def _of_end(self, event: ObservedEvent) -> Iterator[News]:
        record, is_decided = event.record, isinstance(event, ExitEvent)
        if record.follows is not None:
            return
        kind, text = "", f"{self._label(record)} "
        if is_decided and record.action is RetryAction.FINISH:
            if "finished" in self._wanted and self._is_complete(record.stage):
                yield self._finished(record, event.time)
        elif is_decided and record.action is RetryAction.STOP:
            kind = "stopped" if record.cause in BY_PERSONS else "failed"
            text += f"{kind}: {record.reason or record.message}"
            text += f" ({record.hint})" if record.hint else ""
        elif record.cause is RootCause.PREEMPTED:
            kind = "preempted"
            text += f"was preempted{_after(record)}: {record.reason or record.message}"
        if kind:
            key = f"{kind} {record.stage} {record.index} {record.attempt}"
            group = f"{kind} {record.stage} {record.cause.value}"
            yield News(kind, key, group, text, event.time)
        for node in record.exclude:
            text = f"{node} is left out of the next job: {record.message}"
            key = f"node_excluded {node}"
            yield News("node_excluded", key, key, text, event.time)

    def _finished(self, record: ExitRecord, time: float) -> News:
        """Return the news that all tasks of a stage are done, and maybe those of all stages."""
        text = f"{record.stage} finished" + (
            f" at step {record.last_step}" * bool(record.last_step)
        )
        plan = self._plan()
        if plan and all(map(self._is_complete, plan)):
            text += f", and with it the run; `{self._run.command('report')}` shows the results"
        key = f"finished {record.stage} {record.attempt}"
        return News("finished", key, f"finished {record.stage}", text, time)

    def _is_complete(self, stage: str) -> bool:
        """Return whether every task of a stage has a done marker. The last one without is looked at
        first, the others in any order, so that one is found soon.
        """
        last = self._undone.get(stage)
        if last is not None and not self._run.done(stage, last).exists():
            return False
        tasks = list(self._plan().get(stage, {}).get("tasks", ()))
        random.shuffle(tasks)
        undone = (index for index in tasks if not self._run.done(stage, index).exists())
        self._undone[stage] = next(undone, None)
        return self._undone[stage] is None

    def _plan(self) -> Mapping[str, Any]:
        if self._stages is None:
            stages = read_small(self._run.plan).get("stages")
            self._stages = stages if isinstance(stages, dict) else {}
        return self._stages

    def _task(self, start: StartEvent) -> TaskHistory:
        """Return the history of a task, which is empty before its first start."""
        if start.attempt == 1:  # the log of an array is not read once for each of its tasks
            return TaskHistory(Withdrawn(), start.stage, start.index)
        if self._history is None:
            self._history = HistoryReader(self._run).current(_of_tasks(self._resumed))
        return self._history.task(start.stage, start.index)

    def _label(self, item: StartEvent | ExitRecord) -> str:
        """Return the name of a task for people: its stage, and its number among several."""
        count = len(self._plan().get(item.stage, {}).get("tasks", ()))
        return f"{item.stage} task {item.index}" if count > 1 else item.stage


def _of_tasks(indices: Set[int]) -> Select:
    """Return what chooses the starts and ends of tasks with these indices."""
    names = {str(index).encode() for index in indices}

    def select(lines: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
        for kind, line in lines:
            if kind in OF_ATTEMPTS and not names.isdisjoint(INDEX.findall(line)):
                yield line

    return select


def _unless_running(lines: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Choose the starts and exits; none where the last of them of any task is a start."""
    chosen = [(kind, line) for kind, line in lines if kind in OF_ATTEMPTS]
    last = {(*STAGE.findall(line), *INDEX.findall(line)): kind for kind, line in chosen}
    return [] if b"start" in last.values() else [line for _, line in chosen]


def _alarm(alarm: AlarmEvent) -> News:
    """Return the news of an alarm, which is one per attempt, code and node."""
    place = f"{alarm.stage} {alarm.attempt} {alarm.node} {alarm.verdict}"
    where = ": ".join(filter(None, (alarm.stage, alarm.node)))
    return News(
        "alarm",
        f"alarm {alarm.code} {place}",
        f"alarm {alarm.code}",
        f"{where}: {alarm.message}",
        alarm.time,
    )


def _after(record: ExitRecord) -> str:
    """Return the last step of an attempt, and the one that the next attempt begins with."""
    if not record.last_step:
        return ""
    return f" after step {record.last_step}" + (
        f", checkpoint {record.step_after}" if record.step_after is not None else ""
    )


def _names(nodes: tuple[str, ...]) -> str:
    more = len(nodes) - NAMED_NODES
    return ", ".join(nodes[:NAMED_NODES]) + (f" and {more} more" if more > 0 else "")
