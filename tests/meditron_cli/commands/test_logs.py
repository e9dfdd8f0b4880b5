"""`meditron logs`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

from meditron_cli.scheduler.base import JobState

from ...conftest import Bench
from ..task_records import TaskRecords


def write(meditron: Bench, stage: str, attempt: int, name: str, text: str) -> None:
    folder = meditron.run().attempt(stage, attempt)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a") as file:
        file.write(text)


def of(meditron: Bench, stage: str = "curate", job: str = "101_0", index: int = 0) -> TaskRecords:
    (submitted,) = [event for event in meditron.events("submit") if event["stage"] == stage]
    return TaskRecords(meditron.run(), float(str(submitted["time"])), stage, index, job)


def test_each_attempt_is_headed_by_how_it_went_and_each_file_by_its_name(
    meditron: Bench,
) -> None:
    meditron.submit(stage="curate")
    records = of(meditron)
    records.start(1, 10)
    records.exit(1, 20, "host_oom", "restart")
    records.start(2, 30, nodes=[])
    write(meditron, "curate", 1, "101_0.out", "one\ntwo\n")
    write(meditron, "curate", 1, "ranks-00000.log", "three")
    write(meditron, "curate", 2, "ranks-00000.log", "four\n")

    lines = meditron("logs", meditron.run().name).stdout.splitlines()

    heads = [line for line in lines if line.startswith("===")]
    assert [line for line in lines if line not in heads] == [
        "==> stages/curate/attempts/1/101_0.out <==", "one", "two",
        "==> stages/curate/attempts/1/ranks-00000.log <==", "three",
        "==> stages/curate/attempts/2/ranks-00000.log <==", "four",
    ]  # fmt: skip
    assert heads[0].startswith("=== curate task 0 attempt 1: job 101_0 on node1, node2, ")
    assert heads[0].endswith(": host oom, restart ===")
    assert heads[1].startswith("=== curate task 0 attempt 2: job 101_0, ")
    assert heads[1].endswith(": running ===")
    assert (lines.index(heads[0]), lines.index(heads[1])) == (0, 6)


def test_one_attempt_can_be_named(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    write(meditron, "curate", 1, "a.log", "first\n")
    write(meditron, "curate", 2, "a.log", "second\n")

    result = meditron("logs", meditron.run().name, "--attempt", "2")

    assert result.stdout == (
        "=== curate attempt 2: not started ===\n==> stages/curate/attempts/2/a.log <==\nsecond\n"
    )


def test_the_attempt_of_many_tasks_shows_how_many_of_them_ended_how(meditron: Bench) -> None:
    meditron.submit()
    for index, cause in enumerate(("completed", "completed", "crash")):
        records = of(meditron, "tokenize", f"102_{index}", index)
        records.start(1, 10)
        records.exit(1, 20, cause, "finish" if cause == "completed" else "stop")
    write(meditron, "tokenize", 1, "ranks-00000.log", "done\n")

    head = meditron("logs", meditron.run().name).stdout.splitlines()[0]

    assert head.startswith("=== tokenize attempt 1: 3 tasks, ")
    assert head.endswith(": 2 completed, 1 crash, stop ===")


def test_one_task_of_many_can_be_named(meditron: Bench) -> None:
    meditron.submit()
    for index in range(3):
        of(meditron, "tokenize", f"102_{index}", index).start(1, 10)
        write(meditron, "tokenize", 1, f"102_{index}_0_log.out", f"job of {index}\n")
        write(meditron, "tokenize", 1, f"ranks-{index:05d}.log", f"rank of {index}\n")
    write(meditron, "tokenize", 1, "runner.log", "of all\n")

    lines = meditron("logs", meditron.run().name, "--task", "1").stdout.splitlines()

    assert lines[0].startswith("=== tokenize task 1 attempt 1: job 102_1 ")
    assert [line for line in lines if line[0] != "="] == ["job of 1", "rank of 1", "of all"]


def test_a_task_that_the_stage_does_not_have_is_refused(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    name = meditron.run().name

    result = meditron("logs", name, "--stage", "curate", "--task", "3")

    assert result.exit_code == 2
    assert result.stderr == (
        f"error: run {name} has no task 3 of curate; the last is 0\n"
        f"hint: `meditron status {name}` shows how many tasks a stage has\n"
    )


def test_a_line_longer_than_any_buffer_is_printed_whole(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    text = "progress " * 300_000 + "\nend\n"
    write(meditron, "curate", 1, "a.log", text)

    shown = meditron("logs", meditron.run().name).stdout

    assert shown.splitlines()[-1] == "end"
    assert shown.count("progress") == 300_000


def test_lines_of_submitit_are_hidden_unless_all_are_requested(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    noise = "submitit INFO (2026-11-28 10:56:41,093) - Loading pickle: a.pkl\n"
    write(meditron, "curate", 1, "101_0.out", f"{noise}{noise}ours\n")
    write(meditron, "curate", 1, "only.out", noise)
    name = meditron.run().name

    short, full = meditron("logs", name), meditron("logs", name, "--all")

    assert short.stdout.splitlines()[1:] == ["==> stages/curate/attempts/1/101_0.out <==", "ours"]
    assert short.stderr == "3 lines of submitit and library warnings hidden; --all shows them\n"
    assert full.stdout.count("submitit INFO") == 3
    assert full.stderr == ""


def test_no_logs_yet_is_reported(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    name = meditron.run().name

    result = meditron("logs", name, "--stage", "pretrain")

    assert result.exit_code == 2
    assert result.stderr == (
        f"error: run {name} has no logs of pretrain yet\n"
        f"hint: `meditron status {name}` shows what it waits for\n"
    )


def test_following_prints_what_comes_until_the_run_has_ended(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit(stage="curate")
    write(meditron, "curate", 1, "a.log", "begin\n")
    texts = iter(["more\n", "end\n"])

    def work() -> None:
        text = next(texts, None)
        if text is None:
            finish(meditron.run(), "curate", 0)
        else:
            write(meditron, "curate", 1, "a.log", text)

    meditron.clock.when_slept = work

    result = meditron("logs", meditron.run().name, "--follow")

    assert result.exit_code == 0
    assert result.stdout.splitlines()[2:] == ["begin", "more", "end"]


def test_following_moves_on_to_the_next_attempt_and_shows_how_the_last_one_ended(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit(stage="curate")
    meditron.clock.time = of(meditron).zero
    meditron.scheduler.put_stage("curate", JobState.ACTIVE)
    records = of(meditron)
    records.start(1, 10)
    write(meditron, "curate", 1, "ranks-00000.log", "first\n")
    seconds = count(1)

    def work() -> None:
        second = next(seconds)
        if second == 1:
            write(meditron, "curate", 1, "ranks-00000.log", "last line\n")
            records.exit(1, 20, "crash", "restart", reason="rank 3 was killed by SIGKILL")
        elif second == 20:
            records.start(2, 40)
            write(meditron, "curate", 2, "ranks-00000.log", "second\n")
        elif second == 40:
            records.exit(2, 60, "completed", "finish", code=0)
            finish(meditron.run(), "curate", 0)

    meditron.clock.when_slept = work

    lines = meditron("logs", meditron.run().name, "--follow").stdout.splitlines()

    assert lines[0].endswith(": running ===")
    assert lines[1:5] == [
        "==> stages/curate/attempts/1/ranks-00000.log <==", "first", "last line",
        "=== curate task 0 attempt 1 ended: crash, restart: rank 3 was killed by SIGKILL ===",
    ]  # fmt: skip
    assert lines[5].startswith("=== curate task 0 attempt 2: job 101_0 ")
    assert lines[6:8] == ["==> stages/curate/attempts/2/ranks-00000.log <==", "second"]
    assert lines[8].startswith("=== curate task 0 attempt 2 ended: completed")
    assert len(lines) == 9


def test_following_a_run_that_is_moved_away_ends_with_an_error(
    meditron: Bench, tmp_path: Path
) -> None:
    meditron.submit()
    run = meditron.run()
    meditron.clock.when_slept = lambda: run.root.rename(tmp_path / "elsewhere")

    result = meditron("logs", run.name, "--follow")

    assert result.exit_code == 2
    assert f"{run.root}: the run directory was moved or removed" in result.stderr


def test_following_begins_with_the_newest_job(meditron: Bench, finish: Callable[..., None]) -> None:
    meditron.submit(stage="curate")
    write(meditron, "curate", 1, "a.log", "old\n")
    records = of(meditron)
    records.submit(5, 2, "201_0")
    write(meditron, "curate", 2, "a.log", "new\n")
    write(meditron, "curate", 3, "a.log", "newer\n")
    finish(meditron.run(), "curate", 0)

    lines = meditron("logs", meditron.run().name, "--follow").stdout.splitlines()

    assert [line for line in lines if line[0] != "="] == ["new", "newer"]


def test_events_cut_short_are_read_once_they_are_whole(meditron: Bench) -> None:
    from meditron_cli.reporting.follow import NewExits

    meditron.submit(stage="curate")
    records = of(meditron)
    news = NewExits(meditron.reader().history_reader)
    records.exit(1, 20, "crash", "restart")
    events = meditron.run().events
    whole = events.read_bytes()
    events.write_bytes(whole[:-40])
    before = news.read_new()
    events.write_bytes(whole)

    assert before == []
    assert [attempt.cause for attempt in news.read_new()] == ["crash"]
    assert news.read_new() == []
