"""Rules for the report of a probe job on the compute nodes (``jobs.health.site_probe``). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jobs.contract import outcomes
from jobs.contract.stage_specs import TRAINING_STAGES
from jobs.contract.units import GIB, plural
from jobs.health.findings import against_nodes
from meditron_cli.doctor.finding import FATAL, OK, UNKNOWN, WARN, SiteFinding, unknown

Report = Mapping[str, Any]

SOURCE = "probe job"
CLOCK_SECONDS = 5.0
"""Clock skew above which the order of events is in doubt. Guessed; NTP keeps milliseconds."""
FEW_FILES = 100_000
"""Files that a run of some weeks may create, checkpoint shards above all. Guessed."""


def apply(report: Report, need_gb: float) -> list[SiteFinding]:
    """Return the findings of every rule.

    Args:
        need_gb: free space that training requires in the runs directory, in GiB.
    """
    findings = [finding for rule in RULES for finding in rule(report)]
    return findings + list(space(report, need_gb))


def commands(report: Report) -> Iterator[SiteFinding]:
    """Check the batch step's Slurm commands."""
    missing = [name for name, is_there in report["commands"].items() if not is_there]
    value = f"no {', '.join(missing)}" if missing else "all there"
    if "srun" in missing:
        verdict, meaning = FATAL, "no rank can be started"
    elif "sbatch" in missing:
        verdict, meaning = WARN, "jobs cannot submit the next one: `meditron recover` does"
    elif "scontrol" in missing:
        verdict, meaning = WARN, "a preempted job cannot requeue itself, only Slurm can"
    else:
        verdict, meaning = OK, "the batch step can query, requeue and submit"
    yield SiteFinding("commands on nodes", value, verdict, meaning, SOURCE)


def submitting(report: Report) -> Iterator[SiteFinding]:
    """Check that a job may submit the next one."""
    check = report["submit"]
    if check is None:
        yield unknown(
            "sbatch on nodes",
            SOURCE,
            "no answer: `meditron recover` submits",
        )
    elif check["accepted"]:
        yield SiteFinding("sbatch on nodes", "accepted", OK, "jobs may submit the next one", SOURCE)
    else:
        reason = last(check["lines"], "no reason given")
        meaning = f"jobs cannot submit the next one ({reason}): `meditron recover` does"
        yield SiteFinding("sbatch on nodes", "refused", WARN, meaning, SOURCE)


def may_submit(report: Report) -> bool | None:
    """Return whether jobs can submit others; None for no answer."""
    if not report["commands"]["sbatch"]:
        return False
    return None if report["submit"] is None else bool(report["submit"]["accepted"])


def requeue(report: Report) -> Iterator[SiteFinding]:
    """Check that Slurm accepted the probe's ``--requeue``."""
    if report["requeue"] is False:
        meaning = "Slurm does not requeue jobs that request it: a new job resumes the run"
        yield SiteFinding("requeue", "refused", WARN, meaning, SOURCE)


def step(report: Report) -> Iterator[SiteFinding]:
    """Check that srun started a process on each node."""
    requested, started = report["requested_nodes"], len(report["nodes"])
    if started == requested:
        names = ", ".join(node["node"] for node in report["nodes"])
        yield SiteFinding("processes on nodes", names, OK, "srun starts ranks", SOURCE)
        return
    meaning = f"srun cannot start ranks: {last(report['step']['lines'], 'no reason given')}"
    yield SiteFinding("processes on nodes", f"{started} of {requested}", FATAL, meaning, SOURCE)


def cores(report: Report) -> Iterator[SiteFinding]:
    """Compare the cores that a process may use with those a rank requests."""
    requested = report["requested_cpus"]
    usable = min((node["cpus"] for node in report["nodes"]), default=None)
    if usable is None:
        return
    if usable < requested:
        meaning = (
            f"a rank requests {requested}: check TaskPlugin in slurm.conf, or add --cpu-bind=none "
            "to slurm.srun in the profile"
        )
        yield SiteFinding("cores in a step", str(usable), WARN, meaning, SOURCE)
    else:
        yield SiteFinding(
            "cores in a step", str(usable), OK, f"a rank requests {requested}", SOURCE
        )


