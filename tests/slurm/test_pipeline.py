"""The pipeline on a real Slurm, through the command line, with everything that may hooks it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from jobs.contract import rundir
from jobs.contract.events import read_events
from jobs.contract.files import read_json
from meditron_cli.config.load import load

from ..fake_nvml import build, write_readings
from ..hf_folders import write_base_model
from .cluster import Cluster
from .desk import (
    Answer,
    Desk,
    array_of,
    exit_of,
    kill_rank,
    make_desk,
    saved_steps,
    steps,
    wait,
)

pytestmark = pytest.mark.slurm

LONG = (
    "pretrain.train_steps=60",
    "pretrain.save_interval=20",
    "supervision.retry_delay_seconds=0",
)
"""Long enough to be hit on the way."""

ENDLESS = ("pretrain.train_steps=100000", "pretrain.save_interval=100000")
"""Training that never reaches its target while a test looks at it."""


@pytest.fixture(scope="module")
def desk(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    yield make_desk(tmp_path_factory.mktemp("desk"), slurm)
    slurm.cancel_all()


@pytest.fixture
def clean(desk: Desk) -> Iterator[Desk]:
    """Yield the desk, for a test that may leave jobs behind."""
    yield desk
    desk.slurm.cancel_all()


@pytest.fixture(scope="module")
def finished(desk: Desk) -> Answer:
    """Return a pipeline that has run to its end."""
    answer = desk.submit("pipeline")
    desk.wait_end(*(job for ids in answer.jobs.values() for job in ids))
    return answer


@pytest.fixture(scope="module")
def own_data(finished: Answer) -> tuple[str, ...]:
    """Settings that train on the finished run's tokens, so that only training is to be done."""
    tokens = finished.run.path("tokens")
    return (
        f"pretrain.data=[{tokens}/train/00000, {tokens}/train/00001]",
        f"pretrain.validation_data=[{tokens}/validation/00000]",
    )


# ---- the whole pipeline


def test_the_pipeline_succeeds(desk: Desk, finished: Answer) -> None:
    found = desk.status(finished.run)

    assert found["state"] == "succeeded"
    assert {name: stage["done"] for name, stage in found["stages"].items()} == {
        "curate": 1,
        "tokenize": 3,
        "index": 1,
        "pretrain": 1,
        "evaluate": 2,
    }
    assert found["stages"]["pretrain"]["step"] == 8


def test_arrays_run_on_their_partitions(desk: Desk, finished: Answer) -> None:
    for stage, size in (("tokenize", 3), ("evaluate", 2)):
        (array,) = array_of(finished.jobs[stage])
        expected = [[f"{array}_{index}", "cpu", "COMPLETED"] for index in range(size)]

        def is_recorded(array: str = array, rows: list[list[str]] = expected) -> bool:
            return sorted(desk.accounts(array, "JobID,Partition,State")) == rows

        wait(is_recorded, f"the accounting of {stage}")


def test_pretraining_is_four_ranks_over_two_nodes(desk: Desk, finished: Answer) -> None:
    (job,) = finished.jobs["pretrain"]

    def steps() -> list[str]:
        columns = ("-o", "NTasks,NNodes,State")
        return desk.slurm.run("sacct", "-n", "-P", *columns, "-j", job).splitlines()

    wait(lambda: steps().count("4|2|COMPLETED") == 1, "the accounting of the ranks")
    spec = read_json(finished.run.spec("pretrain", 0))
    layout = spec["spec"]["parallel"]
    assert (layout["tensor"], layout["data"], layout["sequence_parallel"]) == (2, 2, True)
    log = (finished.run.attempt("pretrain", 1) / "ranks-00000.log").read_text()
    assert {line.split(":")[0].strip() for line in log.splitlines()} <= {"0", "1", "2", "3"}
    nodes = {path.stem for path in finished.run.attempt("pretrain", 1).glob("health-*.json")}
    assert len(nodes) == 2
    assert exit_of(finished.run, "pretrain", 1)["class"] == "finished"


