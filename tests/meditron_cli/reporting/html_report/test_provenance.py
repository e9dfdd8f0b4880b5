"""Differences between the configurations of runs."""

from __future__ import annotations

from typing import Any

from meditron_cli.reporting.html_report import provenance


def record(partition: dict[str, Any], **cluster: Any) -> dict[str, Any]:
    """Return a request whose profile has one more part."""
    profile = {"name": "site", "gpu_partition": partition, **cluster}
    return {"experiment": {"name": "trial"}, "size": "7b", "cluster": profile}


def test_of_profiles_what_decides_speed_and_cost_is_compared() -> None:
    node = {"gpus": 4, "gpu_kind": "a100", "memory_gb": 500}
    first = record(
        {"name": "gpu", "nodes": 8, "node": node, "max_time_minutes": 60},
        accounting={"kg_co2_per_kwh": 0.1},
        environment={"container": None, "secrets_file": "/a"},
        runs_dir="/a",
    )
    second = record(
        {"name": "big", "nodes": 9, "node": {**node, "gpus": 8, "gpu_kind": "h100"}},
        accounting={"kg_co2_per_kwh": 0.2},
        environment={"container": {"kind": "pyxis", "image": "torch"}, "secrets_file": "/b"},
        runs_dir="/b",
    )

    assert provenance.differences([first, first]) == []
    assert provenance.differences([first, second]) == [
        ("cluster.gpu_partition.name", "gpu", "big"),
        ("cluster.gpu_partition.nodes", "8", "9"),
        ("cluster.gpu_partition.node.gpus", "4", "8"),
        ("cluster.gpu_partition.node.gpu_kind", "a100", "h100"),
        ("cluster.accounting.kg_co2_per_kwh", "0.1", "0.2"),
        ("cluster.environment.container.kind", "-", "pyxis"),
        ("cluster.environment.container.image", "-", "torch"),
    ]
