"""The Slurm scheduler against a real Slurm: what stand-ins cannot prove."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.contract.events import IntentEvent, SubmitEvent, submit_event
from jobs.contract.rundir import RunDir
from jobs.slurm import queries, transaction
from jobs.slurm.client import queued
from meditron_cli.errors import SchedulerError
from meditron_cli.plan.model import Plan
from meditron_cli.scheduler.base import JobInfo, JobState
from meditron_cli.scheduler.slurm import SlurmScheduler

from ..plans import plan_of
from .cluster import Cluster
from .desk import array_of, wait

pytestmark = pytest.mark.slurm

NOBODY = 65534
QUIET = ("--output=/dev/null",)
HELD = ("--hold", *QUIET)
HOSTILE = "a b'c\"d$(touch pwned)`touch pwned`;&#é"


@pytest.fixture
def site(slurm: Cluster) -> Iterator[SlurmScheduler]:
    """Yield the scheduler, on a cluster that is empty before and after."""
    slurm.cancel_all()
    yield SlurmScheduler(slurm.env)
    slurm.cancel_all()


def run_folder(tmp_path: Path, name: str = "trial-tiny-0") -> Path:
    """Return a run directory with what sbatch needs of it."""
    run = tmp_path / "runs" / name
    (run / "code").mkdir(parents=True)
    return run


def submit(
    site: SlurmScheduler,
    plan: Plan,
    run: Path,
    stage: str = "tokenize",
    *,
    attempt: int = 1,
    after: Sequence[str] = (),
) -> list[str]:
    """Submit a whole stage, as a launch does."""
    found = plan.stage(stage)
    RunDir(run).attempt(stage, attempt).mkdir(parents=True)
    indices = range(len(found.tasks))
    intent = intent_of(stage, attempt, indices)

    def make() -> SubmitEvent:
        return submit_event(intent, site.submit(plan, found, indices, run, attempt, after), ())

    return list(transaction.submit(RunDir(run), intent, site, make).job_ids)


def intent_of(stage: str, attempt: int, indices: Sequence[int] = ()) -> IntentEvent:
    return IntentEvent(0.0, stage, attempt, tuple(indices), "slurm")


def names_in_queue(slurm: Cluster) -> list[str]:
    return slurm.run("squeue", "-h", "-o", "%j").split()


# ---- states


@pytest.fixture
def hidden(slurm: Cluster) -> Iterator[str]:
    """Yield a partition that lists leave out."""
    slurm.update_partition("apart", Hidden="YES")
    yield "apart"
    slurm.update_partition("apart", Hidden="NO")


def run_as_nobody(slurm: Cluster, *command: str) -> list[str]:
    """Return a command's output for an ordinary user; administrators see all partitions."""
    who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    done = subprocess.run(
        command, env=slurm.env, cwd="/", text=True, capture_output=True, check=True, **who
    )
    return done.stdout.splitlines()


@pytest.mark.usefixtures("site")
def test_jobs_and_nodes_of_a_hidden_partition_are_seen(slurm: Cluster, hidden: str) -> None:
    words = ("sbatch", "--parsable", f"--partition={hidden}", *HELD, "--wrap=true")
    (job,) = run_as_nobody(slurm, *words)

    usual = run_as_nobody(slurm, "squeue", "--me", "--noheader", "--format=%i")
    ours = run_as_nobody(slurm, *queries.squeue_command())
    nodes = run_as_nobody(slurm, *queries.sinfo_command(hidden))
    everywhere = run_as_nobody(slurm, *queries.sinfo_command())

    assert usual == []
    assert [queries.parse(line, queries.QueueRow)[0].job_id for line in ours] == [job]
    assert nodes == ["gpu05", "gpu06"]
    assert set(nodes) < set(everywhere)


@pytest.mark.usefixtures("site")
def test_the_owner_of_a_job_may_change_its_comment(slurm: Cluster) -> None:
    words = ("sbatch", "--parsable", "--comment=run=a,attempt=1", *HELD, "--wrap=true")
    (job,) = run_as_nobody(slurm, *words)

    run_as_nobody(slurm, "scontrol", "update", f"JobId={job}", "Comment=run=a,attempt=1,storage=0")

    facts = queries.parse_job(slurm.run(*queries.scontrol_job_command(job)))
    assert facts is not None
    assert facts.comment == "run=a,attempt=1,storage=0"


def states(site: SlurmScheduler, job_ids: list[str]) -> dict[str, JobInfo]:
    """States of jobs, whatever run they belong to."""
    return site.states({"": job_ids})[""]


@pytest.fixture
def bad_prolog(slurm: Cluster) -> Iterator[str]:
    """Yield a node whose Prolog fails."""
    script = slurm.folder / "prolog.sh"
    script.write_text('#!/bin/sh\n[ "$SLURMD_NODENAME" != gpu05 ]\n')
    script.chmod(0o755)
    before = slurm.set_config(Prolog=str(script))
    yield "gpu05"
    slurm.set_config(**before)
    slurm.run("scontrol", "update", "NodeName=gpu05", "State=RESUME", check=False)


