"""The time account of a training, from events and metric lines written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract import events
from jobs.contract.attempt_history import RunHistory
from jobs.contract.metrics_log import MetricLine
from jobs.contract.stage_specs import PRETRAIN
from meditron_cli.reporting import goodput, interruptions, run_times
from meditron_cli.reporting.attempts import Attempt, attempts_of
from meditron_cli.reporting.goodput import TimeAccount
from meditron_cli.reporting.interruptions import Interruption

from ... import metric_lines
from ...metric_lines import save, validation

ENDS = ("exit", "observed")
BEGAN = 1_700_000_000.0


@dataclass
class Story:
    """A run's events and metric lines; times are seconds after its first submission."""

    events: list[dict[str, Any]] = field(default_factory=list)
    lines: list[MetricLine] = field(default_factory=list)

    def tell(self, kind: str, time: float, **fields: Any) -> Story:
        event = {"event": kind, "time": BEGAN + time, "stage": "pretrain", "index": 0, **fields}
        self.events.append(event)
        return self

    def submit(self, time: float) -> Story:
        return self.tell("submit", time, attempt=1, indices=[0], job_ids=["7"])

    def start(
        self,
        number: int,
        time: float,
        job: str = "7",
        restarts: int = 0,
        eligible: float | None = None,
        **more: Any,
    ) -> Story:
        if eligible is not None:
            eligible += BEGAN
        fields = {
            "eligible": eligible,
            "attempt": number,
            "job_id": job,
            "restarts": restarts,
            "nodes": ["n1", "n2"],
        }
        return self.tell("start", time, began=BEGAN + time, step=None, **{**fields, **more})

    def exit(self, number: int, time: float, cause: str, action: str, **more: Any) -> Story:
        """Record the end of an attempt; with the action ``wait`` it is only observed."""
        fields = {"attempt": number, "job_id": "7", "cause": cause, "action": action}
        fields.update(started=BEGAN, ended=BEGAN + time)
        return self.tell("observed" if action == "wait" else "exit", time, **{**fields, **more})

    def steps(self, attempt: int, first: int, last: int, begin: float) -> Story:
        """Steps of ten seconds each, without a pause."""
        for number in range(first, last + 1):
            self.line(metric_lines.step, number, attempt, begin + 10 * (number - first + 1), 10.0)
        return self

    def line(
        self,
        kind: Callable[..., MetricLine],
        step: int,
        attempt: int,
        time: float,
        seconds: float,
    ) -> Story:
        """Add a metric line of a kind, written at a time after so many seconds of work."""
        self.lines.append(kind(step, attempt, time=BEGAN + time, seconds=seconds))
        return self

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return attempts_of(self.history)

    @property
    def history(self) -> RunHistory:
        return RunHistory.of(events.parse(self.events))

    @property
    def submitted(self) -> list[float]:
        return [event["time"] for event in self.events if event["event"] == "submit"]

    def ledger(self, end: float | None = None, ready: float = 0.0) -> TimeAccount:
        work = goodput.work_of(self.lines)
        until = None if end is None else BEGAN + end
        settled = goodput.with_ends(self.attempts, work, until)
        return goodput.account(settled, self.submitted, work, BEGAN + ready, until)

    def interruptions(self) -> list[Interruption]:
        work = goodput.work_of(self.lines)
        settled = goodput.with_ends(self.attempts, work, None)
        return interruptions.find(run_times.correct(self.attempts, settled), {(PRETRAIN, 0): work})


def spent(ledger: TimeAccount) -> dict[str, float]:
    """Return the buckets that hold anything."""
    return {name: seconds for name, seconds in ledger.buckets.items() if seconds}


def test_an_undisturbed_training_waits_starts_trains_saves_and_validates() -> None:
    story = Story().submit(0).start(1, 100)
    story.line(save, 0, 1, 125, 5.0).steps(1, 1, 10, begin=130)
    story.line(validation, 10, 1, 235, 5.0)
    story.line(save, 10, 1, 240, 5.0).exit(1, 250, "completed", "finish")

    ledger = story.ledger()

    assert spent(ledger) == {
        "queue": 100.0, "startup": 25.0, "training": 100.0, "checkpoint": 10.0,
        "validation": 5.0, "stall": 10.0,
    }  # fmt: skip
    assert ledger.wall == 250.0
    assert ledger.goodput == pytest.approx(0.4)
    assert ledger.goodput_without_queue == ledger.ettr == pytest.approx(100 / 150)
    assert story.interruptions() == []


