"""The finding of a rule: one fact about a site, a verdict, and its consequence for runs."""

from __future__ import annotations

from dataclasses import dataclass

OK = "OK"
WARN = "WARN"
FATAL = "FATAL"
UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class SiteFinding:
    """A row of the doctor's table."""

    fact: str
    value: str
    """The site's value; empty when there is none."""
    verdict: str
    """``OK``, ``WARN``, ``FATAL`` (training cannot work) or ``UNKNOWN``."""
    meaning: str
    """The consequence for a run, in one sentence."""
    source: str
    """The command or job that the value comes from."""


def unknown(fact: str, source: str, meaning: str = "no answer") -> SiteFinding:
    """Return an UNKNOWN finding, for a query without an answer."""
    return SiteFinding(fact, "", UNKNOWN, meaning, source)