def test_the_owner_releases_a_job_held_after_a_failed_prolog_and_it_ends_on_another_node(
    slurm: Cluster, site: SlurmScheduler, bad_prolog: str
) -> None:
    words = ("sbatch", "--parsable", "--partition=apart", *QUIET, "--wrap=hostname")
    (job,) = run_as_nobody(slurm, *words)

    def held() -> bool:
        (row,) = (queries.parse(line, queries.QueueRow)[0] for line in queue(slurm))
        return queued(row).is_held_after_launch

    wait(held, "the job to be held")
    drained = slurm.node_states()[bad_prolog]
    run_as_nobody(slurm, "scontrol", "release", job)
    slurm.wait_job(job, "COMPLETED")

    assert drained.startswith("drain")
    assert slurm.run("squeue", "-h", "-t", "all", "-o", "%N", "-j", job) == "gpu06\n"


def queue(slurm: Cluster) -> list[str]:
    """Rows of the queue as the client asks for them, of all users."""
    return slurm.run(*(word for word in queries.squeue_command() if word != "--me")).splitlines()


def test_waiting_elements_of_an_array_are_known_one_by_one(
    slurm: Cluster, site: SlurmScheduler
) -> None:
    array = slurm.submit("true", "--array=0-9%2", *HELD)
    line = slurm.run("squeue", "-h", "-o", "%i", "-j", str(array))

    found = states(site, [f"{array}_{index}" for index in range(10)])

    assert line == f"{array}_[0-9%2]\n"
    assert {(info.state, info.reason) for info in found.values()} == {
        (JobState.QUEUED, "JobHeldUser")
    }


def test_of_an_array_with_one_element_gone_the_others_are_not(
    slurm: Cluster, site: SlurmScheduler
) -> None:
    array = slurm.submit("true", "--array=0-2", *HELD)

    site.cancel("", [f"{array}_1"])

    found = states(site, [f"{array}_{index}" for index in range(3)])
    first, gone, last = (info.state for info in found.values())
    assert first is last is JobState.QUEUED
    assert gone in (JobState.ENDED, JobState.MISSING)


def test_jobs_that_have_ended_are_known_by_how(slurm: Cluster, site: SlurmScheduler) -> None:
    good, bad = slurm.submit("true", *QUIET), slurm.submit("exit 3", *QUIET)
    gone = slurm.submit("true", *HELD)
    slurm.wait_job(good, "COMPLETED")
    slurm.wait_job(bad, "FAILED")
    site.cancel("", [str(gone)])
    ids = [str(good), str(bad), str(gone), "999999"]

    wait(
        lambda: all(states(site, ids[:3])[job].word for job in ids[:3]),
        "the accounting",
    )
    found = states(site, ids)

    assert [info.state for info in found.values()] == [JobState.ENDED] * 3 + [JobState.MISSING]
    words = [info.word for info in found.values()]
    assert words[:2] == ["COMPLETED", "FAILED"]
    assert words[2].startswith("CANCELLED")


def test_a_job_that_slurm_queued_again_is_queued_whatever_its_history(
    slurm: Cluster, site: SlurmScheduler
) -> None:
    job = slurm.submit("sleep 300", "--requeue", *QUIET)
    slurm.wait_job(job, "RUNNING")
    slurm.run("scontrol", "requeuehold", str(job))
    wait(lambda: slurm.job_states(job) == ("PENDING",), "the job to be queued again")

    def history() -> list[str]:
        return slurm.run("sacct", "-D", "-X", "-n", "-P", "-o", "State", "-j", str(job)).split()

    wait(lambda: history()[:1] == ["REQUEUED"], "the accounting")
    waiting = states(site, [str(job)])[str(job)]
    site.cancel("", [str(job)])
    wait(lambda: states(site, [str(job)])[str(job)].state is JobState.ENDED, "its end")

    assert waiting.state is JobState.QUEUED


def test_a_dependency_that_can_never_be_is_reported(slurm: Cluster, site: SlurmScheduler) -> None:
    job = slurm.submit("exit 1", *QUIET)
    after = slurm.submit("true", f"--dependency=afterok:{job}", *QUIET)
    never = "DependencyNeverSatisfied"

    wait(lambda: states(site, [str(after)])[str(after)].reason == never, never)

    assert states(site, [str(after)])[str(after)].state is JobState.QUEUED


def test_a_persons_settings_hide_no_job(slurm: Cluster) -> None:
    job = str(slurm.submit("true", "--partition=low", *HELD))
    settings = {"SQUEUE_PARTITION": "cpu", "SQUEUE_STATES": "RUNNING", "SQUEUE_FORMAT": "%j"}

    found = states(SlurmScheduler({**slurm.env, **settings}), [job])
    slurm.cancel_all()

    assert found[job].state is JobState.QUEUED


