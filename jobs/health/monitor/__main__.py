"""Monitor one node while ranks run: ``python -m jobs.health.monitor RUN_DIR STAGE INDEX ATTEMPT``.

The supervisor starts it once per node beside the ranks, and reads the reports
(``jobs.health.monitor.records``). It ends with SIGTERM, or when its attempt's folder is gone. It
decides nothing: ``jobs.supervision.node_monitors`` does. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobs.contract import rundir, specs
from jobs.contract.errors import TaskError
from jobs.contract.files import write_json
from jobs.contract.job import node_name
from jobs.contract.stage_specs import STAGES
from jobs.health import preflight
from jobs.health.findings import Expected, HealthFinding
from jobs.health.monitor import prometheus, records, xid_rules
from jobs.health.monitor.node_reader import PROBE_SECONDS, NodeReader
from jobs.health.monitor.rules import NodeRules
from jobs.health.monitor.summary import NodeSummary
from jobs.health.monitor.xid_events import XidEvent, XidListener
from jobs.health.sample import Sample, value_or_none
from jobs.runtime import heartbeat
from jobs.runtime.log import log

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
INTERVAL_SECONDS = 15.0
"""Between two samples."""
POLL_SECONDS = 0.5
"""Between two looks for XIDs, which are reported as they arrive."""


def main(argv: list[str] | None = None) -> int:
    """Monitor this node until SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.health.monitor", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("index", type=int)
    parser.add_argument("attempt", type=int)
    parser.add_argument("--interval", type=float, default=INTERVAL_SECONDS, metavar="SECONDS")
    parser.add_argument("--probe", type=float, default=PROBE_SECONDS, metavar="SECONDS")
    args = parser.parse_args(argv)
    run = rundir.RunDir(args.run_dir.resolve())
    try:
        expected = preflight.expectation(run, args.stage, args.index)
    except TaskError as error:
        log(f"the node is not monitored: {error.message}")
        return error.code
    stop = stop_requests()
    folder = run.attempt(args.stage, args.attempt)
    reader = NodeReader(folder, os.environ, args.probe, expected.gpus)
    monitor = Monitor(run, args.stage, args.index, args.attempt, expected, reader)
    monitor.watch(stop, args.interval)
    return 0


def stop_requests() -> threading.Event:
    """Return an event that SIGTERM or SIGINT sets, before there are other threads.

    A thread waits for them: a handler that sets an event would hang where it interrupts a wait for
    this event, which has its lock.
    """
    stop = threading.Event()

    def wait() -> None:
        signal.sigwait(STOP_SIGNALS)
        stop.set()

    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    threading.Thread(target=wait, daemon=True).start()
    return stop


