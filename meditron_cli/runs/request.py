"""Requests: the configuration and command of each submission, in run.json and later events."""

from __future__ import annotations

import getpass
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.contract.attempt_history import RunHistory
from jobs.contract.events import EventLog, RequestEvent, append
from jobs.contract.files import DamagedFile, FormatError, read_json
from jobs.contract.rundir import RunDir
from meditron_cli import __version__
from meditron_cli.errors import ConfigError

LIBRARIES = ("torch", "megatron-core", "submitit", "tokenizers", "lm-eval", "numpy")


SECRET = re.compile(r"(?is)((?:password|passwd|secret|api[_-]?key|credential)[^=\s]*=).*")


@dataclass(frozen=True)
class Request:
    """The configuration and command of a submission, as ``run.json`` keeps it. JSON values only."""

    experiment: dict[str, Any]
    cluster: dict[str, Any]
    size: str
    config_file: str | None
    command: Sequence[str]
    time: float
    """Seconds since 1970."""


class UnreadableRun(ConfigError):
    """A refusal of the system to read a file of a run, or an error of its storage."""

    def __init__(self, message: str, reason: str) -> None:
        self.reason = reason
        """Of the system, such as ``Permission denied``."""
        super().__init__(message)

    @classmethod
    def of_error(cls, path: Path, error: OSError) -> UnreadableRun:
        """Return the error about a path, or the file that the system names."""
        reason = error.strerror or str(error)
        return cls(f"{error.filename or path} cannot be read: {reason}", reason)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error of the system into one about a run, whose folder or file this is.

    Raises:
        UnreadableRun: a file cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise UnreadableRun.of_error(path, error) from error


def note_request(run: RunDir, request: Request, history: RunHistory) -> None:
    """Record a later submission's request if its configuration differs from the last one."""
    values, last = asdict(request), last_request(run, history)
    decisive = ("experiment", "cluster", "size")
    if any(values[key] != last[key] for key in decisive):
        values["command"] = tuple(redact(word) for word in request.command)
        append(run, RequestEvent(**values))


def last_request(run: RunDir, history: RunHistory) -> dict[str, Any]:
    """Return the request of the last submission that changed the configuration, else the first.

    Raises:
        ConfigError: there is no record, or one that this program cannot read.
    """
    first = read_record(run)
    return history.request.to_json() if history.request else first


def request_of_other(run: RunDir) -> dict[str, Any]:
    """Return the last request of a run that is only compared with; its other events are not parsed.

    Raises:
        ConfigError: as ``last_request``.
    """
    with reading(run.root):
        requests = EventLog(run, (RequestEvent.kind,)).read_new()
    return last_request(run, RunHistory.of(requests))


def record(name: str, request: Request, code: dict[str, Any]) -> dict[str, Any]:
    """Return the content of ``run.json``: the request, the user and the versions. No secrets."""
    return {
        "run": name,
        **asdict(request),
        "command": [redact(word) for word in request.command],
        "versions": versions(),
        "code": code,
        "user": getpass.getuser(),
        "host": platform.node(),
    }


def redact(word: str) -> str:
    """Return a command-line word without the value of a name that suggests a secret."""
    return SECRET.sub(r"\1***", word)


def versions() -> dict[str, str]:
    """Return the installed versions of Python, meditron and the libraries that a run uses."""
    from importlib.metadata import PackageNotFoundError, version

    numbers = {"meditron": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            numbers[library] = version(library)
        except PackageNotFoundError:
            continue
    return numbers


def read_record(run: RunDir) -> dict[str, Any]:
    """Read ``run.json``; raises like ``read_run_file``."""
    content = read_run_file(run.record, ("experiment", "cluster", "size"))
    try:
        RequestEvent.from_json(content)
    except ValueError as error:
        raise ConfigError(
            f"{run.record}: {error}; the file is damaged", hint=HINT_DAMAGED
        ) from error
    return content


def read_run_file(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Read a JSON file that every run directory has.

    Raises:
        ConfigError: missing, damaged, without one of the keys, or of a format that this program
            does not read.
    """
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing; the run directory is not complete") from error
    except DamagedFile as error:
        raise ConfigError(f"{error}; the file is damaged", hint=HINT_DAMAGED) from error
    except FormatError as error:
        raise other_version(path, error) from error
    except OSError as error:
        raise UnreadableRun.of_error(path, error) from error
    if missing := [key for key in keys if key not in content]:
        raise ConfigError(
            f"{path}: {missing[0]} is missing; the file is damaged", hint=HINT_DAMAGED
        )
    return content


def other_version(path: Path, error: FormatError) -> ConfigError:
    """Return the error about a run whose file has a format that this program does not read."""
    run, python = path.parent, shlex.quote(sys.executable)
    return ConfigError(
        f"run {run.name} was made by another version of meditron: {error}",
        hint=f"`cd {shlex.quote(str(run / 'code'))} && {python} -m meditron_cli status {run.name} "
        f"--runs-dir {shlex.quote(str(run.parent))}` runs the run's own version; "
        "`resume` in place of `status` continues it",
    )


HINT_DAMAGED = "restore it from a backup; without it nothing continues this run"
