"""Submissions: the tasks they start, keep and take back."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy
import pytest
from click.testing import CliRunner, Result

from jobs.checkpoints import manifest
from jobs.contract import attempt_history, done_markers, specs
from jobs.contract.events import StartEvent, SubmitEvent, append, append_event
from jobs.contract.files import read_json, write_json
from jobs.contract.locks import locked
from jobs.contract.rundir import RunDir
from jobs.data.indexed_dataset import IndexedWriter
from meditron_cli.main import main
from meditron_cli.runs import launch, launch_plan, request, store
from meditron_cli.runs.prepare import planned
from meditron_cli.runs.state import derive_view
from meditron_cli.scheduler.base import LEFT_THE_QUEUE, JobInfo, JobState
from meditron_cli.scheduler.slurm import SlurmScheduler

from ... import fake_slurm
from ...conftest import Bench
from ...fake_slurm import FakeSlurm
from ...fakes import FakeClock, Submitted
from ...gate import only
from ...kills import kill_before_step
from ...plans import profile_of
from ...ranks import wait_until, waits_for_a_lock

TASKS = (("curate", 1), ("tokenize", 3), ("index", 1), ("pretrain", 1), ("evaluate", 2))
"""The stages of a pipeline and their numbers of tasks."""


def test_a_first_submission_starts_every_task_in_dependency_order(meditron: Bench) -> None:
    result = meditron.submit()

    assert result.exit_code == 0, result.stderr
    assert meditron.scheduler.submitted == [
        Submitted("curate", (0,), 1, ()),
        Submitted("tokenize", (0, 1, 2), 1, ("101_0",)),
        Submitted("index", (0,), 1, ("102_0", "102_1", "102_2")),
        Submitted("pretrain", (0,), 1, ("102_0", "102_1", "102_2", "103_0")),
        Submitted("evaluate", (0, 1), 1, ("104_0",)),
    ]
    assert [event["stage"] for event in meditron.events("intent")] == [
        "curate",
        "tokenize",
        "index",
        "pretrain",
        "evaluate",
    ]


def test_submitting_again_keeps_queued_and_running_jobs(meditron: Bench) -> None:
    meditron.submit()

    result = meditron.submit()

    assert result.exit_code == 0
    assert len(meditron.scheduler.submitted) == 5
    assert "continuing run" in result.stderr


def test_submitting_again_starts_only_what_is_missing(
    meditron: Bench, finish: Callable[..., None], fail: Callable[..., None]
) -> None:
    meditron.submit("--set", "evaluate.benchmarks=[]")
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 2)
    fail(run, "tokenize", 1)
    meditron.scheduler.put_stage("tokenize", JobState.ENDED, "FAILED")
    for stage in ("index", "pretrain"):
        meditron.scheduler.put_stage(stage, JobState.QUEUED, reason="DependencyNeverSatisfied")

    meditron.submit("--set", "evaluate.benchmarks=[]")

    assert meditron.scheduler.submitted[4:] == [
        Submitted("tokenize", (1,), 2, ()),
        Submitted("index", (0,), 2, ("105_0",)),
        Submitted("pretrain", (0,), 2, ("105_0", "106_0")),
    ]
    assert meditron.scheduler.cancelled == ["103_0", "104_0"]


def test_a_stage_after_one_that_starts_again_starts_again(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit()
    run = meditron.run()
    for stage, count in TASKS:
        finish(run, stage, *range(count))
    run.done("pretrain", 0).unlink()
    meditron.scheduler.put_stage("pretrain", JobState.ENDED, "COMPLETED")

    meditron.submit()

    assert [(item.stage, item.indices) for item in meditron.scheduler.submitted[5:]] == [
        ("pretrain", (0,)),
        ("evaluate", (0, 1)),
    ]
    assert not run.done("evaluate", 0).exists()


def test_a_finished_run_submits_nothing(meditron: Bench, finish: Callable[..., None]) -> None:
    meditron.submit()
    for stage, count in TASKS:
        finish(meditron.run(), stage, *range(count))

    result = meditron.submit()

    assert len(meditron.scheduler.submitted) == 5
    assert result.stdout.count("finished already") == 5


def test_a_refused_stage_takes_back_the_ones_before_it(meditron: Bench) -> None:
    meditron.scheduler.refuses = "pretrain"

    result = meditron.submit()

    assert result.exit_code == 3
    assert result.stderr.endswith("error: sbatch refused pretrain: no such partition\n")
    assert meditron.scheduler.cancelled == ["101_0", "102_0", "102_1", "102_2", "103_0"]
    undone = meditron.events("undo")[0]["job_ids"]
    assert set(undone) == {*meditron.scheduler.cancelled, *meditron.scheduler.dismissed}


def test_jobs_whose_submission_cannot_be_recorded_are_cancelled(meditron: Bench) -> None:
    def refuse_events(run: Path) -> None:
        (run / "events.jsonl").rename(run / "before")
        (run / "events.jsonl").mkdir()  # a folder in a file's place stands for a full disk

    meditron.scheduler.when_submitted = refuse_events

    result = meditron.submit()

    assert result.exit_code == 2
    assert "events.jsonl" in result.stderr
    assert meditron.scheduler.cancelled == ["101_0"]


def test_after_a_refusal_the_next_submission_starts_everything(meditron: Bench) -> None:
    meditron.scheduler.refuses = "pretrain"
    meditron.submit()
    meditron.scheduler.refuses = ""

    result = meditron.submit()

    assert result.exit_code == 0
    assert [item.stage for item in meditron.scheduler.submitted[3:]] == [
        "curate",
        "tokenize",
        "index",
        "pretrain",
        "evaluate",
    ]


def test_an_unresponsive_scheduler_gets_no_second_job(meditron: Bench) -> None:
    meditron.submit()
    meditron.scheduler.silent = True

    result = meditron.submit()

    assert result.exit_code == 3
    assert "the scheduler does not report whether job 101_0 of run" in result.stderr
    assert len(meditron.scheduler.submitted) == 5


def test_a_submit_during_another_waits_and_submits_nothing_twice(meditron: Bench) -> None:
    meditron.submit()
    reader = meditron.reader()
    arguments = (planned(reader), meditron.scheduler, reader)
    with ThreadPoolExecutor() as pool:
        with locked(meditron.run().lock):
            second = pool.submit(launch.launch, *arguments)
            (thread,) = pool._threads
            wait_until(lambda: waits_for_a_lock(thread) or second.done())
        jobs = second.result()

    assert jobs["curate"] == ["101_0"]
    assert len(meditron.scheduler.submitted) == 5


@pytest.mark.parametrize(("words", "runs"), [((), 1), (("--new",), 2)])
def test_of_two_first_submits_at_once_the_later_one_succeeds(
    meditron: Bench, words: tuple[str, ...], runs: int
) -> None:
    """The clock is read between the choice of the run's name and its creation."""
    results: list[Result] = []

    class RacingClock(FakeClock):
        def now(self) -> float:
            meditron.clock = FakeClock()
            if not results:
                results.append(meditron.submit(*words, stage="curate"))
            return super().now()

    meditron.clock = RacingClock()
    results.append(meditron.submit(*words, stage="curate"))

    assert [result.exit_code for result in results] == [0, 0], results[-1].stderr
    assert len(store.names(meditron.runs)) == runs
    assert len(meditron.scheduler.submitted) == runs


