"""The command table, and the only place that turns an error into text and an exit code.

``--help`` reads the table; a command's module is imported only when the command runs, so that the
list of commands costs little more than importing click.
"""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from meditron_cli import __version__, console, examples
from meditron_cli.errors import ConfigError, MeditronError

GROUPS = {
    "Start here": {
        "init": "Write a starter experiment.",
        "plan": "Show what would run, with what, without submitting.",
        "submit": "Run a stage, or the whole pipeline, on a cluster.",
        "status": "Show the state and progress of runs.",
    },
    "Configure": {
        "check": "Check experiment files and cluster profiles.",
        "explain": "Explain a configuration value and where it comes from.",
        "schema": "Print the JSON Schema of an experiment or a profile.",
        "clusters": "List cluster profiles, or show one.",
        "fetch": "Download the base model and data of an experiment.",
        "tokenizer": "Build the tokenizer of an experiment.",
        "notify": "Show the receivers of notifications; send a test.",
        "completion": "Print the completion script of a shell.",
    },
    "Run": {
        "rehearse": "Run an experiment in miniature on this machine.",
        "resume": "Continue a run with its own configuration.",
        "recover": "Resume interrupted runs where jobs cannot submit jobs.",
        "cancel": "Stop every job of a run.",
        "rm": "Remove runs that nothing uses.",
    },
    "Inspect": {
        "logs": "Print the logs of a run.",
        "checkpoints": "Show a run's checkpoints, and what is wrong with them.",
        "samples": "Show the documents of a training step.",
        "corpus": "Show documents of a corpus, or remove some.",
        "profile": "Show where the time of training's steps goes.",
    },
    "Results": {
        "report": "Show the results of a run.",
        "verify": "Prove that weights and a checkpoint compute the same.",
        "sync": "Copy a training's metrics into MLflow or W&B.",
    },
    "Site": {
        "doctor": "Check a cluster's Slurm settings and compute nodes.",
        "health": "Check whether this machine is fit for work.",
        "nodes": "Show nodes that failed; clear or report them.",
        "drill": "Prove on a cluster that training survives faults.",
        "selftest": "Confirm or refute what is claimed of training.",
    },
}
"""Name and short help of every command, in the groups and the order of ``--help``."""

COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}

INTERRUPTED = 130

NAMED_WRONG = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM,
    errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL,
}  # fmt: skip
"""Errors of the system about a path that a person has named: usage, not a fault."""


class LazyGroup(click.Group):
    """A command group that lists its commands from ``GROUPS`` and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"meditron_cli.commands.{cmd_name}")
        command: click.Command = module.command
        examples.add(command, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if ctx.resilient_parsing:  # a shell completes: nothing is refused, `help` is passed over
            args = args[args[0] == "help" :]
            is_known = args and args[0] in COMMANDS
            return super().resolve_command(ctx, args) if is_known else (None, None, args)
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            raise click.UsageError(f"no such command: {name}{_instead(name)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with exit_without_reader():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with exit_without_reader():
            return super().invoke(ctx)

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run a command and exit with its code; errors are printed on stderr only here."""
        reopen_closed_streams()
        words = sys.argv[1:] if args is None else list(args)
        if words[:1] == ["help"]:
            words = [*(word for word in words[1:] if word != "help"), "--help"]
        extra = {"prog_name": "meditron", **extra, "standalone_mode": False}
        try:
            require_folder()
            refuse_empty(words)
            code = super().main(args=words, **extra)
        except KeyboardInterrupt:
            code = print_error(click.Abort(), words)
        except Exception as error:  # the one place; everything below is made for people
            code = print_error(error, words)
        sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def exit_without_reader() -> Iterator[None]:
    """Exit with 0 where click prints ``--help`` or ``--version`` and stdout has no reader any more;
    click itself would exit with 1. All other output is the console's, which raises nothing there.
    """
    try:
        yield
    except BrokenPipeError:
        if console.has_reader():
            raise
        console.discard(sys.stdout)
        raise click.exceptions.Exit(0) from None


