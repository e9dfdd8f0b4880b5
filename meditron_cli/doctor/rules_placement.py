"""Rules on whether training can start: version, partitions, nodes, accounts, job limits. Pure.

Each rule yields findings about some facts, and none about facts that the profile does not use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING

from jobs.contract.units import plural
from meditron_cli.doctor import facts
from meditron_cli.doctor.facts import NodeRow, PartitionRow
from meditron_cli.doctor.finding import FATAL, OK, WARN, SiteFinding, unknown
from meditron_cli.doctor.site_view import ACCOUNTS, CONFIG, PARTITIONS, SiteView

if TYPE_CHECKING:
    from meditron_cli.config.cluster_schema import Partition
    from meditron_cli.plan.model import Resources

VERIFIED_VERSION = (22, 5)
"""The oldest version that the tests run."""
MB_PER_GB = 1024
"""sbatch's ``--mem=1G`` requests 1024 of the megabytes of RealMemory (slurm.conf(5))."""


def version(view: SiteView) -> Iterator[SiteFinding]:
    """Check Slurm's version."""
    source = "sbatch --version"
    if view.site.version is None:
        yield unknown("version", source)
        return
    value = ".".join(
        f"{part:02d}" if n == 1 else str(part) for n, part in enumerate(view.site.version)
    )
    if view.site.version < VERIFIED_VERSION:
        yield SiteFinding(
            "version", value, WARN, "older than 22.05, the oldest version tested: run "
            "`meditron drill` before a long training", source,
        )  # fmt: skip
    else:
        yield SiteFinding("version", value, OK, "supported", source)


def programs(view: SiteView) -> Iterator[SiteFinding]:
    """Check that this machine has the commands that submit and query jobs."""
    missing = view.site.missing_programs
    if missing:
        meaning = "this machine cannot submit: log in to the cluster"
        yield SiteFinding("commands", f"no {', '.join(missing)}", FATAL, meaning, "PATH")


def partitions(view: SiteView) -> Iterator[SiteFinding]:
    """Check that the profile's partitions exist, are open and match the profile."""
    named = [view.cluster.gpu_partition, view.cluster.cpu_partition]
    for requested in [item for item in named if item is not None]:
        yield one_partition(view, requested)


def one_partition(view: SiteView, requested: Partition) -> SiteFinding:
    """Check one partition of the profile; of several problems report the worst."""
    fact = f"partition {requested.name}"
    if view.site.partitions is None:
        return unknown(fact, PARTITIONS)
    row = view.site.partition(requested.name)
    if row is None:
        names = [item.name for item in view.site.partitions]
        near = get_close_matches(requested.name, names, n=1)
        instead = f"did you mean {near[0]}" if near else f"there are {', '.join(names)}"
        return SiteFinding(
            fact, "missing", FATAL, f"the site has no such partition; {instead}", PARTITIONS
        )
    value = f"{plural(row.total_nodes, 'node')}, {format_limit(row.max_minutes)}"
    problems = [
        *partition_problems(view, requested, row),
        *((WARN, sentence) for sentence in node_mismatches(view, requested)),
    ]
    verdict, meaning = (problems or [(OK, "open, and matches the profile")])[0]
    return SiteFinding(fact, value, verdict, meaning, PARTITIONS)


def partition_problems(
    view: SiteView, requested: Partition, row: PartitionRow
) -> Iterator[tuple[str, str]]:
    """Yield verdicts and sentences about a partition's state and limits, the worst first."""
    account = requested.account or view.cluster.account
    if not row.up:
        yield FATAL, "the partition is down: no job starts there"
    if row.accounts and account and account not in row.accounts:
        yield FATAL, f"closed to account {account}; open to {', '.join(row.accounts)}"
    if requested.nodes > row.total_nodes:
        yield (
            WARN,
            f"the profile states {plural(requested.nodes, 'node')}, the site has "
            f"{row.total_nodes}: correct the profile",
        )
    if row.max_nodes is not None and requested.nodes > row.max_nodes:
        yield (
            WARN,
            f"a job may use {plural(row.max_nodes, 'node')}, the profile states {requested.nodes}: "
            "correct the profile",
        )
    limit, stated = row.max_minutes, requested.max_time_minutes
    if limit is not None and stated is not None and stated > limit:
        yield (
            WARN,
            f"the profile allows {plural(stated, 'minute')}, the site {limit}: correct the profile",
        )


