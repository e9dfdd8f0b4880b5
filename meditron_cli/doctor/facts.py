"""Parse the output of Slurm's commands into a site's facts. Pure.

None is a query without an answer everywhere, and never a negative one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jobs.slurm.hostlist import node_names
from jobs.slurm.queries import PAIR
from meditron_cli.plan.model import Resources

UNLIMITED = {"UNLIMITED", "INFINITE", "NONE", "N/A", "", "(null)", "Partition_Limit"}
"""Slurm's values for no limit, and for a limit that another entity sets."""
TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
GRES = re.compile(r"gpu(?::(?P<kind>[^:(,]+(?=:)))?:(?P<count>\d+)")
"""``gpu:4``, ``gpu:a100:4(S:0-1)``; other resources in the list are ignored."""

QOS_FIELDS = "Name,GraceTime,Preempt,PreemptMode,MaxWall,MaxJobsPU,MaxSubmitJobsPU"
ASSOCIATION_FIELDS = "Cluster,Account,QOS,DefaultQOS,MaxJobs,MaxSubmitJobs,MaxWall"
NODE_FORMAT = "%N|%R|%T|%c|%m|%G"


@dataclass(frozen=True)
class PartitionRow:
    """One line of ``scontrol show partition --oneliner``."""

    name: str
    up: bool
    max_minutes: int | None
    """None: no limit."""
    grace_seconds: int
    preempt_mode: str
    priority_tier: int
    max_nodes: int | None
    """None: no limit."""
    total_nodes: int
    nodes: frozenset[str]
    qos: str
    """The partition's own QOS, empty for none."""
    accounts: tuple[str, ...]
    """Accounts that may use it; empty: all."""


@dataclass(frozen=True)
class NodeRow:
    """A node of sinfo's output."""

    name: str
    partitions: tuple[str, ...]
    state: str
    """Without sinfo's suffixes: ``idle``, ``drained``."""
    cpus: int
    memory_mb: int
    """RealMemory (slurm.conf(5))."""
    gpus: int
    gpu_kinds: tuple[str, ...]


@dataclass(frozen=True)
class Qos:
    """A QOS of sacctmgr's output."""

    name: str
    grace_seconds: int
    preempts: tuple[str, ...]
    """QOSes whose jobs it may preempt."""
    preempt_mode: str
    """``cluster``: the cluster's PreemptMode applies."""
    max_wall_minutes: int | None
    max_jobs: int | None
    max_submit: int | None


@dataclass(frozen=True)
class Association:
    """An account of this user on this cluster."""

    account: str
    qos: tuple[str, ...]
    default_qos: str
    max_jobs: int | None
    max_submit: int | None
    max_wall_minutes: int | None


@dataclass(frozen=True)
class JobTest:
    """sbatch's answer about one job (``--test-only``)."""

    label: str
    accepted: bool
    answer: str
    """sbatch's message in one line: the expected start, or the reason for a refusal."""
    resources: Resources | None = None
    """The resources that the job requests."""


@dataclass(frozen=True)
class SiteFacts:
    """The answers of a site; None: no answer."""

    version: tuple[int, ...] | None = None
    config: Mapping[str, str] | None = None
    partitions: tuple[PartitionRow, ...] | None = None
    nodes: tuple[NodeRow, ...] | None = None
    qos: tuple[Qos, ...] | None = None
    associations: tuple[Association, ...] | None = None
    has_accounting: bool | None = None
    """False: the site has none."""
    account_fields: frozenset[str] | None = None
    """The columns of ``sacct --format``."""
    job_tests: tuple[JobTest, ...] = ()
    missing_programs: tuple[str, ...] = ()
    """Slurm commands that this machine lacks."""

    def setting(self, name: str) -> str | None:
        """Return a setting of slurm.conf; None when it is unset, absent or unknown."""
        value = (self.config or {}).get(name)
        return None if value in (None, "(null)") else value

    def partition(self, name: str) -> PartitionRow | None:
        """Return the partition of a name; None when there is none."""
        return next((item for item in self.partitions or () if item.name == name), None)

    def qos_of(self, name: str) -> Qos | None:
        """Return the QOS of a name; None when there is none."""
        return next((item for item in self.qos or () if item.name == name), None)