def preempted() -> Story:
    """Two steps of ten are lost to a preemption; Slurm queues the job again for a minute."""
    story = Story().submit(0).start(1, 100).steps(1, 1, 10, begin=110)
    story.line(save, 8, 1, 210, 0.0)
    story.exit(1, 220, "preempted", "requeue", last_step=10, reason="n1 was taken")
    story.start(2, 280, restarts=1).steps(2, 9, 12, begin=300)
    return story.exit(2, 345, "completed", "finish")


def test_steps_that_were_lost_count_once_and_the_queue_after_a_requeue_is_queue() -> None:
    ledger = preempted().ledger()

    assert spent(ledger) == {
        "queue": 160.0, "startup": 30.0, "training": 120.0, "redone": 20.0, "stall": 15.0,
    }  # fmt: skip
    assert ledger.goodput == pytest.approx(120 / 345)
    assert ledger.goodput_without_queue == pytest.approx(120 / 185)
    assert ledger.ettr == pytest.approx(120 / 245)


def test_an_interruption_has_its_cost() -> None:
    (found,) = preempted().interruptions()

    assert found.to_json() == {
        "stage": "pretrain",
        "task": 0,
        "attempt": 1,
        "job_id": "7",
        "node": "",
        "cause": "preempted",
        "action": "requeue",
        "reason": "n1 was taken",
        "ended": BEGAN + 220,
        "detect_s": None,
        "step": 10,
        "steps_redone": 2,
        "resume_s": 110.0,
    }


def test_the_time_to_resume_begins_with_the_fault_not_with_its_detection() -> None:
    story = Story().submit(0).start(1, 0).steps(1, 1, 4, begin=0)
    story.exit(1, 100, "hang", "restart", detect_s=60.0, last_step=4)
    story.start(2, 130).steps(2, 3, 5, begin=140)

    (found,) = story.interruptions()

    assert (found.steps_redone, found.resume_s) == (2, 130.0)
    assert spent(story.ledger(end=170)) == {
        "training": 50.0, "redone": 20.0, "stall": 60.0, "down": 30.0, "startup": 10.0,
    }  # fmt: skip


def test_a_fault_that_was_not_announced_was_detected_after_the_last_sign_of_life() -> None:
    story = Story().submit(0).start(1, 0).steps(1, 1, 4, begin=0)
    story.exit(1, 45, "crash", "restart").start(2, 60).steps(2, 5, 5, begin=70)

    (found,) = story.interruptions()

    assert (found.detect_s, found.resume_s) == (5.0, 40.0)


def test_steps_of_another_training_of_the_same_attempt_are_not_redone() -> None:
    """The tasks of an array share numbers of attempts."""
    story = Story().submit(0).start(1, 0, index=1).steps(1, 1, 4, begin=0)
    story.exit(1, 50, "crash", "stop", index=1)
    work = {("pretrain", 0): goodput.work_of(story.lines), ("pretrain", 1): []}

    (found,) = interruptions.find(story.attempts, work)

    assert (found.attempt.index, found.step, found.steps_redone) == (1, None, 0)


def test_an_interruption_that_nothing_new_followed_has_no_time_to_resume() -> None:
    story = Story().submit(0).start(1, 0).steps(1, 1, 4, begin=0)
    story.exit(1, 50, "crash", "restart").start(2, 60).steps(2, 3, 4, begin=70)
    story.exit(2, 95, "crash", "restart").start(3, 100).exit(3, 110, "crash", "stop")

    found = story.interruptions()

    assert [(item.step, item.steps_redone, item.resume_s) for item in found] == [
        (4, 2, None), (4, 0, None), (None, 0, None),
    ]  # fmt: skip


def test_a_restart_in_the_same_job_is_downtime_with_its_delay() -> None:
    story = Story().submit(0).start(1, 0).exit(1, 50, "crash", "restart", delay=30.0)
    story.start(2, 85)

    assert spent(story.ledger(end=100)) == {"startup": 65.0, "down": 35.0}


def test_a_successor_waits_in_the_queue_once_its_delay_is_over() -> None:
    story = Story().submit(0).start(1, 0).submit(49)
    story.exit(1, 50, "storage", "submit", delay=30.0).start(2, 100, job="8")

    assert spent(story.ledger(end=100)) == {"startup": 50.0, "down": 30.0, "queue": 20.0}


