"""Reports of node monitors, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.contract.files import write_json
from jobs.health.monitor.records import report_path

READINGS = ("utilisation", "power", "temperature", "sm_clock", "memory_used")


def write_report(
    folder: Path, node: str, *, findings: Sequence[dict[str, Any]] = (), **fields: Any
) -> None:
    """Write the report of a node of task 0, in which all findings hold now.

    Args:
        folder: of the attempt.
        findings: each with any of the keys of a finding.
        fields: others of the report.
    """
    plain = {"code": "xid", "message": "", "subject": {"gpu": None}, "evidence": {}}
    items = [{**plain, **item} for item in findings]
    newest = [
        {"index": index, **dict.fromkeys(READINGS), **gpu}
        for index, gpu in enumerate(fields.pop("newest", ()))
    ]
    value = {
        "node": node,
        "time": 0.0,
        "driver": None,
        "now": items,
        "findings": items,
        "ranks": [],
        "newest": newest,
        "gpus": [],
        "energy_j": 0.0,
        "energy_source": "counter",
    }
    write_json(report_path(folder, 0, node), {**value, **fields})