@pytest.mark.parametrize(
    ("stage", "first", "needed"),
    [
        ("tokenize", "tokenize", "curate"),
        ("pretrain", "index", "tokenize"),
        ("evaluate", "evaluate", "pretrain"),
    ],
)
def test_a_stage_without_its_inputs_is_refused_before_anything_is_made(
    meditron: Bench, stage: str, first: str, needed: str
) -> None:
    options = f"--cluster local --size tiny --config {meditron.folder / 'experiment.yaml'}"

    result = meditron.submit(stage=stage)

    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {first} needs the result of {needed}, which this run does not have\n"
        f"hint: `meditron submit {needed} {options}` makes it, "
        f"`meditron submit pipeline {options}` runs all stages in order\n"
    )
    assert not meditron.runs.exists()


def test_a_stage_alone_waits_for_unfinished_jobs_of_the_one_before(meditron: Bench) -> None:
    meditron.submit(stage="curate")

    result = meditron.submit(stage="tokenize")

    assert result.exit_code == 0, result.stderr
    assert meditron.scheduler.submitted[1] == Submitted("tokenize", (0, 1, 2), 1, ("101_0",))


def test_pretraining_with_data_of_its_own_needs_no_tokens(meditron: Bench) -> None:
    books = IndexedWriter(meditron.folder / "books", "uint16")
    books.add(numpy.zeros(200_000, dtype="<u2"), numpy.array([200_000], dtype="i4"))
    books.publish()

    own = f"pretrain.data=[{meditron.folder / 'books'}]"
    result = meditron.submit("--set", own, stage="pretrain")

    assert result.exit_code == 0, result.stderr
    assert meditron.scheduler.submitted == [
        Submitted("index", (0,), 1, ()),
        Submitted("pretrain", (0,), 1, ("101_0",)),
    ]


@pytest.fixture
def curated(meditron: Bench, finish: Callable[..., None]) -> RunDir:
    """Return a run whose curation has finished, with a marker that lists its source."""
    meditron.submit(stage="curate")
    run = meditron.run()
    finish(run, "curate", 0)
    meditron.scheduler.jobs.clear()
    marker = read_json(run.done("curate", 0))
    marker["inputs"] = [done_markers.describe_file(run, str(meditron.folder / "docs.jsonl"))]
    write_json(run.done("curate", 0), marker)
    return run


def test_resume_keeps_a_finished_stage_whose_sources_are_gone(
    meditron: Bench, curated: RunDir
) -> None:
    marker = curated.done("curate", 0).read_bytes()
    (meditron.folder / "docs.jsonl").unlink()

    result = meditron("resume", curated.name)

    assert (result.exit_code, result.stdout) == (0, "curate: finished already\n")
    assert curated.done("curate", 0).read_bytes() == marker


def test_resume_of_finished_stages_needs_no_tokenizer(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit()
    run = meditron.run()
    for stage, count in TASKS:
        finish(run, stage, *range(count))
    meditron.scheduler.jobs.clear()
    for name in ("docs.jsonl", "tokenizer.json", "quiz.jsonl"):
        (meditron.folder / name).unlink()

    result = meditron("resume", run.name)

    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("finished already") == 5


def test_resume_names_missing_files_and_changes_nothing(meditron: Bench, curated: RunDir) -> None:
    source = meditron.folder / "docs.jsonl"
    source.unlink()
    curated.done("curate", 0).unlink()
    before = sorted(curated.root.rglob("*"))

    result = meditron("resume", curated.name)

    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"error: curate: {source}: no such file or folder\nhint: nothing"
    )
    assert sorted(curated.root.rglob("*")) == before