def test_the_scripts_are_those_of_the_dry_run(desk: Desk, finished: Answer) -> None:
    words = ("submit", "pipeline", "--cluster", "test-slurm", "--size", "tiny", "--dry-run")
    shown = desk(*words).stdout

    names = {job: stage for stage, ids in finished.jobs.items() for job in array_of(ids)}

    def named(dependency: re.Match[str]) -> str:
        return f"'afterok:{':'.join(f'<{names[job]}>' for job in dependency[1].split(':'))}'\n"

    for array, stage in names.items():
        script = (finished.run.attempt(stage, 1) / f"{array}_submission.sh").read_text()
        script = re.sub(r"afterok:([\d:]+)\n", named, script)
        assert script.rstrip("\n") in shown


def test_the_report_has_its_promised_keys(desk: Desk, finished: Answer) -> None:
    found = desk("report", finished.run.name, "--json").json

    assert {"format", "run", "corpus", "pretrain", "evaluations", "time", "goodput"} <= set(found)
    assert {"documents", "tokens"} <= set(found["corpus"])
    pretrain = found["pretrain"]
    assert {"loss_first", "validation_first", "validation_last", "tokens_per_s"} <= set(pretrain)
    assert pretrain["steps"] == 8
    assert pretrain["loss_last"] < pretrain["loss_first"]
    assert [item["checkpoint_step"] for item in found["evaluations"]] == [0, 8]
    keys = {"benchmark", "checkpoint_step", "mode", "accuracy", "ci95", "chance", "n", "p_value"}
    assert all(keys <= set(item) for item in found["evaluations"])
    assert {item["n"] for item in found["evaluations"]} == {4}
    assert found["time"]["total_s"] > 0
    assert found["time"]["queued_s"] is not None


def test_a_base_model_is_imported_and_exported_on_the_cpu_partition(clean: Desk) -> None:
    folder = clean.folder / "base"
    experiment = load("test-slurm", "tiny", clean.folder / "experiment.yaml", []).experiment
    write_base_model(folder, experiment)
    settings = (f"model.weights={folder}", "export.step=first", "verify.enabled=false")

    convert = clean.submit("convert", *settings)
    export = clean.submit("export", *settings)
    jobs = [convert.jobs["convert"][0], export.jobs["export"][0]]
    clean.wait_end(*jobs)

    assert convert.run == export.run

    def accounts() -> list[list[str]]:
        return [row for job in jobs for row in clean.accounts(job, "Partition,State")]

    wait(lambda: accounts() == [["cpu", "COMPLETED"]] * 2, "the accounting of both jobs")
    assert (export.run.path("export-first") / "model.safetensors").is_file()


def test_submitting_a_finished_pipeline_again_submits_nothing(desk: Desk, finished: Answer) -> None:
    wait(lambda: desk.queued() == [], "the end of the last recovery_job")

    again = desk.submit("pipeline")

    assert again.run == finished.run
    assert again.jobs == {stage: [] for stage in finished.jobs}
    assert desk.queued() == []


# ---- training that is hit on the way


def begin_training(desk: Desk, *settings: str) -> Answer:
    """Submit training, and return once several of its steps are done."""
    answer = desk.submit("pretrain", *settings)
    wait(lambda: len(steps(answer.run)) > 5, "the sixth step")
    return answer


def test_a_second_submission_keeps_a_running_job(clean: Desk, own_data: tuple[str, ...]) -> None:
    settings = (*own_data, *ENDLESS, "seed=4")
    training = begin_training(clean, *settings)
    queued = clean.queued()

    again = clean.submit("pretrain", *settings)

    assert again.run == training.run
    assert again.jobs == {"index": [], "pretrain": training.jobs["pretrain"]}
    # Beside it there are recovery jobs; that of the index may end meanwhile.
    assert set(training.jobs["pretrain"]) < set(clean.queued()) <= set(queued)
    assert clean.status(training.run)["state"] == "running"


