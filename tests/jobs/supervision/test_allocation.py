"""Slurm's report about the job of a supervisor, against stand-ins for its commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.contract.job import Job
from jobs.contract.specs import SiteSpec
from jobs.slurm.client import Client
from jobs.slurm.queries import seconds
from jobs.supervision.allocation import Allocation
from jobs.supervision.ranks.rank_monitor import Deadline

from ... import fake_slurm

END = "2026-01-01T10:00:00"


@pytest.mark.parametrize(
    ("state", "preempted", "found"),
    [
        ("RUNNING", "None", False),
        ("RUNNING", "2026-01-01T09:59:00", True),
        ("COMPLETING", "None", None),
        ("PENDING", "None", None),
    ],
)
def test_only_a_job_that_runs_has_an_end_to_be_reckoned_with(
    tmp_path: Path, state: str, preempted: str, found: bool | None
) -> None:
    """Once Slurm has taken the nodes back, its words are about the next start."""
    slurm = fake_slurm.install(tmp_path)
    row = f"JobId=7 JobState={state} Reason=None EndTime={END} PreemptTime={preempted}"
    slurm.tell("job-7", row)

    deadline = Allocation(Job("7"), Client(slurm.environ)).deadline()

    assert (deadline.preempted if deadline else None) == found
    assert deadline is None or isinstance(deadline, Deadline)


JOB = "JobId=7 JobState=RUNNING StartTime=2026-01-01T09:00:00 NodeList=gpu[01-02]"


@pytest.mark.parametrize(
    ("booted", "failed"),
    [("2026-01-01T08:00:00", ""), ("2026-01-01T09:30:00", "gpu02"), ("None", "")],
)
def test_a_node_that_has_booted_since_the_job_started_has_failed(
    tmp_path: Path, booted: str, failed: str
) -> None:
    slurm = fake_slurm.install(tmp_path)
    slurm.tell("job-7", JOB)
    boots = (("gpu01", "2025-12-01T08:00:00"), ("gpu02", booted))
    slurm.tell("boots", "".join(f"NodeName={node} BootTime={time}\n" for node, time in boots))

    report = Allocation(Job("7"), Client(slurm.environ)).slurm_report(SiteSpec())

    assert report.failed_node == failed


@pytest.mark.parametrize(
    ("text", "eligible"),
    [
        ("2026-01-01T08:00:00", seconds("2026-01-01T08:00:00")),
        ("Unknown", None),
    ],
)
def test_slurm_is_queried_once_for_the_eligible_time_of_the_job(
    tmp_path: Path, text: str, eligible: float | None
) -> None:
    slurm = fake_slurm.install(tmp_path)
    slurm.tell("job-7", f"{JOB} EligibleTime={text}")
    allocation = Allocation(Job("7"), Client(slurm.environ))

    assert [allocation.eligible_time for _ in range(3)] == [eligible] * 3
    assert len(slurm.calls("scontrol")) == 1


def test_without_slurm_or_its_answer_it_is_not_known_when_the_job_became_eligible(
    tmp_path: Path,
) -> None:
    silent = Client(fake_slurm.install(tmp_path).environ)

    assert Allocation(Job("7")).eligible_time is None
    assert Allocation(Job("7"), silent).eligible_time is None
