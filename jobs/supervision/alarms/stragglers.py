"""Find ranks that are slower than their peers, and trainings that are slow as a whole. Pure.
Numbers without a source are guesses.

Ranks of one pipeline stage do the same work. In step they take the same time, but one that is
slower than its peers waits less for them: its own time, a step without communication, is longer.
Ranks of one replica, its tensor-parallel groups and pipeline stages, wait for each other within a
step, so that they are slow together: where they are on several nodes, none of these is named.

megatron.core's detector (core/utils.py, ``StragglerDetector``) is not used: it prints the fastest
and slowest rank of an interval instead of returning them, adds CUDA events and a collective of its
own to the steps, and is switched by requests to a port of rank 0. The times here are measured
anyway, and compared outside the ranks.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jobs.contract.units import ranges_text

WINDOW_SECONDS = 60.0
WINDOW_STEPS = 5
"""Least of a window, for each rank."""
WINDOWS = 5
"""In a row, before a rank is named: five minutes (Minder, arXiv 2411.01791, waits for four)."""
FACTOR = 1.2
"""Own time of a step against the median of the peers. The threshold of the NVIDIA resiliency
extension is a score below 0.75, which is a factor of 1.33."""
SLOW_FACTOR = 1.3
"""Time of a step against the first windows of the attempt, from which all are slow."""
FIRST_WINDOWS = 5


class Place(NamedTuple):
    """The place of a rank in the layout."""

    stage: int
    """Of the pipeline."""
    replica: int
    """Of the model."""


@dataclass(frozen=True)
class RankPace:
    """Sums over the steps of a rank since it started (``jobs.runtime.heartbeat.Pace``)."""

    rank: int
    node: str
    steps: int
    seconds: float
    data: float
    communication: float


@dataclass(frozen=True)
class StepParts:
    """Seconds per step of a rank in a window."""

    total: float
    data: float
    communication: float

    @property
    def own(self) -> float:
        """Return the time that the rank does not wait for others."""
        return self.total - self.communication

    @property
    def compute(self) -> float:
        """Return the time without any wait."""
        return self.own - self.data


@dataclass(frozen=True)
class Straggler:
    """A rank, or several of one node or replica, that the others wait for."""

    node: str
    """Empty where it is one of several."""
    ranks: tuple[int, ...]
    factor: float
    """Own time against the median of the peers."""
    cause: str
    """``computing`` or ``waiting for data``."""
    nodes: tuple[str, ...] = ()
    """Of which one is slow, where that is all that is known."""

    @property
    def sentence(self) -> str:
        """Return the finding without the node, in one sentence."""
        noun = "rank" if len(self.ranks) == 1 else "ranks"
        verb = "takes" if len(self.ranks) == 1 else "take"
        sentence = (
            f"{noun} {ranges_text(self.ranks)} {verb} {self.factor:.2f} times as long as peers for "
            f"a step, {self.cause}"
        )
        if not self.nodes:
            return sentence
        return f"{sentence}; they wait for each other: one of {', '.join(self.nodes)} is slow"

    def lost_share(self) -> float:
        """Return the share of the training's time that the others wait."""
        return 1 - 1 / self.factor


@dataclass(frozen=True)
class SlowJob:
    """A training that is slower than at the start of the attempt, on all ranks."""

    factor: float
    cause: str
    """The part of a step that grew most: ``computing``, ``waiting for data``, ``communicating``."""

    @property
    def sentence(self) -> str:
        """Return the finding in one sentence."""
        return (
            f"a step takes {self.factor:.2f} times as long as at the start of the attempt, "
            f"{self.cause}"
        )


Window = Mapping[int, StepParts]


