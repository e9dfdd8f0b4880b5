"""Monitor a task's ranks: forward stop requests once, then kill ranks that exceed their time.

Signal handlers only record the signal; all actions happen in the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jobs.contract.outcomes import Hang
from jobs.runtime.log import log
from jobs.supervision.ranks import launcher

POLL_SECONDS = 0.2
LOOK_SECONDS = 1.0
"""Between two checks for a hang, and of the run's files."""
ASK_AGAIN_SECONDS = 2.0
"""Until a stop request that did not reach the ranks is repeated."""
FACTS_SECONDS = 60.0
"""Between two questions to Slurm when the job ends: its limit may be changed while it runs."""
HANG_LEAVE_SECONDS = 30.0
"""For hanging ranks to exit after a stop request (guessed)."""
AFTERWARDS_SECONDS = 20.0
"""Before the end of the allocation, to resubmit once the ranks are gone (guessed)."""
ENOUGH_SECONDS = 60.0
"""Enough time to save and to resubmit (guessed)."""


@dataclass(frozen=True)
class Deadline:
    """The end of the allocation, as Slurm reports it."""

    time: float
    """Seconds since 1970."""
    preempted: bool = False
    """It is the end of the grace time."""

    def last_moment(self, now: float) -> float:
        """Return when ranks that are still saving have to be killed, so that a new job can be
        submitted.

        Never in a grace period, since Slurm itself requeues the job, and never where little time is
        left: that belongs to saving, and the recovery job resumes what Slurm has ended.
        """
        if self.preempted or self.time - now < ENOUGH_SECONDS:
            return float("inf")
        return self.time - AFTERWARDS_SECONDS


@dataclass(frozen=True)
class MonitorInputs:
    """The inputs of the monitor: signals, requests, heartbeats, Slurm."""

    signals: Sequence[int]
    """Signals received so far."""
    is_asked: Callable[[], bool]
    """Returns whether a stop is requested without a signal: STOP, a scheduler that is gone."""
    deadline: Callable[[], Deadline | None]
    """Asks Slurm; None when there is no end, or no answer."""
    look: Callable[[float], Hang | None]
    """At the heartbeats (``jobs.supervision.ranks.hang_detector``)."""
    examine: Callable[[Hang], Hang]
    """Ranks that hang, before they are ended (``jobs.supervision.ranks.stack_dump``)."""
    note: Callable[[], None]
    """Records that the ranks were requested to exit."""


class RankMonitor:
    """A monitor of one start of the ranks."""

    def __init__(self, ranks: launcher.Ranks, inputs: MonitorInputs, leave_seconds: float) -> None:
        self._ranks = ranks
        self._inputs = inputs
        self._leave_seconds = leave_seconds
        self._asked = False
        self._ask_at = 0.0
        self._end_at = float("inf")
        self._look_at = 0.0
        self._facts_at = 0.0
        self._known_signals = 0
        self._is_wanted = False
        self._deadline: Deadline | None = None
        self._lead_seconds = leave_seconds
        self.is_preempted = False
        """Slurm has given the job a grace time."""
        self.is_late = False
        """The ranks were requested to exit because the end of the allocation was near."""
        self.hang: Hang | None = None
        """What the ranks were ended for, if they hung."""

    def wait(self) -> int:
        """Wait until all ranks are gone; return the code of the first that failed, or 0."""
        while (code := self._ranks.poll()) is None:
            now = time.time()
            if now >= self._look_at:
                self._look_at = now + LOOK_SECONDS
                self._look(now)
            if not self._asked and now >= self._ask_at and self._must_leave(now):
                self._ask(now)
            if now >= self._end_at:
                self._end_at = now + ASK_AGAIN_SECONDS
                self._ranks.end()
            time.sleep(POLL_SECONDS)
        return code

    def _look(self, now: float) -> None:
        received = len(self._inputs.signals)
        if now >= self._facts_at or received > self._known_signals:
            self._facts_at, self._known_signals = now + FACTS_SECONDS, received
            self._learn_deadline(now)
        if self._asked or self.hang is not None:
            return
        self._is_wanted = self._inputs.is_asked()
        hang = self._inputs.look(time.monotonic())
        if hang is not None:
            log(f"nothing moved for {hang.seconds:.0f} s in phase {hang.phase}")
            self.hang = self._inputs.examine(hang)
            self._end_at = time.time() + HANG_LEAVE_SECONDS

    def _must_leave(self, now: float) -> bool:
        """Return whether the ranks must exit: by request, or because the end of the allocation is
        so near that a save would not finish. Not all sites send the early signal.
        """
        if self._inputs.signals or self.hang is not None or self._is_wanted:
            return True
        is_near = self._deadline is not None and now >= self._deadline.time - self._lead_seconds
        self.is_late = is_near and not self.is_preempted
        return is_near

    def _learn_deadline(self, now: float) -> None:
        """Query Slurm for the end of the allocation. At least half of a short allocation is used,
        however long saving may take.
        """
        found = self._inputs.deadline()
        if found is not None and self._deadline is None:
            self._lead_seconds = min(self._leave_seconds, (found.time - now) / 2)
        self._deadline = found or self._deadline
        self.is_preempted |= found is not None and found.preempted

    def _ask(self, now: float) -> None:
        self._asked = self._ranks.stop()
        self._ask_at = now + ASK_AGAIN_SECONDS
        if not self._asked:
            return
        self._inputs.note()
        self._end_at = min(self._end_at, now + self._leave_seconds)
        if self._deadline is not None:
            self._end_at = min(self._end_at, self._deadline.last_moment(now))
