"""Parse srun's messages about the tasks of its step: the first failure and its reason (recorded
with Slurm 22.05). Standard library only.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from jobs.slurm import hostlist

FAILED_TASK = re.compile(
    r"^srun: error: (?P<node>\S+): tasks? (?P<tasks>[\d,-]+): "
    r"(?:Exited with exit code (?P<code>\d+)|(?P<reason>.+))$",
    re.MULTILINE,
)
TERMINATING = re.compile(r"^srun: .*Terminating StepId=", re.MULTILINE)
NODE_FAILURE = re.compile(r"^srun: error: Node failure on (?P<nodes>\S+)", re.MULTILINE)
OOM_KILLS = re.compile(r"[Dd]etected (?P<number>\d+) oom[-_]kill event", re.MULTILINE)

SIGNAL_CODES = {signal.strsignal(number): -number for number in signal.Signals} | {
    "Out Of Memory": -signal.SIGKILL
}
"""Codes for srun's words for a task that was ended by a signal."""


@dataclass(frozen=True)
class FailedTask:
    """A task of the step that exited with another code than 0."""

    rank: int
    node: str
    code: int
    """Negative: the signal that ended it."""
    is_cause: bool
    """It failed before srun began to end the others."""


def failures(output: str) -> list[FailedTask]:
    """Return the tasks that srun reports as failed, in its order; unknown wording is skipped."""
    ending = TERMINATING.search(output)
    began = ending.start() if ending else len(output)
    return [
        FailedTask(rank, match["node"], code, is_cause=match.start() < began)
        for match in FAILED_TASK.finditer(output)
        if (code := _code(match)) is not None
        for rank in hostlist.numbers(match["tasks"])
    ]


def first_failure(output: str) -> int | None:
    """Return the exit code of the first failed task (negative: a signal), or None.

    srun's own exit code is the highest of all, and the tasks that ``--kill-on-bad-exit`` ends after
    the first failure have higher ones.
    """
    match = FAILED_TASK.search(output)
    return None if match is None else _code(match)


def failed_node(output: str) -> str:
    """Return the first node that srun lost; empty without one."""
    match = NODE_FAILURE.search(output)
    return match["nodes"] if match else ""


def oom_kills(output: str) -> int:
    """Return how many OOM kills srun and its steps report."""
    return sum(int(match["number"]) for match in OOM_KILLS.finditer(output))


def _code(match: re.Match[str]) -> int | None:
    if match["code"]:
        return int(match["code"])
    return SIGNAL_CODES.get(match["reason"].removesuffix("(core dumped)").strip())