def test_without_accounting_what_left_the_queue_is_missing(
    slurm: Cluster, site: SlurmScheduler, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "squeue").symlink_to("/usr/bin/squeue")
    job = slurm.submit("true", *QUIET)
    slurm.wait_job(job, "COMPLETED")

    found = states(SlurmScheduler({**slurm.env, "PATH": str(tmp_path / "bin")}), [str(job)])

    assert found[str(job)] == JobInfo(str(job), JobState.MISSING, "", "no accounting")


def test_cancelling_what_has_ended_or_never_was_is_no_error(
    slurm: Cluster, site: SlurmScheduler
) -> None:
    job = slurm.submit("true", *QUIET)
    slurm.wait_job(job, "COMPLETED")

    site.cancel("", [str(job), "999999", "999999_7"])


# ---- submission


def test_arrays_are_split_where_the_site_requires_it_and_waited_for_as_wholes(
    slurm: Cluster, site: SlurmScheduler, tmp_path: Path, slurm_environment: Cluster
) -> None:
    plan, run = plan_of("test-slurm", "tiny", "curate.shards=103"), run_folder(tmp_path)
    held = str(slurm.submit("true", *HELD))

    tokens = submit(site, plan, run, after=[held])
    (training,) = submit(site, plan, run, "pretrain", after=tokens)

    first, second = sorted(array_of(tokens), key=int)
    assert tokens == [*(f"{first}_{i}" for i in range(101)), *(f"{second}_{i}" for i in range(3))]
    waits_for = slurm.run("squeue", "-h", "-o", "%E", "-j", training).strip()
    assert waits_for == f"afterok:{first}_*(unfulfilled),afterok:{second}_*(unfulfilled)"


def test_a_hostile_path_is_taken_literally(
    slurm: Cluster, site: SlurmScheduler, tmp_path: Path, slurm_environment: Cluster
) -> None:
    """The script runs with `echo` in the place of Python, which shows what it is given."""
    run = run_folder(tmp_path / HOSTILE)
    plan = plan_of("test-slurm", "tiny")
    plan = replace(plan, site=replace(plan.site, python="/bin/echo"))

    (job,) = submit(site, plan, run, "curate")
    slurm.wait_job(job, "COMPLETED")

    folder = RunDir(run).attempt("curate", 1)
    log = (folder / f"{job}_0_log.out").read_text()
    assert log == f"-u -m submitit.core._submit {folder}\n"
    assert slurm.run("squeue", "-h", "-t", "all", "-o", "%Z", "-j", job) == f"{run}/code\n"
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            {"partition": "nosuch"},
            "sbatch refused tokenize: invalid partition specified: nosuch; Invalid partition name "
            "specified",
        ),
        (
            {"memory_gb": 4000},
            "sbatch refused tokenize: Memory specification can not be satisfied; Requested node "
            "configuration is not available",
        ),
    ],
)
def test_a_refusal_has_slurms_reason_and_nothing_remains(
    slurm: Cluster,
    site: SlurmScheduler,
    tmp_path: Path,
    slurm_environment: Cluster,
    setting: dict[str, object],
    sentence: str,
) -> None:
    plan = plan_of("test-slurm", "tiny", stages=("tokenize",))
    (stage,) = plan.stages
    stage = replace(stage, resources=replace(stage.resources, **setting))  # type: ignore[arg-type]
    plan = replace(plan, stages=(stage,))

    with pytest.raises(SchedulerError) as caught:
        submit(site, plan, run_folder(tmp_path))

    assert caught.value.message == sentence
    assert names_in_queue(slurm) == []


@pytest.mark.full
def test_a_job_of_a_controller_that_answers_too_late_is_named(
    slurm: Cluster,
    site: SlurmScheduler,
    tmp_path: Path,
    slurm_environment: Cluster,
    request: pytest.FixtureRequest,
) -> None:
    """sbatch gives up after ten seconds; the job is queued once the controller runs again."""
    plan, run = plan_of("test-slurm", "tiny", stages=("curate",)), run_folder(tmp_path)
    pid = int((slurm.folder / "run" / "slurmctld.pid").read_text())
    slurm.update_partition("cpu", State="DOWN")  # queues jobs and starts none
    request.addfinalizer(lambda: slurm.update_partition("cpu", State="UP"))

    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(SchedulerError) as caught:
            submit(site, plan, run, "curate")
        silent = states(site, ["1"])
    finally:
        os.kill(pid, signal.SIGCONT)
    wait(lambda: names_in_queue(slurm), "the job that came late")

    name = "trial-tiny-0.curate"
    assert caught.value.message == (
        "Slurm did not answer sbatch for curate: Socket timed out on send/recv operation; jobs "
        f"named {name} may be queued all the same"
    )
    assert silent["1"].state is JobState.UNKNOWN
    assert names_in_queue(slurm) == [name]

    site.withdraw(RunDir(run), intent_of("curate", 2))
    others = names_in_queue(slurm)
    site.withdraw(RunDir(run), intent_of("curate", 1))

    assert others == [name]
    wait(lambda: names_in_queue(slurm) == [], "its end")
