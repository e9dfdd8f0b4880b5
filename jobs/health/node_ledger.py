"""The node ledger of a cluster: the nodes that failed, why, and until when jobs exclude them.

One file per cluster in the runs directory, ``nodes-<cluster>.jsonl``, one entry per line, appended
under a lock by all users of that directory. Only operators may drain a node (scontrol(1)); a user
can exclude it from their own jobs. Standard library only.
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
from jobs.contract.json_fields import from_fields
from jobs.contract.outcomes import NodeEntry, NodeFinding

CLEARED = "CLEARED"
SEVERITY = ("FATAL", "DRAIN", "SUSPECT")
"""Verdicts against a node, worst first."""

HOUR = 3600.0
LIFETIME_SECONDS = {"FATAL": 7 * 24 * HOUR, "DRAIN": 48 * HOUR, "SUSPECT": 24 * HOUR, CLEARED: 0.0}
"""Lifetime of an entry. Guessed: a week for a repair, two days for a drain, else a day."""

PASSING = frozenset({"foreign_process", "memory", "shm", "scratch", "storage"})
"""Codes of transient findings: they make the node suspect, not broken."""

STRIKES = 2
"""Number of unexpired suspicions, from different attempts, that exclude a node."""

CAP_NODES = 2
CAP_SHARE = 0.1
"""At most the larger of two nodes and a tenth of the partition is excluded. Guessed."""

UNSAFE = re.compile(r"[^A-Za-z0-9 _.:,/()=-]+")
"""Characters removed from a command that an administrator pastes into a root shell."""


def ledger(runs_root: Path, cluster: str) -> Path:
    """Return the path of a cluster's ledger."""
    return runs_root / f"nodes-{cluster}.jsonl"


def ledger_of(run: rundir.RunDir, task: specs.TaskSpec | None) -> Path | None:
    """Return the path of the ledger of a task's cluster; None without a cluster or a task."""
    cluster = task.site.cluster if task else ""
    return ledger(run.root.parent, cluster) if cluster else None


def read(path: Path) -> tuple[NodeEntry, ...]:
    """Read all entries, oldest first; skip invalid lines. A missing file has none."""
    entries = (_entry(line) for line in read_lines(path))
    return tuple(entry for entry in entries if entry is not None)


def _entry(fields: dict[str, Any]) -> NodeEntry | None:
    try:
        entry = from_fields(NodeEntry, fields)
    except ValueError:
        return None
    return entry if entry.verdict in LIFETIME_SECONDS else None


def append(path: Path, entries: Iterable[NodeEntry]) -> None:
    """Append entries; the file gets the write permissions of its folder.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"format": FORMAT, **dataclasses.asdict(e)}) for e in entries]
    append_lines(path, lines, share=True)


def strike(  # noqa: PLR0913 - one keyword per field of the entry
    node: str,
    verdict: str,
    code: str,
    evidence: str,
    now: float,
    *,
    run: str = "",
    stage: str = "",
    attempt: int = 0,
    gpu_uuid: str = "",
) -> NodeEntry:
    """Create an entry that counts from now on, for its verdict's lifetime."""
    expires = now + LIFETIME_SECONDS[verdict]
    return NodeEntry(
        now, node, code, verdict, run, attempt, " ".join(evidence.split()), expires, gpu_uuid, stage
    )


def verdict_of(finding: NodeFinding) -> str:
    """Return the verdict of the ledger entry for a health finding."""
    return "SUSPECT" if finding.code in PASSING else finding.verdict


def standing(entries: Sequence[NodeEntry], now: float) -> tuple[NodeEntry, ...]:
    """Return entries that are neither expired nor cleared, single suspicions included."""
    cleared = {entry.node: place for place, entry in enumerate(entries) if entry.verdict == CLEARED}
    return tuple(
        entry
        for place, entry in enumerate(entries)
        if place > cleared.get(entry.node, -1) and entry.verdict != CLEARED and entry.expires > now
    )


def active(entries: Sequence[NodeEntry], now: float) -> tuple[NodeEntry, ...]:
    """Return the entries that exclude a node now.

    A single suspicion does not: an attempt may end for many reasons. Applied to its own result, the
    function returns the same.
    """
    left = standing(entries, now)
    return tuple(e for e in left if e.verdict != "SUSPECT" or _strikes(left, e.node) >= STRIKES)


def _strikes(entries: Sequence[NodeEntry], node: str) -> int:
    """Count the suspicions against a node from different attempts."""
    suspicions = (e for e in entries if e.node == node and e.verdict == "SUSPECT")
    return len({(entry.run, entry.stage, entry.attempt) for entry in suspicions})


def excluded(
    entries: Sequence[NodeEntry], now: float, known: Sequence[str] | None, needed_nodes: int
) -> tuple[tuple[str, ...], str]:
    """Return the nodes that the next job excludes by the ledger, worst first, and a warning.

    Args:
        entries: the ledger.
        now: seconds since 1970.
        known: names of the partition's nodes; None when unknown.
        needed_nodes: that the job requests.
    """
    return exclusions(worst_first(active(entries, now)), known, needed_nodes)


def exclusions(
    bad: Sequence[str], known: Sequence[str] | None, needed_nodes: int
) -> tuple[tuple[str, ...], str]:
    """Return the nodes, worst first, that a job can exclude, and a warning, empty without one.

    sbatch refuses a job that excludes a name unknown to Slurm (verified on 22.05), so none is
    excluded when the partition's nodes are unknown. A job always keeps as many as it requests.
    """
    if known is None:
        warning = f"{', '.join(bad)} should be excluded, but Slurm does not list the nodes"
        return (), warning if bad else ""
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
        else f"no more than {cap} of the partition's {known} nodes are excluded"
    )
    return f"{', '.join(left)} may be used although in the node ledger: {why}"


def worst_first(entries: Sequence[NodeEntry]) -> list[str]:
    """Return the names of nodes by their worst verdict, then the newest entry first."""
    ordered = sorted(entries, key=lambda entry: (SEVERITY.index(entry.verdict), -entry.time))
    return list(dict.fromkeys(entry.node for entry in ordered))


def drain_command(entries: Sequence[NodeEntry], node: str) -> str:
    """Return the command with which an administrator drains a node."""
    codes = ", ".join(dict.fromkeys(entry.code for entry in entries if entry.node == node))
    reason = UNSAFE.sub(" ", codes)[:120]
    return (
        f'scontrol update NodeName={UNSAFE.sub("", node)} State=DRAIN Reason="meditron: {reason}"'
    )


def ticket(entries: Sequence[NodeEntry], node: str, cluster: str) -> str:
    """Return a message to the administrators about one node, ready to send."""
    about = [entry for entry in entries if entry.node == node]
    lines = [
        f"Subject: {cluster}: please check node {node}",
        "",
        f"Training jobs on {cluster} reported the following on {node}:",
        "",
        *(
            f"- {_day(e.time)}: {e.verdict} {e.code}: {e.evidence}{_gpu(e)} ({_run(e)})"
            for e in about
        ),
        "",
        "My jobs exclude the node for now. To drain it:",
        "",
        f"    {drain_command(entries, node)}",
    ]
    return "\n".join(lines)


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


def _gpu(entry: NodeEntry) -> str:
    return f" [{entry.gpu_uuid}]" if entry.gpu_uuid else ""


def _run(entry: NodeEntry) -> str:
    return f"run {entry.run}, attempt {entry.attempt}" if entry.run else "outside a run"
