"""Hang detection from heartbeats of a task's ranks. Standard library only."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from jobs.contract import progress_record, rundir, specs
from jobs.contract.metrics_log import STEPS_KEPT, MetricsSummary, quantile
from jobs.contract.outcomes import Hang
from jobs.runtime import heartbeat
from jobs.runtime.heartbeat import Phase

TIMEOUT_FACTOR = 5.0
"""Multiple of the longest time observed (NVIDIA/nvidia-resiliency-ext learns its limits alike)."""

ENOUGH_STEPS = 16
"""To learn a limit from (likewise)."""

SLOWEST = 0.99
"""The quantile of step times that a limit is learned from: the very slowest may be an accident."""

GAP_SECONDS = 10.0
"""Longest time that counts between two checks. A longer gap means that this process did not run,
as when Slurm suspends a job or a machine is halted, and neither did the ranks."""


@dataclass
class LearnedDurations:
    """Durations of steps and phases measured in this run."""

    steps: deque[float] = field(default_factory=lambda: deque(maxlen=STEPS_KEPT))
    longest: dict[Phase, float] = field(default_factory=dict)
    """Of a checkpoint, of a validation."""

    def record(self, phase: Phase, seconds: float) -> None:
        """Record the duration of a phase."""
        self.longest[phase] = max(self.longest.get(phase, 0.0), seconds)


def learn(metrics: MetricsSummary) -> LearnedDurations:
    """Learn durations from the metrics of earlier attempts."""
    learned = LearnedDurations()
    learned.steps.extend(line.seconds for line in metrics.steps)
    learned.record(Phase.CHECKPOINT, metrics.longest_save)
    learned.record(Phase.VALIDATION, metrics.longest_validation)
    return learned


def limit(phase: Phase, learned: LearnedDurations, supervision: specs.SupervisionSpec) -> float:
    """Return the heartbeat timeout of a phase, in seconds.

    Startup has a limit as a whole. A step has five times the 99th percentile once enough steps were
    measured, or the setting if that is longer; a checkpoint or a validation five times the longest,
    or the limit of a startup, which reads as much.
    """
    if phase is Phase.STEP:
        slow = quantile(learned.steps, SLOWEST) if len(learned.steps) >= ENOUGH_STEPS else 0.0
        return max(TIMEOUT_FACTOR * slow, supervision.step_limit_seconds)
    return max(TIMEOUT_FACTOR * learned.longest.get(phase, 0.0), supervision.startup_limit_seconds)


class RankProgress(NamedTuple):
    """The progress of an attempt's ranks at one check."""

    phase: Phase
    step: int
    mark: object
    """Changes whenever any rank has moved."""


class HangDetector:
    """A detector of hangs in one attempt, on the node of its supervisor.

    It measures by its own clock how long nothing changes, so that time stamps of others do not
    matter. The ranks of one node are enough: if a rank of another node stops, these soon wait for
    it.
    """

    def __init__(
        self,
        run: rundir.RunDir,
        task: specs.TaskSpec,
        attempt: int,
        learned: LearnedDurations,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Create the detector when the ranks are started.

        Args:
            learned: durations of earlier attempts; those of this one are added.
        """
        self._run = run
        self._task = task
        self._attempt = attempt
        self._environ = environ
        self._learned = learned
        self._checked_at: float | None = None
        self._clock = 0.0
        self._files: list[Path] = []
        self._progress = RankProgress(Phase.STARTUP, 0, None)
        self._moved_at = 0.0
        self._entered_at = 0.0
        self._stepped_at = 0.0

    def check(self, now: float) -> Hang | None:
        """Check the ranks, about once a second; return the hang when they have made no progress for
        too long.

        Args:
            now: seconds of a monotonic clock.
        """
        if self._checked_at is not None:
            self._clock += min(max(now - self._checked_at, 0.0), GAP_SECONDS)
        self._checked_at = now
        self._update(self._observe())
        phase = self._progress.phase
        seconds = self._clock - (self._entered_at if phase is Phase.STARTUP else self._moved_at)
        allowed = limit(phase, self._learned, self._task.supervision)
        return Hang(phase.label, seconds, allowed) if seconds > allowed else None

    def _update(self, progress: RankProgress) -> None:
        before, self._progress = self._progress, progress
        if progress.mark != before.mark:
            self._moved_at = self._clock
        if progress.phase is not before.phase:
            if before.phase in (Phase.CHECKPOINT, Phase.VALIDATION):
                self._learned.record(before.phase, self._clock - self._entered_at)
            self._entered_at = self._stepped_at = self._clock
        elif progress.step > before.step:
            each = (self._clock - self._stepped_at) / (progress.step - before.step)
            self._learned.steps.append(each)
            self._stepped_at = self._clock

    def _observe(self) -> RankProgress:
        """Return the progress in heartbeats, else in the progress file, else the last one."""
        beats = self._beats()
        if beats:
            self._files = [beat.file for beat in beats.values()]
            return self._from_heartbeats(beats)
        if self._files:  # these ranks have exited, those of other nodes may be exiting
            return self._progress._replace(phase=Phase.LEAVING)
        return self._from_file()

    def _beats(self) -> dict[int, heartbeat.Heartbeat]:
        """Return the heartbeats of this node's ranks. All processes are searched for them only
        while ranks start, and when a heartbeat is missing.
        """
        known = [beat for file in self._files if (beat := heartbeat.read(file)) is not None]
        if len(known) == len(self._files) and self._progress.phase is not Phase.STARTUP:
            return {beat.rank: beat for beat in known}
        task = self._task
        names = (self._run, task.stage, task.index, self._attempt)
        return heartbeat.find(*names, environ=self._environ)

    def _from_heartbeats(self, beats: Mapping[int, heartbeat.Heartbeat]) -> RankProgress:
        """Return the progress that heartbeats show. Of ranks in several phases, the phase with the
        longest timeout counts: the others wait.
        """
        phase = max(
            (beat.phase for beat in beats.values()),
            key=lambda phase: limit(phase, self._learned, self._task.supervision),
        )
        step = max(beat.step for beat in beats.values())
        return RankProgress(phase, step, {rank: beat.time for rank, beat in beats.items()})

    def _from_file(self) -> RankProgress:
        progress = progress_record.read(self._run, self._task.stage, self._task.index)
        if progress is None or progress.attempt != self._attempt:
            return self._progress
        name = progress.phase or ("step" if progress.done < progress.total else "leaving")
        phase = Phase.__members__.get(name.upper(), Phase.STEP)
        return RankProgress(phase, progress.step or 0, progress.time)
