"""Query a site's Slurm in a few calls; None is no answer."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Sequence
from typing import TypeVar

from jobs.slurm import queries
from jobs.slurm.client import Client
from jobs.slurm.job_check import check_job
from meditron_cli.doctor import facts
from meditron_cli.doctor.facts import JobTest, SiteFacts
from meditron_cli.doctor.job_options import PlannedJob

PROGRAMS = ("sbatch", "srun", "squeue", "scontrol", "sinfo", "scancel")
"""Slurm commands that submitting and monitoring require."""

Answer = TypeVar("Answer")


def read(client: Client, jobs: Sequence[PlannedJob]) -> SiteFacts:
    """Return all facts about a site.

    Args:
        jobs: to test with sbatch, without submitting them.
    """
    config = query(client, ["scontrol", "show", "config"], queries.parse_config)
    cluster = (config or {}).get("ClusterName", "")
    user = f"user={getpass.getuser()}"
    return SiteFacts(
        version=query(client, ["sbatch", "--version"], facts.parse_version),
        config=config,
        partitions=query(
            client, ["scontrol", "show", "partition", "--all", "--oneliner"], facts.parse_partitions
        ),
        nodes=query(client, nodes_command(), facts.parse_nodes),
        qos=query(client, sacctmgr_command("qos", facts.QOS_FIELDS), facts.parse_qos),
        associations=query(
            client,
            sacctmgr_command("associations", facts.ASSOCIATION_FIELDS, user),
            lambda text: facts.parse_associations(text, cluster),
        ),
        has_accounting=has_accounting(client),
        account_fields=query(
            client, ["sacct", "--helpformat"], lambda text: frozenset(text.split())
        ),
        job_tests=tuple(test for job in jobs if (test := check_planned(client, job))),
        missing_programs=tuple(name for name in PROGRAMS if not client.has(name)),
    )


def query(client: Client, command: Sequence[str], parse: Callable[[str], Answer]) -> Answer | None:
    """Return a command's parsed output; None when it fails or prints nothing."""
    result = client.run(command)
    if result is None or result.returncode != 0 or not result.stdout.strip():
        return None
    return parse(result.stdout)


def nodes_command() -> list[str]:
    """Return the sinfo command that lists all nodes, a line per node and partition."""
    return [*queries.NODES, "--all", f"--format={facts.NODE_FORMAT}"]


def sacctmgr_command(entity: str, fields: str, *where: str) -> list[str]:
    """Return a sacctmgr command that shows some entities."""
    return ["sacctmgr", "--noheader", "--parsable2", "show", entity, *where, f"format={fields}"]


def has_accounting(client: Client) -> bool | None:
    """Return whether sacct answers; False when the site has no accounting, None for no answer."""
    if not client.keeps_accounts():
        return False
    return None if client.accounting(["0"]) is None else True


def check_planned(client: Client, job: PlannedJob) -> JobTest | None:
    """Return sbatch's answer about a job of the plan; None for no answer."""
    result = check_job(client, job.options)
    if result is None:
        return None
    message = result.lines[-1] if result.lines else ""
    answer = message.removeprefix("sbatch: ").removeprefix("allocation failure: ")
    return JobTest(job.label, result.accepted, answer, job.resources)
