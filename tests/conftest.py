"""Fixtures for tests of the command line: a small project, fakes, and a hermetic `meditron`."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import pytest
from click.testing import CliRunner, Result

from jobs.contract import attempt_history, done_markers, specs
from jobs.contract.events import ExitEvent, StartEvent, append, read_events
from jobs.contract.exit_record import ExitRecord
from jobs.contract.files import read_json
from jobs.contract.outcomes import RetryAction, RootCause
from jobs.contract.rundir import RunDir
from meditron_cli.main import main
from meditron_cli.runs.record import RecordReader
from meditron_cli.scheduler.base import JobState
from meditron_cli.services import Services

from . import system
from .durations import Durations
from .fakes import FakeClock, FakeScheduler
from .fork_server import ForkServer

# A slow machine is no fault of an example, and a change is none of a rare example: the gate tries
# the same ones each time, `--hypothesis-profile=explore` new ones.
hypothesis.settings.register_profile(
    "explore", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "gate", hypothesis.settings.get_profile("explore"), derandomize=True
)
hypothesis.settings.load_profile("gate")

WORDS = ("<EOD>", "fever", "heart", "insulin")

EXPERIMENT = """\
name: trial
curate:
  sources: [docs.jsonl]
  shards: 2
tokenize:
  tokenizer: tokenizer.json
model:
  vocab_size: 4
vocabulary: {added_tokens: [], control_tokens: []}
evaluate:
  benchmarks:
    - {name: quiz, path: quiz.jsonl}
export: {step: []}
"""

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the files in tests/golden"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Durations(config))
    # A shell ignores SIGINT in its background, and so would the programs that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.option.collectonly:
        system.install_for(session.items, session.config.get_terminal_writer().line)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Assert that a text equals a file in ``golden/``; with ``--update-golden``, write it there."""
    update = request.config.getoption("--update-golden")

    def hold(name: str, text: str) -> None:
        path = GOLDEN / name
        if update:
            path.write_text(text)
        assert text == path.read_text()

    return hold


@dataclass
class Bench:
    """A project folder, its runs, and `meditron` with fakes for everything outside."""

    folder: Path
    scheduler: FakeScheduler = field(default_factory=FakeScheduler)
    clock: FakeClock = field(default_factory=FakeClock)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def services(self) -> Services:
        environ = {"MEDITRON_RUNS": str(self.runs)}
        return Services(make=lambda kind: self.scheduler, clock=self.clock, environ=environ)

    def __call__(self, *words: str) -> Result:
        """Run `meditron WORDS`."""
        return CliRunner().invoke(main, list(words), obj=self.services())

    def submit(self, *words: str, stage: str = "pipeline", size: str = "tiny") -> Result:
        """Run `meditron submit` on the project's experiment."""
        config = str(self.folder / "experiment.yaml")
        target = ("--cluster", "local", "--size", size, "--config", config)
        return self("submit", stage, *target, *words)

    def run(self, number: int = 0) -> RunDir:
        """Return a run of the project, by its place in the order of names."""
        return RunDir(sorted(path for path in self.runs.iterdir() if path.name[0] != ".")[number])

    def begin(self, stage: str) -> None:
        """Let the jobs of a stage of the first run begin their tasks."""
        self.scheduler.put_stage(stage, JobState.ACTIVE, "RUNNING")
        run, now = self.run(), time.time()
        for index, task in attempt_history.read(run).tasks(stage).items():
            job = task.job
            assert job is not None
            append(run, StartEvent(now, stage, index, task.attempt, job.job_id, now))

    def reader(self) -> RecordReader:
        """Return a reader of the first run, in full."""
        return RecordReader(self.run(), in_full=True)

    def events(self, kind: str) -> list[dict[str, object]]:
        """Return the events of a kind of the first run."""
        return [event for event in read_events(self.run()) if event["event"] == kind]


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Yield a process that has imported torch and megatron.core, and forks ranks."""
    server = ForkServer.begin()
    yield server
    server.end()


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory, fork_server: ForkServer) -> Path:
    """Return a folder per model of `jobs/verification/pairs.py`, with `hf` and `checkpoints`."""
    folder = tmp_path_factory.mktemp("pairs")
    make = Path(__file__).with_name("jobs") / "verification/make_pairs.py"
    fork_server.run(make.read_text(), folder, str(folder))
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a developer's own facts of `meditron doctor` and runs directories out of the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "no-cache"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with documents, a tokenizer, a benchmark and an experiment naming them."""
    (tmp_path / "docs.jsonl").write_text(json.dumps({"id": "1", "text": "fever " * 40}) + "\n")
    quiz = {"id": "q1", "question": "Which?", "choices": ["this", "that"], "answer": 0}
    (tmp_path / "quiz.jsonl").write_text(json.dumps(quiz) + "\n")
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = {"model": {"type": "WordLevel", "vocab": vocabulary}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    return tmp_path


@pytest.fixture
def meditron(project: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return `meditron` in an environment of its own."""
    monkeypatch.chdir(project)
    for name in [name for name in os.environ if name.startswith(("MEDITRON_", "SLURM_"))]:
        monkeypatch.delenv(name)
    return Bench(project)


@pytest.fixture
def finish() -> Callable[..., None]:
    """Write the done markers of finished tasks of a stage."""

    def leave(run: RunDir, stage: str, *indices: int, **summary: object) -> None:
        for index in indices:
            task = specs.task_from_json(read_json(run.spec(stage, index)))
            done_markers.write_done(
                run,
                stage,
                index,
                spec_digest=specs.digest(task.spec),
                inputs=[],
                outputs=[],
                summary=dict(summary),
                seconds=1.0,
            )

    return leave


@pytest.fixture
def training(meditron: Bench, finish: Callable[..., None]) -> RunDir:
    """Return a submitted pipeline whose training has begun."""
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    meditron.begin("pretrain")
    return run


@pytest.fixture
def fail() -> Callable[..., None]:
    """Write the exit record of a failed task of a stage."""

    def leave(run: RunDir, stage: str, index: int, *, attempt: int = 1, code: int = 2) -> None:
        record = ExitRecord(
            stage,
            index,
            attempt,
            "1",
            RootCause.STOPPED if code == 130 else RootCause.CONFIGURATION,
            RetryAction.STOP,
            started=1_700_000_001.0,
            ended=4_000_000_000.0,
            code=code,
            message="docs.jsonl:7: no text",
            hint="fix the line",
            node="node1",
        )
        append(run, ExitEvent(record.ended, record))

    return leave
