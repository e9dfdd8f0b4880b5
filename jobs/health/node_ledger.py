"""The node ledger of a cluster: which nodes have failed us, why, and until when that counts.

One file a cluster beside the runs, ``nodes-<cluster>.jsonl``, an entry a line, appended under a
lock by everybody whose runs lie there. Slurm refuses to let an ordinary user drain a node; what we
can do is to leave it out of our own jobs. Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jobs.contract import rundir, specs
from jobs.contract.files import FORMAT, append_lines, read_lines
from jobs.contract.outcomes import NodeEntry, NodeFinding

CLEARED = "CLEARED"
SEVERITY = ("FATAL", "DRAIN", "SUSPECT")
"""Verdicts that speak against a node, worst first."""

HOUR = 3600.0
LIFETIME_SECONDS = {"FATAL": 7 * 24 * HOUR, "DRAIN": 48 * HOUR, "SUSPECT": 24 * HOUR, CLEARED: 0.0}
"""How long an entry counts (a guess; broken hardware is rarely replaced within a week)."""

PASSING = frozenset({"foreign_process", "memory", "shm", "scratch", "storage"})
"""Findings that may be gone tomorrow: a suspicion against the node, not a broken part."""

STRIKES = 2
"""Suspicions of different attempts, all within their lifetime, that exclude a node."""

CAP_NODES = 2
CAP_SHARE = 0.1
"""At most the larger of two nodes and a tenth of the partition is excluded."""

TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
"""What a field of an entry may hold, by its annotation."""

UNSAFE = re.compile(r"[^A-Za-z0-9 _.:,/()=-]+")
"""What does not go into a command that somebody pastes into a root shell."""


def ledger(runs_root: Path, cluster: str) -> Path:
    """Where the ledger of a cluster lies."""
    return runs_root / f"nodes-{cluster}.jsonl"


def ledger_of(run: rundir.RunDir, task: specs.TaskSpec | None) -> Path | None:
    """Where the ledger of a task's cluster lies; None without one, or without the task."""
    cluster = task.site.cluster if task else ""
    return ledger(run.root.parent, cluster) if cluster else None


def read(path: Path) -> tuple[NodeEntry, ...]:
    """All entries, oldest first; a missing file has none, a line that is no entry is skipped."""
    entries = (_entry(line) for line in read_lines(path))
    return tuple(entry for entry in entries if entry is not None)


def _entry(line: dict[str, Any]) -> NodeEntry | None:
    known = {field.name: field for field in dataclasses.fields(NodeEntry)}
    values = {name: value for name, value in line.items() if name in known}
    if any(not isinstance(value, TYPES[str(known[name].type)]) for name, value in values.items()):
        return None
    try:
        entry = NodeEntry(**values)
    except TypeError:  # a field is missing
        return None
    return entry if entry.verdict in LIFETIME_SECONDS else None


