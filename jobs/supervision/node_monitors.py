"""Run a monitor on each node beside the ranks, and read what the monitors report.

The monitor is ``jobs.health.monitor``. A monitor that does not start, or dies, never ends the
ranks. Standard library only.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from jobs.contract import metrics_log, specs
from jobs.contract.outcomes import HealthRequest, NodeFinding
from jobs.health.monitor import records
from jobs.runtime.log import log
from jobs.supervision import preflight_step
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.ranks import launcher, local_ranks

READ_SECONDS = 5.0
"""Between two looks at the reports, which lie on the shared file system."""
LEAVE_SECONDS = 5.0
"""For the monitors to end."""

AGAINST = ("DRAIN", "FATAL")


def is_monitored(task: specs.TaskSpec) -> bool:
    """Return whether a task's nodes are monitored: short tasks on processors are not."""
    return task.training is not None or task.gpus_per_node > 0


@contextmanager
def running(
    attempt: AttemptRef, task: specs.TaskSpec, environ: Mapping[str, str]
) -> Iterator[None]:
    """Run a monitor on each node during the block.

    Args:
        environ: of this process, without the secrets of the ranks.
    """
    if not is_monitored(task):
        yield
        return
    names = [str(attempt.run.root), attempt.stage, str(attempt.index), str(attempt.number)]
    prefix = preflight_step.beside_ranks(task, f"monitor-{attempt.step_name}")
    command = [*prefix, sys.executable, "-m", "jobs.health.monitor", *names]
    try:
        process = subprocess.Popen(
            command,
            env={**environ, **launcher.code_environment(attempt.run, environ)},
            stdin=subprocess.DEVNULL,
            preexec_fn=local_ranks.tie_to_parent(),
        )
    except OSError as error:
        log(f"the nodes are not monitored: {error.strerror}")
        yield
        return
    try:
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):  # a probe may be stuck in the kernel
            process.wait(LEAVE_SECONDS)


class HealthReader:
    """The reader of the monitors' reports during one attempt."""

    def __init__(
        self,
        attempt: AttemptRef,
        metrics: Callable[[], metrics_log.MetricsSummary],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read nothing yet.

        Args:
            attempt: whose folder has the reports.
            metrics: the summary of its training's metrics, for the newest checkpoint.
            clock: in seconds.
        """
        self._attempt = attempt
        self._metrics = metrics
        self._clock = clock
        self._due = 0.0
        self._findings: tuple[NodeFinding, ...] = ()
        self._saved_before: int | None = None
        """The newest checkpoint when the first finding to drain a node was read."""

    def request(self) -> HealthRequest | None:
        """Return the request that the ranks end: at once for a node that cannot do the job, after
        the next checkpoint for one that should be drained; None while there is none.
        """
        if self._clock() < self._due:
            return None
        self._due = self._clock() + READ_SECONDS
        self._findings = self.findings()
        for finding in self._findings:
            if finding.verdict == "FATAL":
                return HealthRequest(finding, at_once=True)
        if not self._findings:
            return None
        saved = self._metrics().highest_saved
        if self._saved_before is None:
            self._saved_before = saved
            log(f"{self._findings[0].sentence}; the ranks move away after the next checkpoint")
        if saved <= self._saved_before:
            return None
        return HealthRequest(self._findings[0], at_once=False)

    def findings(self) -> tuple[NodeFinding, ...]:
        """Return the findings against nodes so far, FATAL ones first."""
        reports = records.read_reports(self._attempt.folder, self._attempt.index)
        found = [
            NodeFinding(report["node"], item["code"], item["verdict"], _message(item))
            for report in reports
            for item in report["findings"]
            if item["verdict"] in AGAINST
        ]
        return tuple(sorted(found, key=lambda item: item.verdict != "FATAL"))


def _message(item: Mapping[str, Any]) -> str:
    gpu = item["subject"]["gpu"]
    return item["message"] if gpu is None else f"GPU {gpu}: {item['message']}"