def test_until_a_person_resumes_it_a_run_is_down() -> None:
    story = Story().submit(0).start(1, 0).exit(1, 50, "crash", "stop").submit(950)
    story.start(2, 1000, job="8")

    assert spent(story.ledger(end=1000)) == {"startup": 50.0, "down": 900.0, "queue": 50.0}


def test_an_end_recorded_after_a_person_resumed_still_lies_before_that() -> None:
    """The next supervisor records the end of one that was killed, after the new submission."""
    story = Story().submit(0).start(1, 0).submit(400)
    story.exit(1, 100, "node_fail", "wait").start(2, 450, job="8")

    assert spent(story.ledger(end=450)) == {"startup": 100.0, "down": 300.0, "queue": 50.0}


def test_an_end_recorded_after_the_next_start_was_the_last_heartbeat() -> None:
    """A post-mortem may know no better than when it was made."""
    story = Story().submit(0).start(1, 0).steps(1, 1, 2, begin=10).start(2, 100, restarts=1)
    story.exit(1, 100.2, "crash", "requeue").steps(2, 3, 3, begin=110)

    (found,) = story.interruptions()

    assert (found.detect_s, found.resume_s) == (None, 90.0)
    assert spent(story.ledger(end=120)) == {"startup": 20.0, "training": 30.0, "queue": 70.0}


def test_the_queue_time_of_a_submission_that_was_cancelled_is_downtime() -> None:
    story = Story().submit(0).tell("cancel", 10, job_ids=["7"]).submit(50).start(1, 60)

    assert spent(story.ledger(end=60)) == {"queue": 10.0, "down": 50.0}


def test_until_slurm_reports_a_job_eligible_it_is_in_no_queue() -> None:
    """Slurm starts a job that it requeued two minutes later at the earliest."""
    story = Story().submit(0).start(1, 100, eligible=90).exit(1, 200, "preempted", "requeue")
    story.start(2, 400, restarts=1, eligible=320)

    assert spent(story.ledger(end=400)) == {"down": 210.0, "queue": 90.0, "startup": 100.0}


@pytest.mark.parametrize(("eligible", "queue"), [(-50, 100.0), (150, 0.0)])
def test_a_clock_of_slurm_that_is_wrong_gives_no_negative_time(eligible, queue) -> None:
    story = Story().submit(0).start(1, 100, eligible=eligible)

    assert story.ledger(end=100).buckets["queue"] == queue


def test_a_run_that_stopped_is_in_no_queue_before_it_is_submitted_again() -> None:
    story = Story().submit(0).start(1, 0).exit(1, 50, "crash", "stop")
    stopped = story.ledger(end=100)
    resumed = story.submit(80).ledger(end=100)

    assert spent(stopped) == {"startup": 50.0, "down": 50.0}
    assert spent(resumed) == {"startup": 50.0, "down": 30.0, "queue": 20.0}


def test_an_unrecorded_end_is_the_last_heartbeat() -> None:
    story = Story().submit(0).start(1, 0).steps(1, 1, 2, begin=10)
    story.start(2, 100, restarts=1)

    assert spent(story.ledger(end=110)) == {
        "startup": 20.0, "training": 20.0, "queue": 70.0,
    }  # fmt: skip


def test_the_wall_clock_of_a_run_that_ended_stands_still() -> None:
    story = Story().submit(0).start(1, 10).steps(1, 1, 2, begin=10)
    story.exit(1, 40, "data", "stop")

    assert story.ledger(end=None).wall == 40.0
    assert story.ledger(end=70).wall == 70.0


def test_waiting_for_the_stages_before_is_no_queue() -> None:
    story = Story().submit(0).start(1, 1000)

    assert spent(story.ledger(end=1010, ready=990)) == {"queue": 10.0, "startup": 10.0}


def test_a_running_attempt_that_makes_no_steps_stalls() -> None:
    story = Story().submit(0).start(1, 0).steps(1, 1, 2, begin=10)

    assert spent(story.ledger(end=630)) == {"startup": 10.0, "training": 20.0, "stall": 600.0}


