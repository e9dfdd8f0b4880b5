"""A reader of all logs of one run, for a process that supervises or recovers it. Standard library
only.
"""

from __future__ import annotations

from jobs.contract.attempt_history import HistoryReader
from jobs.contract.metrics_log import MetricsReader
from jobs.contract.rundir import RunDir


class RunReader(HistoryReader):
    """The history and the metrics of a run, kept current: each line is read and parsed once."""

    def __init__(self, run: RunDir) -> None:
        super().__init__(run)
        self._run = run
        self._metrics: dict[tuple[str, int], MetricsReader] = {}

    def metrics(self, stage: str, index: int) -> MetricsReader:
        """Return the reader of a task's metrics, which are empty where it does not train."""
        if (stage, index) not in self._metrics:
            self._metrics[stage, index] = MetricsReader(self._run, stage, index)
        return self._metrics[stage, index]
