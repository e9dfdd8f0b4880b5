"""The command table, and how errors leave."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from meditron_cli import __version__
from meditron_cli.examples import EXAMPLES
from meditron_cli.main import COMMANDS, GROUPS, main

from ..conftest import Bench
from ..gate import full
from ..permissions import WITHOUT_ROOTS_EYES

REPOSITORY = Path(__file__).parents[2]


def program(*words: str, runs: Path) -> subprocess.CompletedProcess[str]:
    """Run `meditron WORDS` in a process of its own."""
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MEDITRON_RUNS": str(runs)}
    command = [sys.executable, "-m", "meditron_cli", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_has_the_help_of_each_command(name: str) -> None:
    command: click.Command = import_module(f"meditron_cli.commands.{name}").command

    assert command.get_short_help_str(limit=200).rstrip(".") == COMMANDS[name].rstrip(".")


def test_every_command_module_is_in_the_table() -> None:
    folder = REPOSITORY / "meditron_cli" / "commands"
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "options"}

    assert modules == set(COMMANDS)


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_lists_every_command_in_its_group(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, words)

    assert result.exit_code == 0
    listed = result.stdout[result.stdout.index("Start here:") :]
    groups = (section.splitlines() for section in listed.split("\n\n"))
    found = {
        title.rstrip(":"): {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}
        for title, *lines in groups
    }
    assert found == GROUPS


def commands() -> Iterator[str]:
    """Yield the words of every command, those of subcommands too."""
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        yield name
        if isinstance(command, click.Group):
            yield from (f"{name} {word}" for word in command.commands)


@pytest.mark.parametrize("name", list(commands()))
def test_help_of_a_command_ends_with_two_examples_that_parse(
    name: str, meditron: Bench, project: Path
) -> None:
    for file in ("corpus", "experiment.yaml"):
        (project / file).touch()
    shown = CliRunner().invoke(main, [*name.split(), "--help"]).stdout

    text, _, end = shown.partition("\n  Examples:\n")
    examples = [line.strip() for line in end.splitlines()]

    assert max(map(len, text.splitlines())) <= 80
    assert len(set(examples)) == 2
    for example in examples:
        assert example.startswith(f"meditron {name}")
        parse(main, shlex.split(example, comments=True)[1:], None)


def parse(command: click.Command, words: list[str], parent: click.Context | None) -> None:
    """Parse a command line without running it.

    Raises:
        click.UsageError: it is refused.
    """
    words = words[: words.index(">")] if ">" in words else words
    context = command.make_context(command.name, words, parent=parent)
    with context:
        if isinstance(command, click.Group) and (rest := context._protected_args + context.args):
            _, inner, left = command.resolve_command(context, rest)
            parse(inner, left, context)


def test_examples_are_of_commands_there_are() -> None:
    assert set(EXAMPLES) == set(commands())


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_the_version_is_printed(word: str) -> None:
    assert CliRunner().invoke(main, [word]).stdout == f"meditron {__version__}\n"


@pytest.mark.parametrize("words", [[], ["status"]])
def test_help_is_a_word_too(words: list[str]) -> None:
    result = CliRunner().invoke(main, ["help", *words])

    assert result.exit_code == 0
    assert result.stdout == CliRunner().invoke(main, [*words, "--help"]).stdout


def test_help_of_help_is_the_list_of_commands() -> None:
    assert (
        CliRunner().invoke(main, ["help", "help"]).stdout
        == CliRunner().invoke(main, ["--help"]).stdout
    )


def test_help_of_an_unknown_command_names_the_nearest() -> None:
    result = CliRunner().invoke(main, ["help", "statsu"])

    assert result.exit_code == 2
    assert "did you mean `status`?" in result.stderr


@pytest.mark.parametrize(
    ("words", "stderr"),
    [
        (
            ["statsu"],
            "error: no such command: statsu; did you mean `status`?\nhint: see `meditron --help`\n",
        ),
        (
            ["frobnicate"],
            "error: no such command: frobnicate\nhint: see `meditron --help`\n",
        ),
        (
            ["submit", "bake"],
            "error: invalid value for 'STAGE': 'bake' is not one of 'clean', "
            "'deduplicate', 'curate', 'tokenize', 'index', 'convert', 'pretrain', 'prepare', "
            "'finetune', 'evaluate', 'export', 'generate', 'judge', 'pipeline'\n"
            "hint: see `meditron submit --help`\n",
        ),
        (
            ["plan"],
            "error: missing argument 'STAGE', one of 'clean', 'deduplicate', 'curate', "
            "'tokenize', 'index', 'convert', 'pretrain', 'prepare', 'finetune', "
            "'evaluate', 'export', 'generate', 'judge', 'pipeline'\n"
            "hint: see `meditron plan --help`\n",
        ),
        (
            ["schema", "foo"],
            "error: invalid value for 'KIND': 'foo' is not one of 'experiment', 'cluster'\n"
            "hint: see `meditron schema --help`\n",
        ),
        (
            ["--debug", "logs", "run", "--stage"],
            "error: option '--stage' requires an argument\nhint: see `meditron logs --help`\n",
        ),
        (
            ["logs", "run", "--stage", "bake"],
            "error: invalid value for '--stage': 'bake' is not one of 'clean', "
            "'deduplicate', 'curate', 'tokenize', 'index', 'convert', 'pretrain', 'prepare', "
            "'finetune', 'evaluate', 'export', 'generate', 'judge', 'selftest'\n"
            "hint: see `meditron logs --help`\n",
        ),
        (
            ["submit", "curate", "--clster", "local"],
            "error: no such option: --clster; did you mean `--cluster`?\n"
            "hint: see `meditron submit --help`\n",
        ),
        (
            ["status", "-x"],
            "error: no such option: -x\nhint: see `meditron status --help`\n",
        ),
        (
            ["--frobnicate"],
            "error: no such option: --frobnicate\nhint: see `meditron --help`\n",
        ),
        (
            ["submit", "curate"],
            "error: missing option '--cluster'\nhint: see `meditron submit --help`\n",
        ),
        (
            ["tokenizer", "build", "--config", "e.yaml"],
            "error: missing option '--size'\nhint: see `meditron tokenizer build --help`\n",
        ),
    ],
)
def test_wrong_usage_is_one_sentence_and_a_hint(words: list[str], stderr: str) -> None:
    result = CliRunner().invoke(main, words)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr[result.stderr.index("error: ") :] == stderr


def is_choice_argument(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Argument) and isinstance(parameter.type, click.Choice)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_missing_or_unknown_value_is_one_line(name: str) -> None:
    command: click.Command = import_module(f"meditron_cli.commands.{name}").command
    tails = [["nonsense"], []] if any(map(is_choice_argument, command.params)) else []
    tails += [
        [option]
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("-")
        and not getattr(parameter, "is_flag", False)
        and not getattr(parameter, "_flag_needs_value", False)  # `--html`, with or without a file
    ]

    for tail in tails:
        result = CliRunner().invoke(main, [name, *tail])

        if tail or result.exit_code:
            assert result.exit_code == 2, tail
            error, hint = result.stderr.splitlines()
            assert error.startswith("error: ")
            assert hint == f"hint: see `meditron {name} --help`"


def test_a_fault_of_ours_is_one_sentence(meditron: Bench) -> None:
    meditron.submit(stage="curate")

    def break_down() -> None:
        raise RuntimeError("the answer was 43")

    meditron.scheduler.when_asked = break_down
    result = meditron("status")

    assert result.exit_code == 1
    assert result.stderr == (
        "error: internal error: RuntimeError: the answer was 43\n"
        "hint: this is a fault of meditron; `meditron --debug status` shows where\n"
    )
    assert "Traceback" in meditron("--debug", "status").stderr


def test_every_line_of_a_message_is_an_error(meditron: Bench) -> None:
    experiment = meditron.folder / "experiment.yaml"
    experiment.write_text(experiment.read_text() + "pretrain: {lerning_rate: 1, tran_steps: 2}\n")

    result = meditron.submit()

    assert result.exit_code == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "did you mean" in errors[0]


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    child = subprocess.Popen(
        [sys.executable, "-m", "meditron_cli", "--help"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()

    assert child.stderr.read() == b""
    child.stderr.close()
    child.wait()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["clusters"], 0),
        full(["schema", "experiment"], 0),
        (["check", "missing.yaml"], 2),
        full([], 0),
        (["--help"], 0),
        full(["--version"], 0),
        full(["submit", "--help"], 0),
        full(["help", "status"], 0),
    ],
)
def test_the_exit_code_of_a_command_does_not_depend_on_its_reader(
    tmp_path: Path, words: list[str], code: int
) -> None:
    """The reader closes both streams before anything is printed."""
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(
        [sys.executable, "-m", "meditron_cli", *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "MEDITRON_RUNS": str(tmp_path)},
        stdout=writer,
        stderr=writer,
        check=False,
    )

    os.close(writer)
    assert done.returncode == code


def test_watching_ends_with_its_reader(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(
        [sys.executable, "-m", "meditron_cli", "status", "--watch"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "MEDITRON_RUNS": str(tmp_path / "runs")},
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )

    os.close(writer)
    assert done.returncode == 0


def test_an_interruption_while_the_program_is_imported_has_no_traceback(tmp_path: Path) -> None:
    """A module in the place of click stands for a slow import."""
    (tmp_path / "click.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(600)"
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "meditron_cli", "clusters"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"importing\n"

    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate()

    assert (child.returncode, stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("command", ["init", "submit"])
def test_a_command_that_cannot_write_leaves_no_folder(meditron: Bench, command: str) -> None:
    meditron.runs.mkdir()
    rest = {
        "init": [str(meditron.runs / "new")],
        "submit": ["curate", "--cluster", "local", "--size", "tiny", "--runs-dir", "runs"],
    }
    words = [sys.executable, "-B", "-m", "meditron_cli", command, *rest[command]]

    done = subprocess.run(
        ["sh", "-c", 'umask 0777; exec "$@"', "sh", *WITHOUT_ROOTS_EYES, *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "Permission denied" in done.stderr
    assert list(meditron.runs.iterdir()) == []


def test_the_module_runs_like_the_program(tmp_path: Path) -> None:
    done = program("status", "nobody", runs=tmp_path)

    assert done.returncode == 2
    assert done.stderr.startswith("error: no run is called 'nobody'")


@pytest.mark.parametrize(
    ("words", "before"),
    [
        (["cancel", ""], "cancel"),
        (["resume", ""], "resume"),
        (["logs", ""], "logs"),
        (["report", ""], "report"),
        (["plan", "pretrain", "--cluster", "", "--size", "tiny"], "--cluster"),
        (["plan", "pretrain", "--cluster", "local", "--size="], "--size"),
        (["status", "--runs-dir", ""], "--runs-dir"),
    ],
)
def test_an_empty_argument_is_refused(meditron: Bench, words: list[str], before: str) -> None:
    meditron.submit(stage="curate")

    result = meditron(*words)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: the argument after `{before}` is empty\n"
        "hint: check that the shell variable is set\n"
    )
    assert meditron.scheduler.cancelled == []


@pytest.mark.parametrize("closed", [*map(full, ["<&-", ">&-", "2>&-"]), "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_error(tmp_path: Path, closed: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MEDITRON_RUNS": str(tmp_path)}
    command = f"{sys.executable} -m meditron_cli clusters {closed}"

    done = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, b"")


def test_too_little_memory_is_no_fault_of_ours(meditron: Bench) -> None:
    meditron.submit(stage="curate")

    def exhaust() -> None:
        raise MemoryError

    meditron.scheduler.when_asked = exhaust
    result = meditron("status")

    assert result.exit_code == 1
    assert result.stderr == (
        "error: this process got no more memory\n"
        "hint: raise its limits; `ulimit -a` shows them, `ulimit -v unlimited` lifts that of the "
        "address space\n"
    )


def test_a_path_that_cannot_be_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    results = [
        program("init", "/dev/null", runs=tmp_path),
        program("init", "x" * 300, runs=tmp_path),
        program("status", runs=tmp_path / "loop"),
        program("status", runs=tmp_path / ("x" * 300)),
    ]

    assert [result.returncode for result in results] == [2, 2, 2, 2]
    assert all(result.stderr.startswith("error: ") for result in results)
    assert not any("internal error" in result.stderr for result in results)


def test_a_deleted_current_folder_is_named(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} -m meditron_cli status"

    done = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr == (
        "error: the current folder cannot be used: No such file or directory\n"
        "hint: `cd` to another folder\n"
    )


def test_schema_does_not_replace_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    result = CliRunner().invoke(main, ["schema", "--output", str(tmp_path / "pipe")])

    assert result.exit_code == 2
    assert (tmp_path / "pipe").is_fifo()