def reopen_closed_streams() -> None:
    """Open the null device as stdin, stdout or stderr where the caller closed it (cron, systemd).

    Otherwise the next file opened would get that descriptor, and print would have no stream.
    """
    for descriptor, mode in ((0, "r"), (1, "w"), (2, "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            name = ("stdin", "stdout", "stderr")[descriptor]
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def require_folder() -> None:
    """Refuse a current folder that was deleted: relative paths and ``import`` need one.

    Raises:
        ConfigError: it was.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(
            f"the current folder cannot be used: {error.strerror}", hint="`cd` to another folder"
        ) from error


def refuse_empty(words: Sequence[str]) -> None:
    """Refuse an empty argument: no option or command takes one, and a shell passes one for an
    unset variable.

    Raises:
        ConfigError: it names the argument before the empty one.
    """
    for before, word in zip(("meditron", *words), words, strict=False):
        option, equals, value = word.partition("=")
        if not word or (option.startswith("--") and equals and not value):
            raise ConfigError(
                f"the argument after `{before if not word else option}` is empty",
                hint="check that the shell variable is set",
            )


HINT_MEMORY = (
    "raise its limits; `ulimit -a` shows them, "
    "`ulimit -v unlimited` lifts that of the address space"
)


def print_error(error: Exception, words: Sequence[str]) -> int:
    """Print the exception of a command, given by its words, as ``error:`` and ``hint:`` lines;
    return the exit code.
    """
    if isinstance(error, click.Abort):
        console.note("interrupted")
        return INTERRUPTED
    if "--debug" in words:
        import traceback

        console.note("".join(traceback.format_exception(error)).rstrip())
    message, hint, code = describe_error(error, words)
    for line in message.splitlines():
        console.note(f"error: {line}")
    for line in hint.splitlines():
        console.note(f"hint: {line}")
    return code


def describe_error(error: Exception, words: Sequence[str]) -> tuple[str, str, int]:
    """Return message, hint and exit code of the exception of a command, given by its words."""
    if isinstance(error, MeditronError):
        return error.message, error.hint, error.exit_code
    if isinstance(error, click.ClickException):
        context = error.ctx if isinstance(error, click.UsageError) else None
        named = shlex.join(["meditron", *[word for word in words if word in COMMANDS][:1]])
        command = context.command_path if context else named  # click's parser knows no context
        return usage_message(error), f"see `{command} --help`", 2
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        kind = ConfigError if error.errno in NAMED_WRONG else MeditronError
        return f"{where}{error.strerror}", "", kind.exit_code
    if isinstance(error, MemoryError):
        return "this process got no more memory", HINT_MEMORY, MeditronError.exit_code
    text = f"{type(error).__name__}: {error}"
    again = shlex.join(["meditron", *([] if "--debug" in words else ["--debug"]), *words])
    hint = f"this is a fault of meditron; `{again}` shows where"
    return f"internal error: {text}", hint, MeditronError.exit_code


def usage_message(error: click.ClickException) -> str:
    """Return click's message in our form: one sentence, lower case first, no full stop. An argument
    has its name, not the list of its choices.
    """
    parameter = getattr(error, "param", None)
    if isinstance(error, click.NoSuchOption):
        near = f"; did you mean `{error.possibilities[0]}`?" if error.possibilities else ""
        return f"no such option: {error.option_name}{near}"
    if isinstance(parameter, click.Argument) and isinstance(parameter.type, click.Choice):
        name = parameter.human_readable_name
        if isinstance(error, click.MissingParameter):
            return (
                f"missing argument '{name}', one of {', '.join(map(repr, parameter.type.choices))}"
            )
        return f"invalid value for '{name}': {error.message.rstrip('.')}"
    message = error.format_message()
    return (message[:1].lower() + message[1:]).rstrip(".")


def _instead(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


@click.group(
    "meditron",
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, debug: bool) -> None:
    """Adapt a Llama-class model to medicine on a Slurm cluster, or on this machine.

    `meditron help COMMAND` explains a command.
    """
    if ctx.obj is None:
        from meditron_cli.services import Services

        ctx.obj = Services()
    if ctx.invoked_subcommand is None:
        console.data(ctx.get_help())
