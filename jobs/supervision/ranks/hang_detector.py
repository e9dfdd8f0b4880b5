"""Hang detection from heartbeats of a task's ranks. Standard library only."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from jobs.contract import rundir, specs
from jobs.contract.files import FormatError, read_json
from jobs.contract.metrics_log import STEPS_KEPT, MetricsSummary, quantile
from jobs.contract.outcomes import Hang
from jobs.runtime import heartbeat
from jobs.runtime.heartbeat import Phase

PATIENCE = 5.0
"""Multiple of the longest time observed (NVIDIA/nvidia-resiliency-ext learns its limits alike)."""

ENOUGH_STEPS = 16
"""To learn a limit from (likewise)."""

SLOWEST = 0.99
"""The quantile of step times that a limit is learned from: the very slowest may be an accident."""

GAP_SECONDS = 10.0
"""What counts at most between two looks. A watcher that did not look was itself asleep, as when
Slurm suspends a job or a machine is halted, and so were the ranks."""


@dataclass
class LearnedDurations:
    """Durations of steps and phases measured in this run."""

    steps: deque[float] = field(default_factory=lambda: deque(maxlen=STEPS_KEPT))
    longest: dict[Phase, float] = field(default_factory=dict)
    """Of a checkpoint, of a validation."""

    def took(self, phase: Phase, seconds: float) -> None:
        """Learn from a phase that is over."""
        self.longest[phase] = max(self.longest.get(phase, 0.0), seconds)


def learn(metrics: MetricsSummary) -> LearnedDurations:
    """Learn durations from the metrics of earlier attempts."""
    learned = LearnedDurations()
    learned.steps.extend(metrics.steps)
    learned.took(Phase.CHECKPOINT, metrics.longest_save)
    learned.took(Phase.VALIDATION, metrics.longest_validation)
    return learned


def limit(phase: Phase, learned: LearnedDurations, supervision: specs.SupervisionSpec) -> float:
    """Return the heartbeat timeout of a phase, in seconds.

    Startup has a limit as a whole. A step has five times the 99th percentile once enough steps were
    measured, or the setting if that is longer; a checkpoint or a validation five times the longest,
    or the limit of a startup, which reads as much.
    """
    if phase is Phase.STEP:
        slow = quantile(learned.steps, SLOWEST) if len(learned.steps) >= ENOUGH_STEPS else 0.0
        return max(PATIENCE * slow, supervision.step_limit_seconds)
    return max(PATIENCE * learned.longest.get(phase, 0.0), supervision.startup_limit_seconds)


class RankProgress(NamedTuple):
    """The progress of an attempt's ranks at one check."""

    phase: Phase
    step: int
    mark: object
    """Another one whenever anything has moved."""


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
        """Create it when the ranks are started.

        Args:
            learned: from earlier attempts; what this one takes is added.
        """
        self._run = run
        self._task = task
        self._attempt = attempt
        self._environ = environ
        self._learned = learned
        self._looked: float | None = None
        self._clock = 0.0
        self._files: list[Path] = []
        self._signs = RankProgress(Phase.STARTUP, 0, None)
        self._moved = 0.0
        self._entered = 0.0
        self._stepped = 0.0

    def look(self, now: float) -> Hang | None:
        """Check the ranks, about once a second; return the hang when they have made no progress for
        too long.

        Args:
            now: seconds of a monotonic clock.
        """
        if self._looked is not None:
            self._clock += min(max(now - self._looked, 0.0), GAP_SECONDS)
        self._looked = now
        self._note(self._see())
        phase = self._signs.phase
        quiet = self._clock - (self._entered if phase is Phase.STARTUP else self._moved)
        allowed = limit(phase, self._learned, self._task.supervision)
        return Hang(phase.label, quiet, allowed) if quiet > allowed else None

    def _note(self, signs: RankProgress) -> None:
        before, self._signs = self._signs, signs
        if signs.mark != before.mark:
            self._moved = self._clock
        if signs.phase is not before.phase:
            if before.phase in (Phase.CHECKPOINT, Phase.VALIDATION):
                self._learned.took(before.phase, self._clock - self._entered)
            self._entered = self._stepped = self._clock
        elif signs.step > before.step:
            each = (self._clock - self._stepped) / (signs.step - before.step)
            self._learned.steps.append(each)
            self._stepped = self._clock

    def _see(self) -> RankProgress:
        """Return the progress in heartbeats, else in the progress file, else the last one."""
        beats = self._beats()
        if beats:
            self._files = [beat.file for beat in beats.values()]
            return self._seen(beats)
        if self._files:  # they have left, those of other nodes may be about to
            return self._signs._replace(phase=Phase.LEAVING)
        return self._told()

    def _beats(self) -> dict[int, heartbeat.Heartbeat]:
        """Return the heartbeats of this node's ranks. All processes are searched for them only
        while ranks start, and when a heartbeat is missing.
        """
        known = [beat for file in self._files if (beat := heartbeat.read(file)) is not None]
        if len(known) == len(self._files) and self._signs.phase is not Phase.STARTUP:
            return {beat.rank: beat for beat in known}
        task = self._task
        names = (self._run, task.stage, task.index, self._attempt)
        return heartbeat.find(*names, environ=self._environ)

    def _seen(self, beats: Mapping[int, heartbeat.Heartbeat]) -> RankProgress:
        """Return the progress that heartbeats show. Of ranks in several phases, the phase with the
        longest timeout counts: the others wait.
        """
        phase = max(
            (beat.phase for beat in beats.values()),
            key=lambda phase: limit(phase, self._learned, self._task.supervision),
        )
        step = max(beat.step for beat in beats.values())
        return RankProgress(phase, step, {rank: beat.ticks for rank, beat in beats.items()})

    def _told(self) -> RankProgress:
        try:
            told = read_json(self._run.progress(self._task.stage, self._task.index))
        except (OSError, FormatError):
            return self._signs
        if told["attempt"] != self._attempt:
            return self._signs
        name = told.get("phase") or ("step" if told["done"] < told["total"] else "leaving")
        return RankProgress(Phase[name.upper()], int(told.get("step", 0)), told["time"])
