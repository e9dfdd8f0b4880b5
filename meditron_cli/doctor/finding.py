"""One fact about a site, and what it means for a run."""

from __future__ import annotations

from dataclasses import dataclass

OK = "OK"
WARN = "WARN"
FATAL = "FATAL"
UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class SiteFinding:
    """A line of the doctor's table."""

    fact: str
    value: str
    """What was found; empty where nothing was."""
    verdict: str
    """``OK``, ``WARN``, ``FATAL`` (training cannot work) or ``UNKNOWN``."""
    meaning: str
    """One sentence for people."""
    source: str
    """The command or the job that says so."""


def unknown(fact: str, source: str, meaning: str = "not answered") -> SiteFinding:
    """A fact that nobody told."""
    return SiteFinding(fact, "", UNKNOWN, meaning, source)
