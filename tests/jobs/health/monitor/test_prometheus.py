"""Metrics for node_exporter, and the dashboard that shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs.health.monitor import prometheus

DOCS = Path(__file__).parents[4] / "docs"
LABELS = {
    "run": "med-7b",
    "stage": "pretrain",
    "task": "0",
    "attempt": "2",
    "job": "4187",
    "node": 'gpu"0\\1\n',
}
REPORT: dict[str, Any] = {
    "gpus": [
        {"index": 0, "uuid": "GPU-a", "energy_j": 500.0},
        {"index": 1, "uuid": None, "energy_j": 0},
    ],
    "newest": [
        {
            "index": 0,
            "utilisation": 97,
            "power": 312_500,
            "temperature": 61,
            "memory_temperature": None,
            "sm_clock": 1290,
            "memory_used": 42 << 30,
        },
        dict.fromkeys(
            ("utilisation", "power", "temperature", "memory_temperature", "sm_clock", "memory_used")
        )
        | {"index": 1},
    ],
    "ranks": [{"rank": 3, "steps": 40, "seconds": 80.0, "data": 1.0, "communication": 9.5}],
    "now": [{"code": "throttle", "verdict": "WARN"}, {"code": "throttle", "verdict": "WARN"}],
}


@pytest.fixture
def samples(tmp_path: Path) -> dict[tuple[str, str], tuple[float, dict[str, str]]]:
    """Return value and labels by name and GPU, rank or code."""
    path = tmp_path / "meditron-med-7b-pretrain-0.prom"
    prometheus.write(path, LABELS, REPORT)
    families = text_string_to_metric_families(path.read_text())
    return {
        (one.name, next(one.labels[key] for key in ("gpu", "rank", "code") if key in one.labels)): (
            one.value,
            one.labels,
        )
        for family in families
        for one in family.samples
    }


def test_readings_have_base_units_and_the_labels_of_the_job(
    samples: dict[tuple[str, str], tuple[float, dict[str, str]]],
) -> None:
    values = {key: value for key, (value, _) in samples.items()}

    assert values == {
        ("meditron_gpu_utilisation_ratio", "GPU-a"): 0.97,
        ("meditron_gpu_power_watts", "GPU-a"): 312.5,
        ("meditron_gpu_temperature_celsius", "GPU-a"): 61,
        ("meditron_gpu_sm_clock_hertz", "GPU-a"): 1.29e9,
        ("meditron_gpu_memory_used_bytes", "GPU-a"): 42 << 30,
        ("meditron_gpu_energy_joules_total", "GPU-a"): 500.0,
        ("meditron_gpu_energy_joules_total", "1"): 0.0,
        ("meditron_rank_steps_total", "3"): 40,
        ("meditron_rank_step_seconds_total", "3"): 80.0,
        ("meditron_rank_data_seconds_total", "3"): 1.0,
        ("meditron_rank_communication_seconds_total", "3"): 9.5,
        ("meditron_node_findings", "throttle"): 2,
    }
    assert samples[("meditron_rank_steps_total", "3")][1] == {**LABELS, "rank": "3"}


def test_sums_are_counters_and_nothing_else_is(tmp_path: Path) -> None:
    """Prometheus warns of a rate over a metric whose name does not end in ``_total``."""
    path = tmp_path / "a.prom"

    prometheus.write(path, LABELS, REPORT)

    text = path.read_text()
    kinds = dict(re.findall(r"# TYPE (\S+) (\S+)", text))
    assert kinds.keys() == prometheus.NAMES
    assert {name for name, kind in kinds.items() if kind == "counter"} == {
        name for name in prometheus.NAMES if name.endswith("_total")
    }
    dashboard = (DOCS / "grafana/meditron.json").read_text()
    assert all(name in prometheus.NAMES for name in re.findall(r"rate\((\w+)", dashboard))
    assert all(name.endswith("_total") for name in re.findall(r"rate\((\w+)", dashboard))


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    dashboard = json.loads((DOCS / "grafana/meditron.json").read_text())

    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"meditron_\w+", target["expr"])
    }

    assert asked == prometheus.NAMES
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_page_names_every_metric() -> None:
    page = (DOCS / "monitoring.md").read_text()

    assert set(re.findall(r"`(meditron_\w+)`", page)) == prometheus.NAMES