def test_a_file_gone_from_a_folder_of_sources_is_a_changed_input(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    folder = meditron.folder / "docs"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_bytes((meditron.folder / "docs.jsonl").read_bytes())
    words = ("--set", "curate.sources=[docs]")
    meditron.submit(*words, stage="curate")
    run = meditron.run()
    finish(run, "curate", 0)
    meditron.scheduler.jobs.clear()
    marker = read_json(run.done("curate", 0))
    marker["inputs"] = [
        done_markers.describe_file(run, str(folder / name)) for name in ("a.jsonl", "b.jsonl")
    ]
    write_json(run.done("curate", 0), marker)
    (folder / "b.jsonl").unlink()

    meditron.submit(*words, stage="curate")

    assert len(meditron.events("submit")) == 2
    assert not run.done("curate", 0).exists()


def test_a_refused_submission_keeps_the_done_marker(meditron: Bench, curated: RunDir) -> None:
    marker, source = curated.done("curate", 0).read_bytes(), meditron.folder / "docs.jsonl"
    documents = source.read_bytes()
    source.write_bytes(documents * 2)
    meditron.scheduler.refuses = "curate"

    refused = meditron("resume", curated.name)

    assert refused.exit_code == 3
    assert curated.done("curate", 0).read_bytes() == marker


def test_a_job_that_ended_before_it_changed_anything_costs_no_result(
    meditron: Bench, curated: RunDir
) -> None:
    marker, source = curated.done("curate", 0).read_bytes(), meditron.folder / "docs.jsonl"
    documents = source.read_bytes()
    source.write_bytes(documents * 2)
    meditron("resume", curated.name)
    assert not curated.done("curate", 0).exists()
    meditron.scheduler.put_stage("curate", JobState.ENDED, "FAILED")
    source.write_bytes(documents)

    result = meditron("resume", curated.name)

    assert result.stdout == "curate: finished already\n"
    assert curated.done("curate", 0).read_bytes() == marker


@pytest.fixture
def trained(meditron: Bench, finish: Callable[..., None]) -> RunDir:
    """Return a run that has succeeded, whose markers list their inputs."""
    meditron.submit()
    run = meditron.run()
    for stage, count in TASKS:
        finish(run, stage, *range(count))
    meditron.scheduler.jobs.clear()
    for stage, index, name in (("curate", 0, "docs.jsonl"), ("evaluate", 0, "quiz.jsonl")):
        marker = read_json(run.done(stage, index))
        marker["inputs"] = [done_markers.describe_file(run, str(meditron.folder / name))]
        write_json(run.done(stage, index), marker)
    return run


def move_inputs(meditron: Bench) -> Path:
    """Move the experiment and its files into another folder; the runs stay."""
    target = meditron.folder / "moved"
    target.mkdir()
    for name in ("docs.jsonl", "quiz.jsonl", "tokenizer.json", "experiment.yaml"):
        (meditron.folder / name).rename(target / name)
    return target / "experiment.yaml"


def submit_moved(meditron: Bench, config: Path, *words: str) -> Result:
    target = ("--cluster", "local", "--size", "tiny", "--config", str(config))
    return meditron("submit", "pipeline", *target, *words)


def test_submit_continues_the_run_of_a_moved_experiment(meditron: Bench, trained: RunDir) -> None:
    config = move_inputs(meditron)

    result = submit_moved(meditron, config)
    again = submit_moved(meditron, config)

    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("finished already") == 5
    assert "curate: its input files were moved; the result stands" in result.stderr
    assert [path.name for path in meditron.runs.iterdir()] == [trained.name]
    assert again.stdout == result.stdout
    assert "were moved" not in again.stderr
    assert meditron("resume", trained.name).stdout.count("finished already") == 5


def test_submit_continues_the_run_of_a_renamed_document(meditron: Bench, trained: RunDir) -> None:
    experiment = meditron.folder / "experiment.yaml"
    experiment.write_text(experiment.read_text().replace("docs.jsonl", "papers.jsonl"))
    (meditron.folder / "docs.jsonl").rename(meditron.folder / "papers.jsonl")

    result = meditron.submit()

    assert result.stdout.count("finished already") == 5, result.stderr
    assert [path.name for path in meditron.runs.iterdir()] == [trained.name]


def test_another_corpus_at_another_place_is_another_run(meditron: Bench, trained: RunDir) -> None:
    config = move_inputs(meditron)
    source = config.with_name("docs.jsonl")
    source.write_bytes(source.read_bytes() * 2)

    submit_moved(meditron, config)

    assert len(list(meditron.runs.iterdir())) == 2


def test_a_copied_experiment_is_another_run(meditron: Bench, trained: RunDir) -> None:
    config = move_inputs(meditron)
    for name in ("docs.jsonl", "quiz.jsonl", "tokenizer.json"):
        (meditron.folder / name).write_bytes(config.with_name(name).read_bytes())

    submit_moved(meditron, config)

    assert len(list(meditron.runs.iterdir())) == 2


def test_a_moved_experiment_with_other_settings_is_another_run(
    meditron: Bench, trained: RunDir
) -> None:
    submit_moved(meditron, move_inputs(meditron), "--set", "seed=7")

    assert len(list(meditron.runs.iterdir())) == 2


def test_changed_documents_are_refused_once_a_run_has_trained_on_the_old_ones(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit()
    run = meditron.run()
    finish(run, "pretrain", 0)
    finish(run, "tokenize", 0)
    path = run.done("tokenize", 0)
    write_json(path, {**read_json(path), "spec": "another"})
    meditron.scheduler.jobs.clear()

    result = meditron.submit()

    assert result.exit_code == 2
    assert "the settings or tokenizer of tokenize have changed since run" in result.stderr
    assert len(meditron.scheduler.submitted) == 5

    write_json(run.path("corpus/manifest.json"), {"taken_down": [{"id": "a"}]})

    assert meditron.submit().stderr.splitlines()[-1] == (
        "hint: 1 document removed from its corpus since; `meditron submit evaluate --run "
        f"{run.name}` still scores it, and --new starts a run from the sources"
    )


def checkpoints_of(meditron: Bench, stage: str) -> dict[int, str]:
    """Return the checkpoint that each task of a stage is of, by index, as its job reads it."""
    run = meditron.run()
    return {
        i: read_json(run.spec(stage, i))["spec"]["checkpoint"] for i in specs.indices(run, stage)
    }


@pytest.fixture
def trained_on(meditron: Bench, finish: Callable[..., None]) -> RunDir:
    """Return a run whose training is done, and the scheduler knows no job."""
    meditron.submit("--set", "evaluate.benchmarks=[]")
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    finish(run, "pretrain", 0)
    meditron.scheduler.jobs.clear()
    return run


def test_a_queued_job_of_other_settings_is_replaced_with_all_behind_it(meditron: Bench) -> None:
    meditron.submit()
    run = meditron.run()

    result = meditron.submit("--set", "pretrain.save_interval=7")

    assert result.exit_code == 0, result.stderr
    assert "pretrain: other settings replace job 104_0, still queued" in result.stderr
    assert read_json(run.spec("pretrain", 0))["spec"]["save_interval"] == 7
    assert meditron.scheduler.cancelled == ["104_0", "105_0", "105_1"]
    assert meditron.scheduler.submitted[5:] == [
        Submitted("pretrain", (0,), 2, ("102_0", "102_1", "102_2", "103_0")),
        Submitted("evaluate", (0, 1), 2, ("106_0",)),
    ]


def test_other_settings_of_a_running_job_are_refused(meditron: Bench, training: RunDir) -> None:
    before = training.spec("pretrain", 0).read_bytes()

    result = meditron.submit("--set", "pretrain.save_interval=7")

    assert result.exit_code == 2
    assert "pretrain of run" in result.stderr
    assert "runs in job 104_0 with other settings, so nothing was submitted" in result.stderr
    assert f"`meditron cancel --save {training.name}`" in result.stderr
    assert len(meditron.scheduler.submitted) == 5
    assert training.spec("pretrain", 0).read_bytes() == before
    last = request.last_request(training, attempt_history.read(training))
    assert last["experiment"]["pretrain"]["save_interval"] != 7


PHASE = "pretrain.phases=[{from_tokens: 204800, sequence_length: 256}]"


def test_an_index_of_other_phases_is_refused_while_the_training_of_its_own_runs(
    meditron: Bench, training: RunDir, finish: Callable[..., None]
) -> None:
    """Its next start in the same job would find the samples of other phases."""
    before = training.spec("index", 0).read_bytes()

    same = meditron("submit", "index", "--run", training.name)
    other = meditron("submit", "index", "--run", training.name, "--set", PHASE)

    assert same.exit_code == 0, same.output
    assert other.exit_code == 2
    assert (
        f"error: pretrain of run {training.name} runs in job 104_0 with other settings, so nothing "
        "was submitted\n"
    ) in other.stderr
    assert f"hint: `meditron cancel --save {training.name}` ends the run's jobs" in other.stderr
    assert len(meditron.scheduler.submitted) == 5
    assert training.spec("index", 0).read_bytes() == before
    finish(training, "pretrain", 0)
    meditron.scheduler.jobs.clear()
    again = meditron("submit", "index", "--run", training.name, "--set", PHASE)
    assert again.exit_code == 0, again.output
    assert meditron.scheduler.submitted[-1].stage == "index"


def test_an_index_of_other_phases_is_refused_while_the_training_of_its_own_is_queued(
    meditron: Bench, trained_on: RunDir
) -> None:
    trained_on.done("pretrain", 0).unlink()
    meditron("submit", "pretrain", "--run", trained_on.name)
    jobs = len(meditron.scheduler.submitted)

    result = meditron("submit", "index", "--run", trained_on.name, "--set", PHASE)

    assert result.exit_code == 2
    assert "with other settings than index has now, so nothing was submitted" in result.stderr
    assert "hint: `meditron submit pipeline --run" in result.stderr
    assert len(meditron.scheduler.submitted) == jobs
    both = meditron("submit", "pretrain", "--run", trained_on.name, "--set", PHASE)
    assert both.exit_code == 0, both.output
    assert [item.stage for item in meditron.scheduler.submitted[jobs:]] == ["index", "pretrain"]


def test_a_resume_keeps_running_jobs_whatever_a_later_request_says(
    meditron: Bench, trained_on: RunDir
) -> None:
    meditron.submit("--set", "export.step=first", stage="export")
    meditron.begin("export")
    meditron.submit(
        "--set",
        "export.step=first",
        "--set",
        "export.dtype=fp32",
        "--set",
        "evaluate.benchmarks=[{name: quiz, path: quiz.jsonl}]",
        stage="evaluate",
    )

    result = meditron("resume", trained_on.name)

    assert result.exit_code == 0, result.stderr
    assert [item.stage for item in meditron.scheduler.submitted[4:]] == ["export", "evaluate"]


@pytest.mark.parametrize("begins", [False, True])
def test_an_export_of_another_checkpoint_starts_beside_the_first(
    meditron: Bench, trained_on: RunDir, begins: bool
) -> None:
    meditron.submit("--set", "export.step=first", stage="export")
    if begins:
        meditron.begin("export")

    result = meditron.submit("--set", "export.step=200", stage="export")

    assert result.exit_code == 0, result.stderr
    assert "export: job 105_0 of an earlier submission stays" in result.stderr
    assert meditron.scheduler.submitted[5:] == [Submitted("export", (1,), 2, ())]
    assert meditron.scheduler.cancelled == []
    assert checkpoints_of(meditron, "export") == {0: "first", 1: "200"}
    assert meditron.reader().read().stages["export"].total == 2


def test_an_array_that_grows_keeps_its_tasks(
    meditron: Bench, trained_on: RunDir, finish: Callable[..., None]
) -> None:
    meditron.submit("--set", "export.step=first", stage="export")

    meditron.submit("--set", "export.step=[200,first]", stage="export")
    finish(trained_on, "export", 0, 1)
    meditron.scheduler.jobs.clear()
    meditron.submit("--set", "export.step=[last,200,first]", stage="export")

    assert meditron.scheduler.submitted[5:] == [
        Submitted("export", (1,), 2, ()),
        Submitted("export", (2,), 3, ()),
    ]
    assert checkpoints_of(meditron, "export") == {0: "first", 1: "200", 2: "last"}


def test_a_task_that_a_plan_no_longer_has_is_not_waited_for(
    meditron: Bench, trained_on: RunDir, finish: Callable[..., None]
) -> None:
    meditron.submit("--set", "export.step=[first,200]", stage="export")
    meditron.scheduler.jobs.clear()

    meditron.submit("--set", "export.step=200", stage="export")
    finish(trained_on, "export", 1)

    assert meditron.scheduler.submitted[5:] == [Submitted("export", (1,), 2, ())]
    assert derive_view(meditron.reader().read(), {}, 0.0).state == "succeeded"


def test_another_benchmark_evaluates_nothing_twice(
    meditron: Bench, trained_on: RunDir, finish: Callable[..., None]
) -> None:
    quiz, exam = (f"{{name: {name}, path: quiz.jsonl}}" for name in ("quiz", "exam"))
    meditron.submit("--set", f"evaluate.benchmarks=[{quiz}]", stage="evaluate")
    finish(trained_on, "evaluate", 0)

    meditron.submit("--set", f"evaluate.benchmarks=[{exam},{quiz}]", stage="evaluate")

    assert meditron.scheduler.submitted[5:] == [Submitted("evaluate", (2, 3), 2, ())]
    assert not meditron.scheduler.cancelled


def test_one_changed_benchmark_of_an_array_keeps_the_others_and_their_recovery_job(
    meditron: Bench, trained_on: RunDir
) -> None:
    quiz, exam = (f"{{name: {name}, path: quiz.jsonl}}" for name in ("quiz", "exam"))
    checkpoints = ("--set", "evaluate.checkpoints=[last]")
    meditron.submit("--set", f"evaluate.benchmarks=[{quiz},{exam}]", *checkpoints, stage="evaluate")
    fewer = exam.replace("}", ", limit: 3}")

    meditron.submit(
        "--set", f"evaluate.benchmarks=[{quiz},{fewer}]", *checkpoints, stage="evaluate"
    )

    assert meditron.scheduler.cancelled == ["105_1"]
    assert meditron.scheduler.dismissed == []
    assert meditron.scheduler.submitted[5:] == [Submitted("evaluate", (1,), 2, ())]


@pytest.mark.parametrize(("done", "code"), [(True, 0), (False, 2)])
def test_a_job_of_several_tasks_is_replaced_only_while_none_runs(
    meditron: Bench, trained_on: RunDir, finish: Callable[..., None], done: bool, code: int
) -> None:
    """As on this machine, where one job has all tasks of an attempt."""
    now = time.time()
    meditron.submit("--set", "export.step=[first,200]", stage="export")
    append(trained_on, SubmitEvent(now, "export", 2, (0, 1), "local", "person", job_ids=("7",)))
    append(trained_on, StartEvent(now, "export", 0, 2, "7", now))
    meditron.scheduler.put("7", JobState.ACTIVE)
    if done:
        finish(trained_on, "export", 0)
    changed = ("--set", "export.step=[first,200]", "--set", "export.max_shard_gb=1")

    result = meditron.submit(*changed, stage="export")

    assert result.exit_code == code, result.stderr
    assert meditron.scheduler.cancelled == ["7"] * done
    assert [item.indices for item in meditron.scheduler.submitted[5:]] == [(0, 1)] * done


def save(run: RunDir, step: int) -> None:
    """Write the record that makes the checkpoint of a step whole."""
    folder = run.path("checkpoints") / manifest.name(step)
    folder.mkdir(parents=True)
    (folder / manifest.RECORD).touch()


def test_an_export_of_an_earlier_step_waits_for_training_alone(meditron: Bench) -> None:
    meditron.submit("--set", "export.step=[first,last,200]")

    assert meditron.scheduler.submitted[5:] == [
        Submitted("export", (0, 2), 1, ("104_0",)),
        Submitted("export", (1,), 2, ("104_0", "105_0", "105_1")),
    ]


def test_an_export_of_a_saved_step_waits_for_nothing(meditron: Bench, training: RunDir) -> None:
    save(training, 200)

    result = meditron.submit("--set", "export.step=[300,200]", stage="export")

    assert result.exit_code == 0, result.stderr
    assert meditron.scheduler.submitted[5:] == [
        Submitted("export", (0,), 1, ("104_0",)),
        Submitted("export", (1,), 2, ()),
    ]


def test_a_queued_export_whose_step_was_saved_since_is_submitted_without_waiting(
    meditron: Bench, training: RunDir
) -> None:
    words = ("--set", "export.step=[200,300]")
    meditron.submit(*words, stage="export")
    meditron.scheduler.put_stage("export", JobState.QUEUED, reason="Dependency")
    save(training, 300)

    meditron.submit(*words, stage="export")

    assert meditron.scheduler.cancelled == ["106_1"]
    assert meditron.scheduler.submitted[6:] == [Submitted("export", (1,), 2, ())]


def test_a_saved_step_is_exported_though_training_has_ended_before_its_target(
    meditron: Bench, training: RunDir
) -> None:
    save(training, 200)
    meditron("cancel", training.name)

    saved = meditron.submit("--set", "export.step=200", stage="export")
    other = meditron.submit("--set", "export.step=300", stage="export")

    assert [saved.exit_code, other.exit_code] == [0, 2]
    assert "export needs the result of pretrain" in other.stderr


def test_training_that_is_resumed_exports_no_saved_step_again(
    meditron: Bench, training: RunDir, finish: Callable[..., None], fail: Callable[..., None]
) -> None:
    save(training, 200)
    meditron.submit("--set", "export.step=[200,last]", stage="export")
    finish(training, "export", 0)
    fail(training, "pretrain", 0)
    meditron.scheduler.end_all()

    meditron("resume", training.name)

    assert [item.indices for item in meditron.scheduler.submitted if item.stage == "export"] == [
        (0,),
        (1,),
        (1,),
    ]


def test_a_stage_that_others_wait_for_is_not_replaced_alone(meditron: Bench) -> None:
    meditron.submit()

    changed = ("--set", "pretrain.save_interval=7")
    result = meditron.submit(*changed, stage="pretrain")

    assert result.exit_code == 2
    assert "evaluate of run" in result.stderr
    assert "would never start: queued behind pretrain" in result.stderr
    assert "`meditron submit pipeline --cluster local" in result.stderr
    assert meditron.scheduler.cancelled == []


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        ("tokenize", "tokenize.special_tokens_in_text=true"),
        ("curate", "curate.min_chars=3"),
    ],
)
def test_stages_whose_settings_make_another_run_drop_nothing(
    meditron: Bench, stage: str, setting: str
) -> None:
    meditron.submit(stage="curate")
    meditron.submit("--set", setting, stage="curate")

    assert len(list(meditron.runs.iterdir())) == 2
    assert [item.stage for item in meditron.scheduler.submitted] == ["curate", "curate"]


