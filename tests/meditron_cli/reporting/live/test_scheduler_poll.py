"""Queries of the scheduler by the live view: few, and none that stops it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from meditron_cli.errors import ConfigError
from meditron_cli.reporting.live.scheduler_poll import SchedulerPoll
from meditron_cli.runs.record import RunRecord, StageRecord, TaskJob
from meditron_cli.scheduler.base import JobInfo, JobState
from meditron_cli.services import Services

from ....fakes import FakeScheduler

SUBMITTED = 1000.0
HOUR = 3600


def record(*jobs: str, time: float = SUBMITTED, scheduler: str = "slurm") -> RunRecord:
    """Return a run with a training of these jobs."""
    given = {index: TaskJob(job, 1, time, scheduler) for index, job in enumerate(jobs)}
    stage = StageRecord("pretrain", range(len(jobs)), jobs=given)
    return RunRecord("run", Path("run"), stages={"pretrain": stage})


class Polled:
    """A poll of a scheduler with a job 7 that waits."""

    def __init__(self) -> None:
        self.scheduler = FakeScheduler()
        self.scheduler.put("7", JobState.QUEUED, "PENDING", "Priority")
        self.poll = SchedulerPoll(Services(make=lambda kind: self.scheduler))

    def at(self, now: float, *jobs: str, **more: str) -> JobInfo | None:
        """Return what is known of the first job once a query that was due has ended."""
        asked = [record(*(jobs or ("7",)), **more)]  # type: ignore[arg-type]
        (found,) = self.poll.answers(asked, now)
        while self.poll.asked.asking:
            (found,) = self.poll.answers(asked, now)
        return found.get(jobs[0] if jobs else "7")


@pytest.fixture
def polled() -> Polled:
    return Polled()


def test_the_first_page_has_an_answer(polled: Polled) -> None:
    found = polled.at(5000)

    assert found is not None
    assert (found.state, found.reason) == (JobState.QUEUED, "Priority")
    assert polled.poll.asked.at == 5000


def test_an_hour_without_a_change_costs_some_twenty_queries(polled: Polled) -> None:
    for second in range(0, HOUR, 2):
        polled.at(5000 + second)

    assert polled.poll.calls == len(polled.scheduler.asked) == 19
    assert polled.poll.asked.due - polled.poll.asked.at == pytest.approx(240, abs=2)


def test_a_clock_that_is_set_back_does_not_postpone_the_next_query(polled: Polled) -> None:
    polled.at(5000)
    polled.scheduler.put("7", JobState.ACTIVE, "RUNNING")
    found = polled.at(2000)

    assert found is not None
    assert found.state is JobState.ACTIVE


def test_a_change_of_the_answer_makes_the_next_query_soon(polled: Polled) -> None:
    for second in range(0, HOUR, 2):
        polled.at(5000 + second)
    polled.scheduler.put("7", JobState.ACTIVE, "RUNNING")
    due = polled.poll.asked.due
    polled.at(due)

    assert polled.poll.asked.due == due + 15


def test_an_estimate_of_the_start_alone_is_no_change(polled: Polled) -> None:
    polled.at(5000)
    polled.scheduler.jobs["7"] = JobInfo("7", JobState.QUEUED, "PENDING", "Priority", 9999.0)
    found = polled.at(5015)

    assert found is not None
    assert found.start == 9999.0
    assert polled.poll.asked.due == 5015 + 30


def test_a_new_job_of_the_run_is_asked_about_soon(polled: Polled) -> None:
    for second in range(0, HOUR, 2):
        polled.at(5000 + second)
    calls = polled.poll.calls
    polled.scheduler.put("8", JobState.ACTIVE, "RUNNING")
    polled.at(5000 + HOUR, "8")
    found = polled.at(5000 + HOUR + 15, "8")

    assert polled.poll.calls == calls + 1
    assert found is not None
    assert found.state is JobState.ACTIVE


def test_a_job_that_has_begun_since_it_was_asked_about_runs(polled: Polled) -> None:
    """Its supervisor's record is newer than Slurm's answer, which is asked for again soon."""
    polled.at(5000)
    begun = record("7")
    begun.stages["pretrain"].begun.add(0)
    (found,) = polled.poll.answers([begun], 5002)
    due = polled.poll.asked.due
    polled.poll.answers([begun], due)
    while polled.poll.asked.asking:
        (later,) = polled.poll.answers([begun], due)

    assert found["7"].state is JobState.ACTIVE
    assert due == 5015
    assert later["7"].state is JobState.QUEUED, "Slurm's newer answer counts: it was requeued"


def test_nothing_is_asked_where_no_job_is_open(polled: Polled) -> None:
    polled.poll.answers([RunRecord("run", Path("run"))], 5000)

    assert (polled.poll.calls, polled.poll.asked.kind) == (0, "")


def test_a_scheduler_that_does_not_answer_leaves_jobs_unknown(polled: Polled) -> None:
    polled.scheduler.silent = True
    found = polled.at(5000)

    assert found is not None
    assert found.state is JobState.UNKNOWN
    assert polled.poll.asked.silent


def test_a_query_that_hangs_does_not_stop_the_view(polled: Polled) -> None:
    polled.at(5000)
    released = threading.Event()
    polled.scheduler.when_asked = lambda: released.wait(60) and None
    (before,) = polled.poll.answers([record("7")], 5015)
    (later,) = polled.poll.answers([record("7")], 6000)

    assert before["7"].reason == later["7"].reason == "Priority"
    assert polled.poll.asked.asking
    assert polled.poll.calls == 2
    released.set()


def test_a_job_that_was_just_submitted_is_left_to_the_record(polled: Polled) -> None:
    """It counts as pending there; an older one of which nothing is known is unknown."""
    polled.at(5000)
    released = threading.Event()
    polled.scheduler.when_asked = lambda: released.wait(60) and None
    (new,) = polled.poll.answers([record("8", time=5010)], 5015)
    (old,) = polled.poll.answers([record("8", time=1000)], 5015)
    released.set()

    assert "8" not in new
    assert old["8"].state is JobState.UNKNOWN


def test_a_scheduler_that_cannot_be_used_is_an_error(polled: Polled) -> None:
    def make(kind: str) -> FakeScheduler:
        raise ConfigError("no scheduler")

    polled.poll = SchedulerPoll(Services(make=make))
    with pytest.raises(ConfigError, match="no scheduler"):
        polled.at(5000)
