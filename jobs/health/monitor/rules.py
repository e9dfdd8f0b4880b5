"""Findings about a running node: the checks of single samples where they last, and the rules for
samples over time. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from jobs.health import node_checks
from jobs.health.findings import (
    Expected,
    HealthFinding,
    HealthVerdict,
    Subject,
    finding,
    finding_about,
)
from jobs.health.monitor import gpu_rules, node_rules, xid_rules
from jobs.health.monitor.node_reader import StuckProbe
from jobs.health.monitor.series import NodeSeries
from jobs.health.monitor.xid_events import XidEvent
from jobs.health.sample import Sample

CODES = frozenset(
    {rule.code for rule in gpu_rules.RULES}
    | {rule.code for rule in node_rules.RULES}
    | set(gpu_rules.SUSTAINED)
    | {"disk", "network_port", "network_flap", "network_errors", "probe_stuck", "xid"}
)
"""All codes of findings about a running node."""

Key = tuple[str, int | None]


class NodeRules:
    """The rules for one node during one attempt."""

    def __init__(self, expected: Expected) -> None:
        """Start without a sample.

        Args:
            expected: of the node; its own processes run, and may fill memory and disks.
        """
        self._needed_gb = expected.min_free_gb
        self._expected = dataclasses.replace(expected, idle=False, memory_gb=0.0, min_free_gb=0.0)
        self._known: dict[Key, HealthVerdict] | None = None
        """Verdicts of the first sample: the preflight check has reported them."""
        self._checked: list[dict[Key, HealthFinding]] = []
        """Findings of the checks of the newest samples, for as many as any code needs."""
        self.series = NodeSeries()

    def add(self, sample: Sample) -> None:
        """Add a sample."""
        self.series.add(sample)
        found = {
            (item.code, item.subject.gpu): item
            for item in node_checks.check(sample, self._expected)
            if item.code in gpu_rules.SUSTAINED and item.verdict >= HealthVerdict.WARN
        }
        if self._known is None:
            self._known = {key: item.verdict for key, item in found.items()}
        self._checked = [*self._checked, found][-max(gpu_rules.SUSTAINED.values()) :]

    def findings(
        self, stuck: Iterable[StuckProbe], events: Sequence[XidEvent]
    ) -> list[HealthFinding]:
        """Return what holds now, the worst first; one finding per code and GPU or port."""
        everything = [
            *self._sustained(),
            *self._over_time(),
            *self._stuck(stuck),
            *self._xids(events),
        ]
        kept = [self._named(item) for item in everything if item.code not in self._expected.skip]
        return sorted(kept, key=lambda item: -item.verdict)

    def _named(self, item: HealthFinding) -> HealthFinding:
        """Return a finding with the UUID of its GPU, where that was known at first."""
        subject = item.subject
        if subject.gpu is None or subject.uuid:
            return item
        named = dataclasses.replace(subject, uuid=self.series.uuid(subject.gpu))
        return dataclasses.replace(item, subject=named)

    def _sustained(self) -> Iterator[HealthFinding]:
        newest = self._checked[-1] if self._checked else {}
        for key, item in newest.items():
            needed = gpu_rules.SUSTAINED[item.code]
            row = [found.get(key) for found in self._checked[-needed:]]
            known = (self._known or {}).get(key, HealthVerdict.OK)
            if len(row) < needed or None in row:
                continue
            least = min((one for one in row if one is not None), key=lambda one: one.verdict)
            if least.verdict > known:
                yield dataclasses.replace(
                    item, verdict=least.verdict, action=least.action, message=least.message
                )

    def _over_time(self) -> Iterator[HealthFinding]:
        if self.series.first is None:
            return
        sample, gpus = self.series.newest, self.series.gpus()
        for one in gpus:
            for rule in gpu_rules.RULES:
                if outcome := rule.rule(one, gpus):
                    yield finding(sample, rule.code, outcome, one.newest)
        for node_rule in node_rules.RULES:
            if outcome := node_rule.rule(self.series):
                yield finding(sample, node_rule.code, outcome)
        for code, outcome in (
            *node_rules.disk_outcomes(self.series, self._needed_gb),
            *node_rules.port_outcomes(self.series),
        ):
            yield finding(sample, code, outcome)

    def _stuck(self, stuck: Iterable[StuckProbe]) -> Iterator[HealthFinding]:
        for probe in stuck:
            subject = Subject(self.series.newest.node, probe.gpu)
            outcome = node_rules.stuck_outcome(probe)
            yield finding_about(subject, "probe_stuck", outcome, self.series.newest.time)

    def _xids(self, events: Sequence[XidEvent]) -> Iterator[HealthFinding]:
        for item in xid_rules.outcomes(events):
            subject = Subject(self.series.newest.node, item.gpu, item.uuid)
            yield finding_about(subject, "xid", item.outcome, item.time)