def test_a_job_that_is_cancelled_saves_first_and_resumes_from_there(
    clean: Desk, own_data: tuple[str, ...]
) -> None:
    """scancel, as a person types it: TERM to all, and KILL after KillWait, here Slurm's default."""
    training = begin_training(clean, *own_data, *ENDLESS, "seed=5")
    (job,) = training.jobs["pretrain"]

    before = clean.slurm.set_config(KillWait="30")
    try:
        clean.slurm.run("scancel", job)
        clean.wait_end(job)
    finally:
        clean.slurm.set_config(**before)
    saved = saved_steps(training.run)[-1]
    wait(lambda: clean.status(training.run)["state"] == "cancelled", "the recovery job's record")
    resumed = clean("resume", training.run.name, "--json")
    wait(lambda: steps(training.run, attempt=2), "a step of the second attempt")

    assert saved > 5
    assert saved == steps(training.run, attempt=1)[-1]
    assert resumed.jobs["pretrain"] != [job]
    assert steps(training.run, attempt=2)[0] == saved + 1


@pytest.mark.full
def test_after_a_killed_rank_training_restarts_in_place_and_reaches_its_target(
    clean: Desk, own_data: tuple[str, ...]
) -> None:
    training = begin_training(clean, *own_data, *LONG, "seed=6")

    kill_rank(training.run, 2)
    record = exit_of(training.run, "pretrain", 1)
    saved = saved_steps(training.run)[-1]
    wait(lambda: clean.queued() == [], "the end of the job and of its recovery job")

    assert (record["cause"], record["action"]) == ("crash", "restart")
    second = record["node"]  # of the two, wherever there was room
    assert second in ("gpu02", "gpu03", "gpu04")
    assert record["message"].startswith(f"rank 2 on {second} was killed by SIGKILL at step ")
    assert exit_of(training.run, "pretrain", 2)["job_id"] == record["job_id"]
    assert clean.status(training.run)["state"] == "succeeded"
    assert steps(training.run, attempt=2) == list(range(saved + 1, 61))
    assert set(steps(training.run)) == set(range(1, 61))


def test_before_the_time_limit_training_saves_and_a_fresh_job_resumes(
    clean: Desk, own_data: tuple[str, ...]
) -> None:
    """The limit is lowered once steps are done, to one that leaves time for the signal."""
    answer = begin_training(clean, *own_data, *ENDLESS, "pretrain.signal_lead_seconds=50")
    (job,) = answer.jobs["pretrain"]

    minutes = 2 + int(clean.accounts(job, "ElapsedRaw")[0][0]) // 60
    clean.slurm.run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    record = exit_of(answer.run, "pretrain", 1)
    saved = saved_steps(answer.run)[-1]
    wait(lambda: steps(answer.run, attempt=2), "a step of the second attempt")

    assert (record["cause"], record["action"], record["code"]) == ("time_limit", "submit", 75)
    assert (saved, record["step_after"]) == (steps(answer.run, attempt=1)[-1], saved)
    assert steps(answer.run, attempt=2)[0] == saved + 1
    # Not TIMEOUT: the code reports that a successor is there.
    accounts = lambda: clean.accounts(job, "State,ExitCode")  # noqa: E731
    wait(lambda: accounts() == [["FAILED", "75:0"]], "the accounting of the first job")
    assert clean.status(answer.run)["state"] == "running"


# ---- refusals and other ends


def test_with_a_missing_partition_nothing_is_queued_and_the_run_is_usable(
    clean: Desk,
) -> None:
    """The partition is that of training: the stages before it were accepted, and are taken back."""
    clean.profile("broken", ("  name: low", "  name: nosuch"))

    refused = clean.submit("pipeline", "seed=1", cluster="broken", code=3)
    queued = clean.queued()
    clean.profile("broken")
    accepted = clean.submit("pipeline", "seed=1", cluster="broken")

    assert refused.stdout == ""
    error, hint = refused.stderr.splitlines()[-2:]  # before them, a note on a sibling run
    assert error == (
        "error: sbatch refused pretrain: invalid partition specified: nosuch; Invalid partition "
        "name specified"
    )
    assert hint.startswith("hint: `meditron submit pretrain --dry-run --run ")
    assert hint.endswith("` shows the script")
    assert queued == []
    assert [len(ids) for ids in accepted.jobs.values()] == [1, 3, 1, 1, 2]


def test_cancel_ends_everything_queued_and_running(clean: Desk) -> None:
    answer = clean.submit("pipeline", *ENDLESS, "seed=2")
    (curate,) = answer.jobs["curate"]
    clean.slurm.wait_job(curate, ["RUNNING", "COMPLETED"])

    clean("cancel", answer.run.name)

    wait(lambda: clean.queued() == [], "an empty queue")
    assert clean.status(answer.run)["state"] == "cancelled"


