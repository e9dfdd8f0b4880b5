"""Locations of values, and the problems found with them, in order, one per line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from meditron_cli.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """A file, or one ``--set``."""

    layer: str
    """``recipe``, ``profile``, ``experiment`` or ``--set``."""
    label: str
    """Its name for people: a path, or the text of the option."""
    folder: Path
    """Absolute; relative paths written in it start here."""
    rank: int = 0
    """Order of precedence, lowest first; problems are sorted by it."""


@dataclass(frozen=True)
class Location:
    """The location of a value; line and column count from 1, 0 means the whole file."""

    source: Source
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        option = self.source.layer.startswith("--")
        if option or not self.line:
            return self.source.label
        return f"{self.source.label}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One sentence about one location; ``key`` is empty if it concerns no key."""

    location: Location
    key: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.location), self.key, self.message) if part)


@dataclass
class Problems:
    """A collection of problems."""

    problems: list[Problem] = field(default_factory=list)

    def add(self, location: Location, key: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(location, key, message, hint))

    def __bool__(self) -> bool:
        return bool(self.problems)

    def lines(self) -> list[str]:
        """Return one sentence per problem, sorted by file and position, without duplicates."""
        ordered = sorted(self.problems, key=_position)
        return list(dict.fromkeys(str(problem) for problem in ordered))

    def hints(self) -> list[str]:
        """Return the problems' hints, without duplicates."""
        return list(dict.fromkeys(problem.hint for problem in self.problems if problem.hint))

    def error(self) -> ConfigError:
        """Return all problems as one error, one line each."""
        return ConfigError("\n".join(self.lines()), "\n".join(self.hints()))


def _position(problem: Problem) -> tuple[int, str, int, int]:
    location = problem.location
    return location.source.rank, location.source.label, location.line, location.column
