"""Monitor a task's ranks: forward stop requests once, then kill ranks that exceed their time.

Signal handlers only record the signal; all actions happen in the loop. Pauses are measured by a
clock that nobody sets; the end of the allocation is a time of Slurm's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jobs.contract.outcomes import Hang, HealthRequest, NodeFinding
from jobs.runtime.log import log
from jobs.supervision.ranks import launcher

POLL_SECONDS = 0.2
CHECK_SECONDS = 1.0
"""Between two checks for a hang, and of the run's files."""
REPEAT_SECONDS = 2.0
"""Until a stop request that did not reach the ranks is repeated."""
QUERY_SECONDS = 60.0
"""Between two queries for the end of the job: its time limit may change while it runs."""
HANG_LEAVE_SECONDS = 30.0
"""For hanging ranks to exit after a stop request (guessed)."""
RESUBMIT_SECONDS = 20.0
"""Before the end of the allocation, to resubmit once the ranks are gone (guessed)."""
SAVE_AND_RESUBMIT_SECONDS = 60.0
"""Enough time to save and to resubmit (guessed)."""


@dataclass(frozen=True)
class Deadline:
    """The end of the allocation, as Slurm reports it."""

    time: float
    """Seconds since 1970."""
    preempted: bool = False
    """It is the end of the grace period."""

    def last_moment(self, now: float) -> float:
        """Return when ranks that are still saving have to be killed, so that a new job can be
        submitted.

        Never in a grace period, since Slurm itself requeues the job, and never where little time is
        left: that belongs to saving, and the recovery job resumes what Slurm has ended.
        """
        if self.preempted or self.time - now < SAVE_AND_RESUBMIT_SECONDS:
            return float("inf")
        return self.time - RESUBMIT_SECONDS


@dataclass(frozen=True)
class MonitorInputs:
    """The inputs of the monitor: signals, requests, heartbeats, Slurm."""

    signals: Sequence[int]
    """Signals received so far."""
    is_stop_requested: Callable[[], bool]
    """Returns whether a stop is requested without a signal: STOP, a scheduler that is gone."""
    deadline: Callable[[], Deadline | None]
    """Queries Slurm; returns None without a time limit or a response."""
    find_hang: Callable[[float], Hang | None]
    """Returns the hang that the heartbeats show (``jobs.supervision.ranks.hang_detector``)."""
    health_request: Callable[[], HealthRequest | None]
    """Returns the request of the node monitors that the ranks end."""
    examine: Callable[[Hang], Hang]
    """Examines hanging ranks before they are killed (``jobs.supervision.ranks.stack_dump``)."""
    record_request: Callable[[], None]
    """Records that the ranks were requested to exit."""


class RankMonitor:
    """A monitor of one start of the ranks."""

    def __init__(self, ranks: launcher.Ranks, inputs: MonitorInputs, leave_seconds: float) -> None:
        self._ranks = ranks
        self._inputs = inputs
        self._leave_seconds = leave_seconds
        self._is_stopping = False
        self._stop_at = 0.0
        self._kill_at = float("inf")
        self._check_at = 0.0
        self._query_at = 0.0
        self._handled_signals = 0
        self._check_errors: dict[str, str] = {}
        """The newest error of each check."""
        self._is_stop_requested = False
        self._deadline: Deadline | None = None
        self._lead_seconds = leave_seconds
        self.is_preempted = False
        """Slurm has given the job a grace period."""
        self.is_late = False
        """The ranks were requested to exit because the end of the allocation was near."""
        self.hang: Hang | None = None
        """The hang for which the ranks were killed; None without one."""
        self.left_for: NodeFinding | None = None
        """The finding for which the ranks were killed, or requested to save and exit."""

    def wait(self) -> int:
        """Wait until all ranks are gone; return the code of the first that failed, or 0."""
        while (code := self._ranks.poll()) is None:
            now = time.monotonic()
            if now >= self._check_at:
                self._check_at = now + CHECK_SECONDS
                for check in (self._check_deadline, self._check_requests, self._check_hang):
                    self._check_safely(check, now)
            if not self._is_stopping and now >= self._stop_at and self._must_leave():
                self._stop(now)
            if now >= self._kill_at:
                self._kill_at = now + REPEAT_SECONDS
                self._ranks.end()
            time.sleep(POLL_SECONDS)
        return code

    def _check_safely(self, check: Callable[[float], None], now: float) -> None:
        """Run a check, and log an error once: ranks that run must not be abandoned for a file that
        cannot be read now, or for a bug of a check; nor the other checks.
        """
        try:
            check(now)
        except Exception as error:  # a bug in a check must not abandon the ranks
            text = f"{type(error).__name__}: {error}"
            if text != self._check_errors.get(check.__name__):
                self._check_errors[check.__name__] = text
                log(f"the ranks could not be checked: {text}")

    def _check_deadline(self, now: float) -> None:
        received = len(self._inputs.signals)
        if now >= self._query_at or received > self._handled_signals:
            self._query_at, self._handled_signals = now + QUERY_SECONDS, received
            self._update_deadline()

    def _is_leaving(self) -> bool:
        return self._is_stopping or self.hang is not None or self.left_for is not None

    def _check_requests(self, now: float) -> None:
        if self._is_leaving():
            return
        self._is_stop_requested = self._inputs.is_stop_requested()
        if (request := self._inputs.health_request()) is not None:
            self._leave_node(request, now)

    def _check_hang(self, now: float) -> None:
        if self._is_leaving():
            return
        hang = self._inputs.find_hang(time.monotonic())
        if hang is not None:
            log(f"no progress for {hang.seconds:.0f} s in phase {hang.phase}")
            self.hang = self._inputs.examine(hang)
            self._kill_at = time.monotonic() + HANG_LEAVE_SECONDS

    def _leave_node(self, request: HealthRequest, now: float) -> None:
        """Kill the ranks where a node cannot do the job, or request that they save and exit."""
        self.left_for = request.finding
        if request.at_once:
            log(f"the ranks are killed: {request.finding.sentence}")
            self._is_stopping = True
            self._kill_at = now

    def _must_leave(self) -> bool:
        """Return whether the ranks must exit: by request, or because the end of the allocation is
        so near that a save would not finish. Not all sites send the early signal.
        """
        is_bad = self.hang is not None or self.left_for is not None
        if self._inputs.signals or is_bad or self._is_stop_requested:
            return True
        deadline = self._deadline
        is_near = deadline is not None and time.time() >= deadline.time - self._lead_seconds
        self.is_late = is_near and not self.is_preempted
        return is_near

    def _update_deadline(self) -> None:
        """Query Slurm for the end of the allocation. At least half of a short allocation is used,
        however long saving may take.
        """
        deadline = self._inputs.deadline()
        if deadline is not None and self._deadline is None:
            self._lead_seconds = min(self._leave_seconds, (deadline.time - time.time()) / 2)
        self._deadline = deadline or self._deadline
        self.is_preempted |= deadline is not None and deadline.preempted

    def _stop(self, now: float) -> None:
        self._is_stopping = self._ranks.stop()
        self._stop_at = now + REPEAT_SECONDS
        if not self._is_stopping:
            return
        self._inputs.record_request()
        self._kill_at = min(self._kill_at, now + self._leave_seconds)
        if self._deadline is not None:
            left = self._deadline.last_moment(time.time()) - time.time()
            self._kill_at = min(self._kill_at, now + left)
