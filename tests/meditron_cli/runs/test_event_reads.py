"""Commands read the event log of their run once, and then only what was appended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.contract.events import append_event
from jobs.contract.files import FORMAT
from meditron_cli.scheduler.base import JobState

from ...conftest import Bench

LINE = "x" * 2**16
LINES = 256
"""So many lines outweigh whatever else a command reads."""


def bytes_read() -> int:
    """Return the bytes that this process has read from files and pipes (proc(5))."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def lengthen(meditron: Bench) -> int:
    """Make the event log long, and return its size."""
    run = meditron.run()
    with run.events.open("a") as file:
        for _ in range(LINES):
            file.write(
                f'{{"event": "release", "format": {FORMAT}, "text": "{LINE}", "time": 1.0}}\n'
            )
    return run.events.stat().st_size


@pytest.fixture
def failed(meditron: Bench, finish: Callable[..., None], fail: Callable[..., None]) -> Bench:
    """Return a run whose tokenization failed, with a training that waits for it in vain and a
    submission that was killed. Every module that a command loads is loaded.
    """
    words = ("--set", "evaluate.benchmarks=[]")
    meditron.submit(*words)
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 2)
    meditron.submit(*words, "--set", "pretrain.save_interval=7")
    meditron("cancel", run.name, "--save")
    meditron("resume", run.name)
    fail(run, "tokenize", 1, attempt=read_attempt(meditron))
    meditron.scheduler.put_stage("tokenize", JobState.ENDED, "FAILED")
    meditron.scheduler.put_stage("pretrain", JobState.QUEUED, reason="DependencyNeverSatisfied")
    append_event(run, "intent", stage="curate", attempt=9, indices=[0], scheduler="slurm")
    return meditron


def read_attempt(meditron: Bench) -> int:
    """Return the attempt of the last submission of tokenization."""
    return max(item.attempt for item in meditron.scheduler.submitted if item.stage == "tokenize")


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "pipeline"),
        ("submit", "pipeline", "--set", "pretrain.save_interval=9"),
        ("submit", "pipeline", "--run", "RUN"),
        ("submit", "pipeline", "--wait"),
        ("resume", "RUN"),
        ("cancel", "RUN"),
        ("cancel", "RUN", "--save"),
        ("status", "RUN"),
        ("report", "RUN"),
    ],
    ids=" ".join,
)
def test_a_command_reads_the_event_log_once(failed: Bench, words: tuple[str, ...]) -> None:
    name = failed.run().name
    target = ("--cluster", "local", "--size", "tiny", "--set", "evaluate.benchmarks=[]")
    words = tuple(name if word == "RUN" else word for word in words)
    words = (*words, *target) if words[0] == "submit" and name not in words else words
    failed.clock.when_slept = failed.scheduler.end_all
    size = lengthen(failed)

    before = bytes_read()
    result = failed(*words)
    bytes_of_command = bytes_read() - before

    assert result.exit_code in (0, 4), result.stderr
    assert size <= bytes_of_command < 1.5 * size


def test_commands_that_read_a_run_repeatedly_read_its_event_log_once(failed: Bench) -> None:
    run = failed.run()
    failed.scheduler.end_all()
    failed("cancel", run.name)
    (run.attempt("curate", 1) / "ranks-00000.log").write_text("began\n")
    size = lengthen(failed)

    for words in (("logs", run.name, "--follow"), ("rm", run.name, "--yes")):
        before = bytes_read()
        result = failed(*words)
        bytes_of_command = bytes_read() - before

        assert result.exit_code == 0, result.stderr
        assert size <= bytes_of_command < 1.5 * size


def test_recover_reads_the_event_log_once_for_all_passes(failed: Bench) -> None:
    passes = []

    def note_pass() -> None:
        passes.append(failed.clock.now())
        if len(passes) == 3:
            raise KeyboardInterrupt

    failed.clock.when_slept = note_pass
    size = lengthen(failed)

    before = bytes_read()
    result = failed("recover", failed.run().name)
    bytes_of_command = bytes_read() - before

    assert result.exit_code == 130, result.stderr
    assert size <= bytes_of_command < 1.5 * size
