"""What a probe job saw on the compute nodes, and what it means for a run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jobs.contract import outcomes
from jobs.supervision import preflight_step
from meditron_cli.doctor.finding import FATAL, OK, UNKNOWN, WARN, SiteFinding, unknown
from meditron_cli.plan.layout import GIB

Report = Mapping[str, Any]

SOURCE = "probe job"
CLOCK_SECONDS = 5.0
"""By which clocks may differ before the order of events is in doubt: a guess; NTP keeps
milliseconds.
"""
NOT_ASKED = "not asked by that version; probe again"
"""Of what an earlier version's probe, kept until now, does not tell."""
FEW_FILES = 100_000
"""Files that a run of some weeks may make, checkpoints' shards above all: a guess."""


def judge(report: Report, need_gb: float) -> list[SiteFinding]:
    """Every fact of a report with its meaning.

    Args:
        report: of ``jobs.health.site_probe``.
        need_gb: room that training wants where runs lie, in GiB.
    """
    found = [finding for judged in JUDGES for finding in judged(report)]
    return found + list(space(report, need_gb))


def commands(report: Report) -> Iterator[SiteFinding]:
    """Slurm's commands in the batch step."""
    missing = [name for name, is_there in report["commands"].items() if not is_there]
    value = f"no {', '.join(missing)}" if missing else "all there"
    if "srun" in missing:
        verdict, meaning = FATAL, "no rank can be started"
    elif "sbatch" in missing:
        verdict, meaning = WARN, "jobs cannot submit the next: `meditron recover` does"
    elif "scontrol" in missing:
        verdict, meaning = WARN, "a preempted job cannot queue itself again, and waits for Slurm"
    else:
        verdict, meaning = OK, "the batch step can ask, requeue and submit"
    yield SiteFinding("commands on nodes", value, verdict, meaning, SOURCE)


def submitting(report: Report) -> Iterator[SiteFinding]:
    """Whether a job may submit the next one."""
    tested = report["submit"]
    if tested is None:
        yield unknown("sbatch on nodes", SOURCE, "missing or silent: `meditron recover` submits")
    elif tested["accepted"]:
        yield SiteFinding("sbatch on nodes", "accepted", OK, "a job may submit the next", SOURCE)
    else:
        said = tested["said"][-1] if tested["said"] else "no reason"
        meaning = f"jobs cannot submit the next ({said}): `meditron recover` does"
        yield SiteFinding("sbatch on nodes", "refused", WARN, meaning, SOURCE)


def may_submit(report: Report) -> bool | None:
    """Whether jobs can submit others; None where nothing answered."""
    if not report["commands"]["sbatch"]:
        return False
    return None if report["submit"] is None else bool(report["submit"]["accepted"])


def requeue(report: Report) -> Iterator[SiteFinding]:
    """Whether Slurm kept the probe's wish to be queued again."""
    if report["requeue"] is False:
        meaning = "Slurm does not queue our jobs again, though they ask: a fresh job goes on"
        yield SiteFinding("requeue", "refused", WARN, meaning, SOURCE)


def step(report: Report) -> Iterator[SiteFinding]:
    """Whether srun started a process on each node."""
    asked, came = report["asked_nodes"], len(report["nodes"])
    if came == asked:
        names = ", ".join(node["node"] for node in report["nodes"])
        yield SiteFinding("processes on nodes", names, OK, "srun starts ranks", SOURCE)
        return
    said = report["step"]["said"]
    meaning = f"srun could not start ranks: {said[-1] if said else 'it gave no reason'}"
    yield SiteFinding("processes on nodes", f"{came} of {asked}", FATAL, meaning, SOURCE)


def cores(report: Report) -> Iterator[SiteFinding]:
    """Cores that a process sees, beside those a rank asks for."""
    asked = report["asked_cpus"]
    seen = min((node["cpus"] for node in report["nodes"]), default=None)
    if seen is None:
        return
    if seen < asked:
        meaning = f"a rank asks for {asked}: look at TaskPlugin, or set slurm.srun --cpu-bind=none"
        yield SiteFinding("cores in a step", str(seen), WARN, meaning, SOURCE)
    else:
        yield SiteFinding("cores in a step", str(seen), OK, f"a rank asks for {asked}", SOURCE)


def python(report: Report) -> Iterator[SiteFinding]:
    """Python and the libraries of training, on every node."""
    for node in report["nodes"]:
        broken = {name: item for name, item in node["modules"].items() if "error" in item}
        for name, item in broken.items():
            meaning = f"{node['python']} on {node['node']} cannot import it: {item['error']}"
            yield SiteFinding(name, "missing", FATAL, meaning, SOURCE)
        if broken:
            return
    if report["nodes"]:
        first = report["nodes"][0]
        shown = [f"{name} {item['version']}" for name, item in first["modules"].items()]
        value = ", ".join((first["python_version"], *shown))
        slowest = max(
            sum(item["seconds"] for item in node["modules"].values()) for node in report["nodes"]
        )
        meaning = f"imported on every node, within {slowest:.0f} s"
        yield SiteFinding("Python", value, OK, meaning, SOURCE)


