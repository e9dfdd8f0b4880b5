"""What Slurm's commands say of a site, read into dataclasses. Pure: text in, facts out.

A question that was not answered is None everywhere, and never means no.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jobs.slurm.hostlist import node_names
from jobs.slurm.queries import PAIR

UNLIMITED = {"UNLIMITED", "INFINITE", "NONE", "N/A", "", "(null)", "Partition_Limit"}
"""Slurm's words for no limit, and for a limit that is another's."""
TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
GRES = re.compile(r"gpu(?::(?P<kind>[^:(,]+(?=:)))?:(?P<count>\d+)")
"""``gpu:4``, ``gpu:a100:4(S:0-1)``; other resources of the list are left out."""

QOS_FIELDS = "Name,GraceTime,Preempt,PreemptMode,MaxWall,MaxJobsPU,MaxSubmitJobsPU"
ASSOCIATION_FIELDS = "Cluster,Account,QOS,DefaultQOS,MaxJobs,MaxSubmitJobs,MaxWall"
NODE_FORMAT = "%N|%R|%T|%c|%m|%G|%f"


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
    """Of the partition itself, empty for none."""
    accounts: tuple[str, ...]
    """That may use it; empty: all."""
    is_default: bool


@dataclass(frozen=True)
class NodeRow:
    """A node, as sinfo tells it."""

    name: str
    partitions: tuple[str, ...]
    state: str
    """Without the marks behind it (``idle``, ``drained``)."""
    cpus: int
    memory_mb: int
    gpus: int
    gpu_kinds: tuple[str, ...]
    features: tuple[str, ...]


@dataclass(frozen=True)
class Qos:
    """A quality of service, as sacctmgr tells it."""

    name: str
    grace_seconds: int
    preempts: tuple[str, ...]
    """Those whose jobs it may preempt."""
    preempt_mode: str
    """``cluster``: as the whole cluster."""
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
class Shape:
    """A job that sbatch was asked about, without submitting it."""

    label: str
    accepted: bool
    answer: str
    """sbatch's own words, one line: when it would start, or why never."""


@dataclass(frozen=True)
class SiteFacts:
    """What a site answered. None: it did not."""

    version: tuple[int, ...] | None = None
    config: Mapping[str, str] | None = None
    partitions: tuple[PartitionRow, ...] | None = None
    nodes: tuple[NodeRow, ...] | None = None
    qos: tuple[Qos, ...] | None = None
    associations: tuple[Association, ...] | None = None
    has_accounting: bool | None = None
    """False: the site keeps none."""
    account_fields: frozenset[str] | None = None
    """What ``sacct --format`` may ask for."""
    shapes: tuple[Shape, ...] = ()
    missing_programs: tuple[str, ...] = ()
    """Commands of Slurm that this machine lacks."""

    def setting(self, name: str) -> str | None:
        """A line of the configuration; None when it is silent or has none of this name."""
        value = (self.config or {}).get(name)
        return None if value in (None, "(null)") else value

    def partition(self, name: str) -> PartitionRow | None:
        """The partition of a name."""
        return next((item for item in self.partitions or () if item.name == name), None)

    def qos_of(self, name: str) -> Qos | None:
        """The quality of service of a name."""
        return next((item for item in self.qos or () if item.name == name), None)


