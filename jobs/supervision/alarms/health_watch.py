"""Watch the nodes and the training of an attempt: raise alarms, and request that the ranks leave a
node. Standard library only.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jobs.contract import metrics_log, specs
from jobs.contract.files import write_json
from jobs.contract.outcomes import Alarm, HealthRequest, NodeFinding
from jobs.contract.stage_specs import TrainingSpec
from jobs.health.findings import against_nodes, message_of
from jobs.health.monitor import records
from jobs.notification.outbox import REPEAT_SECONDS
from jobs.notification.sender import Sender
from jobs.runtime.log import log
from jobs.supervision import node_monitors
from jobs.supervision.alarms import training_rules
from jobs.supervision.alarms.alarm_log import AlarmLog
from jobs.supervision.alarms.stragglers import Place, RankPace, StragglerDetector
from jobs.supervision.attempt_records import AttemptRef

READ_SECONDS = 5.0
"""Between two looks at the reports, which lie on the shared file system."""
TRAINING_SECONDS = 60.0
"""Between two looks at the training."""
SEND_SECONDS = REPEAT_SECONDS
"""Between two looks at the notifications that wait."""

SILENT_READS = 60
"""Looks in a row, five minutes, at a report that stays the same, or is not there."""

REPORTED = ("WARN", "DRAIN", "FATAL")

QUEUE_SECONDS = 600.0
"""A guess of the wait for another job."""
STARTUP_SECONDS = 300.0
"""The same of a start, where none was measured."""
RESTART_FACTOR = 5.0
"""A node with a straggler is left when the rest of the training would lose so many times what a
restart costs: few slow trainings are slow because of a worker (1.7 %, arXiv 2505.05713)."""


class HealthWatch:
    """The watch over one attempt."""

    def __init__(
        self,
        attempt: AttemptRef,
        task: specs.TaskSpec,
        nodes: Sequence[str],
        metrics: Callable[[], metrics_log.MetricsSummary],
        sender: Sender,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Watch nothing yet.

        Args:
            attempt: whose folder has the reports of the node monitors.
            task: its task.
            nodes: of its job.
            metrics: returns the summary of its training's metrics.
            sender: of the run's notifications.
            clock: in seconds since 1970.
        """
        self._attempt = attempt
        self._task = task
        self._nodes = nodes
        self._metrics = metrics
        self._clock = clock
        self._due = self._training_due = 0.0
        self._send_due = clock() + SEND_SECONDS
        self._sender = sender
        self._alarms = AlarmLog(attempt, sender)
        self._detector = StragglerDetector(self._place)
        self._slow: dict[str, NodeFinding] = {}
        """Nodes with a straggler that costs more than a restart."""
        self._silent_reads: dict[str, tuple[float, int]] = dict.fromkeys(
            nodes if node_monitors.is_monitored(task) else (), (0.0, 0)
        )
        """By node, the time of its newest report, and how often that was read again."""
        self._saved_before: int | None = None
        """The newest checkpoint when the first finding to drain a node was read."""

    def request(self) -> HealthRequest | None:
        """Return the request that the ranks end: at once for a node that cannot do the job, after
        the next checkpoint for one that should be drained; None while there is none.
        """
        now = self._clock()
        if is_early(self._due, now, READ_SECONDS):
            return None
        self._due = now + READ_SECONDS
        if not is_early(self._send_due, now, SEND_SECONDS):
            self._send_due = now + SEND_SECONDS
            self._sender.send()
        reports = self._reports()
        silent = self._silent_monitors(reports)
        self._alarms.add(*node_alarms(reports), *driver_alarms(reports), *silent)
        alive = [one for one in reports if self._reads_of(one["node"]) < SILENT_READS]
        self._watch_training(now, alive)
        found = self._findings(reports)
        if found and found[0].verdict == "FATAL":
            return HealthRequest(found[0], at_once=True)
        return self._leave_after_save(found[0]) if found else None

    def findings(self) -> tuple[NodeFinding, ...]:
        """Return the findings against nodes so far, FATAL ones first."""
        return self._findings(self._reports())

    def _reports(self) -> list[dict[str, Any]]:
        return records.read_reports(self._attempt.folder, self._attempt.index, self._nodes)

    def _findings(self, reports: list[dict[str, Any]]) -> tuple[NodeFinding, ...]:
        found = [*against_nodes(reports), *self._slow.values()]
        return tuple(sorted(found, key=lambda item: item.verdict != "FATAL"))

    def _leave_after_save(self, finding: NodeFinding) -> HealthRequest | None:
        """Return the request to leave a node once there is a checkpoint that is newer than the
        finding; none where there is no other node to go to.
        """
        if self._task.launcher != "srun" or self._task.training is None:
            return None
        saved = self._metrics().highest_saved
        if self._saved_before is None:
            self._saved_before = saved
            log(f"{finding.sentence}; the ranks move away after the next checkpoint")
        return HealthRequest(finding, at_once=False) if saved > self._saved_before else None

    def _reads_of(self, node: str) -> int:
        return self._silent_reads.get(node, (0.0, 0))[1]

    def _silent_monitors(self, reports: list[dict[str, Any]]) -> Iterator[Alarm]:
        """Yield an alarm for a monitor that was killed, is stopped, or did not start: its node is
        not watched, and its last readings are no present ones. Looks are counted, as clocks jump.
        """
        times = {report["node"]: report["time"] for report in reports}
        for node, (before, reads) in self._silent_reads.items():
            newest = times.get(node, 0.0)
            self._silent_reads[node] = (newest, reads + 1 if newest == before else 0)
            if reads + 1 == SILENT_READS and newest == before:
                minutes = SILENT_READS * READ_SECONDS / 60
                text = f"its monitor has not reported for {minutes:.0f} minutes"
                if "monitor_silent" not in self._task.health.get("skip", ()):
                    yield Alarm("monitor_silent", text, node=node)

    # ---- the training

    def _watch_training(self, now: float, reports: list[dict[str, Any]]) -> None:
        if self._task.training is None:
            return
        if self._detector.add(now, paces(reports)):
            self._watch_speed(reports)
        if is_early(self._training_due, now, TRAINING_SECONDS):
            return
        self._training_due = now + TRAINING_SECONDS
        self._write_readings(now, reports)
        self._alarms.add(*self._training_alarms(self._task.training, now))

    def _write_readings(self, now: float, reports: list[dict[str, Any]]) -> None:
        """Write the newest readings for rank 0, which has them in its metrics
        (``jobs.engine.reporter``).
        """
        values = readings(reports)
        if values is None:
            return
        attempt = self._attempt
        path = attempt.run.health(attempt.stage, attempt.index)
        try:
            write_json(path, {"time": now, "attempt": attempt.number, **values})
        except OSError as error:
            log(f"{path} could not be written: {error.strerror}")

    def _training_alarms(self, training: TrainingSpec, now: float) -> Iterator[Alarm]:
        metrics = self._metrics()
        for alarm in (
            training_rules.slow_saves(list(metrics.saves)),
            training_rules.low_goodput(list(metrics.steps), self._attempt.began, now),
            training_rules.rising_loss(list(metrics.steps)),
            training_rules.stalled_learning(
                metrics.first_losses, list(metrics.steps), training.train_steps
            ),
        ):
            if alarm is not None:
                yield alarm
        own = (line for line in metrics.spikes if line.attempt == self._attempt.number)
        yield from training_rules.spikes(own)

    def _watch_speed(self, reports: list[dict[str, Any]]) -> None:
        """Look for stragglers, for which all ranks wait, else for a training that is slow as a
        whole.
        """
        is_skipped = "straggler" in self._task.health.get("skip", ())
        stragglers = [] if is_skipped else self._detector.stragglers()
        for straggler in stragglers:
            lost = straggler.lost_share() * self._seconds_left()
            costs = lost > RESTART_FACTOR * self._restart_seconds()
            verdict = "DRAIN" if straggler.node and costs else "WARN"
            key = ", ".join(straggler.nodes)
            nodes = (straggler.node, *straggler.nodes)
            own = [report for report in reports if report["node"] in nodes]
            message = straggler.sentence + explanation(straggler.cause, own)
            self._alarms.add(Alarm("straggler", message, verdict, straggler.node, key))
            if verdict == "DRAIN":
                finding = NodeFinding(straggler.node, "straggler", "DRAIN", message)
                self._slow.setdefault(straggler.node, finding)
        if not stragglers and (slow := self._detector.slow_job()):
            message = slow.sentence + explanation(slow.cause, reports)
            self._alarms.add(Alarm("slow_steps", message))

    def _seconds_left(self) -> float:
        """Return the time that the rest of the training takes at its present speed."""
        training, steps = self._task.training, self._metrics().steps
        if training is None or not steps:
            return 0.0
        seconds = statistics.median(line.seconds for line in steps)
        return (training.train_steps - steps[-1].step) * seconds

    def _restart_seconds(self) -> float:
        """Return what another start costs: a wait in the queue, and as long as this one took."""
        own = [line for line in self._metrics().steps if line.attempt == self._attempt.number]
        started = own[0].time - self._attempt.began if own else STARTUP_SECONDS
        return QUEUE_SECONDS + max(0.0, started)

    def _place(self, rank: int) -> Place:
        """Return the place of a rank, in megatron.core's order: tensor, data, pipeline."""
        training = self._task.training
        if training is None:
            return Place(0, rank)
        layout = training.parallel
        return Place(rank // (layout.tensor * layout.data), rank // layout.tensor % layout.data)


def is_early(due: float, now: float, pause: float) -> bool:
    """Return whether something is not due yet; it is where the clock was set back."""
    return now < due <= now + pause


EXPLAINS = {
    "computing": {"throttle", "clock_low", "power_cap", "power_low", "temperature", "load"},
    "waiting for data": {"load", "memory", "swap", "disk", "probe_stuck"},
    "communicating": {
        *("network_port", "network_flap", "network_errors", "nvlink", "nvlink_errors"),
        *("pcie_width", "pcie_generation", "pcie_replays"),
    },
}
"""Codes of findings by the part of a step that they make slow."""
NAMED = 4
"""Most nodes that an alarm names."""


def explanation(cause: str, reports: list[dict[str, Any]]) -> str:
    """Return the findings that hold now and explain slow steps, with their nodes, in parentheses;
    nothing where there is none.
    """
    nodes: dict[str, list[str]] = {}
    for report in reports:
        for code in sorted({item["code"] for item in report["now"]} & EXPLAINS[cause]):
            nodes.setdefault(code, []).append(report["node"])
    texts = []
    for code, names in nodes.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        texts.append(f"{code} on {', '.join(names[:NAMED])}{more}")
    return f" ({'; '.join(texts)})" if texts else ""


def node_alarms(reports: list[dict[str, Any]]) -> Iterator[Alarm]:
    """Yield an alarm for each finding of the monitors that is at least a warning."""
    for report in reports:
        for item in report["findings"]:
            if item["verdict"] in REPORTED:
                evidence = item["evidence"]
                parts = (item["subject"]["gpu"], *map(evidence.get, ("port", "xid", "probe")))
                key = "/".join(str(part) for part in parts if part is not None)
                yield Alarm(item["code"], message_of(item), item["verdict"], report["node"], key)


def driver_alarms(reports: list[dict[str, Any]]) -> Iterator[Alarm]:
    """Yield an alarm where nodes have different drivers."""
    nodes: dict[str, list[str]] = {}
    for report in reports:
        if report["driver"]:
            nodes.setdefault(report["driver"], []).append(report["node"])
    if len(nodes) > 1:
        each = "; ".join(f"{version} on {', '.join(nodes[version])}" for version in sorted(nodes))
        yield Alarm("driver_version", f"the nodes have different drivers: {each}")


def readings(reports: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the newest readings of all GPUs together, with the keys of a
    ``metrics_log.HealthLine``; None without a GPU.
    """
    gpus = [gpu for report in reports for gpu in report["newest"]]
    if not gpus:
        return None

    def known(name: str) -> list[float]:
        return [gpu[name] for gpu in gpus if gpu[name] is not None]

    utilisation, power = known("utilisation"), known("power")
    return {
        "health": len(gpus),
        "utilisation": statistics.fmean(utilisation) if utilisation else None,
        "power_w": sum(power) / 1000 if power else None,
        "temperature": max(known("temperature"), default=None),
        "sm_clock_mhz": min(known("sm_clock"), default=None),
        "memory_bytes": max(known("memory_used"), default=None),
        "energy_j": sum(report["energy_j"] for report in reports),
        "findings": sum(
            item["verdict"] in REPORTED for report in reports for item in report["now"]
        ),
    }


def paces(reports: list[dict[str, Any]]) -> Iterator[RankPace]:
    """Yield how fast each rank is, from the reports of all nodes."""
    for report in reports:
        for rank in report["ranks"]:
            yield RankPace(
                rank["rank"],
                report["node"],
                rank["steps"],
                rank["seconds"],
                rank["data"],
                rank["communication"],
            )
