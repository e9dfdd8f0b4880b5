"""Making and finding run directories."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.contract import rundir
from jobs.contract.code_check import damaged_files
from jobs.contract.files import FORMAT, read_json, write_json
from jobs.contract.rundir import RunDir
from meditron_cli.errors import ConfigError
from meditron_cli.runs import store
from meditron_cli.runs.prepare import planned
from meditron_cli.runs.request import Request, redact

from ...conftest import Bench
from ...gate import only
from ...ranks import wait_until

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("option", "variable", "profile", "expected"),
    [
        ("/a", "/b", "/c", "/a"),
        (None, "/b", "/c", "/b"),
        (None, None, "/c", "/c"),
        (None, "", "/c", "/c"),
        (None, None, None, "runs"),
    ],
)
def test_the_runs_directory_by_precedence(
    option: str | None, variable: str | None, profile: str | None, expected: str
) -> None:
    environ = {} if variable is None else {"MEDITRON_RUNS": variable}

    found = store.runs_root(
        Path(option) if option else None, environ, Path(profile) if profile else None
    )

    assert found == Path(expected).absolute()


def test_runs_of_one_identity_are_numbered(tmp_path: Path) -> None:
    for name in ("med-7b-aa", "med-7b-aa-2", "med-7b-aa-10", "med-7b-aabb", "med-7b-aa-x"):
        (tmp_path / name).mkdir()

    assert store.newest_of(tmp_path, "med-7b-aa") == "med-7b-aa-10"
    assert store.next_of(tmp_path, "med-7b-aa") == "med-7b-aa-11"
    assert store.next_of(tmp_path, "med-7b-cc") == "med-7b-cc"
    assert store.newest_of(tmp_path, "med-7b-cc") is None


def test_a_run_holds_everything_before_its_first_job(meditron: Bench) -> None:
    meditron.submit()
    run = meditron.run()

    record = read_json(run.record)

    assert record["run"] == run.name
    assert record["experiment"]["name"] == "trial"
    assert record["cluster"]["name"] == "local"
    assert record["size"] == "tiny"
    assert record["versions"]["python"].startswith("3.")
    assert {"commit", "dirty"} == set(record["code"])
    assert sorted(read_json(run.plan)["stages"]) == [
        "curate",
        "evaluate",
        "index",
        "pretrain",
        "tokenize",
    ]


@pytest.mark.parametrize(
    ("root", "made"), [(0o755, 0o755), (0o775, 0o775), (0o2775, 0o2775), (0o2770, 0o2775)]
)
def test_a_run_is_open_to_the_group_that_may_write_to_the_runs_directory(
    meditron: Bench, root: int, made: int
) -> None:
    meditron.runs.mkdir(exist_ok=True)
    meditron.runs.chmod(root)
    mask = os.umask(0o022)
    try:
        meditron.submit()
    finally:
        os.umask(mask)

    assert meditron.run().root.stat().st_mode & 0o7777 == made


def test_the_code_is_copied_without_bytecode(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    code = meditron.run().code

    copied = {path.relative_to(code).as_posix() for path in code.rglob("*.py")}

    assert {
        "jobs/supervision/batch_step.py",
        "meditron_cli/main.py",
        "clusters/__init__.py",
    } <= copied
    assert (code / "jobs" / "contract" / "rundir.py").read_bytes() == Path(
        rundir.__file__
    ).read_bytes()
    assert not list(code.rglob("__pycache__"))


def test_the_copied_code_runs_by_itself(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    code = meditron.run().code

    done = subprocess.run(
        [sys.executable, "-c", "import jobs, meditron_cli.main; print(jobs.__file__)"],
        cwd=code,
        env={"PYTHONPATH": str(code), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == str(code / "jobs" / "__init__.py")


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("--set", "--set"),
        ("pretrain.train_steps=5", "pretrain.train_steps=5"),
        ("tokenize.tokenizer=t.json", "tokenize.tokenizer=t.json"),
        ("environment.set.API_KEY=abc", "environment.set.API_KEY=***"),
        ("db_password=abc def", "db_password=***"),
        ("db_password=abc\ndef", "db_password=***"),
    ],
)
def test_secrets_stay_out_of_the_record(word: str, kept: str) -> None:
    assert redact(word) == kept


def test_new_starts_another_run(meditron: Bench) -> None:
    meditron.submit(stage="curate")

    result = meditron.submit("--new", stage="curate")

    first, second = (meditron.run(number).name for number in (0, 1))
    assert second == f"{first}-2"
    assert "continuing" not in result.stderr


def test_submitting_again_continues_the_newest_of_the_identity(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    meditron.submit("--new", stage="curate")

    result = meditron.submit("--json", stage="curate")

    assert json.loads(result.stdout)["run"] == meditron.run(1).name


def test_a_runs_directory_that_is_a_file_is_refused(meditron: Bench) -> None:
    (meditron.folder / "runs").write_text("")

    result = meditron.submit(stage="curate")

    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {meditron.runs} is a file; runs need a folder\n"
        "hint: name another with --runs-dir or MEDITRON_RUNS\n"
    )


def test_a_runs_directory_that_cannot_be_made_is_refused(meditron: Bench) -> None:
    result = meditron.submit("--runs-dir", "/proc/runs", stage="curate")

    assert result.exit_code == 2
    assert result.stderr.startswith("error: runs directory /proc/runs cannot be written: ")


@pytest.mark.parametrize(
    "command", ["submit", "resume", "status", "report", "cancel", "logs", "checkpoints", "recover"]
)
def test_a_run_of_an_earlier_format_is_refused_by_every_command(
    meditron: Bench, command: str
) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    record = run.record
    record.write_text(record.read_text().replace(f'"format": {FORMAT}', '"format": 1'))

    is_submit = command == "submit"
    result = meditron.submit(stage="curate") if is_submit else meditron(command, run.name)

    assert result.exit_code == 2
    assert result.stderr == (
        f"error: run {run.name} was made by another version of meditron: {record}: format 1, this "
        f"program reads format {FORMAT}\n"
        f"hint: `cd {run.code} && {sys.executable} -m meditron_cli status {run.name} --runs-dir "
        f"{run.root.parent}` runs the run's own version; `resume` in place of `status` continues "
        "it\n"
    )


def test_the_hint_for_a_run_of_an_earlier_format_reads_it(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    files = run.code / "jobs/contract/files.py"
    files.write_text(files.read_text().replace(f"FORMAT = {FORMAT}", "FORMAT = 1"))
    for path in (run.record, run.plan, run.events):
        path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 1'))
    hint = meditron("status", run.name).stderr.partition("hint: `")[2].partition("`")[0]

    # As a person pastes it.
    done = subprocess.run(hint, shell=True, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert run.name in done.stdout


@pytest.mark.parametrize("file", ["run.json", "plan.json"])
@pytest.mark.parametrize("command", ["status", "recover"])
def test_commands_over_all_runs_report_one_of_an_earlier_format(
    meditron: Bench, command: str, file: str
) -> None:
    meditron.submit(stage="curate")
    path = meditron.run().path(file)
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 1'))
    (meditron.runs / "zzz-no-run").mkdir()

    result = meditron(command, *(["--once"] if command == "recover" else []))

    sentence = f"run {meditron.run().name} was made by another version of meditron: {path}: format"
    assert result.exit_code == 0
    assert sentence in result.stdout + result.stderr
    assert "succeeded" not in result.stdout
    assert "no-run" not in result.stdout


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "", "UP"])
def test_a_name_outside_the_runs_directory_is_refused(meditron: Bench, name: str) -> None:
    meditron.submit(stage="curate")
    plan = planned(meditron.reader())
    request = Request({}, {}, "tiny", None, [], 0.0)

    with pytest.raises(ConfigError, match="is not a valid name for a run"):
        store.create(meditron.runs, name, request, plan)


def test_of_two_that_make_a_run_at_once_one_is_refused(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    request = Request({}, {}, "tiny", None, [], 0.0)

    with pytest.raises(ConfigError, match="was made by another submit just now"):
        store.create(meditron.runs, run.name, request, planned(meditron.reader()))

    assert [path.name for path in meditron.runs.iterdir()] == [run.name]


FILL_DISK = """
import resource, sys
from meditron_cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
main(sys.argv[1:])
"""


def test_on_a_disk_that_cannot_take_a_run_nothing_remains(meditron: Bench) -> None:
    words = ["submit", "curate", "--cluster", "local", "--size", "tiny", "--runs-dir", "runs"]

    done = subprocess.run(
        [sys.executable, "-B", "-c", FILL_DISK, *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    first = done.stderr.splitlines()[0]
    assert first.startswith(f"error: runs directory {meditron.runs} cannot be written: ")
    assert "File too large" in first
    assert list(meditron.runs.iterdir()) == []


MAKE_RUNS = """
import sys
from pathlib import Path
from jobs.contract.rundir import RunDir
from meditron_cli.runs.request import Request
from meditron_cli.runs import store
from meditron_cli.runs.prepare import planned
from meditron_cli.runs.record import RecordReader
root = Path(sys.argv[1])
plan = planned(RecordReader(RunDir(root / sys.argv[2])))
request = Request({}, {}, "tiny", None, [], 0.0)
print("ready", flush=True)
for number in range(1000):
    store.create(root, f"made-{number}", request, plan)