def parse_version(text: str) -> tuple[int, ...] | None:
    """``(23, 11, 4)`` of ``slurm 23.11.4`` or ``slurm-wlm 22.05.8``."""
    found = re.search(r"\b(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part is not None) if found else None


def parse_partitions(text: str) -> tuple[PartitionRow, ...]:
    """The lines of ``scontrol show partition --oneliner``."""
    lines = (dict(PAIR.findall(line)) for line in text.splitlines())
    return tuple(_partition(line) for line in lines if "PartitionName" in line)


def _partition(line: Mapping[str, str]) -> PartitionRow:
    accounts = line.get("AllowAccounts", "ALL")
    return PartitionRow(
        name=line["PartitionName"],
        up=line.get("State", "UP") == "UP",
        max_minutes=minutes(line.get("MaxTime", "")),
        grace_seconds=count(line.get("GraceTime", "")) or 0,
        preempt_mode=line.get("PreemptMode", ""),
        priority_tier=count(line.get("PriorityTier", "")) or 0,
        max_nodes=count(line.get("MaxNodes", "")),
        total_nodes=count(line.get("TotalNodes", "")) or 0,
        nodes=frozenset(node_names(line.get("Nodes", ""))),
        qos="" if line.get("QoS") in (None, "N/A") else line["QoS"],
        accounts=() if accounts == "ALL" else tuple(accounts.split(",")),
        is_default=line.get("Default") == "YES",
    )


def parse_nodes(text: str) -> tuple[NodeRow, ...]:
    """Lines of ``sinfo --Node --format=NODE_FORMAT``, one a node and partition: nodes, sorted."""
    cells = [line.split("|") for line in text.splitlines() if line.count("|") == 6]
    partitions: dict[str, list[str]] = {}
    for name, partition, *_ in cells:
        partitions.setdefault(name, []).append(partition)
    last = {row[0]: row for row in cells}
    return tuple(_node(last[name], tuple(partitions[name])) for name in sorted(last))


def _node(row: list[str], partitions: tuple[str, ...]) -> NodeRow:
    name, _, state, cpus, memory, gres, features = row
    gpus = list(GRES.finditer(gres))
    return NodeRow(
        name=name,
        partitions=partitions,
        state=state.rstrip("*~#!%$@^-+"),
        cpus=count(cpus) or 0,
        memory_mb=count(memory) or 0,
        gpus=sum(int(match["count"]) for match in gpus),
        gpu_kinds=tuple(match["kind"] for match in gpus if match["kind"]),
        features=() if features == "(null)" else tuple(features.split(",")),
    )


def parse_qos(text: str) -> tuple[Qos, ...]:
    """Lines of ``sacctmgr --parsable2 show qos`` with ``QOS_FIELDS``."""
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
    """Lines of ``sacctmgr --parsable2 show associations`` with ``ASSOCIATION_FIELDS``; those of
    another cluster are left out, all count where its name is not known (empty).
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
        for of, account, qos, default, jobs, submit, wall in _rows(text, ASSOCIATION_FIELDS)
        if of == cluster or not cluster
    )


def _rows(text: str, fields: str) -> Iterator[list[str]]:
    width = len(fields.split(","))
    cells = (line.split("|") for line in text.splitlines())
    return (row for row in cells if len(row) == width)


def words(text: str) -> tuple[str, ...]:
    """The parts of a list with commas; none of an empty one."""
    return tuple(part for part in text.split(",") if part)


def count(text: str) -> int | None:
    """A whole number in front of a text (``5``, ``16+``, ``30 sec``); None for no limit."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None


def minutes(text: str) -> int | None:
    """A time limit (``2-00:00:00``, ``12:00:00``) in minutes, rounded down; None for none."""
    found = seconds(text)
    return None if found is None else found // 60


def seconds(text: str) -> int | None:
    """``1-12:00:00``, ``12:00:00``, ``30:00`` or ``60`` (minutes, as Slurm's times are) in seconds;
    None for no limit.
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
    """What Slurm does to a job of a partition and a quality of service that others outrank."""

    possible: bool | None
    """None: not known."""
    mode: str = ""
    """``REQUEUE``, ``CANCEL``, ``SUSPEND``; empty where not known or not possible."""
    grace_seconds: int | None = None


def preemption(site: SiteFacts, partition: str, qos: str) -> Preemption:
    """Whether and how jobs here are preempted (slurm.conf(5): PreemptType, PreemptMode,
    GraceTime): by the partitions' priority tiers, or by the qualities of service.
    """
    if site.config is None:
        return Preemption(None)
    kind = site.setting("PreemptType")  # none is ``preempt/none``, or ``(null)`` since 25.05
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
    """The mode without its addition: ``SUSPEND`` of ``GANG,SUSPEND``."""
    kept = [word for word in text.upper().split(",") if word not in ("GANG", "WITHIN")]
    return kept[0] if kept else ""


def tells_batch_step(site: SiteFacts) -> bool | None:
    """Whether a preemption sends the batch step its signal: ``preempt_send_user_signal`` of
    SlurmctldParameters, which newer versions also know as ``send_user_signal`` of
    PreemptParameters (slurm.conf(5)).
    """
    if site.config is None:
        return None
    return "preempt_send_user_signal" in options(
        site.setting("SlurmctldParameters")
    ) or "send_user_signal" in options(site.setting("PreemptParameters"))


def options(text: str | None) -> set[str]:
    """Names of a list of options: ``bf_interval`` of ``bf_interval=1,…``."""
    return {part.partition("=")[0].strip() for part in (text or "").split(",")}
