"""Bad input at the command line: exit code, one sentence, a hint, and nothing lost.

The messages of each stage about its own input have tests beside the stage; here they reach the
person.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.contract.files import FORMAT, read_json
from meditron_cli.main import main
from meditron_cli.services import Services

from ..disks import mounted
from ..permissions import WITHOUT_ROOTS_EYES
from ..ranks import processes_about
from .conftest import DOCUMENTS, PACKAGES, REPOSITORY, Desk, events

pytestmark = pytest.mark.end_to_end


Output = tuple[str, int, str]
"""Standard error, exit code and standard output of a command."""


def run_plainly(desk: Desk, *words: str) -> Output:
    """Run `meditron WORDS` as somebody to whom file modes apply."""
    command, settings = desk.command(*words)
    done = subprocess.run(
        [*WITHOUT_ROOTS_EYES, *command], capture_output=True, check=False, **settings
    )
    return done.stderr, done.returncode, done.stdout


def run_here(desk: Desk, *words: str) -> Output:
    """Run `meditron WORDS` in this process, in its environment without settings for meditron."""
    _, settings = desk.command(*words)
    done = CliRunner().invoke(main, words, obj=Services(environ=settings["env"]))
    return done.stderr, done.exit_code, done.stdout


def nothing(folder: Path) -> None:
    """Keep the project as it is."""


@dataclass(frozen=True)
class Refusal:
    """A bad input and its message; `{folder}` is the project's folder."""

    words: Sequence[str]
    message: str
    change: Callable[[Path], object] = nothing
    by_modes: bool = False
    """Whether file modes decide, which need a process to which they apply."""


LAYOUT_HINT = (
    "hint: --set parallel.tensor=1 --set parallel.pipeline={} --set parallel.data={} would fit\n"
)
ROOT_HINT = "hint: name another with --runs-dir or MEDITRON_RUNS"
SUBMIT_HINT = (
    "hint: correct the settings or files that are named, then repeat the command; "
    "nothing was submitted"
)

