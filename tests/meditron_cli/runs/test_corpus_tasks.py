"""Submissions of a corpus that several tasks make."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobs.contract import done_markers, specs
from jobs.contract.files import read_json, write_json
from jobs.contract.rundir import RunDir
from meditron_cli.runs import prepare

from ...conftest import Bench

Finish = Callable[..., None]
STAGES = ("clean", "deduplicate", "curate")


def submit(meditron: Bench, tasks: int, stage: str = "curate") -> dict[str, list[int]]:
    """Submit with a number of tasks; return the tasks by stage that the run has then."""
    words = ("--set", f"curate.tasks={tasks}", "--set", "curate.task_mb=0")
    result = meditron.submit(*words, stage=stage)
    assert result.exit_code == 0, result.stderr
    run = meditron.run()
    return {name: found for name in STAGES if (found := specs.indices(run, name))}


def end(meditron: Bench, finish: Finish, **tasks: int) -> RunDir:
    """Let the first tasks of stages finish and all jobs end."""
    run = meditron.run()
    for stage, count in tasks.items():
        finish(run, stage, *range(count))
    meditron.scheduler.jobs.clear()
    meditron.clock.time += 1_000
    return run


def test_curate_is_submitted_with_the_stages_before_it(meditron: Bench) -> None:
    assert submit(meditron, tasks=3) == {
        "clean": [0, 1, 2],
        "deduplicate": [0],
        "curate": [0, 1, 2],
    }

    jobs = {str(event["stage"]): event for event in meditron.events("submit")}
    assert list(jobs) == list(STAGES)


def test_fewer_tasks_leave_nothing_of_more(meditron: Bench, finish: Finish) -> None:
    submit(meditron, tasks=3)
    run = end(meditron, finish, clean=3)

    assert submit(meditron, tasks=2) == {"clean": [0, 1], "deduplicate": [0], "curate": [0, 1]}

    assert not run.done("clean", 2).exists()
    assert [stage.total for stage in meditron.reader().read().stages.values()] == [2, 1, 2]


def test_one_task_instead_of_several_replaces_their_stages(meditron: Bench, finish: Finish) -> None:
    submit(meditron, tasks=3)
    meditron.begin("clean")
    end(meditron, finish, clean=2)

    submit(meditron, tasks=1)

    assert list(meditron.reader().read().stages) == ["curate"]
    for command in ("status", "report"):
        done = meditron(command, meditron.run().name)
        assert done.exit_code == 0, done.output


def test_one_task_is_refused_while_several_are_in_the_queue(meditron: Bench) -> None:
    submit(meditron, tasks=3)

    result = meditron.submit("--set", "curate.tasks=1", stage="curate")

    assert result.exit_code == 2
    assert result.stderr.splitlines()[-2:] == [
        f"error: clean of run {meditron.run().name} is in the queue, and curate alone would do its "
        "work",
        f"hint: `meditron cancel {meditron.run().name}` ends the run's jobs, `meditron status "
        f"{meditron.run().name}` shows when they have ended; then repeat the command",
    ]


@pytest.mark.parametrize("tasks", [1, 2, 8])
def test_a_finished_corpus_is_not_made_again_by_other_tasks(
    meditron: Bench, finish: Finish, tasks: int
) -> None:
    submit(meditron, tasks=3)
    end(meditron, finish, clean=3, deduplicate=1, curate=3)

    assert submit(meditron, tasks=tasks) == {
        "clean": [0, 1, 2],
        "deduplicate": [0],
        "curate": [0, 1, 2],
    }

    assert len(meditron.events("submit")) == 3


def test_a_finished_corpus_of_one_task_stays_so(meditron: Bench, finish: Finish) -> None:
    submit(meditron, tasks=1)
    end(meditron, finish, curate=1)

    assert submit(meditron, tasks=4) == {"curate": [0]}

    assert len(meditron.events("submit")) == 1


@pytest.mark.parametrize(("settings", "runs"), [("min_chars: 5", 1), ("min_chars: 6", 2)])
def test_a_moved_source_with_settings_continues_the_run(
    meditron: Bench, finish: Finish, settings: str, runs: int
) -> None:
    experiment = meditron.folder / "experiment.yaml"
    plain = experiment.read_text()
    experiment.write_text(plain.replace("[docs.jsonl]", "[{path: docs.jsonl, min_chars: 5}]"))
    submit(meditron, tasks=2)
    run = end(meditron, finish, clean=2, deduplicate=1, curate=2)
    marker = read_json(run.done("clean", 1))
    source = meditron.folder / "docs.jsonl"
    marker["inputs"] = [done_markers.describe_file(run, str(source))]
    write_json(run.done("clean", 1), marker)
    source.rename(meditron.folder / "papers.jsonl")
    experiment.write_text(plain.replace("[docs.jsonl]", f"[{{path: papers.jsonl, {settings}}}]"))

    result = meditron.submit("--set", "curate.tasks=2", "--set", "curate.task_mb=0", stage="curate")

    assert result.exit_code == 0, result.stderr
    assert len(list(meditron.runs.glob("trial-*"))) == runs
    assert result.stdout.count("finished already") == (3 if runs == 1 else 0)


def write_marker(run: RunDir, index: int, megabytes: float, seconds: float) -> None:
    """Let a task that cleans have cleaned so much in that time."""
    marker = read_json(run.done("clean", index))
    summary = {**marker["summary"], "bytes": int(megabytes * 1e6)}
    write_json(run.done("clean", index), {**marker, "summary": summary, "seconds": seconds})


def test_the_mb_of_a_task_are_what_earlier_runs_cleaned_in_a_minute(
    meditron: Bench, finish: Finish
) -> None:
    submit(meditron, tasks=3)
    run = end(meditron, finish, clean=3)
    prefix = run.name.rsplit("-", 1)[0]
    assert prepare.measured_task_mb(run.root.parent, prefix) is None  # of no time

    for index, seconds in enumerate((20, 10, 9)):
        write_marker(run, index, megabytes=100, seconds=seconds)

    assert prepare.measured_task_mb(run.root.parent, prefix) == 450  # 300 and 600; 9 s are too few
    assert prepare.measured_task_mb(run.root.parent, "other") is None


def test_a_new_measurement_does_not_change_the_tasks_of_a_run(
    meditron: Bench, finish: Finish
) -> None:
    (meditron.folder / "docs.jsonl").write_bytes(b'{"text": "%s"}\n' % (b"word " * 500_000))
    words = ("--set", "curate.tasks=2", "--set", "curate.task_mb=1")
    assert meditron.submit(*words, stage="curate").exit_code == 0
    run = end(meditron, finish, clean=1)
    write_marker(run, 0, megabytes=10, seconds=600)  # a MB a minute
    words = ("--set", "curate.tasks=2")

    assert meditron.submit(*words, stage="curate").exit_code == 0
    assert specs.indices(run, "clean") == [0, 1]
    write_marker(run, 0, megabytes=10_000, seconds=60)
    assert meditron.submit(*words, stage="curate").exit_code == 0

    assert specs.indices(run, "clean") == [0, 1]


def test_tokens_stay_what_they_are_with_another_number_of_tasks(
    meditron: Bench, finish: Finish
) -> None:
    submit(meditron, tasks=1)
    run = end(meditron, finish, curate=1)

    def tokenize(tasks: int) -> list[int]:
        result = meditron.submit("--set", f"tokenize.tasks={tasks}", stage="tokenize")
        assert result.exit_code == 0, result.stderr
        assert meditron.run().name == run.name
        return specs.indices(run, "tokenize")

    assert tokenize(3) == [0, 1, 2]
    end(meditron, finish, tokenize=3)
    assert tokenize(1) == [0, 1, 2]
    run.done("tokenize", 1).unlink()
    assert tokenize(2) == [0, 1]
    end(meditron, finish, tokenize=2)
    submitted = len(meditron.events("submit"))

    assert tokenize(3) == [0, 1]
    assert len(meditron.events("submit")) == submitted