def python(report: Report) -> Iterator[SiteFinding]:
    """Check that every node imports training's libraries."""
    yield from imports("Python", report["nodes"], FATAL)


def stages(report: Report) -> Iterator[SiteFinding]:
    """Check that every node imports the libraries of stages with an environment of their own.
    Without evaluation and generation training still works.
    """
    requested = report["requested_nodes"]
    for name, found in report.get("stages", {}).items():
        fact, verdict = f"Python of {name}", FATAL if name in TRAINING_STAGES else WARN
        started = len(found["nodes"])
        if started < requested:
            reason = last(found["step"]["lines"], "no reason given")
            meaning = f"srun cannot start its ranks: {reason}"
            yield SiteFinding(fact, f"{started} of {requested}", verdict, meaning, SOURCE)
        else:
            yield from imports(fact, found["nodes"], verdict)


def imports(fact: str, nodes: Sequence[Report], verdict: str) -> Iterator[SiteFinding]:
    """Check that every node imports an environment's modules."""
    for node in nodes:
        broken = {name: item for name, item in node["modules"].items() if "error" in item}
        for name, item in broken.items():
            meaning = f"{node['python']} on {node['node']} cannot import it: {item['error']}"
            what = name if fact == "Python" else f"{fact}: {name}"
            yield SiteFinding(what, "missing", verdict, meaning, SOURCE)
        if broken:
            return
    if nodes:
        first = nodes[0]
        modules = [f"{name} {item['version']}" for name, item in first["modules"].items()]
        value = ", ".join((first["python_version"], *modules))
        slowest = max(sum(item["seconds"] for item in node["modules"].values()) for node in nodes)
        meaning = f"imported on every node, within {slowest:.0f} s"
        yield SiteFinding(fact, value, OK, meaning, SOURCE)


def health(report: Report) -> Iterator[SiteFinding]:
    """Report the nodes that the preflight check of a training would refuse."""
    reasons, bad = list(unexamined(report)), node_problems(report)
    for reason in reasons:
        yield unknown("node health", SOURCE, reason)
    for item in bad:
        meaning = f"{item.node}: {item.message}; later jobs exclude it, see `meditron nodes`"
        yield SiteFinding("node health", item.code, WARN, meaning, SOURCE)
    if not reasons and not bad:
        results = [item for host in report["hosts"] for item in host["health"]["findings"]]
        count = sum(item["verdict"] == UNKNOWN for item in results)
        meaning = "no problem found" + (
            f"; {plural(count, 'check')} without a value" if count else ""
        )
        names = ", ".join(host["node"] for host in report["hosts"])
        yield SiteFinding("node health", names, OK, meaning, SOURCE)


def unexamined(report: Report) -> Iterator[str]:
    """Yield a sentence per reason for which nodes could not be examined."""
    for host in report["hosts"]:
        if "error" in host["health"]:
            yield f"{host['node']} could not be examined: {host['health']['error']}"
    requested, examined = report["requested_nodes"], len(report["hosts"])
    if examined < requested:
        reason = last(report["host_step"]["lines"], "no reason given")
        yield f"{requested - examined} of {requested} nodes could not be examined: {reason}"


def node_problems(report: Report) -> list[outcomes.NodeFinding]:
    """Return the findings for which later jobs should exclude a node."""
    reports = (
        {"node": host["node"], "findings": host["health"].get("findings", ())}
        for host in report["hosts"]
    )
    return against_nodes(reports)