def test_a_stop_file_does_not_stop_the_next_submission(meditron: Bench) -> None:
    meditron.submit()
    meditron.run().stop_file.touch()

    meditron.submit()

    assert not meditron.run().stop_file.exists()


def test_cancelling_ends_jobs_whatever_their_state(meditron: Bench) -> None:
    meditron.submit()
    meditron.scheduler.put_stage("curate", JobState.ACTIVE)
    name = meditron.run().name

    result = meditron("cancel", name)

    assert result.stdout == f"run {name}: 8 jobs cancelled\n"
    assert meditron.events("cancel")[0]["job_ids"] == sorted(meditron.scheduler.cancelled)


def test_json_has_the_jobs_that_were_cancelled_and_those_that_save(meditron: Bench) -> None:
    meditron.submit()
    name = meditron.run().name
    meditron.begin("pretrain")

    saved = json.loads(meditron("cancel", name, "--save", "--json").stdout)
    ended = json.loads(meditron("cancel", name, "--json").stdout)

    assert (saved["run"], len(saved["saving"])) == (name, 1)
    assert set(saved["saving"]) <= set(ended["cancelled"])


def test_cancelling_with_save_lets_running_training_exit_by_itself(
    meditron: Bench, training: RunDir
) -> None:
    meditron.scheduler.put_stage("evaluate", JobState.ACTIVE)  # as local jobs that wait

    result = meditron("cancel", training.name, "--save")

    assert result.exit_code == 0
    assert training.stop_file.exists()
    assert meditron.scheduler.cancelled == ["105_0", "105_1"]