class StragglerDetector:
    """The detector of one attempt."""

    def __init__(self, place_of: Callable[[int], Place]) -> None:
        """Start without a window.

        Args:
            place_of: returns the place of a rank in the layout.
        """
        self._place_of = place_of
        self._since: tuple[float, dict[int, RankPace]] | None = None
        self._first: list[Window] = []
        self._windows: deque[Window] = deque(maxlen=WINDOWS)
        self._nodes: dict[int, str] = {}

    def add(self, now: float, paces: Iterable[RankPace]) -> bool:
        """Add the paces of all ranks at a moment; return whether that completed a window."""
        by_rank = {pace.rank: pace for pace in paces}
        if not by_rank:
            return False
        self._nodes = {rank: pace.node for rank, pace in by_rank.items()}
        if self._since is None or self._since[1].keys() != by_rank.keys():
            self._since = (now, by_rank)
            return False
        start, before = self._since
        steps = {rank: pace.steps - before[rank].steps for rank, pace in by_rank.items()}
        if min(steps.values()) < 0 or now < start:  # ranks have started again, a clock was set back
            self._since = (now, by_rank)
            return False
        if now - start < WINDOW_SECONDS or min(steps.values()) < WINDOW_STEPS:
            return False
        window = {
            rank: StepParts(
                (pace.seconds - before[rank].seconds) / steps[rank],
                (pace.data - before[rank].data) / steps[rank],
                (pace.communication - before[rank].communication) / steps[rank],
            )
            for rank, pace in by_rank.items()
        }
        self._since = (now, by_rank)
        self._windows.append(window)
        if len(self._first) < FIRST_WINDOWS:
            self._first.append(window)
        return True

    def stragglers(self) -> list[Straggler]:
        """Return the ranks that were slower than their peers in all of the last windows."""
        if len(self._windows) < WINDOWS:
            return []
        factors = [self._factors(window) for window in self._windows]
        slow = [rank for rank in factors[-1] if all(one.get(rank, 1.0) > FACTOR for one in factors)]
        return [
            Straggler(
                nodes[0] if len(nodes) == 1 else "",
                tuple(ranks),
                statistics.median(one[rank] for one in factors for rank in ranks),
                self._cause(ranks),
                nodes if len(nodes) > 1 else (),
            )
            for nodes, ranks in self._by_nodes(slow).items()
        ]

    def _by_nodes(self, slow: Iterable[int]) -> dict[tuple[str, ...], list[int]]:
        """Return the slow ranks by the nodes on which those of their replica are."""
        nodes: dict[int, set[str]] = {}
        for rank in slow:
            nodes.setdefault(self._place_of(rank).replica, set()).add(self._nodes[rank])
        found: dict[tuple[str, ...], list[int]] = {}
        for rank in sorted(slow):
            together = tuple(sorted(nodes[self._place_of(rank).replica]))
            found.setdefault(together, []).append(rank)
        return found

    def slow_job(self) -> SlowJob | None:
        """Return how much slower all ranks are than at first; None where they are not."""
        if len(self._windows) < WINDOWS or len(self._first) < FIRST_WINDOWS:
            return None
        first = _medians(self._first)
        rows = [_medians([window]) for window in self._windows]
        if min(row.total for row in rows) <= SLOW_FACTOR * first.total:
            return None
        last = _medians(self._windows)
        grown = {
            "computing": last.compute - first.compute,
            "waiting for data": last.data - first.data,
            "communicating": last.communication - first.communication,
        }
        return SlowJob(last.total / first.total, max(grown, key=lambda name: grown[name]))

    def _stages(self, window: Window) -> dict[int, list[int]]:
        """Return the ranks of each pipeline stage."""
        stages: dict[int, list[int]] = {}
        for rank in window:
            stages.setdefault(self._place_of(rank).stage, []).append(rank)
        return stages

    def _factors(self, window: Window) -> dict[int, float]:
        """Return each rank's own time against the median of its peers, where it has any."""
        factors = {}
        for ranks in self._stages(window).values():
            ranks.sort(key=lambda rank: window[rank].own)
            times = [window[rank].own for rank in ranks]
            for place, rank in enumerate(ranks):
                median = median_without(times, place)
                if median > 0:
                    factors[rank] = times[place] / median
        return factors

    def _cause(self, ranks: Iterable[int]) -> str:
        """Return the part of the step that makes ranks slow in the newest window."""
        window = self._windows[-1]
        stages = self._stages(window)
        data = compute = 0.0
        for rank in ranks:
            peers = [window[one] for one in stages[self._place_of(rank).stage] if one != rank]
            data += window[rank].data - statistics.median(peer.data for peer in peers)
            compute += window[rank].compute - statistics.median(peer.compute for peer in peers)
        return "waiting for data" if data > compute else "computing"


def median_without(ordered: Sequence[float], place: int) -> float:
    """Return the median of ordered values without the one at a place; 0 where it is the only one.

    With thousands of ranks a median for each over all others takes seconds.
    """
    rest = len(ordered) - 1
    if not rest:
        return 0.0
    low, high = ((rest - 1) // 2, rest // 2)
    return (ordered[low + (low >= place)] + ordered[high + (high >= place)]) / 2


def _medians(windows: Iterable[Window]) -> StepParts:
    parts = [one for window in windows for one in window.values()]
    return StepParts(
        statistics.median(one.total for one in parts),
        statistics.median(one.data for one in parts),
        statistics.median(one.communication for one in parts),
    )