def node_mismatches(view: SiteView, requested: Partition) -> Iterator[str]:
    """Yield a sentence for each resource of which the profile states more than any node has."""
    nodes = nodes_of(view, requested.name)
    if not nodes:
        return
    memory, cores = max(node.memory_mb for node in nodes), max(node.cpus for node in nodes)
    if requested.request_memory and requested.node.memory_gb * MB_PER_GB > memory:
        yield (
            f"the profile states {requested.node.memory_gb} GiB of memory per node, the largest "
            f"node has {format_memory(memory)}: correct node.memory_gb"
        )
    if requested.node.cpus > cores:
        yield (
            f"the profile states {plural(requested.node.cpus, 'core')} per node, the largest node "
            f"has {cores}: correct node.cpus"
        )


def nodes_of(view: SiteView, partition: str) -> list[NodeRow]:
    """Return the nodes of a partition; none when sinfo did not answer."""
    return [node for node in view.site.nodes or () if partition in node.partitions]


def format_memory(megabytes: int) -> str:
    """Return ``3.9 GiB`` for 4000, rounded down: rounded up it would look like enough."""
    return f"{megabytes * 10 // MB_PER_GB / 10:g} GiB"


def format_limit(minutes: int | None) -> str:
    """Return a time limit in hours, as text."""
    return "no time limit" if minutes is None else f"at most {minutes / 60:g} h"


def nodes(view: SiteView) -> Iterator[SiteFinding]:
    """Check that the training partition has nodes in service, with the profile's GPUs."""
    source = "sinfo --Node"
    if view.site.nodes is None:
        yield unknown("nodes", source, "no answer: failed nodes cannot be excluded by name")
        return
    mine = nodes_of(view, view.requested.name)
    if not mine:
        return
    away = [
        node.name for node in mine if not node.state.startswith(("idle", "alloc", "mix", "comp"))
    ]
    value = f"{len(mine)}, {len(away)} of them unavailable" if away else f"{len(mine)}, all there"
    meaning = "later jobs exclude nodes that failed by these names"
    verdict = WARN if len(mine) == len(away) else OK
    yield SiteFinding("nodes", value, verdict, meaning, source)
    if view.requested.node.gpus:
        yield gpus(view, mine, source)


def gpus(view: SiteView, rows: list[NodeRow], source: str) -> SiteFinding:
    """Check that nodes have as many GPUs as the profile states, of its type."""
    node = view.requested.node
    kinds = sorted({kind for row in rows for kind in row.gpu_kinds})
    most = max(row.gpus for row in rows)
    value = f"{most} per node" + (f" ({', '.join(kinds)})" if kinds else "")
    if most < node.gpus:
        meaning = f"the profile states {node.gpus}: no job would start; correct node.gpus"
        return SiteFinding("GPUs", value, FATAL, meaning, source)
    if node.gpu_type and node.gpu_type not in kinds:
        meaning = f"the site has no gpu:{node.gpu_type}; correct node.gpu_type in the profile"
        return SiteFinding("GPUs", value, FATAL, meaning, source)
    return SiteFinding("GPUs", value, OK, f"jobs request up to {node.gpus} per node", source)


def accounts(view: SiteView) -> Iterator[SiteFinding]:
    """Check that the user has the account, and the site the QOS, that the profile names."""
    name = view.requested.account or view.cluster.account
    if view.site.associations is None:
        yield unknown("account", ACCOUNTS, "no answer: sbatch checks it at submission")
    elif name and view.account is None:
        names = ", ".join(item.account for item in view.site.associations)
        is_enforced = "associations" in facts.options(view.setting("AccountingStorageEnforce"))
        meaning = f"you have no account {name}; you have {names or 'none'}"
        yield SiteFinding("account", name, FATAL if is_enforced else WARN, meaning, ACCOUNTS)
    else:
        value = view.account.account if view.account else "the default"
        yield SiteFinding("account", value, OK, "you may use it", ACCOUNTS)
    named = view.requested.qos or view.cluster.qos
    if named and view.site.qos is not None and view.site.qos_of(named) is None:
        names = ", ".join(item.name for item in view.site.qos)
        meaning = f"the site has no such QOS; there are {names}"
        yield SiteFinding("QOS", named, FATAL, meaning, ACCOUNTS)


