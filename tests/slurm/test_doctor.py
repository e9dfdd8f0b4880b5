"""`meditron doctor` on a real Slurm, with its settings turned on and off."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .cluster import Cluster
from .desk import Desk, make_desk, wait

pytestmark = pytest.mark.slurm

TARGET = ("--cluster", "test-slurm")
WITHOUT_ACCOUNTING = ("sbatch", "srun", "squeue", "scontrol", "sinfo", "scancel")


@pytest.fixture
def desk(slurm: Cluster, tmp_path: Path) -> Desk:
    return make_desk(tmp_path, slurm)


@pytest.fixture
def settings(slurm: Cluster) -> Iterator[Callable[..., None]]:
    """Change lines of slurm.conf for one test."""
    before: dict[str, str | None] = {}

    def change(**lines: str | None) -> None:
        before.update(slurm.set_config(**lines))

    yield change
    slurm.set_config(**before)


@pytest.fixture
def low(slurm: Cluster) -> Iterator[Callable[..., None]]:
    """Change the partition `low` for one test."""

    def change(**values: str) -> None:
        words = [f"{name}={value}" for name, value in values.items()]
        slurm.run("scontrol", "update", "PartitionName=low", *words)

    yield change
    change(PreemptMode="REQUEUE", GraceTime="10", MaxTime="UNLIMITED", State="UP")


def examine(
    desk: Desk, *words: str, cluster: str = "test-slurm", code: int = 0, **environ: str
) -> dict[str, Any]:
    """Return the report of `meditron doctor --json`, its findings by fact."""
    found = desk("doctor", "--cluster", cluster, *words, "--json", code=code, **environ).json
    return {**found, "findings": {item["fact"]: item for item in found["findings"]}}


def values(found: dict[str, Any], *facts: str) -> list[tuple[str, str]]:
    """Return value and verdict of some facts."""
    return [
        (found["findings"][fact]["value"], found["findings"][fact]["verdict"]) for fact in facts
    ]


def test_a_probe_waits_for_nodes_and_reports_later_what_it_saw(desk: Desk) -> None:
    """All of a healthy site is OK, and plans know what was found out."""
    slurm = desk.slurm
    whole = ("--nodes=4", "--exclusive", "--output=/dev/null")
    blocker = slurm.submit("sleep 600", "--partition=high", *whole)
    slurm.wait_job(blocker, "RUNNING")
    waiting = examine(desk, "--wait", "0")
    assert waiting["findings"]["compute nodes"]["verdict"] == "UNKNOWN"
    assert "not probed" in waiting["strategy"]
    slurm.run("scancel", str(blocker))

    found = examine(desk, "--wait", "300")

    assert found["probe"]["job_id"] == waiting["probe"]["job_id"]
    assert {item["verdict"] for item in found["findings"].values()} == {"OK"}
    first, second = found["findings"]["processes on nodes"]["value"].split(", ")
    assert first < second
    assert {first, second} < {"gpu01", "gpu02", "gpu03", "gpu04"}
    assert "megatron.core 0.16" in found["findings"]["Python"]["value"]
    assert values(found, "flock between nodes", "shared storage") == [
        ("works", "OK"),
        ("yes", "OK"),
    ]
    assert found["strategy"].startswith("Slurm requeues a job that is preempted or loses a node; ")
    assert found["facts"]["slurm"] == {
        "max_array_size": 101,
        "requeue": True,
        "submit_from_jobs": True,
    }
    assert not list(desk.runs.glob(".doctor-*"))
    explained = desk("explain", "cluster.gpu_partition.grace_seconds", *TARGET).stdout
    assert "= 10\n" in explained
    assert f"from: {found['cache']}" in explained.replace("from: ", f"from: {desk.folder}/")


@pytest.mark.full
def test_settings_turned_the_other_way_are_found_and_change_the_plan(
    desk: Desk, settings: Callable[..., None], low: Callable[..., None]
) -> None:
    settings(
        JobRequeue="0",
        SlurmctldParameters=None,
        DependencyParameters="kill_invalid_depend",
        MaxArraySize="4",
        KillOnBadExit="1",
        MinJobAge="30",
    )
    low(PreemptMode="CANCEL", GraceTime="0", MaxTime="45")
    desk.profile("plain", ("slurm:\n  max_array_size: 101\n", ""))

    found = examine(desk, "--no-probe", cluster="plain")

    assert values(found, "JobRequeue", "preemption", "preempt_send_user_signal") == [
        ("0", "OK"),
        ("CANCEL", "OK"),
        ("off", "OK"),
    ]
    assert values(found, "kill_invalid_depend", "KillOnBadExit", "GraceTime", "MinJobAge") == [
        ("on", "WARN"),
        ("1", "OK"),
        ("0 s", "WARN"),
        ("30 s", "OK"),
    ]
    assert "since JobRequeue=0 prevents a requeue" in found["strategy"]
    assert found["facts"]["partitions"]["low"] == {
        "qos": "",
        "grace_seconds": 0,
        "max_time_minutes": 45,
    }
    target = ("--cluster", "plain", "--size", "tiny")
    shorter = (*target, "--set", "pretrain.time_minutes=45", "--set", "curate.shards=8")
    plan = desk("plan", "pretrain", *shorter)
    assert "partition low has a grace period of 0 s" in plan.stderr
    assert "facts about the cluster: cache/meditron/clusters/plain.json" in plan.stderr
    refused = desk("plan", "pretrain", *target, code=2)
    assert "pretrain.time_minutes = 60 is over the 45 minutes of partition low" in refused.stderr
    scripts = desk("submit", "pipeline", *shorter, "--dry-run").stdout
    assert "#SBATCH --no-requeue" in scripts
    assert "#SBATCH --requeue" not in scripts
    assert "tokenize: script 3 of 3" in scripts


@pytest.mark.full
def test_without_requeue_jobs_are_not_queued_again(
    desk: Desk, settings: Callable[..., None]
) -> None:
    """JobRequeue=0 is only a default: a job may still ask for it, so ours must not."""
    settings(JobRequeue="0")
    slurm = desk.slurm
    asking, quiet = (
        slurm.submit("sleep 600", "--partition=low", "--output=/dev/null", *option)
        for option in (["--requeue"], ["--no-requeue"])
    )
    for job in (asking, quiet):
        slurm.wait_job(job, "RUNNING")

    slurm.run("scontrol", "requeue", str(asking))
    refusal = slurm.run("scontrol", "requeue", str(quiet), check=False)

    assert refusal == ""
    wait(lambda: slurm.job_states(asking) == ("PENDING",), "the job in the queue again")
    assert slurm.job_states(quiet) == ("RUNNING",)
    slurm.run("scancel", str(asking), str(quiet))


@pytest.mark.full
def test_nothing_is_preempted_where_no_partition_is_above(
    desk: Desk, settings: Callable[..., None], low: Callable[..., None]
) -> None:
    low(PreemptMode="OFF")

    found = examine(desk, "--no-probe")

    assert found["findings"]["preemption"]["meaning"] == "no job in low is preempted"
    assert "GraceTime" not in found["findings"]
    assert found["facts"]["partitions"]["low"]["grace_seconds"] is None


def test_a_site_without_accounting_is_judged_by_its_other_answers(
    desk: Desk, tmp_path: Path
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in WITHOUT_ACCOUNTING:
        found = shutil.which(name, path=desk.slurm.env["PATH"])
        assert found
        (programs / name).symlink_to(found)

    answer = examine(desk, "--no-probe", PATH=str(programs))

    assert values(answer, "accounting", "account", "job limits") == [
        ("none", "WARN"),
        ("", "UNKNOWN"),
        ("", "UNKNOWN"),
    ]
    assert answer["works"]


@pytest.mark.full
def test_a_site_where_training_cannot_work_is_exit_5(desk: Desk, low: Callable[..., None]) -> None:
    low(State="DOWN")
    desk.profile("big", ("gpus: 2 ", "gpus: 8 "))

    closed = examine(desk, "--no-probe", code=5)
    big = desk("doctor", "--cluster", "big", "--no-probe", code=5)

    assert (
        closed["findings"]["partition low"]["meaning"]
        == "the partition is down: no job starts there"
    )
    assert "the profile states 8: no job would start; correct node.gpus" in big.stdout
    assert not closed["works"]


def test_jobs_that_sbatch_would_queue_for_ever_are_fatal(desk: Desk) -> None:
    desk.profile("wide", ("nodes: 4", "nodes: 8"), ("    data: 2", "    data: 8"))
    (desk.folder / "experiment.yaml").write_text(
        "pretrain: {micro_batch_size: 2, global_batch_size: 16}\n"
    )

    answer = desk("doctor", "--cluster", "wide", "--no-probe", "--json", code=5)

    refused = [item for item in answer.json["findings"] if item["verdict"] == "FATAL"]
    assert [item["fact"] for item in refused] == ["job of pretrain (8 nodes of low)"]
    assert refused[0]["meaning"] == (
        "such a job can never start: it requests 8 nodes, low has 4: correct gpu_partition.nodes "
        "(sbatch: Requested node configuration is not available)"
    )
