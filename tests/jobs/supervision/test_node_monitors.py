"""What the reports of node monitors ask of the ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import rundir
from jobs.contract.files import write_json
from jobs.contract.metrics_log import MetricsSummary
from jobs.contract.outcomes import HealthRequest, NodeFinding
from jobs.health.monitor import records
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.node_monitors import READ_SECONDS, HealthReader


@dataclass
class Attempt:
    """An attempt with reports, a clock, and the newest checkpoint."""

    ref: AttemptRef
    saved: int = 10
    now: float = 0.0
    summary: MetricsSummary = field(default_factory=MetricsSummary)

    def report(self, node: str, *findings: tuple[str, str, int | None]) -> None:
        """Write the report of a node: verdict, code and GPU of each finding."""
        items = [
            {"verdict": v, "code": c, "message": f"{c} is bad", "subject": {"gpu": gpu}}
            for v, c, gpu in findings
        ]
        path = records.report_path(self.ref.folder, self.ref.index, node)
        write_json(path, {"node": node, "findings": items})

    def metrics(self) -> MetricsSummary:
        self.summary.highest_saved = self.saved
        return self.summary

    def reader(self) -> HealthReader:
        return HealthReader(self.ref, self.metrics, lambda: self.now)

    def later(self, reader: HealthReader) -> HealthRequest | None:
        self.now += READ_SECONDS + 1
        return reader.request()


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    ref = AttemptRef(rundir.RunDir(tmp_path), "pretrain", 0, 1, 0.0)
    ref.folder.mkdir(parents=True)
    return Attempt(ref)


def test_nodes_without_a_finding_against_them_ask_nothing(attempt: Attempt) -> None:
    reader = attempt.reader()
    assert attempt.later(reader) is None

    attempt.report("node01", ("WARN", "throttle", 3))
    attempt.report("node02")

    assert attempt.later(reader) is None
    assert reader.findings() == ()


def test_a_fatal_finding_ends_the_ranks_at_once_and_precedes_others(attempt: Attempt) -> None:
    attempt.report("node01", ("DRAIN", "pcie_width", 0))
    attempt.report("node02", ("WARN", "throttle", 1), ("FATAL", "gpu_lost", 3))

    request = attempt.later(attempt.reader())

    lost = NodeFinding("node02", "gpu_lost", "FATAL", "GPU 3: gpu_lost is bad")
    assert request == HealthRequest(lost, at_once=True)


def test_a_node_to_drain_is_left_after_the_next_checkpoint(
    attempt: Attempt, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt.report("node02", ("DRAIN", "network_port", None))
    reader = attempt.reader()
    assert attempt.later(reader) is None
    assert attempt.later(reader) is None
    assert capsys.readouterr().err == (
        "node02: network_port is bad (network_port); the ranks move away after the next "
        "checkpoint\n"
    )

    attempt.saved = 20

    request = attempt.later(reader)
    assert request is not None
    assert (request.finding.node, request.at_once) == ("node02", False)


def test_reports_are_read_now_and_then(attempt: Attempt) -> None:
    reader = attempt.reader()
    assert attempt.later(reader) is None
    attempt.report("node02", ("FATAL", "gpu_lost", 3))

    attempt.now += READ_SECONDS / 2
    assert reader.request() is None

    assert attempt.later(reader) is not None


def test_a_damaged_report_asks_nothing(attempt: Attempt) -> None:
    folder: Any = attempt.ref.folder
    records.report_path(folder, 0, "node01").write_text('{"format": 3')
    attempt.report("node02", ("FATAL", "xid", 0))
    attempt.report("node03")

    assert [item.node for item in attempt.reader().findings()] == ["node02"]