def parse_version(text: str) -> tuple[int, ...] | None:
    """Return ``(23, 11, 4)`` for ``slurm 23.11.4``; None when the text has no version."""
    match = re.search(r"\b(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in match.groups() if part is not None) if match else None


def parse_partitions(text: str) -> tuple[PartitionRow, ...]:
    """Parse the output of ``scontrol show partition --oneliner``."""
    rows = (dict(PAIR.findall(line)) for line in text.splitlines())
    return tuple(_partition(row) for row in rows if "PartitionName" in row)


def _partition(fields: Mapping[str, str]) -> PartitionRow:
    accounts = fields.get("AllowAccounts", "ALL")
    return PartitionRow(
        name=fields["PartitionName"],
        up=fields.get("State", "UP") == "UP",
        max_minutes=minutes(fields.get("MaxTime", "")),
        grace_seconds=count(fields.get("GraceTime", "")) or 0,
        preempt_mode=fields.get("PreemptMode", ""),
        priority_tier=count(fields.get("PriorityTier", "")) or 0,
        max_nodes=count(fields.get("MaxNodes", "")),
        total_nodes=count(fields.get("TotalNodes", "")) or 0,
        nodes=frozenset(node_names(fields.get("Nodes", ""))),
        qos="" if fields.get("QoS") in (None, "N/A") else fields["QoS"],
        accounts=() if accounts == "ALL" else tuple(accounts.split(",")),
    )


def parse_nodes(text: str) -> tuple[NodeRow, ...]:
    """Parse ``sinfo --Node --format=NODE_FORMAT``, a line per node and partition; sort by name."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 5]
    partitions: dict[str, list[str]] = {}
    for name, partition, *_ in rows:
        partitions.setdefault(name, []).append(partition)
    last = {row[0]: row for row in rows}
    return tuple(_node(last[name], tuple(partitions[name])) for name in sorted(last))


def _node(row: list[str], partitions: tuple[str, ...]) -> NodeRow:
    name, _, state, cpus, memory, gres = row
    gpus = list(GRES.finditer(gres))
    return NodeRow(
        name=name,
        partitions=partitions,
        state=state.rstrip("*~#!%$@^-+"),
        cpus=count(cpus) or 0,
        memory_mb=count(memory) or 0,
        gpus=sum(int(match["count"]) for match in gpus),
        gpu_kinds=tuple(match["kind"] for match in gpus if match["kind"]),
    )


def parse_qos(text: str) -> tuple[Qos, ...]:
    """Parse ``sacctmgr --parsable2 show qos`` with ``QOS_FIELDS``."""
    return tuple(
        Qos(
            name=name,
            grace_seconds=seconds(grace) or 0,
            preempts=words(preempts),
            preempt_mode=mode,
            max_wall_minutes=minutes(wall),
            max_jobs=count(jobs),
            max_submit=count(submit),
        )
        for name, grace, preempts, mode, wall, jobs, submit in _rows(text, QOS_FIELDS)
    )


def parse_associations(text: str, cluster: str) -> tuple[Association, ...]:
    """Parse ``sacctmgr --parsable2 show associations`` with ``ASSOCIATION_FIELDS``.

    Args:
        cluster: whose associations to return; empty (unknown) returns all.
    """
    return tuple(
        Association(
            account=account,
            qos=words(qos),
            default_qos=default,
            max_jobs=count(jobs),
            max_submit=count(submit),
            max_wall_minutes=minutes(wall),
        )
        for owner, account, qos, default, jobs, submit, wall in _rows(text, ASSOCIATION_FIELDS)
        if owner == cluster or not cluster
    )


def _rows(text: str, fields: str) -> Iterator[list[str]]:
    width = len(fields.split(","))
    rows = (line.split("|") for line in text.splitlines())
    return (row for row in rows if len(row) == width)


def words(text: str) -> tuple[str, ...]:
    """Split a comma-separated list; an empty text has no parts."""
    return tuple(part for part in text.split(",") if part)


def count(text: str) -> int | None:
    """Return the number that a text begins with (``5``, ``16+``, ``30 sec``); None for no limit."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None


def minutes(text: str) -> int | None:
    """Return a time limit (``2-00:00:00``, ``12:00:00``) in minutes; None: no limit."""
    total = seconds(text)
    return None if total is None else total // 60


def seconds(text: str) -> int | None:
    """Return the seconds of ``1-12:00:00``, ``12:00:00``, ``30:00`` or ``60`` (minutes, as in
    Slurm's time limits); None for no limit.
    """
    match = TIME.fullmatch(text.strip())
    if text in UNLIMITED or match is None:
        return None
    days = int(match[1] or 0)
    parts = [int(part) for part in match.groups()[1:] if part is not None]
    if days or len(parts) == 3:
        hours, minute, second = (*parts, 0, 0)[:3]
    else:
        hours, minute, second = (0, *parts, 0)[:3]
    return ((days * 24 + hours) * 60 + minute) * 60 + second


@dataclass(frozen=True)
class Preemption:
    """Slurm's preemption of jobs in one partition and QOS."""

    possible: bool | None
    """None: unknown."""
    mode: str = ""
    """``REQUEUE``, ``CANCEL``, ``SUSPEND``; empty when unknown or impossible."""
    grace_seconds: int | None = None


def preemption(site: SiteFacts, partition: str, qos: str) -> Preemption:
    """Return whether and how Slurm preempts jobs here, by partition priority tiers or by QOS.

    Source: slurm.conf(5), PreemptType, PreemptMode and GraceTime.
    """
    if site.config is None:
        return Preemption(None)
    kind = site.setting("PreemptType")  # off: ``preempt/none``, or ``(null)`` since 25.05
    if kind == "preempt/partition_prio":
        return _by_partition(site, partition)
    if kind == "preempt/qos":
        return _by_qos(site, qos)
    return Preemption(False)


def _by_partition(site: SiteFacts, name: str) -> Preemption:
    mine = site.partition(name)
    if mine is None:
        return Preemption(None)
    above = [
        other
        for other in site.partitions or ()
        if other.priority_tier > mine.priority_tier and other.nodes & mine.nodes
    ]
    if not above or mine.preempt_mode == "OFF":
        return Preemption(False)
    return Preemption(True, plain_mode(mine.preempt_mode), mine.grace_seconds)


def _by_qos(site: SiteFacts, name: str) -> Preemption:
    mine = site.qos_of(name)
    if mine is None or site.qos is None:
        return Preemption(None)
    if not any(name in other.preempts for other in site.qos):
        return Preemption(False)
    mode = mine.preempt_mode
    if mode.lower() == "cluster":
        mode = site.setting("PreemptMode") or ""
    return Preemption(True, plain_mode(mode), mine.grace_seconds)


def plain_mode(text: str) -> str:
    """Return a PreemptMode without its modifiers: ``SUSPEND`` for ``GANG,SUSPEND``."""
    modes = [word for word in text.upper().split(",") if word not in ("GANG", "WITHIN")]
    return modes[0] if modes else ""


def signals_batch_step(site: SiteFacts) -> bool | None:
    """Return whether a preemption signals the batch step; None when unknown.

    ``preempt_send_user_signal`` of SlurmctldParameters; newer versions also have
    ``send_user_signal`` of PreemptParameters (slurm.conf(5)).
    """
    if site.config is None:
        return None
    return "preempt_send_user_signal" in options(
        site.setting("SlurmctldParameters")
    ) or "send_user_signal" in options(site.setting("PreemptParameters"))


def options(text: str | None) -> set[str]:
    """Return the names in a list of options: ``bf_interval`` for ``bf_interval=1,…``."""
    return {part.partition("=")[0].strip() for part in (text or "").split(",")}


def prolog(site: SiteFacts) -> str | None:
    """Return the path of the site's Prolog; None without one.

    A Prolog may be set several times (slurm.conf(5)); scontrol then numbers the lines
    (``Prolog[0]``).
    """
    names = [name for name in site.config or {} if name.partition("[")[0] == "Prolog"]
    return next((path for name in names if (path := site.setting(name))), None)
