"""Attribute a hang to the rank that stopped first, from the reports of all nodes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from jobs.contract.outcomes import Hang
from jobs.supervision.ranks import collectives
from jobs.supervision.ranks.collectives import FlightRecord
from jobs.supervision.ranks.stack_dump import STATES, RankReport

WAITING_FILES = (
    "torch/distributed/distributed_c10d.py",
    "torch/distributed/rendezvous.py",
    "pipeline_parallel/p2p_communication.py",
    "pipeline_parallel/schedules.py",  # where interleaved stages wait for a message
)


WAITING_NAMES = frozenset(
    {"_reduce_batch", "decide_once", "synchronize", "finish_grad_sync", "finish_param_sync"}
)
"""An innermost frame that shows a rank waiting for the others. The functions are those that wait
for a collective begun earlier, or fetch its result: on a GPU, it is there that Python waits."""


FRAME = re.compile(r'  File "(.*)", line (\d+) in (.+)')


STOPPED = ("T", "t")


DEAD = ("", "Z", "X")


STUCK = ("D",)


class StalledRank(NamedTuple):
    """The rank that stopped first, and what it was doing."""

    rank: int | None
    """None where the reports single out no rank."""
    node: str
    detail: str


NO_RECORD = "no rank wrote its collectives"


def attribute(
    hang: Hang,
    reports: Sequence[RankReport],
    records: Sequence[FlightRecord],
    nodes: Sequence[str] = (),
    world_size: int = 1,
) -> Hang:
    """Return the hang with the rank that stopped first.

    A process that is stopped, dead or stuck in the kernel is the cause. Otherwise the collectives
    decide, and where they name no rank the stacks.

    Args:
        hang: without a rank.
        reports: ``jobs.supervision.ranks.stack_dump.read``.
        records: ``jobs.supervision.ranks.collectives.read``.
        nodes: all that should have reported.
        world_size: number of ranks.
    """
    first = first_stalled(reports, nodes)
    found = collectives.find_hang(records, world_size)
    by_rank = {report.rank: report for report in reports}
    runs = first.rank is None or by_rank[first.rank].state not in STOPPED + DEAD + STUCK
    if found and found.ranks and runs and first.rank not in found.ranks:
        report = by_rank.get(found.ranks[0])
        first = StalledRank(
            found.ranks[0], report.node if report else "", doing(report) if report else ""
        )
    sentence = found.sentence if found else "" if records or world_size == 1 else NO_RECORD
    return replace(
        hang, rank=first.rank, node=first.node, detail=first.detail, collectives=sentence
    )


def first_stalled(reports: Sequence[RankReport], nodes: Sequence[str] = ()) -> StalledRank:
    """Return the rank that stopped first.

    A node without a report comes first, then a process that is stopped, dead or stuck in the
    kernel. Ranks that wait for others are victims. Of the rest, the rank behind all others: with
    the fewest heartbeats and, of equals, the oldest one.
    """
    unreported = sorted(set(nodes) - {report.node for report in reports})
    if reports and unreported:
        return StalledRank(None, unreported[0], "none of its ranks was found")
    for states in (STOPPED, DEAD, STUCK):
        if stalled := [report for report in reports if report.state in states]:
            return _first_of(stalled)
    busy = [report for report in reports if not waits_for_others(report.stack)]
    if busy:
        return _first_of(busy)
    behind = [report for report in reports if report.ticks == min(r.ticks for r in reports)]
    if len(behind) == len(reports) > 1:
        return StalledRank(None, "", f"all ranks wait for each other {doing(reports[0])}".rstrip())
    return _first_of(behind) if behind else StalledRank(None, "", "no rank could be examined")


def _first_of(reports: Iterable[RankReport]) -> StalledRank:
    first = min(reports, key=lambda report: (report.ticks, -report.age))
    return StalledRank(first.rank, first.node, doing(first))


def doing(report: RankReport) -> str:
    """Describe a rank: the state of a process that is stopped, else its innermost frame."""
    if report.state in STOPPED + DEAD + STUCK:
        return STATES[report.state]
    frame = innermost(report.stack)
    if frame is None:
        return f"in phase {report.phase}"
    return f"in {frame.name} ({frame.file.rpartition('/')[2]}:{frame.line})"


def waits_for_others(stack: str) -> bool:
    """Return whether the innermost frame is a collective, or a wait for its result."""
    frame = innermost(stack)
    return frame is not None and (frame.file.endswith(WAITING_FILES) or frame.name in WAITING_NAMES)


class Frame(NamedTuple):
    """A frame of a thread's stack."""

    file: str
    line: int
    name: str
    """Of the function."""


def innermost(stack: str) -> Frame | None:
    """Return the innermost frame of the thread that received the signal, which is the main one
    (faulthandler calls it ``Current thread``).
    """
    _, _, after = stack.partition("Current thread ")
    match = FRAME.match(after.partition("\n")[2])
    return None if match is None else Frame(match[1], int(match[2]), match[3])