def job_limits(view: SiteView) -> Iterator[SiteFinding]:
    """Check the limits on queued jobs, running jobs and their time."""
    if view.site.qos is None and view.site.associations is None:
        yield unknown("job limits", ACCOUNTS, "no answer: sbatch refuses what exceeds them")
        return
    submit = smallest(limit.max_submit for limit in view.limits)
    running = smallest(limit.max_jobs for limit in view.limits)
    wall = smallest(limit.max_wall_minutes for limit in view.limits)
    value = ", ".join(
        f"{name} {number}"
        for name, number in (("submit", submit), ("run", running), ("minutes", wall))
        if number is not None
    )
    if submit is not None and submit < view.work.jobs:
        meaning = (
            f"the plan has {plural(view.work.jobs, 'job')}, and {submit} may be queued at once: "
            "submit the stages one by one, with fewer shards"
        )
        yield SiteFinding("job limits", value, WARN, meaning, ACCOUNTS)
    elif wall is not None and wall < view.work.time_minutes:
        minutes = plural(view.work.time_minutes, "minute")
        meaning = f"a training job requests {minutes}: lower time_minutes"
        yield SiteFinding("job limits", value, WARN, meaning, ACCOUNTS)
    else:
        yield SiteFinding("job limits", value or "none", OK, "enough for the plan", ACCOUNTS)


def smallest(values: Iterable[int | None]) -> int | None:
    """Return the strictest limit; None when there is none."""
    return min((value for value in values if value is not None), default=None)


def arrays(view: SiteView) -> Iterator[SiteFinding]:
    """Check the length of job arrays."""
    value = view.setting("MaxArraySize")
    if value is None:
        yield unknown("MaxArraySize", CONFIG)
        return
    site, profile = int(value), view.cluster.slurm.max_array_size
    is_written = "max_array_size" in view.cluster.slurm.model_fields_set
    if is_written and profile > site:
        meaning = f"the profile states {profile}, and sbatch refuses such an array: correct it"
        yield SiteFinding("MaxArraySize", value, WARN, meaning, CONFIG)
    else:
        size = profile if is_written else site
        meaning = f"tasks are split into arrays of {size}"
        yield SiteFinding("MaxArraySize", value, OK, meaning, CONFIG)


def wckeys(view: SiteView) -> Iterator[SiteFinding]:
    """Check for a workload characterization key (wckey) where the site enforces one."""
    if "wckeys" not in facts.options(view.setting("AccountingStorageEnforce")):
        return
    named = view.cluster.slurm.sbatch.get("wckey")
    if named:
        yield SiteFinding("wckey", str(named), OK, "required, and in the profile", CONFIG)
    else:
        meaning = "the site refuses jobs without one: set slurm.sbatch.wckey in the profile"
        yield SiteFinding("wckey", "none", WARN, meaning, CONFIG)


def job_tests(view: SiteView) -> Iterator[SiteFinding]:
    """Report sbatch's verdict on the plan's jobs; a job that cannot start may queue without end."""
    for test in view.site.job_tests:
        fact, source = f"job of {test.label}", "sbatch --test-only"
        if test.accepted:
            yield SiteFinding(fact, "accepted", OK, test.answer, source)
            continue
        missing = "; ".join(shortages(view, test.resources)) if test.resources else ""
        reason = f"{missing} (sbatch: {test.answer})" if missing else test.answer
        meaning = f"such a job can never start: {reason}"
        yield SiteFinding(fact, "refused", FATAL, meaning, source)


def shortages(view: SiteView, requested: Resources) -> Iterator[str]:
    """Yield a sentence for each resource that too few nodes of the partition have."""
    nodes = nodes_of(view, requested.partition)
    if not nodes:
        return
    section = "gpu_partition"
    if view.requested.name != requested.partition:
        section = "cpu_partition"
    if requested.nodes > len(nodes):
        yield (
            f"it requests {plural(requested.nodes, 'node')}, {requested.partition} has "
            f"{len(nodes)}: correct {section}.nodes"
        )
    resources = (
        (
            "memory_gb", f"{requested.memory_gb} GiB of memory",
            requested.memory_gb * MB_PER_GB, [node.memory_mb for node in nodes], format_memory,
        ),
        (
            "cpus", plural(requested.ranks_per_node * requested.cpus_per_rank, "core"),
            requested.ranks_per_node * requested.cpus_per_rank, [node.cpus for node in nodes], str,
        ),
        (
            "gpus", plural(requested.gpus_per_node, "GPU"),
            requested.gpus_per_node, [node.gpus for node in nodes], str,
        ),
    )  # fmt: skip
    for key, amount, needed, present, text in resources:
        enough = sum(item >= needed for item in present)
        if enough < min(requested.nodes, len(nodes)):
            has = (
                f"the largest node of {requested.partition} has {text(max(present))}"
                if not enough
                else f"{requested.partition} has {plural(enough, 'node')} with that, and "
                f"{requested.nodes} are requested"
            )
            yield f"it requests {amount} per node, {has}: correct {section}.node.{key}"
