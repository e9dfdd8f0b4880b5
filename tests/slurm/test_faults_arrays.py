"""Tasks of arrays that are killed, damaged and preempted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.events import read_events
from jobs.contract.rundir import RunDir

from .cluster import Cluster
from .desk import saved_steps, wait
from .faults import Laboratory, Truth, check_reached, command_lines, gpu_partition, kill

pytestmark = pytest.mark.slurm


def starts(run: RunDir, stage: str) -> Counter[int]:
    """Return the number of starts by task of a stage."""
    return Counter(
        event["index"]
        for event in read_events(run)
        if event["event"] == "start" and event["stage"] == stage
    )


def ends(run: RunDir, stage: str, index: int) -> list[dict[str, Any]]:
    return [
        event
        for event in read_events(run)
        if event["event"] == "exit" and event["stage"] == stage and event["index"] == index
    ]


def ranks(run: RunDir, stage: str, index: int) -> list[int]:
    """Return the process ids of a task's ranks."""
    wanted = [word.encode() for word in ("-u", "-m", "jobs", stage, str(run.root), str(index))]
    return [pid for pid, words in command_lines() if words[1:7] == wanted]


@pytest.fixture
def held(laboratory: Laboratory) -> Path:
    """Return a trial whose tasks of tokenization wait while the file is there."""
    folder = laboratory.desk.folder / "fault_hooks" / "array"
    folder.mkdir(parents=True)
    return folder / "hold-tokenize"


def test_one_killed_task_and_one_truncated_output_are_all_that_is_done_again(
    laboratory: Laboratory, held: Path
) -> None:
    desk, words = laboratory.desk, ("name=array", "supervision.retry_delay_seconds=0")
    held.touch()
    (curate,) = desk.submit("curate", *words, cluster="faulty").jobs["curate"]
    desk.wait_end(curate)
    answer = desk.submit("tokenize", *words, cluster="faulty")
    run = answer.run
    wait(lambda: all(ranks(run, "tokenize", index) for index in range(3)), "three tasks")

    since = kill(ranks(run, "tokenize", 1)[0])
    wait(lambda: ends(run, "tokenize", 1), "the end of the killed task")
    held.unlink()
    wait(lambda: len(ends(run, "tokenize", 1)) > 1, "the end of the second start")
    wait(lambda: all(run.done("tokenize", index).exists() for index in range(3)), "all tasks")
    first = starts(run, "tokenize")
    killed, finished = ends(run, "tokenize", 1)
    tokens = run.path("tokens/train/00000.bin")
    whole = tokens.read_bytes()
    tokens.write_bytes(whole[:-2])
    wait(lambda: not set(answer.jobs["tokenize"]) & set(desk.queued()), "the end of the array")
    again = desk.submit("tokenize", *words, cluster="faulty")
    desk.wait_end(*again.jobs["tokenize"])
    laboratory.record_stage("kill -9 a task of tokenization", killed, since, "crash")

    assert (killed["cause"], finished["cause"]) == ("crash", "completed")
    assert first == {0: 1, 1: 2, 2: 1}
    assert starts(run, "tokenize") == {0: 2, 1: 2, 2: 1}
    assert tokens.read_bytes() == whole


@pytest.fixture
def grace(slurm: Cluster) -> Iterator[None]:
    """Preempted jobs have no time to save."""
    slurm.update_partition("right", GraceTime="0")
    yield
    slurm.update_partition("right", GraceTime="10")


@pytest.mark.full
def test_an_evaluation_that_is_preempted_finds_its_checkpoint_although_training_prunes(
    laboratory: Laboratory, truth: Truth, grace: None
) -> None:
    """Its lease holds the checkpoint of step 5; later ones are pruned."""
    apart = ("cpu_partition:\n  name: cpu\n", "cpu_partition:\n  name: right\n")
    laboratory.profile("pruned", gpu_partition("left"), apart)
    trial = laboratory.begin("pruned", "pretrain.keep_checkpoints=2", hold=7, cluster="pruned")
    trial.reach(7)
    (trial.folder / "hold-evaluate").touch()
    trial.submit(
        "pretrain.keep_checkpoints=10",
        "evaluate.checkpoints=[5]",
        cluster="pruned",
        stage="evaluate",
    )
    leases = trial.run.path("checkpoints/leases")
    wait(lambda: list(leases.glob("iter_0000005.*.json")), "the lease of the evaluation")

    trial.reach(27)
    since = time.time()
    node = laboratory.slurm.run("squeue", "-h", "-t", "R", "-p", "right", "-o", "%N").strip()
    take = ("--partition=high", f"--nodelist={node}", "--exclusive", "--output=/dev/null")
    urgent = laboratory.slurm.submit("true", *take)
    laboratory.slurm.wait_job(urgent, "COMPLETED")
    trial.reach(37)
    kept = saved_steps(trial.run)
    (trial.folder / "hold-evaluate").unlink()
    wait(lambda: len(ends(trial.run, "evaluate", 0)) > 1, "the end of the evaluation")
    trial.hold()
    laboratory.record_stage(
        "evaluation preempted while training prunes",
        ends(trial.run, "evaluate", 0)[0],
        since,
        "preempted",
    )

    assert kept == [0, 5, 25, 30, 35]
    assert [end["cause"] for end in ends(trial.run, "evaluate", 0)] == ["preempted", "completed"]
    check_reached(trial, truth)