REFUSED = {
    "a missing corpus": Refusal(
        ("--set", 'curate.sources=["no.jsonl"]'),
        'error: --set curate.sources=["no.jsonl"]: curate.sources[0]: {folder}/no.jsonl: '
        f"no such file or folder\n{SUBMIT_HINT}\n",
    ),
    "an unreadable corpus": Refusal(
        (),
        f"error: curate.sources: {{folder}}/docs.jsonl cannot be read\n{SUBMIT_HINT}\n",
        lambda folder: (folder / "docs.jsonl").chmod(0),
        by_modes=True,
    ),
    "an empty corpus": Refusal(
        (),
        f"error: curate.sources: {{folder}}/docs.jsonl is empty\n{SUBMIT_HINT}\n",
        lambda folder: (folder / "docs.jsonl").write_text(""),
    ),
    "a missing tokenizer": Refusal(
        ("--set", "tokenize.tokenizer=no.json"),
        "error: --set tokenize.tokenizer=no.json: tokenize.tokenizer: {folder}/no.json: "
        f"no such file or folder\n{SUBMIT_HINT}\n",
    ),
    "a vocabulary larger than the model's": Refusal(
        ("--set", "model.vocab_size=100"),
        "error: tokenize.tokenizer: {folder}/sample/tokenizer.json has 4096 tokens, the model "
        f"only 100; set model.vocab_size to 4096 or more\n{SUBMIT_HINT}\n",
    ),
    "a layout that does not divide": Refusal(
        ("--set", "parallel.pipeline=3"),
        "error: model.layers = 2 is not divisible by parallel.pipeline = 3; 3 would be\n"
        + LAYOUT_HINT.format(1, 2),
    ),
    "more ranks than the machine has": Refusal(
        ("--set", "parallel.data=128", "--set", "pretrain.global_batch_size=256"),
        "error: parallel.tensor x pipeline x data = 1 x 1 x 128 = 128 ranks, but cluster local "
        "has 64 cores (1 node of 64)\n" + LAYOUT_HINT.format(1, 64),
    ),
    "an unknown key": Refusal(
        ("--set", "pretrain.lerning_rate=1"),
        "error: --set pretrain.lerning_rate=1: pretrain.lerning_rate: unknown key; "
        "did you mean 'learning_rate'?\n",
    ),
    "an unknown cluster": Refusal(
        ("--cluster", "locl"),
        "error: --cluster locl: no profile has this name; did you mean 'local'?\n"
        "hint: `meditron clusters` lists the profiles\n",
    ),
    "an unknown size": Refusal(
        ("--size", "giant"),
        "error: --size giant: no recipe has this name; there are 13b, 1b, 70b, 7b, 8b, tiny\n",
    ),
    "a file where runs should lie": Refusal(
        (),
        f"error: {{folder}}/runs is a file; runs need a folder\n{ROOT_HINT}\n",
        lambda folder: (folder / "runs").write_text("mine"),
    ),
    "a runs directory that cannot be written": Refusal(
        (),
        "error: runs directory {folder}/runs cannot be written: Permission denied\n"
        f"{ROOT_HINT}\n",
        lambda folder: (folder / "runs").mkdir(mode=0o555),
        by_modes=True,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_made(
    desk: Desk, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = REFUSED[case]
    refusal.change(desk.folder)
    monkeypatch.chdir(desk.folder)

    run = run_plainly if refusal.by_modes else run_here
    stderr, code, stdout = run(desk, *desk.submit_words("pipeline", *refusal.words))

    assert stderr == refusal.message.replace("{folder}", str(desk.folder))
    assert (code, stdout) == (2, "")
    assert not desk.runs.is_dir() or desk.names() == []


def test_an_unknown_stage_is_refused_with_those_there_are(desk: Desk) -> None:
    done = desk.submit("mow")

    assert done.returncode == 2
    stages = (
        "'clean', 'deduplicate', 'curate', 'tokenize', 'index', 'convert', "
        "'pretrain', 'prepare', 'finetune', 'evaluate', 'export', 'generate', 'judge', 'pipeline'"
    )
    assert f"'mow' is not one of {stages}" in done.stderr
    assert done.stderr.endswith("hint: see `meditron submit --help`\n")


def write_gzip(folder: Path) -> None:
    data = gzip.compress((folder / "docs.jsonl").read_bytes())
    (folder / "docs.jsonl.gz").write_bytes(data[: len(data) // 2])


def spoil_line(folder: Path) -> None:
    lines = (folder / "docs.jsonl").read_text().splitlines()
    lines[6] = '{"id": "seven", "text": '
    lines[8] = '{"id": "nine"}'
    (folder / "docs.jsonl").write_text("\n".join(lines) + "\n")


def leave_blanks(folder: Path) -> None:
    (folder / "docs.jsonl").write_text(json.dumps({"text": "  \n "}) + "\n")


FAILED = {
    "a corrupt .gz": (
        write_gzip,
        ("--set", 'curate.sources=["docs.jsonl.gz"]'),
        "{folder}/docs.jsonl.gz: ",
    ),
    "no document worth keeping": (leave_blanks, (), ""),
    "a line that is not JSON": (spoil_line, (), "{folder}/docs.jsonl:7: "),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case == "a line that is not JSON" else pytest.mark.full)
        for case in FAILED
    ],
)
def test_what_a_stage_cannot_read_fails_the_run_with_its_sentence(desk: Desk, case: str) -> None:
    spoil, words, message = FAILED[case]
    spoil(desk.folder)

    done = desk.submit("pipeline", "--wait", *words)

    run = desk.run()
    start = f"error: run {run.name} failed: curate task 0: " + message.replace(
        "{folder}", str(desk.folder)
    )
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith(start), done.stderr
    assert hint.startswith("hint: ")
    assert done.returncode == 2
    desk.wait_idle()
    state = desk.state(run)
    assert state["state"] == "failed"
    later = [
        state["stages"][stage]["state"] for stage in ("tokenize", "index", "pretrain", "evaluate")
    ]
    assert later == ["stopped"] * 4
    assert list(run.path("corpus/train").rglob("*.jsonl")) == []


def test_bad_records_are_skipped_counted_and_kept_aside_on_request(desk: Desk) -> None:
    spoil_line(desk.folder)

    done = desk.submit("curate", "--wait", "--set", "curate.on_bad_record=skip")

    assert done.returncode == 0, done.stderr
    report = json.loads(desk("report", desk.run().name, "--json").stdout)
    assert report["corpus"]["documents"] == DOCUMENTS - 2
    rejected = [path for path in desk.run().path("corpus").rglob("*") if "seven" in text_of(path)]
    assert len(rejected) == 1


def text_of(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def test_a_run_of_a_newer_format_is_not_touched(desk: Desk) -> None:
    desk.submit("curate", "--wait")
    run = desk.run()
    record = json.loads(run.record.read_text())
    run.record.write_text(json.dumps({**record, "format": FORMAT + 1}))
    before = run.events.read_bytes()

    done = desk.submit("pipeline")

    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: run {run.name} was made by another version of meditron: {run.record}: "
        f"format {FORMAT + 1}, this program reads format {FORMAT}\nhint: `cd "
    )
    assert run.events.read_bytes() == before


@pytest.fixture
def small_runs(desk: Desk) -> Iterator[Path]:
    """Yield the desk's runs on a disk of their own, with room for a run's code and 4 MiB for its
    bytecode and a small corpus, which the pre-flight must not mind.
    """
    profile = (REPOSITORY / "clusters" / "local.yaml").read_text()
    (desk.folder / "clusters").mkdir()
    (desk.folder / "clusters" / "local.yaml").write_text(f"{profile}health_skip: [disk]\n")
    code = [path for part in PACKAGES for path in (REPOSITORY / part).rglob("*") if path.is_file()]
    copied = [path.stat().st_size for path in code if "__pycache__" not in path.parts]
    with mounted(desk.runs, f"{sum(-(-size // 4096) * 4 for size in copied) + 4096}k"):
        yield desk.runs
        desk.end_everything()


def fill(folder: Path, leave: int) -> Path:
    """Fill a small disk but for some bytes."""
    ballast = folder / ".ballast"
    ballast.write_bytes(bytes(max(0, shutil.disk_usage(folder).free - leave)))
    return ballast


def test_a_full_disk_refuses_a_new_run_and_nothing_remains(desk: Desk, small_runs: Path) -> None:
    fill(small_runs, 100_000)

    done = desk.submit("pipeline")

    assert done.stderr == (
        f"error: runs directory {small_runs} cannot be written: No space left on device\n"
        f"{ROOT_HINT}\n"
    )
    assert done.returncode == 2
    assert desk.names() == [".ballast"]


def test_a_full_disk_refuses_to_continue_a_run_and_loses_nothing(
    desk: Desk, small_runs: Path
) -> None:
    assert desk.submit("curate", "--wait").returncode == 0
    (name,) = desk.names()
    desk.wait_idle()
    ballast = fill(small_runs, 0)

    done = desk.submit("tokenize")

    assert done.returncode == 2, done.stderr
    assert f"error: run {name} cannot be written: " in done.stderr
    assert "No space left on device\nhint: " in done.stderr
    assert processes_about(desk.runs) == []
    ballast.unlink()
    assert desk.submit("tokenize", "--wait").returncode == 0


def test_a_disk_that_fills_while_a_stage_writes_is_reported_and_a_larger_one_helps(
    desk: Desk, small_runs: Path
) -> None:
    documents = [json.dumps({"id": str(n), "text": f"{n} " * 3000}) for n in range(1000)]
    (desk.folder / "docs.jsonl").write_text("\n".join(documents) + "\n")
    skip = ("--set", "curate.min_chars=1", "--set", "supervision.attempts_without_progress=1")

    failed = desk.submit("curate", "--wait", *skip)

    assert failed.returncode == 4, failed.stderr
    error, hint = failed.stderr.splitlines()[-2:]
    assert error.endswith("No space left on device")
    assert hint.startswith("hint: free some space, then `meditron resume ")
    run = desk.run()
    assert list(run.path("corpus/train").rglob("*.jsonl")) == []
    subprocess.run(["mount", "-o", "remount,size=64m", desk.runs], check=True)
    done = desk.submit("curate", "--wait", *skip)
    assert done.returncode == 0, done.stderr
    assert read_json(run.done("curate", 0))["summary"]["documents"] == len(documents)
    assert len(events(run, "submit", "curate")) == 2