def test_dependents_that_can_never_start_are_replaced(clean: Desk) -> None:
    documents = clean.folder / "docs.jsonl"
    good = documents.read_text()
    documents.write_text(good + "{broken\n")
    first = clean.submit("pipeline", "seed=3")
    stuck = [
        job for stage in ("tokenize", "index", "pretrain", "evaluate") for job in first.jobs[stage]
    ]
    record = exit_of(first.run, "curate", 1)
    wait(lambda: "DependencyNeverSatisfied" in reasons(clean), "a dependency that never is")
    failed = clean.status(first.run)
    documents.write_text(good)

    resumed = clean("resume", first.run.name, "--json")

    assert f"{documents}:41: " in record["message"]
    assert failed["state"] == "failed"
    assert not set(stuck) & set(clean.queued())
    assert all(set(ids).isdisjoint(first.jobs[stage]) for stage, ids in resumed.jobs.items())
    wait(lambda: (first.run.done("curate", 0)).exists(), "curate")
    wait(lambda: (first.run.done("tokenize", 0)).exists(), "tokenize after it")


def reasons(desk: Desk) -> str:
    return desk.slurm.run("squeue", "-h", "-r", "-o", "%r")


def test_a_node_that_is_not_fit_stops_the_start_and_the_next_job_excludes_it(
    clean: Desk, own_data: tuple[str, ...]
) -> None:
    """A prologue gives one node a GPU that requires a reset, through a stand-in driver."""
    library = build(clean.folder / "lib")
    well = write_readings(clean.folder / "well", {"count": 2})
    unwell = write_readings(clean.folder / "unwell", {"count": 2, "gpu.field.230": 1})
    prologue = clean.folder / "prologue"
    prologue.write_text(
        f'#!/bin/sh\n[ "$SLURMD_NODENAME" != gpu02 ] || echo "export FAKE_NVML={unwell}"\n'
    )
    prologue.chmod(0o755)
    variables = f"  set:\n    LD_LIBRARY_PATH: {library}\n    FAKE_NVML: {well}\n"
    clean.profile("gpus", ("device: cpu", "device: cuda"), ("  set:\n", variables))

    before = clean.slurm.set_config(TaskProlog=str(prologue))
    try:
        answer = clean.submit("pretrain", *own_data, "pretrain.precision=fp32", cluster="gpus")
        wait(lambda: len(starts(answer.run)) > 1, "a start of the second job")
    finally:
        clean.slurm.set_config(**before)

    record = exit_of(answer.run, "pretrain", 1)
    assert (record["cause"], record["action"], record["node"]) == ("unhealthy", "submit", "gpu02")
    assert record["message"].startswith("gpu02 is unhealthy: ")
    assert record["message"].endswith("(recovery_action)")
    assert not list(answer.run.attempt("pretrain", 1).glob("ranks-*.log"))
    second = next(item for item in submissions(answer.run) if item["by"] == "supervisor")
    assert (second["exclude"], second["replaces"]) == (["gpu02"], answer.jobs["pretrain"])
    (started,) = (item for item in starts(answer.run) if item["job_id"] in second["job_ids"])
    assert "gpu02" not in started["nodes"]


def submissions(run: rundir.RunDir) -> list[dict[str, Any]]:
    return [
        event
        for event in read_events(run)
        if event["event"] == "submit" and event["stage"] == "pretrain"
    ]


def starts(run: rundir.RunDir) -> list[dict[str, Any]]:
    return [
        event
        for event in read_events(run)
        if event["event"] == "start" and event["stage"] == "pretrain"
    ]


def test_the_sample_profile_is_the_one_the_cluster_has(desk: Desk) -> None:
    """Nodes and arrays are those of ``clusters/test-slurm.yaml``."""
    partitions = desk.slurm.run("sinfo", "-h", "-o", "%R|%D").split()
    limit = next(
        line.split("=")[1].strip()
        for line in desk.slurm.run("scontrol", "show", "config").splitlines()
        if line.startswith("MaxArraySize")
    )

    assert {"cpu|2", "low|4"} <= set(partitions)
    assert limit == "101"