class Monitor:
    """The monitor of one node during one attempt."""

    def __init__(
        self,
        run: rundir.RunDir,
        stage: str,
        index: int,
        attempt: int,
        expected: Expected,
        reader: NodeReader,
    ) -> None:
        self._names = (run, stage, index, attempt)
        self._folder = run.attempt(stage, attempt)
        self._node = node_name(os.environ)
        self._index = index
        self._reader = reader
        self._listener = XidListener()
        self._listens = False
        self._rules = NodeRules(expected)
        self._summary = NodeSummary()
        self._log = records.SampleLog(records.log_path(self._folder, index, self._node))
        self._events: list[XidEvent] = []
        self._logged = 0
        """Events that stand in the samples."""
        self._counts: Counter[tuple[int | None, str, int]] = Counter()
        """Of events so far, by GPU and number."""
        self._findings: dict[tuple[Any, ...], HealthFinding] = {}
        """All so far, each with its worst verdict and its first time."""
        self._beats: dict[int, Path] = {}
        """The heartbeat file of each rank of this node."""
        self._started = time.time()
        self._problems: dict[str, str] = {}
        """The newest problem of each file that is written."""
        self._task = specs.load_task(run, stage, index)
        self._textfile = textfile(run, self._task)
        if self._textfile is not None:
            prometheus.remove_stale(self._textfile.parent, self._started)

    def watch(self, stop: threading.Event, interval: float) -> None:
        """Sample the node until a stop is requested, or the attempt's folder is gone; and once more
        then, since what has just ended the ranks may be a GPU.
        """
        due = time.monotonic()
        while not stop.is_set() and not self._is_gone():
            if self._receive() or time.monotonic() >= due:
                self._sample_safely()
                due = time.monotonic() + interval
            stop.wait(POLL_SECONDS)
        if self._reader.devices.handles and not self._is_gone():
            self._listener.settle()
            self._receive()
            self._sample_safely()
        if self._textfile is not None:
            with suppress(OSError):  # its readings would stand for those of a job that is gone
                self._textfile.unlink(missing_ok=True)

    def _is_gone(self) -> bool:
        """Return whether the attempt's folder was removed, not just a file server that is gone."""
        try:
            self._folder.stat()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return False

    def _receive(self) -> bool:
        """Take in the events that have arrived; return whether one may change a verdict: the first
        two of a kind.
        """
        is_new = False
        for event in self._listener.received():
            key = (event.gpu, event.uuid, event.number)
            self._counts[key] += 1
            is_new |= self._counts[key] <= 2
            if self._counts[key] <= xid_rules.MOST_EVENTS:
                self._events.append(event)
        return is_new

    def _sample_safely(self) -> None:
        """Sample the node; log an error once: the node is watched on for days."""
        try:
            self._sample()
        except Exception as error:  # no thread or memory left, or a bug of a rule
            self._log_problem("sample", f"no sample was taken: {type(error).__name__}: {error}")

    def _sample(self) -> None:
        sample, stuck = self._reader.read()
        if not self._listens and self._reader.devices.handles:
            self._listener.start(self._reader.devices)
            self._listens = True
        self._rules.add(sample)
        self._summary.add(sample)
        current = self._rules.findings(stuck, self._events)
        for finding in current:
            self._note(finding)
        ranks = self._ranks()
        report = {
            "node": self._node,
            "started": self._started,
            "driver": driver_version(sample),
            "time": sample.time,
            "now": [finding.to_json() for finding in current],
            "findings": [finding.to_json() for finding in self._findings.values()],
            "ranks": ranks,
            "xid_listener": self._listener.problem.reason if self._listener.problem else "",
            **self._summary.to_json(),
            **overhead(),
        }
        self._write(report, records.sample_line(sample, ranks, self._events[self._logged :]))
        self._logged = len(self._events)

    def _note(self, finding: HealthFinding) -> None:
        """Keep a finding with its first time; log it when it is new or worse than before."""
        parts = (finding.evidence.get(name, "") for name in ("port", "xid", "probe"))
        key = (finding.code, str(finding.subject), *parts)
        before = self._findings.get(key)
        if before is None or finding.verdict > before.verdict:
            self._findings[key] = finding
            log(str(finding))

    def _ranks(self) -> list[dict[str, Any]]:
        """Return how far and how fast each rank is. Their files are looked for only while one is
        missing, since the node's processes have many.
        """
        read = {rank: heartbeat.read(file) for rank, file in self._beats.items()}
        beats = {rank: beat for rank, beat in read.items() if beat is not None}
        if len(beats) < self._task.ranks_per_node:
            beats = heartbeat.find(*self._names, environ=os.environ)
            self._beats = {rank: beat.file for rank, beat in beats.items()}
        return [
            {"rank": rank, "step": beat.step, "phase": beat.phase.label, **beat.pace._asdict()}
            for rank, beat in sorted(beats.items())
        ]

    def _write(self, report: dict[str, Any], line: dict[str, Any]) -> None:
        """Write the report, the line and the metrics, each on its own: they may lie on different
        disks.
        """
        path = records.report_path(self._folder, self._index, self._node)
        self._write_safely("health", lambda: write_json(path, report))
        self._write_safely("samples", lambda: self._log.append(line))
        self._write_safely("metrics", lambda: self._export(report))

    def _write_safely(self, what: str, write: Callable[[], None]) -> None:
        """Write one of the files; log a problem once."""
        try:
            write()
        except OSError as error:
            problem = f"the node's {what} could not be written: {error.strerror}"
        except ImportError:
            problem = "textfile_dir needs prometheus_client: pip install meditron[all]"
        else:
            return
        self._log_problem(what, problem)

    def _log_problem(self, what: str, problem: str) -> None:
        if problem != self._problems.get(what):
            log(problem)
        self._problems[what] = problem

    def _export(self, report: dict[str, Any]) -> None:
        """Write the metrics of node_exporter's textfile collector, where the site has it."""
        if self._textfile is None:
            return
        run, stage, index, attempt = self._names
        labels = {
            "run": run.name,
            "stage": stage,
            "task": str(index),
            "attempt": str(attempt),
            "job": job_id(),
            "node": self._node,
        }
        prometheus.write(self._textfile, labels, report)


def job_id() -> str:
    """Return the job of this process; empty without Slurm."""
    return os.environ.get("SLURM_JOB_ID", "")


def textfile(run: rundir.RunDir, task: specs.TaskSpec) -> Path | None:
    """Return the path of the metrics for node_exporter; None where the profile has no folder. Runs
    of several users may share a node, and a name.
    """
    if not task.site.textfile_dir:
        return None
    name = f"{run.name}-{task.stage}-{task.index}-{job_id() or os.getpid()}"
    return Path(task.site.textfile_dir) / f"{prometheus.PREFIX}{name}.prom"


def driver_version(sample: Sample) -> str | None:
    """Return the driver's version; None where it was not read."""
    driver = value_or_none(sample.driver)
    return value_or_none(driver.driver) if driver else None


def overhead() -> dict[str, float]:
    """Return the processor time and the largest memory of this process so far.

    The peak is VmHWM (proc(5)): that of getrusage(2) counts the process it was forked from.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_bytes": int(peak) * 1024,
    }


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a probe that is stuck must not hold the process