def test_lines_of_work_that_overlap_are_not_counted_twice() -> None:
    """A save may go on while the next step is made."""
    story = Story().submit(0).start(1, 0).steps(1, 1, 2, begin=0)
    story.line(save, 1, 1, 15, 10.0)

    assert story.ledger(end=20).wall == 20.0


def test_clock_that_was_set_back_gives_no_negative_time() -> None:
    story = Story().submit(3600).start(1, 3600).exit(1, 30, "crash", "restart")

    (settled,) = goodput.with_ends(story.attempts, [], None)

    assert settled.ended == settled.began
    assert goodput.node_seconds([settled], nodes=4) == 0.0
    assert goodput.with_ends(story.attempts, [], BEGAN + 30)[0].ended == settled.began


def test_node_hours_hold_an_allocation_from_its_first_start_to_its_last_end() -> None:
    story = Story().start(1, 0).exit(1, 50, "crash", "restart").start(2, 60)
    story.exit(2, 100, "preempted", "requeue").start(3, 500, restarts=1)
    story.exit(3, 600, "completed", "finish")

    assert goodput.node_seconds(story.attempts, nodes=4) == 4 * (100 + 100)


def test_an_exit_of_a_task_that_runs_elsewhere_is_no_attempt() -> None:
    story = Story().start(1, 0).exit(2, 5, "unknown", "wait", started=BEGAN)
    story.exit(3, 9, "configuration", "stop", started=BEGAN + 8)

    assert [attempt.number for attempt in story.attempts] == [1, 3]


moments = st.floats(-20, 400, allow_nan=False)
lengths = st.floats(0, 50, allow_nan=False)


@st.composite
def histories(draw: st.DrawFn) -> Story:
    """Draw any events: starts without ends, ends recorded late or twice, clocks that go back, work
    that overlaps or lies outside of its attempt.
    """
    story, now = Story().submit(0), 0.0
    for number in range(1, draw(st.integers(0, 4)) + 1):
        now += draw(lengths)
        start = now + draw(st.floats(-5, 5))
        story.start(
            number,
            start,
            job=draw(st.sampled_from("78")),
            restarts=draw(st.integers(0, 1)),
            eligible=draw(st.none() | moments),
        )
        for step in range(draw(st.integers(0, 3))):
            now += draw(st.floats(-2, 30))
            seconds = draw(lengths)
            story.line(draw(kinds), step, number, now, seconds)
        for _ in range(draw(st.integers(0, 2))):
            action = draw(st.sampled_from(("restart", "requeue", "submit", "wait", "stop")))
            end = now + draw(st.floats(-10, 30))
            story.exit(number, end, "crash", action, delay=draw(lengths))
        for kind in draw(st.lists(st.sampled_from(("submit", "cancel")), max_size=2)):
            fields = {"attempt": 1, "indices": [0]} if kind == "submit" else {}
            story.tell(kind, now + draw(st.floats(-10, 10)), job_ids=["7"], **fields)
    return story


kinds = st.sampled_from((metric_lines.step, validation, save))


@given(histories(), st.none() | moments)
def test_the_buckets_sum_to_the_wall_clock_for_any_events(story: Story, end: float | None) -> None:
    ledger = story.ledger(end)
    settled = goodput.with_ends(
        story.attempts, goodput.work_of(story.lines), None if end is None else BEGAN + end
    )
    spans = goodput.spans_of(settled, story.submitted, BEGAN, None if end is None else BEGAN + end)

    assert ledger.wall == pytest.approx(spans[-1].ended - BEGAN if spans else 0.0, abs=1e-6)
    assert end is None or ledger.wall >= end - 1e-6
    assert min(ledger.buckets.values()) >= 0.0
    assert joined([BEGAN, *(moment for span in spans for moment in (span.began, span.ended))])
    assert ledger.goodput is None or 0.0 <= ledger.goodput <= 1.0


def joined(moments: Sequence[float]) -> bool:
    """Return whether each span begins where the one before it ended."""
    return all(moments[place] == moments[place + 1] for place in range(0, len(moments) - 1, 2))


@given(histories())
def test_no_interruption_is_forgotten_and_no_cost_is_negative(story: Story) -> None:
    found = story.interruptions()

    recorded = {event["attempt"] for event in story.events if event["event"] in ENDS}
    assert {item.attempt.number for item in found} == recorded
    assert all((item.steps_redone or 0) >= 0 and (item.resume_s or 0) >= 0 for item in found)
