"""Slurm's commands against stand-ins: silence is None."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.slurm.client import Client

from ...fake_slurm import FakeSlurm

DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"


def test_an_unresponsive_slurm_answers_nothing_and_takes_nothing(
    programs: FakeSlurm, client: Client
) -> None:
    programs.tell("down", DOWN)

    assert client.queue() is None
    assert client.job("1") is None
    assert client.find("a", "b", Path("/c")) is None
    assert client.dependents(["1"]) is None
    assert client.step_ids("1", "ranks") is None
    assert client.partition_nodes("low") is None
    assert client.config() is None
    assert not client.requeue("1")
    assert not client.cancel(["1"])
    assert not client.signal_ranks("1.0", "TERM")
    assert not client.set_dependency("1", "afterok:2")


def test_a_machine_without_slurm_does_not_answer_either(
    programs: FakeSlurm, tmp_path: Path
) -> None:
    client = Client({"PATH": str(tmp_path)})

    assert client.queue() is None
    assert client.accounting(["1"]) is None
    assert not client.keeps_accounts()


def test_the_accounting_keeps_steps_apart(programs: FakeSlurm, client: Client) -> None:
    programs.tell(
        "accounting",
        "5|TIMEOUT|0:0|2026-01-01T10:00:00|2026-01-01T10:00:05|2026-01-01T11:00:05|gpu[01-02]\n"
        "5.batch|CANCELLED|0:15|2026-01-01T10:00:05|2026-01-01T10:00:05|Unknown|gpu01\n",
    )

    found = client.accounting(["5"])

    assert found is not None
    assert {name: [row.state for row in rows] for name, rows in found.items()} == {
        "5": ["TIMEOUT"],
        "5.batch": ["CANCELLED"],
    }


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("Slurm accounting storage is disabled", False),
        ("sacct: error: Connection refused", True),
    ],
)
def test_unresponsive_accounting_is_distinguished_from_none(
    programs: FakeSlurm, client: Client, words: str, kept: bool
) -> None:
    programs.replace("sacct", f"echo '{words}' >&2; exit 1")

    assert client.accounting(["5"]) is None
    assert client.keeps_accounts() is kept


def test_only_jobs_that_wait_for_the_given_ones_are_dependents(
    programs: FakeSlurm, client: Client
) -> None:
    programs.queue(
        "1|PENDING|None|||||",
        "2|PENDING|None|||||afterok:7_*(unfulfilled)",
        "3|PENDING|None|||||afterok:7_2(unfulfilled)",
        "4|PENDING|None|||||afterany:8(failed)",
    )

    found = client.dependents(["7_1", "8"])

    assert found is not None
    assert [row.job_id for row in found] == ["2", "4"]


def test_rows_of_jobs_that_run_elsewhere_in_a_federation_are_omitted(
    programs: FakeSlurm, client: Client
) -> None:
    programs.queue("5|RUNNING|None", "67108865|REVOKED|None")

    assert list(client.queue() or {}) == ["5"]


def test_nodes_are_named_once_each(programs: FakeSlurm, client: Client) -> None:
    programs.tell("nodes", "gpu02\ngpu01\ngpu01\n")

    assert client.partition_nodes("low") == ("gpu01", "gpu02")


def test_start_now_drops_the_start_time_of_a_pending_job(
    programs: FakeSlurm, client: Client
) -> None:
    assert client.start_now("50_2")
    assert programs.calls("scontrol update") == ["scontrol update JobId=50_2 StartTime=now"]
