"""``meditron health``: check this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meditron_cli.commands import options
from meditron_cli.errors import ConfigError, Unhealthy
from meditron_cli.services import Services

if TYPE_CHECKING:
    from jobs.health.node_checks import Expected, HealthFinding
    from meditron_cli.config.cluster_schema import Cluster


@click.command("health", short_help="Check whether this machine is fit for work.")
@click.option("--gpus", type=click.IntRange(min=0), metavar="N", help="Number of GPUs to expect.")
@options.cluster_option("Expect a GPU node of this cluster profile.", required=False)
@options.runs_dir_option
@options.json_option
@click.pass_obj
def command(
    services: Services, gpus: int | None, cluster: str | None, runs_dir: Path | None, as_json: bool
) -> None:
    """Check whether this machine is fit for work: GPUs, disk, shared and host memory.

    Without expectations it reports what the machine has. Exit code 5 when a finding is FATAL.
    """
    from jobs.health import node_checks
    from meditron_cli import console
    from meditron_cli.runs import store

    profile = load_profile(cluster)
    expected = expectation(services, gpus, profile)
    root = store.runs_root(runs_dir, services.environ, profile.runs_dir if profile else None)
    findings = node_checks.check(node_checks.read_sample(root, services.environ), expected)
    node, verdict = node_checks.node_name(services.environ), node_checks.worst(findings)
    if as_json:
        items = [finding.to_json() for finding in findings]
        console.json_out({"node": node, "verdict": verdict.name, "findings": items})
    else:
        console.data(f"{node}: {verdict.name}")
        console.table(("verdict", "check", "where", "what"), rows(findings))
    if verdict is node_checks.HealthVerdict.FATAL:
        raise Unhealthy(f"{node} is unhealthy: {reasons(findings)}")


def load_profile(name: str | None) -> Cluster | None:
    """Load a cluster profile, if one is named.

    Raises:
        ConfigError: it does not exist, or is invalid.
    """
    if name is None:
        return None
    from meditron_cli.config.load import load_cluster

    return load_cluster(name)


def expectation(services: Services, gpus: int | None, profile: Cluster | None) -> Expected:
    """Return the expectations of this machine; the user's own processes are not faults.

    Raises:
        ConfigError: the profile skips a check that does not exist.
    """
    from jobs.health import node_checks

    health: dict[str, Any] = {"gpus": gpus}
    if profile is not None:
        node = profile.gpu_partition.node
        on_cuda = profile.device == "cuda"
        health = {
            "gpus": (node.gpus if on_cuda else 0) if gpus is None else gpus,
            "gpu_kind": node.gpu_kind if on_cuda else "",
            "memory_gb": node.memory_gb,
            "skip": profile.health_skip,
        }
    try:
        return dataclasses.replace(node_checks.expectation(health, services.environ), idle=False)
    except ValueError as error:
        raise ConfigError(str(error), hint="see health_skip in the cluster profile") from error


def rows(findings: Sequence[HealthFinding]) -> list[tuple[str, str, str, str]]:
    """Return the table's rows: findings that are not OK, the worst first, then the others."""
    bad = sorted((f for f in findings if f.verdict), key=lambda finding: -finding.verdict)
    lines = [(f.verdict.name, f.code, place(f), f.message) for f in bad]
    passed: dict[str, list[HealthFinding]] = {}
    for finding in findings:
        if not finding.verdict:
            passed.setdefault(finding.code, []).append(finding)
    return [*lines, *(merged(group) for group in passed.values())]


def place(finding: HealthFinding) -> str:
    """Return the GPU of a finding, or ``node``."""
    return "node" if finding.subject.gpu is None else f"GPU {finding.subject.gpu}"


def merged(group: Sequence[HealthFinding]) -> tuple[str, str, str, str]:
    """Return one row for a check that is OK on one or several GPUs."""
    first = group[0]
    where = place(first) if len(group) == 1 else f"{len(group)} GPUs"
    messages = list(dict.fromkeys(finding.message for finding in group))
    return first.verdict.name, first.code, where, "; ".join(messages)


def reasons(findings: Sequence[HealthFinding]) -> str:
    """Return the messages of all FATAL findings."""
    from jobs.health.node_checks import HealthVerdict

    fatal = [finding for finding in findings if finding.verdict is HealthVerdict.FATAL]
    messages = (f.message if f.subject.gpu is None else f"{place(f)} {f.message}" for f in fatal)
    return "; ".join(messages)
