"""Nodes of a run with the findings about them: ends of attempts, alarms, reports of monitors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.contract.stage_specs import TRAINING_STAGES
from jobs.health.monitor.records import read_reports
from meditron_cli.reporting.attempts import Attempt
from meditron_cli.reporting.report import RunReport

NEWEST = 20
"""Newest attempts of trainings whose monitors' reports are read: a file per attempt and node."""
NODES = 512
"""Most nodes that are shown: those with findings first."""
FINDINGS = 20
"""Most findings that are shown of a node, the newest."""

VERDICTS = ("", "WARN", "DRAIN", "FATAL")
AT_FAULT = ("node_fail", "unhealthy", "gpu_hardware")
"""Root causes of which the node is at fault."""


@dataclass
class Node:
    """A node of a run."""

    name: str
    attempts: int = 0
    verdict: str = ""
    """The worst one; empty without findings."""
    findings: dict[str, None] = field(default_factory=dict)
    """Sentences, oldest first."""
    gpus: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The newest summary of each GPU, with its ``verdict``."""

    def note(self, verdict: str, sentence: str) -> None:
        """Add a finding."""
        self.findings.pop(sentence, None)
        self.findings[sentence] = None
        self.verdict = max(self.verdict, verdict, key=VERDICTS.index)

    @property
    def gpu_rows(self) -> list[tuple[object, ...]]:
        """Return GPU, means of utilisation and power, largest temperatures, mean clock."""
        return [
            (
                index,
                *(reading(gpu, *place) for place in READINGS),
            )
            for index, gpu in self.gpus.items()
        ]

    @property
    def newest_findings(self) -> list[str]:
        """Return the findings that are shown, newest first."""
        return list(reversed(self.findings))[:FINDINGS]


READINGS = (
    ("utilisation", "mean"),
    ("power_w", "mean"),
    ("temperature", "max"),
    ("memory_temperature", "max"),
    ("sm_clock_mhz", "mean"),
)


def reading(gpu: Mapping[str, Any], name: str, what: str) -> str | None:
    """Return a reading of a monitor's summary; None where it was not read."""
    summary = gpu.get(name)
    value = summary.get(what) if isinstance(summary, Mapping) else None
    return f"{value:,.0f}" if isinstance(value, int | float) else None


def nodes_of(report: RunReport) -> list[Node]:
    """Return the nodes of a run's attempts: those with findings first, then by name."""
    nodes: dict[str, Node] = {}
    attempts = report.times.attempts
    for attempt in attempts:
        for name in attempt.nodes:
            nodes.setdefault(name, Node(name)).attempts += 1
        if attempt.interrupted and attempt.node:
            verdict = "FATAL" if attempt.cause in AT_FAULT else "WARN"
            cause, message = (
                attempt.cause.replace("_", " "),
                attempt.end.message if attempt.end else "",
            )
            where = f"{attempt.stage} attempt {attempt.number}"
            nodes.setdefault(attempt.node, Node(attempt.node)).note(
                verdict, f"{where}: {cause}: {message}"
            )
    for alarm in report.results["alarms"]:
        if alarm["node"] and alarm["verdict"] in VERDICTS:
            node = nodes.setdefault(alarm["node"], Node(alarm["node"]))
            node.note(alarm["verdict"], sentence(alarm["stage"], alarm["attempt"], alarm))
    trainings = [item for item in attempts if item.stage in TRAINING_STAGES]
    for attempt in trainings[-NEWEST:]:
        folder = report.run.attempt(attempt.stage, attempt.number)
        for monitored in read_reports(folder, attempt.index, attempt.nodes):
            add_report(nodes, attempt, monitored)
    return sorted(
        nodes.values(),
        key=lambda node: (-VERDICTS.index(node.verdict), not node.findings, node.name),
    )


def sentence(stage: str, attempt: int, finding: Mapping[str, Any]) -> str:
    """Return a finding of an attempt, equal for an alarm and the report that it is from."""
    where = f"{stage} attempt {attempt}"
    return f"{where}: {finding['verdict']} {finding['code']}: {finding['message']}"


def add_report(nodes: dict[str, Node], attempt: Attempt, report: Mapping[str, Any]) -> None:
    """Add what a monitor found on its node; a report that is damaged adds nothing."""
    try:
        name = str(report["node"])
        node = nodes.setdefault(name, Node(name))
        gpus = {int(gpu["index"]): {**gpu, "verdict": ""} for gpu in report["gpus"]}
        for finding in report["findings"]:
            verdict, gpu = str(finding["verdict"]), finding["subject"].get("gpu")
            if verdict not in VERDICTS:
                continue
            if gpu in gpus:
                gpus[gpu]["verdict"] = max(gpus[gpu]["verdict"], verdict, key=VERDICTS.index)
            node.note(verdict, sentence(attempt.stage, attempt.number, finding))
        node.gpus = gpus
    except (LookupError, TypeError, ValueError, AttributeError):
        return
