"""The choice of what is sent to which receiver, and of the moment."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.notification import EVENTS, NotifyTarget
from jobs.notification.news import News
from jobs.notification.outbox import (
    HOUR,
    LAST_TRIES_PER_HOUR,
    REPEAT_SECONDS,
    TRIES_PER_HOUR,
    Outbox,
    Receiver,
)

TEAM = NotifyTarget("TEAM", EVENTS)
NOW = 1_800_000_000.0


def item(event: str, number: int = 0, time: float = NOW, group: str = "") -> News:
    return News(event, f"{event} {number}", group or event, f"{event} {number}", time)


def outbox(*news: News, now: float = NOW) -> Outbox:
    box = Outbox()
    box.add(news, [TEAM], now)
    return box


def test_a_receiver_is_told_of_the_events_it_asked_for() -> None:
    box = Outbox()

    box.add([item("failed"), item("started")], [TEAM, NotifyTarget("ME", ("failed",))], NOW)

    assert set(box.receivers["TEAM"].items) == {"failed", "started"}
    assert set(box.receivers["ME"].items) == {"failed"}


def test_a_thing_is_told_once() -> None:
    box = outbox(item("failed"))
    box.receivers["TEAM"].note(NOW, "")

    box.add([item("failed")], [TEAM], NOW + 2 * REPEAT_SECONDS)

    assert not box.receivers["TEAM"].items


def test_many_failures_are_one_line_and_the_rest_waits_for_the_next_message() -> None:
    box = outbox(*(item("failed", number) for number in range(900)))
    team = box.receivers["TEAM"]
    assert team.items["failed"].count == 900
    assert team.is_due(NOW)
    team.note(NOW, "")

    box.add([item("failed", 900)], [TEAM], NOW + 1)

    assert not team.is_due(NOW + 1)
    assert team.is_due(NOW + REPEAT_SECONDS)
    box.add([item("finished")], [TEAM], NOW + 2)
    assert team.is_due(NOW + 2)
    assert set(team.items) == {"failed", "finished"}


def test_what_waits_is_sent_when_nothing_follows_that_would_take_it_along() -> None:
    box = outbox(item("alarm"))
    team = box.receivers["TEAM"]
    assert not Receiver().is_due(NOW, nothing_follows=True)
    team.note(NOW, "")
    box.add([item("alarm", 1)], [TEAM], NOW + 1)
    assert not team.is_due(NOW + 1)

    assert team.is_due(NOW + 1, nothing_follows=True)
    team.tries = [NOW] * TRIES_PER_HOUR
    assert team.is_due(NOW + 1, nothing_follows=True)
    team.tries = [NOW] * LAST_TRIES_PER_HOUR
    assert not team.is_due(NOW + 1, nothing_follows=True)


def test_preemptions_all_day_are_few_messages_and_the_end_still_arrives() -> None:
    box, sent = Outbox(), 0
    for minute in range(60):
        now = NOW + 60 * minute
        box.add([item("preempted", minute, now, f"job {minute}")], [TEAM], now)
        if box.receivers["TEAM"].is_due(now):
            box.receivers["TEAM"].begin(now)
            box.receivers["TEAM"].note(now, "")
            sent += 1
    assert sent == TRIES_PER_HOUR

    box.add([item("failed", time=NOW + HOUR - 1)], [TEAM], NOW + HOUR - 1)

    assert box.receivers["TEAM"].is_due(NOW + HOUR - 1)


def test_a_receiver_that_is_not_reached_is_tried_few_times_an_hour() -> None:
    box, tries = Outbox(), 0
    for number in range(1000):
        box.add([item("failed", number, NOW + number)], [TEAM], NOW + number)
        if box.receivers["TEAM"].is_due(NOW + number):
            box.receivers["TEAM"].begin(NOW + number)
            box.receivers["TEAM"].note(NOW + number, "no answer in time")
            tries += 1

    assert tries == LAST_TRIES_PER_HOUR
    assert box.receivers["TEAM"].items["failed"].count == 1000


def test_a_failure_is_new_until_its_reason_repeats() -> None:
    team = outbox(item("failed")).receivers["TEAM"]

    assert [team.note(NOW, error) for error in ("no answer", "no answer", "", "no answer")] == [
        True,
        False,
        False,
        True,
    ]


def test_the_past_of_a_run_is_not_told() -> None:
    assert not outbox(item("failed", time=NOW - 25 * HOUR)).receivers["TEAM"].items


def test_a_receiver_that_left_the_experiment_is_forgotten() -> None:
    box = outbox(item("failed"))

    box.add([], [NotifyTarget("ME", EVENTS)], NOW)

    assert list(box.receivers) == ["ME"]


@given(
    st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 3), st.sampled_from(["", "no"]))),
)
def test_the_state_survives_its_file(steps: list[tuple[str, int, str]]) -> None:
    box = Outbox()
    for place, (event, number, error) in enumerate(steps):
        box.add([item(event, number, NOW + place)], [TEAM], NOW + place)
        if box.receivers["TEAM"].is_due(NOW + place):
            box.receivers["TEAM"].note(NOW + place, error)

    assert Outbox.from_json(json.loads(json.dumps(box.to_json()))) == box


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"offset": "x", "keys": {}, "receivers": {}, "problem": ""},
        {"offset": 3, "keys": [], "receivers": {}, "problem": ""},
        {"offset": 3, "keys": {}, "receivers": {"TEAM": {"items": 3}}, "problem": ""},
        {"offset": 3, "keys": {}, "receivers": {"T": {"items": {"a": {"b": 1}}}}, "problem": ""},
    ],
)
def test_a_damaged_state_is_an_empty_one(value: dict[str, object]) -> None:
    assert Outbox.from_json(value) == Outbox()
