"""A training under test: its attempts and metric lines, read incrementally."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from jobs.contract.attempt_history import HistoryReader, TaskHistory
from jobs.contract.events import StartEvent
from jobs.contract.metrics_log import (
    MetricLine,
    MetricsLog,
    SaveLine,
    SnapshotLine,
    StepLine,
)
from jobs.contract.outcomes import RetryAction
from jobs.contract.rundir import RunDir
from jobs.contract.specs import TaskSpec, load_task
from jobs.contract.stage_specs import PretrainSpec
from meditron_cli.drill.verdict import following

STAGE = "pretrain"
"""The stage that a drill trains with."""


class Training:
    """The training of a run; each line of its logs is read and parsed once."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self._reader = HistoryReader(run)
        self._log = MetricsLog(run, STAGE)
        self._lines: list[MetricLine] = []

    @property
    def task(self) -> TaskSpec:
        """Return its only task."""
        return load_task(self.run, STAGE, 0)

    @property
    def spec(self) -> PretrainSpec:
        """Return the settings of the training."""
        return cast(PretrainSpec, self.task.spec)

    @property
    def is_done(self) -> bool:
        """Return whether it has reached its target."""
        return self.run.done(STAGE, 0).exists()

    def past(self) -> TaskHistory:
        """Return its attempts up to now."""
        return self._reader.current().task(STAGE, 0)

    def lines(self) -> Sequence[MetricLine]:
        """Return its metric lines up to now, oldest first."""
        self._lines.extend(self._log.read_new())
        return self._lines

    def steps(self) -> list[StepLine]:
        """Return the metric lines of its steps up to now."""
        return [line for line in self.lines() if isinstance(line, StepLine)]

    def last_start(self) -> StartEvent:
        """Return the start of the newest attempt; there is one."""
        return list(self.past().started.values())[-1]

    def last_step(self) -> int:
        """Return the last logged step; 0 before the first."""
        steps = self.steps()
        return steps[-1].step if steps else 0

    def is_under_way(self) -> bool:
        """Return whether the newest attempt is running, has saved twice, and then trained, and no
        save is in flight.
        """
        past = self.past()
        if not past.started or self.last_start().attempt in past.ended:
            return False
        attempt, interval = self.last_start().attempt, self.spec.save_interval
        lines = [line for line in self.lines() if line.attempt == attempt]
        steps = [line.step for line in lines if isinstance(line, StepLine)]
        begun = {line.step for line in lines if isinstance(line, SnapshotLine)}
        return (
            bool(steps)
            and steps[-1] // interval - steps[0] // interval >= 2
            and (steps[-1] % interval > 0)
            and begun <= {line.step for line in lines if isinstance(line, SaveLine)}
        )

    def has_resumed(self, attempt: int) -> bool:
        """Return whether a later attempt has trained a step, or there will be no later attempt."""
        end = self.past().ended.get(attempt)
        if end is not None and end.action in (RetryAction.STOP, RetryAction.FINISH):
            return True
        return bool(following(self.lines(), attempt))
