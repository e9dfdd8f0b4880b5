"""Alarms and requests from the reports of node monitors and the metrics of a training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.contract import rundir
from jobs.contract.events import read_events
from jobs.contract.files import read_json, write_json
from jobs.contract.metrics_log import (
    HealthLine,
    MetricsSummary,
    SaveLine,
    SpikeLine,
    StepLine,
    from_json,
)
from jobs.contract.outcomes import HealthRequest, NodeFinding
from jobs.contract.specs import TaskSpec
from jobs.contract.stage_specs import ParallelSpec
from jobs.health.monitor import records
from jobs.notification.sender import Sender
from jobs.supervision.alarms.health_watch import (
    READ_SECONDS,
    SEND_SECONDS,
    SILENT_READS,
    TRAINING_SECONDS,
    HealthWatch,
)
from jobs.supervision.alarms.stragglers import WINDOW_SECONDS, WINDOWS
from jobs.supervision.attempt_records import AttemptRef

from .... import metric_lines
from ....corpus_specs import curate_spec
from ....model_specs import pretrain_spec
from ....monitor_reports import write_report
from ....ranks import PATIENCE
from ....task_specs import task_spec
from ...notification.runs import happen, make_run, start, tell

NODES = tuple(f"node{number:02d}" for number in range(4))


@dataclass
class Attempt:
    """An attempt of a training on two nodes with reports, a clock, and metrics."""

    ref: AttemptRef
    task: TaskSpec
    now: float = 1_700_000_000.0
    summary: MetricsSummary = field(default_factory=MetricsSummary)
    paces: dict[int, list[float]] = field(default_factory=dict)
    """Steps, seconds, data and communication so far, by rank; rank r is on node r."""
    newest: list[dict[str, Any]] = field(default_factory=list)
    senders: list[Sender] = field(default_factory=list)
    drivers: dict[str, str] = field(default_factory=dict)
    """By node."""
    trains_with: tuple[tuple[str, str, int | None], ...] = ()
    """Findings about each node while it trains."""

    def report(self, node: str, *findings: tuple[str, str, int | None]) -> None:
        """Write the report of a node: verdict, code and GPU of each finding."""
        items = [
            {"verdict": v, "code": c, "message": f"{c} is bad", "subject": {"gpu": gpu}}
            for v, c, gpu in findings
        ]
        names = ("steps", "seconds", "data", "communication")
        ranks = [
            {"rank": rank, **dict(zip(names, pace, strict=True))}
            for rank, pace in self.paces.items()
            if f"node{rank:02d}" == node
        ]
        write_report(
            self.ref.folder,
            node,
            findings=items,
            time=self.now,
            ranks=ranks,
            newest=self.newest,
            energy_j=500.0,
            driver=self.drivers.get(node),
        )

    def save(self, step: int) -> None:
        self.summary.add([metric_lines.save(step)])

    def watch(self) -> HealthWatch:
        sender = Sender(self.ref.run)
        self.senders.append(sender)
        return HealthWatch(
            self.ref, self.task, NODES, lambda: self.summary, sender, lambda: self.now
        )

    def later(self, watch: HealthWatch, seconds: float = READ_SECONDS + 1) -> HealthRequest | None:
        self.now += seconds
        return watch.request()

    def alarms(self) -> list[tuple[str, str, str]]:
        """Verdict, code and node of each alarm on record."""
        events = read_events(self.ref.run, {"alarm"})
        return [(event["verdict"], event["code"], event["node"]) for event in events]

    def train(self, watch: HealthWatch, *seconds: tuple[float, float, float]) -> None:
        """Train through the windows of the detector: own time, data and communication of a step of
        each rank.
        """
        for _ in range(WINDOWS + 1):
            for rank, (own, data, communication) in enumerate(seconds):
                pace = self.paces.setdefault(rank, [0, 0.0, 0.0, 0.0])
                parts = (1, own + communication, data, communication)
                self.paces[rank] = [a + 20 * b for a, b in zip(pace, parts, strict=True)]
                self.report(f"node{rank:02d}", *self.trains_with)
            self.later(watch, WINDOW_SECONDS + 1)


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    ref = AttemptRef(rundir.RunDir(tmp_path), "pretrain", 0, 1, 1_700_000_000.0)
    ref.folder.mkdir(parents=True)
    spec = pretrain_spec(train_steps=100_000, parallel=ParallelSpec(1, 1, 2, False, False, "none"))
    task = task_spec("pretrain", spec, ranks=2, nodes=2, ranks_per_node=1, launcher="srun")
    return Attempt(ref, task)


def test_nodes_without_a_finding_against_them_ask_nothing(attempt: Attempt) -> None:
    watch = attempt.watch()
    assert attempt.later(watch) is None

    attempt.report("node01", ("WARN", "throttle", 3))
    attempt.report("node02")

    assert attempt.later(watch) is None
    assert watch.findings() == ()


def test_a_fatal_finding_ends_the_ranks_at_once_and_precedes_others(attempt: Attempt) -> None:
    attempt.report("node01", ("DRAIN", "pcie_width", 0))
    attempt.report("node02", ("WARN", "throttle", 1), ("FATAL", "gpu_lost", 3))

    request = attempt.later(attempt.watch())

    lost = NodeFinding("node02", "gpu_lost", "FATAL", "GPU 3: gpu_lost is bad")
    assert request == HealthRequest(lost, at_once=True)


def test_a_node_to_drain_is_left_after_the_next_checkpoint(
    attempt: Attempt, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt.save(10)
    attempt.report("node02", ("DRAIN", "network_port", None))
    watch = attempt.watch()
    assert attempt.later(watch) is None
    assert attempt.later(watch) is None
    assert capsys.readouterr().err == (
        "DRAIN node02: network_port is bad (network_port)\n"
        "node02: network_port is bad (network_port); the ranks move away after the next "
        "checkpoint\n"
    )

    attempt.save(20)

    request = attempt.later(watch)
    assert request is not None
    assert (request.finding.node, request.at_once) == ("node02", False)


def test_reports_are_read_now_and_then(attempt: Attempt) -> None:
    watch = attempt.watch()
    assert attempt.later(watch) is None
    attempt.report("node02", ("FATAL", "gpu_lost", 3))

    attempt.now += READ_SECONDS / 2
    assert watch.request() is None

    assert attempt.later(watch) is not None


def test_a_monitor_that_reports_no_more_is_an_alarm_once(attempt: Attempt) -> None:
    watch = attempt.watch()
    attempt.newest = [{"utilisation": 90}]
    attempt.report("node02")
    for _ in range(SILENT_READS + 5):
        for node in ("node00", "node01"):
            attempt.report(node)
        attempt.later(watch)
    attempt.report("node02")
    for _ in range(SILENT_READS // 2):
        attempt.later(watch)

    assert sorted(attempt.alarms()) == [("WARN", "monitor_silent", n) for n in NODES[2:]]


def test_readings_of_a_silent_monitor_are_no_present_ones(attempt: Attempt) -> None:
    watch = attempt.watch()
    attempt.newest = [{"utilisation": 90}]
    attempt.report("node00")
    attempt.report("node01")
    for _ in range(SILENT_READS + int(TRAINING_SECONDS)):
        attempt.report("node01")
        attempt.later(watch)

    assert read_json(attempt.ref.run.health("pretrain"))["health"] == 1


def test_a_clock_that_is_set_back_or_forward_delays_nothing_and_alarms_nobody(
    attempt: Attempt,
) -> None:
    watch = attempt.watch()
    for seconds in (0.0, 90_000.0, -200_000.0):
        for node in NODES:
            attempt.report(node)
        attempt.later(watch, seconds)
    attempt.report("node02", ("FATAL", "gpu_lost", 3))

    assert attempt.later(watch) is not None
    assert attempt.alarms() == [("FATAL", "gpu_lost", "node02")]


@pytest.mark.parametrize(
    "damage",
    [
        '{"format": 3',
        '{"format": 3}',
        '{"format": 4, "findings": []}',
        {"findings": [{"verdict": "FATAL", "subject": {"gpu": 0}}]},
        {"findings": [{}]},
        {"ranks": [{"rank": 0}]},
        {"ranks": None},
        {"newest": [{"index": 0}]},
        {"gpus": [{"name": "H100"}]},
        {"energy_j": "12"},
        {"node": "node02"},
    ],
)
def test_a_damaged_report_and_one_of_another_version_ask_nothing(
    attempt: Attempt, damage: str | dict[str, Any]
) -> None:
    path = records.report_path(attempt.ref.folder, 0, "node01")
    if isinstance(damage, dict):
        attempt.report("node01")
        write_json(path, {**read_json(path), **damage})
    else:
        path.write_text(damage)
    attempt.report("node02", ("FATAL", "xid", 0))
    attempt.report("node03")
    watch = attempt.watch()

    assert attempt.later(watch) is not None
    assert [item.node for item in watch.findings()] == ["node02"]


def test_without_another_node_none_is_left(attempt: Attempt) -> None:
    attempt.task = replace(attempt.task, launcher="local", nodes=1)
    attempt.report("node01", ("DRAIN", "pcie_width", 0))
    watch = attempt.watch()
    assert attempt.later(watch) is None
    attempt.save(20)

    assert attempt.later(watch) is None
    assert attempt.alarms() == [("DRAIN", "pcie_width", "node01")]


def test_each_finding_is_an_alarm_once_and_again_when_it_is_worse(attempt: Attempt) -> None:
    watch = attempt.watch()
    attempt.report("node01", ("WARN", "throttle", 0), ("WARN", "throttle", 1))
    attempt.later(watch)
    attempt.later(watch)
    attempt.report("node01", ("WARN", "throttle", 0), ("DRAIN", "throttle", 1))
    attempt.later(watch)

    assert attempt.alarms() == [
        ("WARN", "throttle", "node01"),
        ("WARN", "throttle", "node01"),
        ("DRAIN", "throttle", "node01"),
    ]


def steps(count: int, seconds: float, every: float, end: float) -> list[StepLine]:
    """Return the newest steps of an attempt: their time, and that from one to the next."""
    return [
        metric_lines.step(n + 1, seconds=seconds, time=end - every * (count - 1 - n))
        for n in range(count)
    ]


def test_a_straggler_that_costs_more_than_a_restart_is_left(attempt: Attempt) -> None:
    watch = attempt.watch()
    attempt.summary.add(steps(10, 3.0, 3.0, attempt.now))
    attempt.save(10)
    attempt.train(watch, (1.0, 0.0, 2.0), (3.0, 0.0, 0.0))
    attempt.save(20)

    request = attempt.later(watch)

    assert attempt.alarms() == [("DRAIN", "straggler", "node01")]
    assert request == HealthRequest(
        NodeFinding(
            "node01",
            "straggler",
            "DRAIN",
            "rank 1 takes 3.00 times as long as peers for a step, computing",
        ),
        at_once=False,
    )


def test_a_pipeline_on_several_nodes_is_reported_and_not_left(attempt: Attempt) -> None:
    """Any of them may be the slow one."""
    spec = pretrain_spec(train_steps=100_000, parallel=ParallelSpec(1, 2, 2, False, False, "none"))
    attempt.task = task_spec("pretrain", spec, ranks=4, nodes=4, ranks_per_node=1, launcher="srun")
    watch = attempt.watch()
    attempt.summary.add(steps(10, 3.0, 3.0, attempt.now))
    attempt.train(watch, *[(1.0, 0.0, 2.0), (3.0, 0.0, 0.0)] * 2)
    attempt.save(20)

    assert attempt.later(watch) is None
    assert attempt.alarms() == [("WARN", "straggler", "")]


def test_a_straggler_near_the_end_is_only_reported(attempt: Attempt) -> None:
    watch = attempt.watch()
    attempt.summary.add([metric_lines.step(99_990)])
    attempt.train(watch, (1.0, 0.0, 2.0), (3.0, 2.5, 0.0))
    attempt.save(99_995)

    assert attempt.later(watch) is None
    assert attempt.alarms() == [("WARN", "straggler", "node01")]


def test_a_straggler_on_the_only_node_is_left_too(attempt: Attempt) -> None:
    attempt.task = replace(attempt.task, nodes=1)
    watch = attempt.watch()
    attempt.summary.add(steps(10, 3.0, 3.0, attempt.now))
    attempt.save(10)
    attempt.train(watch, (1.0, 0.0, 2.0), (3.0, 0.0, 0.0))
    attempt.save(20)

    request = attempt.later(watch)

    assert request is not None
    assert request.finding.node == "node01"


def test_slow_steps_name_what_the_nodes_report(attempt: Attempt) -> None:
    watch = attempt.watch()
    attempt.train(watch, (1.0, 0.0, 0.1), (1.0, 0.0, 0.1))
    attempt.trains_with = (("WARN", "throttle", 0), ("WARN", "network_errors", None))
    attempt.train(watch, (2.0, 0.0, 0.1), (2.0, 0.0, 0.1))

    (message,) = [
        event["message"]
        for event in read_events(attempt.ref.run, {"alarm"})
        if event["code"] == "slow_steps"
    ]
    assert message == (
        "a step takes 1.91 times as long as at the start of the attempt, computing "
        "(throttle on node00, node01)"
    )


def test_a_straggler_has_what_its_own_node_reports(attempt: Attempt) -> None:
    watch = attempt.watch()
    attempt.trains_with = (("WARN", "throttle", 0), ("WARN", "network_errors", None))

    attempt.train(watch, (1.0, 0.0, 2.0), (3.0, 0.0, 0.0))

    (message,) = [
        event["message"]
        for event in read_events(attempt.ref.run, {"alarm"})
        if event["code"] == "straggler"
    ]
    assert message == (
        "rank 1 takes 3.00 times as long as peers for a step, computing (throttle on node01)"
    )


def test_a_training_that_a_straggler_slows_down_is_not_slow_as_a_whole(attempt: Attempt) -> None:
    watch = attempt.watch()
    attempt.train(watch, (1.0, 0.0, 0.1), (1.0, 0.0, 0.1))
    attempt.train(watch, (1.0, 0.0, 2.0), (3.0, 0.0, 0.0))

    assert attempt.alarms() == [("WARN", "straggler", "node01")]


def test_nodes_with_different_drivers_are_an_alarm(attempt: Attempt) -> None:
    watch = attempt.watch()
    attempt.drivers = {"node01": "570.133.20", "node02": "550.54.15", "node03": "570.133.20"}
    for number in range(4):
        attempt.report(f"node{number:02d}")
    attempt.later(watch)

    (event,) = read_events(attempt.ref.run, {"alarm"})

    assert (event["code"], event["message"]) == (
        "driver_version",
        "the nodes have different drivers: 550.54.15 on node02; 570.133.20 on node01, node03",
    )


def test_a_profile_may_skip_stragglers(attempt: Attempt) -> None:
    attempt.task = replace(attempt.task, health={"skip": ["straggler"]})
    watch = attempt.watch()

    attempt.train(watch, (1.0, 0.0, 2.0), (3.0, 0.0, 0.0))
    assert attempt.alarms() == []

    attempt.train(watch, (2.0, 0.0, 4.0), (6.0, 0.0, 0.0))
    assert attempt.alarms() == [("WARN", "slow_steps", "")]


def test_alarms_about_the_training_are_recorded_once(attempt: Attempt) -> None:
    watch = attempt.watch()
    attempt.now += 7200
    lines: list[StepLine | SaveLine | SpikeLine] = [
        *steps(300, 3.0, 12.0, attempt.now),
        *(metric_lines.save(step, written=20.0) for step in range(6)),
        metric_lines.save(7, written=90.0),
        metric_lines.spike(290, attempt=1),
        metric_lines.spike(12, attempt=0),
    ]
    attempt.summary.add(lines)

    attempt.later(watch)
    attempt.later(watch, TRAINING_SECONDS + 1)

    assert [code for _, code, _ in attempt.alarms()] == ["slow_storage", "goodput", "loss_spike"]


def test_the_newest_readings_of_all_nodes_are_written_for_rank_0(attempt: Attempt) -> None:
    gpu = {"utilisation": 90, "power": 300_000, "temperature": 60, "sm_clock": 1400}
    attempt.newest = [
        {**gpu, "memory_used": 5},
        {**gpu, "power": None, "temperature": 70, "sm_clock": 1300, "memory_used": None},
    ]
    attempt.report("node00", ("WARN", "throttle", 0))
    attempt.report("node01")
    watch = attempt.watch()

    attempt.later(watch)

    found = read_json(attempt.ref.run.health("pretrain"))
    line = from_json({**found, "step": 7})
    assert line == HealthLine(
        7, 4, 90.0, 600.0, 70.0, 1300.0, 5.0, 1000.0, 1, attempt.now, attempt=1
    )


def test_news_that_waited_are_sent_while_the_ranks_run(attempt: Attempt, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", pretrain=1)
    attempt.ref = replace(attempt.ref, run=run)
    told = tmp_path / "told"
    tell(run, {"PAGER": f"command:/usr/bin/tee {told}"})
    watch = attempt.watch()
    happen(run, start())
    attempt.later(watch)

    attempt.later(watch, SEND_SECONDS)

    attempt.senders[0].wait(PATIENCE)
    assert "pretrain started" in told.read_text()


def test_the_same_trouble_of_many_nodes_is_sent_by_one_process(
    attempt: Attempt, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "runs", pretrain=1)
    attempt.ref = replace(attempt.ref, run=run)
    tell(run, {"PAGER": f"command:/usr/bin/tee {tmp_path}/told"})
    for node in NODES:
        attempt.report(node, ("WARN", "network_errors", None), ("WARN", "load", None))

    attempt.later(attempt.watch())

    children = [child.cmdline() for child in psutil.Process().children()]
    assert sum("jobs.notification" in words for words in children) == 1
    attempt.senders[0].wait(PATIENCE)
    assert "network_errors is bad (4 times)" in (tmp_path / "told").read_text()


def test_alarms_that_could_not_be_recorded_are_later(
    attempt: Attempt, capsys: pytest.CaptureFixture[str]
) -> None:
    watch, log = attempt.watch(), attempt.ref.run.events
    log.mkdir()
    attempt.report("node01", ("WARN", "load", None))
    attempt.later(watch)
    attempt.later(watch)
    log.rmdir()

    attempt.later(watch)
    attempt.later(watch)

    assert attempt.alarms() == [("WARN", "load", "node01")]
    assert capsys.readouterr().err.count("could not be recorded") == 1


def test_a_task_that_does_not_train_is_watched_for_its_nodes_alone(attempt: Attempt) -> None:
    attempt.task = task_spec("curate", curate_spec())
    attempt.report("node01", ("FATAL", "gpu_lost", 0), ("DRAIN", "throttle", 1))
    watch = attempt.watch()
    found: Any = attempt.later(watch)

    assert (found.finding.code, found.at_once) == ("gpu_lost", True)