def append(path: Path, entries: Iterable[NodeEntry]) -> None:
    """Add entries; the file may be written by whoever may write to its folder.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"format": FORMAT, **dataclasses.asdict(e)}) for e in entries]
    append_lines(path, lines, share=True)


def strike(  # noqa: PLR0913 - one keyword a field of the entry
    node: str,
    verdict: str,
    code: str,
    evidence: str,
    now: float,
    *,
    run: str = "",
    stage: str = "",
    attempt: int = 0,
) -> NodeEntry:
    """An entry that counts from now on for as long as its verdict does."""
    expires = now + LIFETIME_SECONDS[verdict]
    return NodeEntry(
        now, node, code, verdict, run, attempt, " ".join(evidence.split()), expires, stage=stage
    )


def verdict_of(finding: NodeFinding) -> str:
    """What an entry says that a health finding leads to."""
    return "SUSPECT" if finding.code in PASSING else finding.verdict


def standing(entries: Sequence[NodeEntry], now: float) -> tuple[NodeEntry, ...]:
    """Entries that have not expired and were not cleared since, single suspicions too."""
    cleared = {entry.node: place for place, entry in enumerate(entries) if entry.verdict == CLEARED}
    return tuple(
        entry
        for place, entry in enumerate(entries)
        if place > cleared.get(entry.node, -1) and entry.verdict != CLEARED and entry.expires > now
    )


def active(entries: Sequence[NodeEntry], now: float) -> tuple[NodeEntry, ...]:
    """Entries that speak against using a node now.

    One suspicion alone does not: anything may have ended an attempt. Asked of its own answer it
    gives the same.
    """
    left = standing(entries, now)
    return tuple(e for e in left if e.verdict != "SUSPECT" or _strikes(left, e.node) >= STRIKES)


def _strikes(entries: Sequence[NodeEntry], node: str) -> int:
    """Suspicions of one node by different attempts."""
    suspicions = (e for e in entries if e.node == node and e.verdict == "SUSPECT")
    return len({(entry.run, entry.stage, entry.attempt) for entry in suspicions})


def excluded(
    entries: Sequence[NodeEntry], now: float, known: Sequence[str] | None, needed_nodes: int
) -> tuple[tuple[str, ...], str]:
    """Which nodes the next job leaves out by the ledger, worst first, and a warning or an empty
    string.

    Args:
        entries: the ledger.
        now: seconds since 1970.
        known: names of the partition's nodes; None when Slurm does not say.
        needed_nodes: how many nodes the job asks for.
    """
    return left_out(worst_first(active(entries, now)), known, needed_nodes)


def left_out(
    bad: Sequence[str], known: Sequence[str] | None, needed_nodes: int
) -> tuple[tuple[str, ...], str]:
    """Those of the nodes, worst first, that a job can leave out, and a warning or an empty string.

    sbatch refuses a job that excludes a single name Slurm does not know (verified), so where Slurm
    does not say which there are none is left out. As many as the job needs are always left to it.
    """
    if known is None:
        told = f"{', '.join(bad)} should be left out, but Slurm does not say which nodes there are"
        return (), told if bad else ""
    here = set(known)
    names = [name for name in bad if name in here]
    cap = max(CAP_NODES, int(CAP_SHARE * len(here)))
    most = max(0, min(cap, len(here) - needed_nodes))
    return tuple(names[:most]), _over_cap(names[most:], cap, len(here), needed_nodes)


def _over_cap(left: Sequence[str], cap: int, known: int, needed: int) -> str:
    if not left:
        return ""
    why = (
        f"the job needs {needed} of the partition's {known} nodes"
        if known - needed < cap
        else f"no more than {cap} of the partition's {known} nodes are left out"
    )
    return f"{', '.join(left)} may be used although the node ledger speaks against it: {why}"


def worst_first(entries: Sequence[NodeEntry]) -> list[str]:
    """Names of nodes by what speaks against them, the newest first where that is equal."""
    ordered = sorted(entries, key=lambda entry: (SEVERITY.index(entry.verdict), -entry.time))
    return list(dict.fromkeys(entry.node for entry in ordered))


def drain_command(entries: Sequence[NodeEntry], node: str) -> str:
    """What an administrator types to take a node out of service."""
    codes = ", ".join(dict.fromkeys(entry.code for entry in entries if entry.node == node))
    reason = UNSAFE.sub(" ", codes)[:120]
    return (
        f'scontrol update NodeName={UNSAFE.sub("", node)} State=DRAIN Reason="meditron: {reason}"'
    )


def ticket(entries: Sequence[NodeEntry], node: str, cluster: str) -> str:
    """A message to the administrators about one node, ready to be sent."""
    about = [entry for entry in entries if entry.node == node]
    lines = [
        f"Subject: {cluster}: please look at node {node}",
        "",
        f"Our training jobs on {cluster} met the following on {node}:",
        "",
        *(
            f"- {_day(e.time)}: {e.verdict} {e.code}: {e.evidence}{_gpu(e)} ({_run(e)})"
            for e in about
        ),
        "",
        "We leave the node out of our own jobs for now. To drain it:",
        "",
        f"    {drain_command(entries, node)}",
    ]
    return "\n".join(lines)


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


def _gpu(entry: NodeEntry) -> str:
    return f" [{entry.gpu_uuid}]" if entry.gpu_uuid else ""


def _run(entry: NodeEntry) -> str:
    return f"run {entry.run}, attempt {entry.attempt}" if entry.run else "seen without a run"
