"""Dependencies of queued jobs, rewritten when another job replaces theirs."""

from __future__ import annotations

import pytest

from jobs.slurm.client import Client
from jobs.slurm.dependencies import retarget, rewritten

from ...fake_slurm import FakeSlurm

PLAIN = {"5": "9", "9": "9"}
ARRAY = {"7_0": None, "7_1": "8", "7_2": "7_2", "8": "8"}
"""Element 0 is finished, element 1 is done by job 8 now, element 2 is as it was."""


@pytest.mark.parametrize(
    ("printed", "wanted"),
    [
        ("afterok:5(unfulfilled)", "afterok:9"),
        ("afterok:5(failed)", "afterok:9"),
        ("afterany:5(unfulfilled),afterok:3(failed)", "afterany:9,afterok:3"),
        ("afterok:5+10(unfulfilled)", "afterok:9+10"),
        ("afterok:5(failed),afterok:9(unfulfilled)", "afterok:9"),
        ("singleton(unfulfilled)", "singleton"),
        ("afterok:50_*(unfulfilled)", "afterok:50_*"),
    ],
)
def test_the_job_of_now_stands_in_the_place_of_the_old_one(printed: str, wanted: str) -> None:
    assert rewritten(printed, PLAIN) == wanted


@pytest.mark.parametrize(
    ("printed", "wanted"),
    [
        ("afterok:7_*(unfulfilled)", "afterok:8,afterok:7_2"),
        ("afterok:7(failed)", "afterok:8,afterok:7_2"),
        ("afterok:7_1(failed),afterok:7_2(unfulfilled)", "afterok:8,afterok:7_2"),
        ("afterany:7_*(unfulfilled),afterok:3(unfulfilled)", "afterany:8,afterany:7_2,afterok:3"),
        ("afterok:7_0(unfulfilled)", ""),
    ],
)
def test_of_an_array_the_unfinished_elements_are_named(printed: str, wanted: str) -> None:
    assert rewritten(printed, ARRAY) == wanted


def test_an_array_of_which_nothing_was_replaced_is_named_as_a_whole() -> None:
    assert rewritten("afterok:7_*(unfulfilled)", {"7_0": "7_0", "7_1": "7_1"}) == "afterok:7"


def queue(programs: FakeSlurm, waits: str) -> None:
    programs.queue(
        "9|RUNNING|None|||||", "6|PENDING|Dependency|||||" + waits, "4|PENDING|None|||||"
    )


def test_what_waits_for_a_replaced_job_waits_for_the_new_one(
    programs: FakeSlurm, client: Client
) -> None:
    queue(programs, "afterok:5(failed)")

    assert retarget(client, PLAIN) == ["6"]
    assert programs.waits_for() == {"6": "afterok:9"}
    assert len(programs.calls("scontrol")) == 1


def test_what_would_wait_for_a_job_that_is_gone_stays_as_it_is(
    programs: FakeSlurm, client: Client
) -> None:
    """Slurm takes a job that it has forgotten for one that ended well (verified on 22.05)."""
    queue(programs, "afterok:5(failed),afterok:7_*(failed)")

    assert retarget(client, {**PLAIN, "7_1": "7_1", "7_0": None}) == []
    assert programs.calls("scontrol") == []


def test_a_slurm_that_does_not_answer_gives_none(programs: FakeSlurm, client: Client) -> None:
    programs.tell("down", "slurm_load_jobs error: Unable to contact slurm controller")

    assert retarget(client, PLAIN) is None