def peers(report: Report) -> Iterator[SiteFinding]:
    """Check shared storage, host names, locks and clocks between two nodes, if there are two."""
    if report["requested_nodes"] < 2 or len(report["nodes"]) < 2:
        return
    first, second = (node.get("peer", {}) for node in report["nodes"][:2])
    if not second.get("seen") or first.get("seen") is False:
        meaning = (
            "a file written on one node does not appear on another: name a --runs-dir on storage "
            "that all nodes share"
        )
        yield SiteFinding("shared storage", "no", FATAL, meaning, SOURCE)
        return
    meaning = "files written and renamed on one node appear on another"
    yield SiteFinding("shared storage", "yes", OK, meaning, SOURCE)
    if not second.get("reached"):
        meaning = f"the rendezvous of ranks would fail ({second.get('error', 'no answer')})"
        yield SiteFinding("nodes by name", second.get("host", ""), FATAL, meaning, SOURCE)
        return
    yield SiteFinding("nodes by name", second["host"], OK, "reachable for the rendezvous", SOURCE)
    yield locks(second["lock"])
    yield clocks(second["clock_offset"])


def locks(result: str) -> SiteFinding:
    """Check that a lock taken on one node excludes another."""
    if result == "held":
        meaning = "two jobs of one run exclude each other"
        return SiteFinding("flock between nodes", "works", OK, meaning, SOURCE)
    if result == "free":
        meaning = (
            "a lock has no effect on other nodes (Lustre: mount with -o flock): two jobs of one "
            "run would not exclude each other"
        )
        return SiteFinding("flock between nodes", "no effect", WARN, meaning, SOURCE)
    meaning = f"no locks ({result}): name a --runs-dir on a file system that has them"
    return SiteFinding("flock between nodes", "missing", FATAL, meaning, SOURCE)


def clocks(offset: float) -> SiteFinding:
    """Check the clock skew between two nodes, in seconds."""
    value = f"{abs(offset):.1f} s apart"
    if abs(offset) > CLOCK_SECONDS:
        meaning = "the order of events is in doubt: report it to the site"
        return SiteFinding("clocks", value, WARN, meaning, SOURCE)
    return SiteFinding("clocks", value, OK, "events of different nodes are in order", SOURCE)


def space(report: Report, need_gb: float) -> Iterator[SiteFinding]:
    """Check that every node can write to the runs directory, and its free space and files."""
    if not report["nodes"]:
        return
    fact = "runs directory"
    for node in report["nodes"]:
        if "error" in node["storage"]:
            meaning = f"{node['node']} cannot write there: {node['storage']['error']}"
            yield SiteFinding(fact, "", FATAL, meaning, SOURCE)
            return
    storage, limits = report["nodes"][0]["storage"], quotas(report)
    free = least(storage["free_bytes"], *limits["bytes"]) / GIB
    files = least(storage["free_files"], *limits["files"])
    value = f"{free:,.0f} GiB free" + ("" if files is None else f", {files:,} files")
    if least(*limits["bytes"], *limits["files"]) is not None:
        value += ", by quota"
    if free < need_gb:
        meaning = f"training requires {need_gb:,.1f} GiB, 2.2 checkpoints"
        yield SiteFinding(fact, value, WARN, meaning, SOURCE)
    elif files is not None and files < FEW_FILES:
        yield SiteFinding(fact, value, WARN, "a long run may need more files", SOURCE)
    else:
        doubt = "" if limits["bytes"] else "; no quota is reported, ask the site for yours"
        yield SiteFinding(fact, value, OK, f"the nodes can write there{doubt}", SOURCE)


def quotas(report: Report) -> dict[str, list[int | None]]:
    """Return what each node's quota leaves, in bytes and in files; None is no limit."""
    rows = [host["quota"] for host in report["hosts"] if "bytes" in host["quota"]]
    return {unit: [row[unit] for row in rows] for unit in ("bytes", "files")}


def last(lines: Sequence[str], default: str) -> str:
    """Return the last line of a program's output, or the default when it printed none."""
    return lines[-1] if lines else default


def least(*values: int | None) -> Any:
    """Return the least known value; None when none is known."""
    return min((value for value in values if value is not None), default=None)


RULES: tuple[Callable[[Report], Iterator[SiteFinding]], ...] = (
    commands, submitting, requeue, step, cores, python, stages, health, peers,
)  # fmt: skip
"""In the order of the table."""