@pytest.mark.parametrize("words", [["cancel"], ["cancel", "--save"]])
def test_cancelling_a_finished_run_changes_nothing(
    meditron: Bench, finish: Callable[..., None], words: list[str]
) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    finish(run, "curate", 0)
    before = run.events.read_bytes()

    result = meditron(*words, run.name)

    assert result.stdout == "nothing to cancel: the run has no queued or running job\n"
    assert run.events.read_bytes() == before
    assert not run.stop_file.exists()
    assert meditron.scheduler.dismissed == []


def test_cancel_with_save_that_is_killed_records_no_stop_that_no_rank_can_see(
    meditron: Bench,
) -> None:
    meditron.submit()
    run = meditron.run()
    meditron.scheduler.put_stage("pretrain", JobState.ACTIVE)

    for step in itertools.count(1):
        if not kill_before_step(step, partial(meditron, "cancel", run.name, "--save")):
            break
        assert run.stop_file.exists() or not meditron.events("stop"), step

    assert meditron.events("stop")


def test_cancel_with_save_adopts_a_submission_that_was_killed(meditron: Bench) -> None:
    killed_between_submission_and_answer(meditron)
    meditron.scheduler.adopts = True

    meditron("cancel", meditron.run().name, "--save")

    assert "99" in meditron.scheduler.cancelled
    assert attempt_history.read(meditron.run()).unanswered == []


