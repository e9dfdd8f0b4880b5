"""This machine as a cluster: real background processes over ranks that do what each test needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import rundir, specs
from jobs.contract.events import IntentEvent, read_events
from jobs.contract.files import read_json, write_json
from jobs.contract.job import usable_cores
from jobs.contract.stage_specs import Spec, TokenizeSpec
from jobs.supervision.ranks import local_ranks
from meditron_cli.errors import SchedulerError
from meditron_cli.plan.model import Plan, Resources, SiteSettings, StagePlan
from meditron_cli.runs.store import stage_summary
from meditron_cli.scheduler import local, local_sessions
from meditron_cli.scheduler.base import JobState, Scheduler
from meditron_cli.scheduler.local import LocalScheduler

from ...corpus_specs import curate_spec
from ...disks import fill, mounted
from ...exits import exit_of, exits
from ...gate import only
from ...model_specs import tokenizer_ref
from ...plans import plan_of
from ...ranks import (
    DEAF,
    FINISH,
    LINGER,
    PATIENCE,
    is_gone,
    kill_processes_about,
    processes_about,
    rank_program,
    wait_until,
)
from ...task_specs import task_spec

REPOSITORY = Path(__file__).parents[3]

scheduler_protocol: type[Scheduler] = LocalScheduler

RUN = "run"

SITE = SiteSettings(
    cluster="local",
    scheduler="local",
    device="cpu",
    setup=(),
    environment=(),
    python=sys.executable,
    sbatch=(),
)

RESOURCES = Resources(
    nodes=1,
    ranks_per_node=1,
    gpus_per_node=0,
    gpu_type="",
    cpus_per_rank=1,
    memory_gb=0,
    time_minutes=10,
    signal_lead_seconds=30,
    partition="local",
    account="",
    qos="",
)

SPECS: dict[str, Spec] = {
    "curate": curate_spec(),
    "tokenize": TokenizeSpec(("in",), ("out",), 0, 1, 99, tokenizer_ref("tok"), "text", 9, False),
}


@dataclass
class Machine:
    """A run, and the scheduler that works on it."""

    run: rundir.RunDir
    scheduler: LocalScheduler

    def stage(
        self, *program: str, stage: str = "curate", tasks: int = 1, **changes: Any
    ) -> StagePlan:
        """Return a stage whose ranks run the lines of a program."""
        python = rank_program(self.run.root, *program)
        task = task_spec(stage, SPECS[stage], python=python)
        members = tuple(replace(task, index=index) for index in range(tasks))
        for member in members:
            write_json(self.run.spec(stage, member.index), specs.to_json(member))
        plan = StagePlan(stage, members, RESOURCES, (tuple(range(tasks)),), 16, ())
        known = read_json(self.run.plan)["stages"] if self.run.plan.exists() else {}
        write_json(self.run.plan, {"stages": {**known, stage: stage_summary(plan)}})
        return replace(plan, **changes)

    def submit(
        self, stage: StagePlan, after: Sequence[str] = (), attempt: int = 1, **site: Any
    ) -> str:
        """Submit all tasks of a stage; answers its job id."""
        self.run.attempt(stage.stage, attempt).mkdir(parents=True)
        plan = Plan("trial", "tiny", (stage,), replace(SITE, **site), ())
        indices = [task.index for task in stage.tasks]
        ids = self.scheduler.submit(plan, stage, indices, self.run.root, attempt, after)
        return ids[0]

    def state(self, job: str) -> JobState:
        return self.scheduler.states({RUN: [job]})[RUN][job].state

    def wait(self, job: str) -> None:
        """Wait until a job has ended."""
        wait_until(lambda: self.state(job) is JobState.ENDED)

    def wait_for(self, name: str) -> str:
        """Wait until a rank has left a file in the run; answers what it holds."""
        path = self.run.path(name)
        wait_until(lambda: path.exists() and path.read_text() != "")
        return path.read_text()

    def exit(self, stage: str = "curate", index: int = 0, attempt: int = 1) -> dict[str, Any]:
        return exit_of(self.run, stage, attempt, index)

    def words(self, attempt: int = 1) -> dict[str, Any]:
        """Return the rank exit of the first task."""
        return read_json(self.run.attempt("curate", attempt) / "rank-exit-00000-00000.json")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield from machine_in(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "256k") as disk:
        yield disk


@pytest.fixture
def small_machine(small_disk: Path) -> Iterator[Machine]:
    """Yield a machine whose run is on a small disk."""
    yield from machine_in(small_disk)


def machine_in(folder: Path) -> Iterator[Machine]:
    root = folder / "run"
    root.mkdir()
    (root / "code").symlink_to(REPOSITORY)
    scheduler = LocalScheduler(cancel_seconds=PATIENCE)
    yield Machine(rundir.RunDir(root), scheduler)
    kill_processes_about(folder)
    scheduler.states({})  # it forgets the processes that have ended


def test_all_tasks_run_to_their_end_and_nothing_stays(machine: Machine) -> None:
    job = machine.submit(machine.stage(FINISH, tasks=3))

    machine.wait(job)

    assert [machine.exit(index=index)["class"] for index in range(3)] == ["finished"] * 3
    assert {machine.exit(index=index)["job_id"] for index in range(3)} == {job}
    assert processes_about(machine.run.root) == []


def test_tasks_run_together_as_far_as_cores_and_the_stage_allow(machine: Machine) -> None:
    cores = usable_cores()
    stage = machine.stage(FINISH)

    def parallel(most: int, **changes: Any) -> int:
        tasks = (replace(stage.tasks[0], **changes),)
        return local.parallel_tasks(replace(stage, tasks=tasks, max_parallel=most))

    assert parallel(16) == cores
    assert parallel(1) == 1
    assert parallel(16, cpus_per_rank=cores + 1) == 1
    assert parallel(16, gpus_per_node=1) == 1


def test_a_stage_waits_for_the_one_before_and_runs_when_it_is_whole(machine: Machine) -> None:
    first = machine.submit(machine.stage(*LINGER, FINISH))
    machine.wait_for("ready")
    waiting = machine.stage(*LINGER, FINISH, stage="tokenize", after=("curate",))
    second = machine.submit(waiting, [first])
    wait_until(lambda: catches_signals(second))

    os.kill(int(machine.run.path("ready").read_text()), signal.SIGTERM)
    machine.wait(first)
    wait_until(lambda: machine.run.attempt("tokenize", 1).joinpath("ranks-00000.log").exists())
    machine.scheduler.cancel(RUN, [second])

    kinds = [(event["event"], event["stage"]) for event in read_events(machine.run)]
    assert kinds.index(("exit", "curate")) < kinds.index(("start", "tokenize"))
    assert machine.exit()["class"] == "finished"


def test_an_export_starts_once_its_checkpoint_is_saved(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = plan_of("local", "tiny", "export.step=200").stage("export").tasks[0].spec
    monkeypatch.setitem(SPECS, "export", exported)
    training = machine.submit(machine.stage(*LINGER))
    waiting = machine.stage(FINISH, stage="export", after=("curate",))
    export = machine.submit(waiting, [training])
    wait_until(lambda: catches_signals(export))
    machine.wait_for("ready")
    assert not any(event["stage"] == "export" for event in read_events(machine.run))

    saved = machine.run.path("checkpoints/iter_0000200")
    saved.mkdir(parents=True)
    (saved / "meditron.json").touch()
    machine.wait(export)
    trains = machine.state(training)
    machine.scheduler.cancel(RUN, [training])

    assert trains is JobState.ACTIVE
    assert machine.exit("export")["class"] == "finished"


def test_a_stage_after_one_that_failed_is_not_started(machine: Machine) -> None:
    first = machine.submit(machine.stage("say(2, 'no text')"))
    second = machine.submit(machine.stage(FINISH, stage="tokenize", after=("curate",)), [first])

    machine.wait(second)

    assert not exits(machine.run, "tokenize", 1)
    last = read_events(machine.run)[-1]
    assert (last["event"], last["stage"], last["after"]) == ("blocked", "tokenize", ["curate"])
    log = machine.run.attempt("tokenize", 1) / "runner.log"
    assert log.read_text() == "tokenize was not started: curate did not finish\n"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that stands for an earlier job."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def job_on_full_disk(
    machine: Machine, sleeper: subprocess.Popen[bytes], stage: StagePlan
) -> tuple[str, Path]:
    """Submit a stage; return its job, once a disk without a byte refused its first task, and the
    file that fills the disk.
    """
    job = machine.submit(
        stage, after=[local_sessions.PREFIX + local_ranks.process_name(sleeper.pid)]
    )
    ballast = fill(machine.run.root.parent)
    sleeper.kill()
    sleeper.wait()
    folder = machine.run.attempt("curate", 1)
    wait_until(lambda: list(folder.glob("*.pkl")) or machine.state(job) is JobState.ENDED)
    return job, ballast


def test_a_full_disk_is_waited_for_before_a_task_starts(
    small_machine: Machine, sleeper: subprocess.Popen[bytes]
) -> None:
    stage = small_machine.stage(FINISH, tasks=2)
    job, ballast = job_on_full_disk(small_machine, sleeper, stage)

    ballast.unlink()
    small_machine.wait(job)

    assert [small_machine.exit(index=index)["cause"] for index in (0, 1)] == ["completed"] * 2


def test_a_cancelled_job_does_not_wait_for_a_full_disk(
    small_machine: Machine, sleeper: subprocess.Popen[bytes]
) -> None:
    job, ballast = job_on_full_disk(small_machine, sleeper, small_machine.stage(FINISH))
    assert small_machine.state(job) is JobState.ACTIVE

    small_machine.scheduler.cancel(RUN, [job])

    assert small_machine.state(job) is JobState.ENDED
    ballast.unlink()
    assert exits(small_machine.run, "curate", 1) == []


def intent_of(stage: str, attempt: int) -> IntentEvent:
    return IntentEvent(0.0, stage, attempt, (0,), "local")


def test_an_attempt_is_withdrawn_without_its_id_and_another_continues(machine: Machine) -> None:
    stage = machine.stage(*LINGER, "say(130, 'saved')", tasks=2, max_parallel=1)
    first = machine.submit(stage)
    machine.wait_for("ready")
    second = machine.submit(machine.stage(FINISH, stage="tokenize", after=("curate",)), [first])
    wait_until(lambda: catches_signals(second))

    machine.scheduler.withdraw(machine.run, intent_of("curate", 2))
    untouched = machine.state(first)
    machine.scheduler.withdraw(machine.run, intent_of("tokenize", 1))
    states = machine.state(first), machine.state(second)
    machine.scheduler.withdraw(machine.run, intent_of("curate", 1))

    assert untouched is JobState.ACTIVE
    assert states == (JobState.ACTIVE, JobState.ENDED)
    assert machine.state(first) is JobState.ENDED


@pytest.mark.parametrize("move", [os.symlink, os.rename])
def test_an_attempt_is_withdrawn_under_another_path_of_its_run(
    machine: Machine, tmp_path: Path, move: Callable[[Path, Path], None]
) -> None:
    job = machine.submit(machine.stage(*LINGER, "say(130, 'saved')"))
    machine.wait_for("ready")
    move(machine.run.root, tmp_path / "elsewhere")

    machine.scheduler.withdraw(rundir.RunDir(tmp_path / "elsewhere"), intent_of("curate", 1))

    assert machine.state(job) is JobState.ENDED


def test_cancel_lets_ranks_save_and_no_process_remains(machine: Machine) -> None:
    job = machine.submit(machine.stage(*LINGER, "say(130, 'saved')", tasks=3, max_parallel=1))
    machine.wait_for("ready")

    machine.scheduler.cancel(RUN, [job])

    assert machine.state(job) is JobState.ENDED
    assert machine.words()["message"] == "saved"
    assert not exits(machine.run, "curate", 1, 1)
    assert processes_about(machine.run.root) == []


def catches_signals(job: str) -> bool:
    """Return whether a job's background process has installed its handlers."""
    status = Path(f"/proc/{local_sessions.pid_of(job)}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def has(pattern: str) -> Callable[[Machine, str], bool]:
    """Return whether a file of the run's first attempt is there."""
    return lambda machine, job: any(machine.run.attempt("curate", 1).glob(pattern))


MOMENTS: dict[str, Callable[[Machine, str], bool]] = {
    "submitted": lambda machine, job: True,
    "the background process runs": lambda machine, job: catches_signals(job),
    "the supervisor has begun": has("claim-*"),
    "the ranks have a log": has("ranks-*.log"),
    "the rank is ready": lambda machine, job: machine.run.path("ready").exists(),
}


@pytest.mark.parametrize("moment", only(("submitted", "the supervisor has begun"), MOMENTS))
def test_a_cancellation_at_any_moment_of_the_start_is_not_lost(
    machine: Machine, moment: str
) -> None:
    job = machine.submit(machine.stage(*LINGER, "say(130, 'saved')"))
    wait_until(lambda: MOMENTS[moment](machine, job))

    machine.scheduler.cancel(RUN, [job])

    assert machine.state(job) is JobState.ENDED
    assert processes_about(machine.run.root) == []


def test_ranks_deaf_to_a_cancellation_are_killed_with_all_they_started(machine: Machine) -> None:
    child = ("import subprocess", "p = subprocess.Popen(['sleep', '600'])")
    tell = "context.path('child').write_text(str(p.pid))"
    job = machine.submit(machine.stage(*child, tell, *DEAF))
    rank = int(machine.wait_for("ready"))

    LocalScheduler(cancel_seconds=0.5).cancel(RUN, [job])

    assert machine.state(job) is JobState.ENDED
    assert is_gone(rank)
    assert is_gone(int(machine.run.path("child").read_text()))
    assert processes_about(machine.run.root) == []


def test_a_cancelled_stage_that_only_waits_ends_at_once(machine: Machine) -> None:
    first = machine.submit(machine.stage(*LINGER, "say(130, 'saved')"))
    waiting = machine.stage(*LINGER, stage="tokenize", after=("curate",))
    second = machine.submit(waiting, [first])

    machine.scheduler.cancel(RUN, [second])

    assert machine.state(second) is JobState.ENDED
    assert machine.state(first) is JobState.ACTIVE
    machine.scheduler.cancel(RUN, [first])


def test_ended_and_unknown_jobs_are_no_error_to_cancel(machine: Machine) -> None:
    job = machine.submit(machine.stage(FINISH))
    machine.wait(job)

    machine.scheduler.cancel(RUN, [job])
    machine.scheduler.cancel(RUN, [])


def test_when_the_background_process_is_killed_its_ranks_save_and_end(machine: Machine) -> None:
    saves = "wait_for('go'); say(130, 'saved')"
    job = machine.submit(machine.stage(*LINGER, saves, tasks=2, max_parallel=1))
    machine.wait_for("ready")

    os.kill(local_sessions.pid_of(job), signal.SIGKILL)
    still = machine.state(job)
    machine.run.path("go").touch()
    machine.wait(job)

    assert still is JobState.ACTIVE  # its ranks save, once their supervisor has noticed
    assert machine.exit()["code"] == 130
    wait_until(lambda: processes_about(machine.run.root) == [])


def test_processes_of_a_killed_supervisor_are_ended(machine: Machine) -> None:
    child = ("import subprocess", "p = subprocess.Popen(['sleep', '600'])")
    tell = "context.path('child').write_text(str(p.pid))"
    job = machine.submit(machine.stage(*child, tell, *LINGER))
    rank = int(machine.wait_for("ready"))
    stat = Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()

    os.kill(int(stat[1]), signal.SIGKILL)
    machine.wait(job)

    assert is_gone(rank)
    assert is_gone(int(machine.run.path("child").read_text()))


def test_a_job_of_another_machine_is_unknown_and_cannot_be_cancelled_here(
    machine: Machine,
) -> None:
    job = f"local:elsewhere:{os.getpid()}:1"

    assert machine.state(job) is JobState.UNKNOWN
    with pytest.raises(SchedulerError) as caught:
        machine.scheduler.cancel(RUN, [job])
    assert caught.value.message == f"job {job} was started on another machine"


def test_a_reused_process_number_is_not_the_job(machine: Machine) -> None:
    mine = local_ranks.process_name(os.getpid())
    host, pid, started = mine.rsplit(":", 2)

    assert machine.state(f"local:{mine}") is JobState.ACTIVE
    assert machine.state(f"local:{host}:{pid}:{int(started) + 1}") is JobState.ENDED


def test_a_missing_interpreter_is_the_schedulers_error(machine: Machine) -> None:
    with pytest.raises(SchedulerError) as caught:
        machine.submit(machine.stage(FINISH), python="/nowhere/python")

    assert caught.value.message == (
        "curate was not started: /nowhere/python: No such file or directory"
    )


def test_the_profiles_variables_reach_the_ranks(machine: Machine) -> None:
    stage = machine.stage(
        "context.path('seen').write_text(os.environ['GREETING'] + os.environ['OMP_NUM_THREADS'])",
        FINISH,
    )

    job = machine.submit(
        stage,
        setup=("export GREETING='good day'", "export OMP_NUM_THREADS=7"),
    )
    machine.wait(job)

    assert machine.wait_for("seen") == "good day7"


def test_a_profiles_pythonpath_comes_after_the_runs_own_code(machine: Machine) -> None:
    site = replace(SITE, setup=("export PYTHONPATH=/site/python",))
    plan = Plan("trial", "tiny", (), site, ())

    found = local.runner_environment(plan, machine.stage(FINISH), machine.run.root, {})

    assert found["PYTHONPATH"] == f"{machine.run.code}:/site/python"


def test_a_job_inherits_only_what_the_profile_lets_through(machine: Machine) -> None:
    shell = {**os.environ, "LET_THROUGH": "yes", "LEFT_BEHIND": "no", "OMP_NUM_THREADS": "99"}
    plan = Plan("trial", "tiny", (), replace(SITE, environment=("LET_THROUGH",)), ())

    found = local.runner_environment(plan, machine.stage(FINISH), machine.run.root, shell)

    assert found["LET_THROUGH"] == "yes"
    assert found["PATH"] == os.environ["PATH"]
    assert found["OMP_NUM_THREADS"] != "99"
    assert "LEFT_BEHIND" not in found


def test_a_cancelled_job_has_as_long_as_its_stage_has_to_save(machine: Machine) -> None:
    resources = replace(RESOURCES, signal_lead_seconds=600)
    long = machine.submit(machine.stage(*LINGER, "say(130, 'saved')", resources=resources))
    short = machine.submit(machine.stage(*LINGER, "say(130, 'saved')"), attempt=2)

    assert local.exit_timeout(local_sessions.pid_of(long)) > 600
    assert local.exit_timeout(local_sessions.pid_of(short)) == local.CANCEL_SECONDS
    assert local.exit_timeout(os.getpid()) == local.CANCEL_SECONDS
    moved = local.job_file(machine.run.root, "curate", 1).rename(machine.run.root / "moved")
    assert local.exit_timeout(local_sessions.pid_of(long)) == local.CANCEL_SECONDS
    moved.rename(local.job_file(machine.run.root, "curate", 1))


def test_cores_are_divided_among_the_ranks_that_run_at_once(machine: Machine) -> None:
    plan = Plan("trial", "tiny", (), SITE, ())
    one, many = machine.stage(FINISH, max_parallel=1), machine.stage(FINISH, tasks=9)

    threads = [
        int(local.runner_environment(plan, stage, machine.run.root, {})["OMP_NUM_THREADS"])
        for stage in (one, many)
    ]

    assert threads == [usable_cores(), 1]


def test_threads_that_wait_sleep_unless_the_profile_lets_them_spin(machine: Machine) -> None:
    stage, spin = machine.stage(FINISH), ("export OMP_WAIT_POLICY=active",)

    policies = [
        local.runner_environment(
            Plan("trial", "tiny", (), replace(SITE, setup=setup), ()), stage, machine.run.root, {}
        )["OMP_WAIT_POLICY"]
        for setup in ((), spin)
    ]

    assert policies == ["passive", "active"]


def test_render_names_each_command_and_is_the_same_every_time(machine: Machine) -> None:
    first = machine.stage(FINISH)
    second = machine.stage(FINISH, stage="tokenize", tasks=2, after=("curate",))
    plan = Plan("trial", "tiny", (first, second), replace(SITE, python="/opt/my python"), ())
    run = Path("/runs/trial")

    text = machine.scheduler.render(plan, run)

    assert text == machine.scheduler.render(plan, run)
    assert text == (
        "# on this machine, in /runs/trial/code\n"
        "# curate: 1 task of 1 rank\n"
        "'/opt/my python' -m meditron_cli.scheduler.local_job "
        "/runs/trial/stages/curate/attempts/1/local-job.json\n"
        "# tokenize: 2 tasks of 1 rank\n"
        "'/opt/my python' -m meditron_cli.scheduler.local_job "
        "/runs/trial/stages/tokenize/attempts/1/local-job.json  # after curate\n"
    )


def test_a_task_past_its_time_limit_is_requested_to_save_first(machine: Machine) -> None:
    for attempt, (minutes, lead) in enumerate(((1, 57), (1, 50), (2, 60), (4, 60)), start=1):
        limited = replace(RESOURCES, time_minutes=minutes, signal_lead_seconds=lead)
        stage = replace(machine.stage(*LINGER, "say(130, 'saved')"), resources=limited)
        machine.wait(machine.submit(stage, attempt=attempt))
        if machine.run.path("ready").exists():  # a slow machine has not started it in 3 s
            break

    assert machine.words(attempt)["message"] == "saved"