"""


@pytest.mark.parametrize("made", only([1], [0, 1, 3, 8]))
def test_after_a_kill_while_a_run_is_made_it_is_whole_or_absent(meditron: Bench, made: int) -> None:
    """The kill comes once the folder of the next run is there, hidden or not."""
    meditron.submit()
    child = subprocess.Popen(
        [sys.executable, "-c", MAKE_RUNS, str(meditron.runs), meditron.run().name],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    wait_until(lambda: len(list(meditron.runs.iterdir())) > 1 + made)
    child.kill()
    child.wait()
    child.stdout.close()

    for name in store.names(meditron.runs):
        run = RunDir(meditron.runs / name)
        assert read_json(run.record)["run"] == name
        assert set(read_json(run.plan)["stages"]) == {
            "curate",
            "tokenize",
            "index",
            "pretrain",
            "evaluate",
        }
        assert run.spec("evaluate", 1).exists()
        assert (run.code / "jobs" / "__main__.py").exists()


PLAN_DAMAGES = {
    "missing": None,
    "cut": b'{"format": 3, "clu',
    "empty": b"",
    "other": b'{"format": 1}',
    "no stages": f'{{"format": {FORMAT}, "cluster": "local"}}'.encode(),
    "other stages": f'{{"format": {FORMAT}, "cluster": "c", "stages": {{"curate": 3}}}}'.encode(),
}


@pytest.mark.parametrize("command", ["resume", "status", "report", "cancel"])
@pytest.mark.parametrize("damage", PLAN_DAMAGES)
def test_a_damaged_plan_is_one_sentence_and_changes_nothing(
    meditron: Bench, damage: str, command: str
) -> None:
    meditron.submit(stage="curate")
    run, content = meditron.run(), PLAN_DAMAGES[damage]
    run.plan.unlink()
    if content is not None:
        run.plan.write_bytes(content)

    result = meditron(command, run.name)

    assert result.exit_code == 2, result.output
    assert f"{run.plan}" in result.stderr.splitlines()[0]
    assert result.stderr.count("error: ") == 1
    assert (run.plan.read_bytes() if run.plan.exists() else None) == content
    assert meditron.scheduler.cancelled == []
    assert len(meditron.events("submit")) == 1


def test_a_run_record_that_was_cut_is_called_damaged(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    run.record.write_bytes(run.record.read_bytes()[:100])

    result = meditron("resume", run.name)

    assert result.exit_code == 2
    assert "the file is damaged\nhint: restore it from a backup" in result.stderr


def test_commands_that_need_no_run_record_work_where_it_is_damaged(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    run.record.write_bytes(run.record.read_bytes()[:100])

    codes = [meditron(word, run.name).exit_code for word in ("status", "report", "cancel")]

    assert codes == [0, 0, 0]
    assert meditron.scheduler.cancelled == ["101_0"]


@pytest.mark.parametrize("length", [1, 3, 9])
def test_cancel_refuses_a_short_beginning_of_a_name(meditron: Bench, length: int) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()

    result = meditron("cancel", run.name[:length])

    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {run.name[:length]!r} is too short for a run that would be ended or deleted\n"
        f"hint: give the whole name: {run.name}\n"
    )
    assert meditron.scheduler.cancelled == []


@pytest.mark.parametrize("length", [len("trial-tiny"), len("trial-tiny-3f2a"), None])
def test_cancel_accepts_a_name_without_its_digest(meditron: Bench, length: int | None) -> None:
    meditron.submit(stage="curate")

    assert meditron("cancel", meditron.run().name[:length]).exit_code == 0
    assert meditron.scheduler.cancelled == ["101_0"]


def test_code_json_lists_every_copied_file(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()

    listed = {item["path"] for item in read_json(run.code_record)["files"]}

    copied = {path.relative_to(run.code).as_posix() for path in run.code.rglob("*.*")}
    assert listed == copied - {"uncommitted.patch"}
    assert damaged_files(run) == []


def test_resume_restores_damaged_code_from_the_same_installed_version(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    damaged = [run.code / "jobs" / "__init__.py", run.code / "jobs" / "contract" / "rundir.py"]
    damaged[0].write_bytes(b"")
    damaged[1].unlink()

    result = meditron("resume", run.name)

    assert result.exit_code == 0
    assert "restored 2 damaged files of the run's code\n" in result.stderr
    assert damaged_files(run) == []
    assert damaged[1].read_bytes() == Path(rundir.__file__).read_bytes()


def test_resume_refuses_damaged_code_of_another_version(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    record = read_json(run.code_record)
    record["files"][0]["sha256"] = "0" * 64
    write_json(run.code_record, record)
    name = record["files"][0]["path"]

    result = meditron("resume", run.name)

    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"error: the run's code in {run.code} is damaged: {name}; the installed meditron is "
        "another version\nhint: "
    )
    assert len(meditron.events("submit")) == 1


def test_the_code_of_a_run_has_the_permissions_of_the_umask(meditron: Bench) -> None:
    mask = os.umask(0o077)
    try:
        meditron.submit(stage="curate")
    finally:
        os.umask(mask)

    run = meditron.run()
    modes = {path.stat().st_mode & 0o077 for path in (run.code, *run.code.rglob("*"))}
    assert modes == {0}


def test_old_staging_folders_of_killed_submits_are_removed(meditron: Bench) -> None:
    digest = "0123456789abcdef" * 2
    old, new, other = (
        meditron.runs / name for name in (f".a-tiny-1.{digest}", f".b-tiny-1.{digest}", ".config")
    )
    for folder in (old, new, other):
        (folder / "code").mkdir(parents=True)
    for folder in (old, other):
        os.utime(folder, (0, 0))

    meditron.submit(stage="curate")

    assert [folder.exists() for folder in (old, new, other)] == [False, True, True]
