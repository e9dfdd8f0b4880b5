"""Recorded sites (`tests/data`), and profiles to examine them with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.contract.metrics_log import StepTimes
from jobs.slurm import queries
from meditron_cli.config.cluster_schema import Cluster
from meditron_cli.doctor import facts
from meditron_cli.doctor.facts import SiteFacts
from meditron_cli.doctor.finding import SiteFinding
from meditron_cli.doctor.site_view import SiteView, Workload

DATA = Path(__file__).parents[2] / "data"

WORK = Workload(
    StepTimes(save_seconds=30.0, step_seconds=10.0),
    source="measured in run med-7b-3f2a91c0",
    save_interval=500,
    gpus=64,
    jobs=12,
    time_minutes=600,
)


def output(version: str, what: str) -> str:
    """Return what a command printed there; nothing where it did not answer."""
    path = DATA / f"slurm-{version}-{what}.txt"
    return path.read_text() if path.exists() else ""


def site(recorded: str, **changes: Any) -> SiteFacts:
    """Return the site of a version, changed."""
    config = queries.parse_config(output(recorded, "config"))
    asked = SiteFacts(
        version=facts.parse_version(output(recorded, "version")),
        config=config,
        partitions=facts.parse_partitions(output(recorded, "partitions")) or None,
        nodes=facts.parse_nodes(output(recorded, "nodes")) or None,
        qos=facts.parse_qos(output(recorded, "qos")) or None,
        associations=facts.parse_associations(
            output(recorded, "associations"), config["ClusterName"]
        )
        or None,
        has_accounting=True,
    )
    return replace(asked, **changes)


def with_settings(asked: SiteFacts, **settings: str) -> SiteFacts:
    """Return a site whose configuration has other lines."""
    return replace(asked, config={**(asked.config or {}), **settings})


def profile(partition: str, **more: Any) -> Cluster:
    """Return a profile of two nodes with four GPUs each; `node`, `gpu`, `slurm` change sections."""
    node = {"gpus": 4, "cpus": 16, "memory_gb": 3, **more.pop("node", {})}
    gpu = {"name": partition, "nodes": 2, "node": node, **more.pop("gpu", {})}
    values = {"name": "site", "scheduler": "slurm", "device": "cuda", "gpu_partition": gpu}
    return Cluster.model_validate({**values, **more})


def view(asked: SiteFacts, cluster: Cluster, **work: Any) -> SiteView:
    """Return a site, for a profile and a workload."""
    return SiteView(asked, cluster, replace(WORK, **work))


def by_fact(findings: list[SiteFinding]) -> dict[str, SiteFinding]:
    """Findings by their fact."""
    return {finding.fact: finding for finding in findings}