def health(report: Report) -> Iterator[SiteFinding]:
    """What the pre-flight of a training would say of the nodes."""
    if "hosts" not in report:
        yield unknown("node health", SOURCE, NOT_ASKED)
        return
    silent, against = list(unexamined(report)), against_nodes(report)
    for why in silent:
        yield unknown("node health", SOURCE, why)
    for item in against:
        meaning = f"{item.node}: {item.message}; jobs should leave it out; see `meditron nodes`"
        yield SiteFinding("node health", item.code, WARN, meaning, SOURCE)
    if not silent and not against:
        told = [item for host in report["hosts"] for item in host["health"]["findings"]]
        count = sum(item["verdict"] == UNKNOWN for item in told)
        meaning = "nothing speaks against them" + (f"; {count} checks unknown" if count else "")
        names = ", ".join(host["node"] for host in report["hosts"])
        yield SiteFinding("node health", names, OK, meaning, SOURCE)


def unexamined(report: Report) -> Iterator[str]:
    """Nodes of which the pre-flight would say nothing, each with the reason."""
    for host in report["hosts"]:
        if "error" in host["health"]:
            yield f"{host['node']} could not be examined: {host['health']['error']}"
    asked, came = report["asked_nodes"], len(report["hosts"])
    if came < asked:
        said = report["host_step"]["said"]
        reason = said[-1] if said else "no reason was given"
        yield f"{asked - came} of {asked} nodes could not be examined: {reason}"


def against_nodes(report: Report) -> list[outcomes.NodeFinding]:
    """What speaks against a node that the probe saw."""
    found = (
        {"node": host["node"], "findings": host["health"].get("findings", ())}
        for host in report.get("hosts", ())
    )
    return list(preflight_step.found_in(found))


def peers(report: Report) -> Iterator[SiteFinding]:
    """What two nodes found out about each other; nothing where one was asked."""
    if report["asked_nodes"] < 2 or len(report["nodes"]) < 2:
        return
    first, second = (node.get("peer", {}) for node in report["nodes"][:2])
    if not second.get("seen") or first.get("seen") is False:
        meaning = "a file written on one node does not show on another: runs cannot lie there"
        yield SiteFinding("shared storage", "no", FATAL, meaning, SOURCE)
        return
    meaning = "files written and renamed on one node show on another"
    yield SiteFinding("shared storage", "yes", OK, meaning, SOURCE)
    if not second.get("reached"):
        meaning = f"ranks would not find rank 0 ({second.get('error', 'no answer')})"
        yield SiteFinding("nodes by name", second.get("host", ""), FATAL, meaning, SOURCE)
        return
    yield SiteFinding("nodes by name", second["host"], OK, "reached: ranks find rank 0", SOURCE)
    yield locks(second["lock"])
    yield clocks(second["clock_offset"])


def locks(found: str) -> SiteFinding:
    """Whether a lock on one node is felt on another."""
    if found == "held":
        return SiteFinding(
            "flock between nodes", "works", OK, "one attempt at a time works", SOURCE
        )
    if found == "free":
        meaning = (
            "a lock is not felt on other nodes (Lustre: mount with -o flock): two jobs of one run "
            "would not notice each other"
        )
        return SiteFinding("flock between nodes", "no effect", WARN, meaning, SOURCE)
    meaning = f"no locks ({found}): put runs on a file system that has them"
    return SiteFinding("flock between nodes", "missing", FATAL, meaning, SOURCE)


def clocks(offset: float) -> SiteFinding:
    """Whether nodes agree on the time."""
    value = f"{abs(offset):.1f} s apart"
    if abs(offset) > CLOCK_SECONDS:
        meaning = "which of two events came first is in doubt: tell the site"
        return SiteFinding("clocks", value, WARN, meaning, SOURCE)
    return SiteFinding("clocks", value, OK, "events of nodes are in order", SOURCE)


def space(report: Report, need_gb: float) -> Iterator[SiteFinding]:
    """Room where runs lie."""
    if "hosts" not in report:
        yield unknown("quota", SOURCE, NOT_ASKED)
    allowed = quotas(report)
    for node in report["nodes"]:
        found = node["storage"]
        if "error" in found:
            meaning = f"{node['node']} cannot write there: {found['error']}"
            yield SiteFinding("runs directory", "", FATAL, meaning, SOURCE)
            return
        free = least(found["free_bytes"], *allowed["bytes"]) / GIB
        files = least(found["free_files"], *allowed["files"])
        value = f"{free:,.0f} GiB free" + ("" if files is None else f", {files:,} files")
        if least(*allowed["bytes"], *allowed["files"]) is not None:
            value += ", by quota"
        if free < need_gb:
            meaning = f"training wants {need_gb:,.1f} GiB, 2.2 checkpoints"
            yield SiteFinding("runs directory", value, WARN, meaning, SOURCE)
        elif files is not None and files < FEW_FILES:
            yield SiteFinding(
                "runs directory", value, WARN, "a long run may need more files", SOURCE
            )
        else:
            is_told = allowed["bytes"] or "hosts" not in report
            told = "" if is_told else "; no quota is told, ask the site"
            meaning = f"seen and written by the nodes{told}"
            yield SiteFinding("runs directory", value, OK, meaning, SOURCE)
        return


def quotas(report: Report) -> dict[str, list[int | None]]:
    """What quotas leave, in bytes and in files, by each node that tells; None is no limit."""
    told = [host["quota"] for host in report.get("hosts", ()) if "bytes" in host["quota"]]
    return {what: [quota[what] for quota in told] for what in ("bytes", "files")}


def least(*values: int | None) -> Any:
    """The least of those that are known; None when none is."""
    return min((value for value in values if value is not None), default=None)


JUDGES: tuple[Callable[[Report], Iterator[SiteFinding]], ...] = (
    commands, submitting, requeue, step, cores, python, health, peers,
)  # fmt: skip
"""In the order of the table."""
