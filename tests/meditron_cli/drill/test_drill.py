"""The parts of a drill: faults, settings, the comparison, and recovery by the drill itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from click.testing import Result as Outcome

from jobs.contract.events import append_event, read_events
from jobs.contract.exit_record import ExitRecord
from jobs.contract.metrics_log import StepLine
from jobs.contract.outcomes import RetryAction, RootCause
from jobs.contract.rundir import RunDir
from meditron_cli.config.load import load, load_cluster
from meditron_cli.drill import settings
from meditron_cli.drill.faults import FAULTS, choose
from meditron_cli.drill.procedure import QUERY_SECONDS, RECOVER_LIMIT_SECONDS, Drill
from meditron_cli.drill.verdict import FaultRow, InjectedFault, Result, difference, row_of
from meditron_cli.errors import ConfigError
from meditron_cli.main import main
from meditron_cli.services import Services

from ... import fake_slurm, metric_lines
from ...conftest import Bench
from ...fake_slurm import FakeSlurm
from ...fakes import FakeClock

KILL = FAULTS["kill-rank"]


def step(number: int, attempt: int = 1, **fields: Any) -> StepLine:
    """Return a metric line of a step, a second after the one before."""
    fields = {"loss": 5 - number / 10, "time": 100.0 + number, **fields}
    return metric_lines.step(number, attempt, **fields)


def without_samples(line: StepLine) -> StepLine:
    return replace(line, samples="")


def exit_of(attempt: int, cause: RootCause, ended: float) -> dict[int, ExitRecord]:
    record = ExitRecord(
        "pretrain", 0, attempt, "7", cause, RetryAction.RESTART, ended - 1, ended, 75
    )
    return {attempt: record}


# ---- which faults


def test_all_faults_that_the_scheduler_has_are_the_default() -> None:
    assert [fault.name for fault in choose("", "slurm")] == list(FAULTS)
    assert [fault.name for fault in choose("", "local")] == [
        "kill-rank",
        "freeze-rank",
        "damage-checkpoint",
    ]


def test_chosen_faults_keep_their_order() -> None:
    assert [f.name for f in choose("kill-rank, preempt", "slurm")] == ["kill-rank", "preempt"]


@pytest.mark.parametrize(
    ("text", "scheduler", "message"),
    [
        ("kil-rank", "slurm", "no fault is called 'kil-rank'"),
        ("preempt", "local", "preempt needs Slurm, and this cluster's scheduler is local"),
    ],
)
def test_a_fault_that_cannot_be_injected_is_refused(
    text: str, scheduler: str, message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        choose(text, scheduler)

    assert refused.value.message == message
    assert refused.value.hint


# ---- what is trained


@pytest.mark.parametrize("name", ["local", "test-slurm", "generic-h100", "rcp", "clariden"])
def test_the_training_of_a_drill_is_valid_on_every_kind_of_cluster(
    name: str, project: Path
) -> None:
    own = settings.settings(load_cluster(name), None, tuple(FAULTS.values()))

    loaded = load(name, settings.SIZE, project / "experiment.yaml", list(own))

    layout, training = loaded.experiment.parallel, loaded.experiment.pretrain
    assert training.global_batch_size % (layout.data * training.micro_batch_size) == 0
    assert training.train_steps == 950


def test_more_nodes_than_the_partition_has_are_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        settings.settings(load_cluster("test-slurm"), 5, ())

    assert refused.value.message == "a drill on 5 nodes does not fit partition low, which has 4"


# ---- what is made of it


def test_a_fault_that_was_recovered_from_has_its_times() -> None:
    lines = [step(1), step(2), step(3), step(2, 2, time=110.0), step(3, 2), step(4, 2)]

    row = row_of(InjectedFault(KILL, 1, 3, 103.5), exit_of(1, RootCause.CRASH, 104.75), lines)

    assert row == FaultRow("kill-rank", 3, "crash", 1.2, 5.2, 2, "held")


@pytest.mark.parametrize(
    ("cause", "lines", "verdict"),
    [
        (RootCause.HANG, [step(1), step(2, 2)], "diagnosed as hang, not crash"),
        (RootCause.CRASH, [step(1)], "no attempt resumed after it"),
    ],
)
def test_a_fault_that_was_not_recovered_from_as_expected_is_reported(
    cause: RootCause, lines: list[StepLine], verdict: str
) -> None:
    row = row_of(InjectedFault(KILL, 1, 1, 100.0), exit_of(1, cause, 101.0), lines)

    assert row.verdict == verdict


def test_an_attempt_without_an_exit_record_is_reported() -> None:
    assert (
        row_of(InjectedFault(KILL, 1, 1, 100.0), {}, []).verdict == "the attempt has no exit record"
    )


def test_the_same_losses_and_samples_are_the_same_training() -> None:
    undisturbed = [step(number) for number in range(1, 5)]
    hit = [step(1), step(2), step(3), step(3, 2), step(4, 2)]

    assert difference(undisturbed, hit) is None


@pytest.mark.parametrize(
    ("hit", "first"),
    [
        ([step(1), step(2, loss=4.800000001), step(3)], 2),
        ([step(1), step(2)], 3),
        ([step(1), step(2), step(3, samples=f"{2:016x}")], 3),
        ([step(1), without_samples(step(2)), step(3)], 2),
        ([step(1), step(2), step(3), step(4)], 4),
    ],
)
def test_the_first_step_that_differs_is_named(hit: list[StepLine], first: int) -> None:
    undisturbed = [step(number) for number in range(1, 4)]

    assert difference(undisturbed, hit) == first


def test_samples_that_are_read_twice_differ_though_both_trainings_have_them() -> None:
    lines = [step(1), step(2), step(3, samples=f"{1:016x}"), step(4)]

    assert difference(lines, lines) == 3


def test_lines_without_fingerprints_differ() -> None:
    lines = [without_samples(step(1)), without_samples(step(2))]

    assert difference(lines, lines) == 1


def test_losses_may_be_as_far_apart_as_is_allowed_and_no_further() -> None:
    hit = [step(1), step(2, loss=4.8005)]

    apart = [difference([step(1), step(2)], hit, tolerance) for tolerance in (1e-3, 1e-4)]

    assert apart == [None, 2]


HELD = FaultRow("kill-rank", 3, "crash", 1.0, 2.0, 1, "held")
MISSED = FaultRow("preempt", 3, "unknown", 1.0, 2.0, 1, "diagnosed as unknown, not preempted")


@pytest.mark.parametrize(
    ("result", "held", "sentence"),
    [
        (
            Result((HELD,), 9, None, True),
            True,
            "the losses of all 9 steps equal those of the undisturbed run, bit for bit, and every "
            "sample was used once, in order",
        ),
        (
            Result((HELD,), 9, None, True, is_exact=False),
            True,
            "the losses of all 9 steps equal those of the undisturbed run, to within 0.001, and "
            "every sample was used once, in order",
        ),
        (
            Result((HELD, MISSED), 9, None, True),
            False,
            "the losses of all 9 steps equal those of the undisturbed run, bit for bit, but "
            "recovery was not as expected from: preempt",
        ),
        (
            Result((HELD,), 9, 4, True),
            False,
            "the two trainings differ from step 4",
        ),
        (
            Result((HELD,), 9, 4, False),
            False,
            "the disturbed run did not reach its target",
        ),
    ],
)
def test_the_result_has_one_sentence(result: Result, held: bool, sentence: str) -> None:
    assert (result.held, result.sentence) == (held, sentence)


def test_placeholders_of_a_profile_are_refused_before_anything_is_submitted(
    meditron: Bench,
) -> None:
    refused = meditron("drill", "--cluster", "generic-h100")

    assert refused.exit_code == 2
    assert "hint: replace them in the profile" in refused.stderr
    assert meditron.scheduler.submitted == []
    assert list(meditron.runs.iterdir()) == []


# ---- a scheduler that does not answer


@pytest.fixture
def programs(project: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.chdir(project)
    installed = fake_slurm.install(project / "slurm")
    monkeypatch.setenv("PATH", installed.environ["PATH"])
    return installed


def drill(project: Path, *words: str) -> Outcome:
    """Run `meditron drill` at the login node of the stand-in Slurm."""
    services = Services(clock=FakeClock(), environ={"MEDITRON_RUNS": str(project / "runs")})
    return CliRunner().invoke(main, ["drill", "--cluster", "test-slurm", *words], obj=services)


def test_a_drill_without_an_answer_from_slurm_creates_nothing(
    project: Path, programs: FakeSlurm
) -> None:
    programs.tell("down", "slurm_load_jobs error: Unable to contact slurm controller\n")

    refused = drill(project)

    assert refused.exit_code == 3
    assert refused.stderr == (
        "error: Slurm does not answer on this machine\n"
        "hint: log in to the cluster; `sinfo` shows whether Slurm answers\n"
    )
    assert not (project / "runs").exists()
    assert programs.calls("sbatch") == []


def test_a_drill_on_a_machine_without_slurm_creates_nothing(
    project: Path, programs: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.remove("sbatch")
    monkeypatch.setenv("PATH", programs.alone["PATH"])

    refused = drill(project)

    assert refused.exit_code == 3
    assert refused.stderr == (
        "error: sbatch is not on PATH, so this machine cannot submit to Slurm\n"
        "hint: log in to the cluster, or use `--cluster local`\n"
    )
    assert not (project / "runs").exists()


def test_a_drill_whose_first_job_is_refused_cancels_none(
    project: Path, programs: FakeSlurm
) -> None:
    programs.tell("refuse-1", "sbatch: error: Invalid account\n")

    refused = drill(project)

    (folder,) = (project / "runs").iterdir()
    kept, error, _ = refused.stderr.splitlines()[-3:]
    assert refused.exit_code == 3
    assert "cancelled" not in refused.stderr
    assert kept == f"the drill's runs are kept in {folder}"
    assert error == "error: sbatch refused curate: Invalid account"


def test_a_drill_on_finished_tokens_needs_no_documents(project: Path, programs: FakeSlurm) -> None:
    programs.tell("refuse-1", "sbatch: error: Invalid account\n")
    (project / "tokens.bin").write_bytes(b"")
    (project / "tokens.idx").write_bytes(b"")
    config = project / "tokens.yaml"
    config.write_text("tokenize: {tokenizer: tokenizer.json}\npretrain: {data: [tokens]}\n")

    refused = drill(project, "--config", str(config), "--set", "model.vocab_size=4")

    assert "error: sbatch refused index: Invalid account" in refused.stderr.splitlines()


# ---- where nodes may not submit


FAILED = "|FAILED|1:0|2026-01-01T10:00:00|2026-01-01T10:00:00|2026-01-01T11:00:00|cpu01\n"


class NoInjector:
    """An injector that must not be used."""

    def preempt(self, run: RunDir, job_id: str) -> None:
        raise AssertionError

    def lower_limit(self, run: RunDir, job_id: str) -> None:
        raise AssertionError

    def signal_rank(self, run: RunDir, job_id: str, word: str, rank: int) -> str:
        raise AssertionError


def start_and_lose(course: Drill, programs: FakeSlurm) -> RunDir:
    """Start curation, and let its job end before its target."""
    run = course.start(course.load([]), ("curate",))
    (job,) = submits(run)[0]["job_ids"]
    start = {"index": 0, "attempt": 1, "restarts": 0, "nodes": [], "began": 1.0, "step": None}
    append_event(run, "start", stage="curate", job_id=job, **start)
    programs.name_jobs(f"{run.name}.curate")
    programs.queue()
    programs.tell("accounting", f"{job}{FAILED}")
    return run


def submits(run: RunDir) -> list[dict[str, Any]]:
    return [event for event in read_events(run) if event["event"] == "submit"]


def make_course(project: Path, submit_from_jobs: bool) -> Drill:
    """Return a drill at the login node of the stand-in Slurm."""
    loaded = load("test-slurm", settings.SIZE, project / "experiment.yaml", [])
    slurm = loaded.cluster.slurm.model_copy(update={"submit_from_jobs": submit_from_jobs})
    cluster = loaded.cluster.model_copy(update={"slurm": slurm})
    services = Services(clock=FakeClock())
    return Drill(
        services, NoInjector(), project / "drill", lambda more: replace(loaded, cluster=cluster)
    )


@pytest.mark.parametrize(
    ("submit_from_jobs", "by"), [(False, ["person", "recover"]), (True, ["person"])]
)
def test_the_drill_resubmits_its_runs_where_nodes_may_not_submit(
    project: Path, programs: FakeSlurm, submit_from_jobs: bool, by: list[str]
) -> None:
    course = make_course(project, submit_from_jobs)
    run = start_and_lose(course, programs)

    went_on = course.wait(run, lambda: len(submits(run)) == 2)

    assert went_on is not submit_from_jobs
    assert [event["by"] for event in submits(run)] == by


def test_a_run_that_cannot_be_resubmitted_is_not_waited_for_endlessly(
    project: Path, programs: FakeSlurm
) -> None:
    course = make_course(project, submit_from_jobs=False)
    run = start_and_lose(course, programs)
    for call in range(2, 200):
        programs.tell(f"refuse-{call}", "sbatch: error: too many jobs\n")
    began = course.services.clock.now()

    assert course.wait(run, lambda: len(submits(run)) == 2) is False

    waited = course.services.clock.now() - began
    assert RECOVER_LIMIT_SECONDS < waited < RECOVER_LIMIT_SECONDS + 2 * QUERY_SECONDS
    assert len(submits(run)) == 1


def test_a_run_that_is_followed_is_resubmitted_to_its_end(
    project: Path, programs: FakeSlurm, finish: Callable[..., None]
) -> None:
    course = make_course(project, submit_from_jobs=False)
    run = start_and_lose(course, programs)

    def sleep() -> None:
        if len(submits(run)) == 2:
            finish(run, "curate", 0)

    course.services.clock.when_slept = sleep

    assert course.follow(run) == "succeeded"
    assert [event["by"] for event in submits(run)] == ["person", "recover"]