def test_cancelling_with_save_ends_no_job_while_the_scheduler_does_not_report_what_runs(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    meditron.scheduler.put_stage("pretrain", JobState.ACTIVE)
    meditron.scheduler.silent = True

    result = meditron("cancel", run.name, "--save")

    assert result.exit_code == 3
    assert "does not report which jobs" in result.stderr
    assert run.stop_file.exists()
    assert meditron.scheduler.cancelled == []


def test_resuming_submits_what_a_cancelled_run_lacks(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    meditron("cancel", run.name)

    result = meditron("resume", run.name)

    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0] == "curate: finished already"
    assert [item.stage for item in meditron.scheduler.submitted[5:]] == [
        "tokenize",
        "index",
        "pretrain",
        "evaluate",
    ]


def test_resuming_gives_every_task_the_spec_it_had(meditron: Bench) -> None:
    meditron.submit("--set", "pretrain.save_interval=7")
    run = meditron.run()
    before = run.spec("pretrain", 0).read_bytes()
    meditron("cancel", run.name)
    (meditron.folder / "experiment.yaml").unlink()

    result = meditron("resume", run.name)

    assert result.exit_code == 0, result.stderr
    assert run.spec("pretrain", 0).read_bytes() == before


def test_decisions_name_every_task_once(meditron: Bench) -> None:
    meditron.submit()
    run = meditron.run()
    plan, record = planned(meditron.reader()), meditron.reader().read()
    infos = launch.query_open_jobs(record, meditron.scheduler)

    decisions = launch_plan.decide(plan, record, infos, launch.check_tasks(plan, run), {})

    for stage in plan.stages:
        decision = decisions[stage.stage]
        both = [*decision.submit, *decision.keep]
        assert sorted(both) == [task.index for task in stage.tasks]


def killed_between_submission_and_answer(meditron: Bench) -> None:
    """Leave what a submission leaves that dies before the scheduler's answer is on record."""
    meditron.submit("--set", "evaluate.benchmarks=[]")
    run = meditron.run()
    append_event(run, "intent", stage="curate", attempt=2, indices=[0], scheduler="slurm")


def test_a_submission_killed_before_its_answer_is_withdrawn_once(meditron: Bench) -> None:
    killed_between_submission_and_answer(meditron)

    for _ in range(2):
        meditron.submit("--set", "evaluate.benchmarks=[]")

    assert meditron.scheduler.withdrawn == [("curate", 2)]


def test_cancel_ends_jobs_of_a_killed_submission(meditron: Bench) -> None:
    killed_between_submission_and_answer(meditron)

    meditron("cancel", meditron.run().name)

    assert meditron.scheduler.withdrawn == [("curate", 2)]


def test_cancel_with_save_stops_jobs_of_a_killed_submission(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    killed_between_submission_and_answer(meditron)
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    finish(run, "pretrain", 0)

    meditron("cancel", run.name, "--save")

    assert run.stop_file.exists()


def test_submissions_that_were_answered_are_not_withdrawn(meditron: Bench) -> None:
    meditron.submit()
    meditron.submit()

    assert meditron.scheduler.withdrawn == []


def test_a_whole_submission_that_was_killed_is_taken_over(meditron: Bench) -> None:
    killed_between_submission_and_answer(meditron)
    meditron.scheduler.adopts = True

    meditron.submit("--set", "evaluate.benchmarks=[]")

    assert meditron.scheduler.withdrawn == []
    assert len(meditron.scheduler.submitted) == 4


SLURM_STEPS = ("events.jsonl", "timeout", "scancel")
"""Appends to the event log, which is the first created, and calls of sbatch (by way of timeout) and
scancel.
"""
PER_STAGE = {"curate": 1, "tokenize": 3, "index": 1, "pretrain": 1} | {
    f"{name}.recovery_job": 1 for name in ("curate", "tokenize", "index", "pretrain")
}


@pytest.fixture
def submit_to_slurm(meditron: Bench) -> tuple[FakeSlurm, Callable[[], Result]]:
    """Return Slurm's stand-ins, and `meditron submit` of three stages on them."""
    programs = fake_slurm.install(meditron.folder / "slurm")
    services = replace(meditron.services(), make=lambda kind: SlurmScheduler(programs.environ))
    target = ("--cluster", str(profile_of("test-slurm")), "--size", "tiny")
    words = ("submit", "pipeline", *target, "--set", "evaluate.benchmarks=[]")
    return programs, partial(CliRunner().invoke, main, words, obj=services)


def jobs_per_name(programs: FakeSlurm) -> Counter[str]:
    """Return the number of queued jobs per name, without the run's."""
    rows = (programs.state / "queue").read_text().splitlines()
    return Counter(row.split("|")[3].partition(".")[2] for row in rows)


@pytest.mark.parametrize("step", only([3, 6], [2, 3, 4, 5, 6, 8]))
def test_after_a_submit_killed_before_any_step_each_stage_has_one_job_and_one_recovery_job(
    meditron: Bench, submit_to_slurm: tuple[FakeSlurm, Callable[[], Result]], step: int
) -> None:
    programs, submit = submit_to_slurm

    was_killed = kill_before_step(step, submit, lambda name: name.endswith(SLURM_STEPS))
    result = submit()

    assert was_killed
    assert result.exit_code == 0, result.stderr
    assert jobs_per_name(programs) == PER_STAGE
    submits = meditron.events("submit")
    assert [event["stage"] for event in submits] == ["curate", "tokenize", "index", "pretrain"]
    ids = [job for event in submits for key in ("job_ids", "recovery_jobs") for job in event[key]]
    assert sorted(ids) == sorted(programs.queued())
    assert attempt_history.read(meditron.run()).unanswered == []


@pytest.mark.parametrize("step", only([9], [8, 9, 10]))
def test_a_submit_killed_while_it_takes_a_refused_pipeline_back_is_completed_by_the_next(
    meditron: Bench, submit_to_slurm: tuple[FakeSlurm, Callable[[], Result]], step: int
) -> None:
    """The third call of sbatch, for tokenization, is refused; the steps are the withdrawal of
    tokenization, scancel for curation, and its undo event.
    """
    programs, submit = submit_to_slurm
    programs.tell("refuse-3", "sbatch: error: too many jobs\n")

    was_killed = kill_before_step(step, submit, lambda name: name.endswith(SLURM_STEPS))
    result = submit()

    assert was_killed
    assert result.exit_code == 0, result.stderr
    assert jobs_per_name(programs) == PER_STAGE
    assert attempt_history.read(meditron.run()).unanswered == []


# ---- those who look after jobs


def test_each_stage_has_a_recovery_job_and_a_person_stands_behind_it(meditron: Bench) -> None:
    meditron.submit()

    recorded = [
        (event["stage"], event["by"], event["recovery_jobs"]) for event in meditron.events("submit")
    ]
    assert recorded == [
        ("curate", "person", ["recovery_job-101_0"]),
        ("tokenize", "person", ["recovery_job-102_0"]),
        ("index", "person", ["recovery_job-103_0"]),
        ("pretrain", "person", ["recovery_job-104_0"]),
        ("evaluate", "person", ["recovery_job-105_0"]),
    ]


def test_recovery_jobs_are_cancelled_with_their_jobs(meditron: Bench) -> None:
    meditron.submit(stage="curate")

    result = meditron("cancel", meditron.run().name)

    assert meditron.scheduler.cancelled == ["101_0"]
    assert meditron.scheduler.dismissed == ["recovery_job-101_0"]
    assert result.stdout.endswith(": 1 job cancelled\n")


def test_a_run_that_saves_and_exits_is_not_resumed(meditron: Bench) -> None:
    meditron.submit(stage="curate")

    meditron("cancel", meditron.run().name, "--save")

    assert meditron.scheduler.dismissed == ["recovery_job-101_0"]


def test_dependents_that_are_replaced_lose_their_recovery_jobs(
    meditron: Bench, finish: Callable[..., None], fail: Callable[..., None]
) -> None:
    meditron.submit("--set", "evaluate.benchmarks=[]")
    finish(meditron.run(), "curate", 0)
    fail(meditron.run(), "tokenize", 1)
    meditron.scheduler.put_stage("tokenize", JobState.ENDED, "FAILED")
    for stage in ("index", "pretrain"):
        meditron.scheduler.put_stage(stage, JobState.QUEUED, reason="DependencyNeverSatisfied")

    meditron.submit("--set", "evaluate.benchmarks=[]")

    assert meditron.scheduler.cancelled == ["103_0", "104_0"]
    assert meditron.scheduler.dismissed == ["recovery_job-103_0", "recovery_job-104_0"]


def test_a_run_at_work_shows_its_job(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    meditron.scheduler.put_stage("curate", JobState.QUEUED, reason="Priority")

    result = meditron("resume", meditron.run().name)

    assert result.stderr == "nothing to submit: curate has job 101_0 (queued: Priority)\n"
    assert len(meditron.scheduler.submitted) == 1


@pytest.mark.parametrize(
    ("info", "unknown"),
    [
        (JobInfo("1", JobState.UNKNOWN, ""), True),
        (JobInfo("1", JobState.UNKNOWN, "", LEFT_THE_QUEUE), False),
        (JobInfo("1", JobState.MISSING, ""), False),
        (JobInfo("1", JobState.ACTIVE, "RUNNING"), False),
    ],
)
def test_a_job_that_left_the_queue_does_not_prevent_a_submission(
    info: JobInfo, unknown: bool
) -> None:
    """Without accounting its end is unknown, but it certainly does not run."""
    assert info.is_unknown == unknown
