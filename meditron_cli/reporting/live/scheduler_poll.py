"""Queries of the scheduler beside the live view: at most one at a time, less often while its answer
stays the same.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence

from meditron_cli.reporting.live.page import Asked
from meditron_cli.runs import open_jobs
from meditron_cli.runs.query import query_schedulers
from meditron_cli.runs.record import RunRecord, TaskJob
from meditron_cli.runs.state import NEW_JOB_SECONDS
from meditron_cli.scheduler.base import JobInfo, JobState
from meditron_cli.services import Services

SHORTEST_SECONDS = {"local": 2.0, "slurm": 15.0}
"""Between two queries while something changes."""
LONGEST = 16
"""Times the shortest interval, where nothing has changed for long: four minutes on Slurm."""
FIRST_SECONDS = 2.0
"""For the first answer, so that the first page has it."""

RUNNING = "RUNNING"
"""Slurm's word for a job that runs."""

Answers = Mapping[str, Mapping[str, JobInfo]]
"""By run and job."""


class SchedulerPoll:
    """Asks about the open jobs of runs in a thread: a scheduler may take a minute to answer, or to
    give up, and the view is drawn meanwhile.
    """

    def __init__(self, services: Services) -> None:
        self.calls = 0
        self._services = services
        self._answers: Answers = {}
        self._kind = ""
        self._answered: float | None = None
        self._asked_at = 0.0
        self._interval = 0.0
        self._about: set[OpenJob] = set()
        self._asked_about: set[OpenJob] = set()
        self._answered_about: set[OpenJob] = set()
        self._thread: threading.Thread | None = None
        self._new: list[Answers | BaseException] = []

    def answers(self, records: Sequence[RunRecord], now: float) -> list[dict[str, JobInfo]]:
        """Return what is known of each run's open jobs, and ask anew if that is due. A job of which
        nothing is known yet is UNKNOWN, unless it was just submitted.

        Raises:
            MeditronError: the scheduler cannot be used.
        """
        self._collect(now)
        jobs = [list(_open(record, now)) for record in records]
        kinds = {job.scheduler for opened in jobs for _, job, _ in opened}
        self._kind = max(kinds, key=lambda kind: SHORTEST_SECONDS.get(kind, 0.0), default="")
        about = {item for opened in jobs for item in opened}
        if about != self._about:
            self._about, self._interval = about, self._shortest
        is_due = (
            not self._asked_at <= now < self._asked_at + self._interval
        )  # the clock may go back
        if kinds and self._thread is None and is_due:
            self._ask(records, now)
        return [
            self._known(record, opened, now) for record, opened in zip(records, jobs, strict=True)
        ]

    @property
    def asked(self) -> Asked:
        """Return when the scheduler answered, and when it is asked again."""
        known = [info for infos in self._answers.values() for info in infos.values()]
        silent = bool(known) and all(info.state is JobState.UNKNOWN for info in known)
        due, asking = self._asked_at + self._interval, self._thread is not None
        return Asked(self._kind, self._answered, due, silent, asking)

    @property
    def _shortest(self) -> float:
        return SHORTEST_SECONDS.get(self._kind, 0.0)

    def _ask(self, records: Sequence[RunRecord], now: float) -> None:
        self.calls += 1
        self._asked_at, self._asked_about = now, self._about
        self._thread = threading.Thread(target=self._query, args=(records, now), daemon=True)
        self._thread.start()
        if self._answered is None:
            self._thread.join(FIRST_SECONDS)
            self._collect(now)

    def _query(self, records: Sequence[RunRecord], now: float) -> None:
        try:
            infos = query_schedulers(self._services, records, now)
            names = [record.name for record in records]
            self._new.append(dict(zip(names, infos, strict=True)))
        except BaseException as error:  # raised again in the main thread
            self._new.append(error)

    def _collect(self, now: float) -> None:
        """Take the answer of a query that has ended."""
        if self._thread is None or self._thread.is_alive():
            return
        self._thread, answer = None, self._new.pop()
        if isinstance(answer, BaseException):
            raise answer
        same = _states(answer) == _states(self._answers)
        longer = min(2 * self._interval, LONGEST * self._shortest)
        self._interval = longer if same else self._shortest
        self._answers, self._answered = answer, now
        self._answered_about = self._asked_about

    def _known(
        self, record: RunRecord, opened: Sequence[OpenJob], now: float
    ) -> dict[str, JobInfo]:
        known = dict(self._answers.get(record.name, {}))
        for item in opened:
            _, job, runs = item
            info = known.get(job.job_id)
            waited = info is not None and info.state is JobState.QUEUED
            if waited and runs and item not in self._answered_about:
                # It has begun since it was asked about.
                known[job.job_id] = JobInfo(job.job_id, JobState.ACTIVE, RUNNING)
            is_new = self._answered is not None and now - job.time < NEW_JOB_SECONDS
            if not is_new:
                known.setdefault(job.job_id, JobInfo(job.job_id, JobState.UNKNOWN, ""))
        return known


OpenJob = tuple[str, TaskJob, bool]
"""The stage of a task, its job, and whether an attempt of it has begun and not ended."""


def _open(record: RunRecord, now: float) -> Iterator[OpenJob]:
    """Yield the jobs of which the scheduler has to be asked."""
    ids = {job for ids in open_jobs.open_jobs(record, now).values() for job in ids}
    for name, stage in record.stages.items():
        for index, job in stage.jobs.items():
            if job.job_id in ids and index not in stage.done:
                yield name, job, index in stage.begun and index not in stage.exits


def _states(answers: Answers) -> set[tuple[str, str, JobState, str]]:
    """Return what has to change for the next query to be soon: not Slurm's estimate of a start."""
    return {
        (run, job, info.state, info.reason)
        for run, infos in answers.items()
        for job, info in infos.items()
    }
