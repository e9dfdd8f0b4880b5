"""One examination: ask the site, look from its nodes, judge, keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contract.outcomes import NodeEntry
from jobs.contract.stage_specs import STAGES
from jobs.health import node_ledger
from jobs.slurm.client import Client
from jobs.slurm.job_environment import job_environment
from meditron_cli.config import facts_file
from meditron_cli.config.facts_file import Facts, Probe
from meditron_cli.config.load import Loaded, load
from meditron_cli.doctor import (
    job_options,
    known,
    probe,
    queries,
    rules,
    rules_probe,
    run_measurements,
)
from meditron_cli.doctor.finding import FATAL, SiteFinding, unknown
from meditron_cli.doctor.site_view import SiteView
from meditron_cli.errors import SchedulerError
from meditron_cli.runs import prepare

if TYPE_CHECKING:
    from meditron_cli.plan.model import Plan
    from meditron_cli.services import Clock


@dataclass(frozen=True)
class ExaminedCluster:
    """A cluster to examine, and with what."""

    loaded: Loaded
    root: Path
    """Where runs lie, and where a probe writes."""
    size: str | None
    """Asked for by name; None for whatever runs there."""
    environ: Mapping[str, str]
    clock: Clock
    tell: Callable[[str], None]
    """Says to people what takes time."""

    @property
    def name(self) -> str:
        """The cluster's."""
        return self.loaded.cluster.name


@dataclass(frozen=True)
class DoctorReport:
    """What came of it."""

    findings: list[SiteFinding]
    strategy: str
    facts: Facts
    file: Path
    """Where the facts are kept."""

    @property
    def is_fatal(self) -> bool:
        """Whether training cannot work."""
        return any(finding.verdict == FATAL for finding in self.findings)


def load_target(cluster: str, size: str, config: Path | None) -> Loaded:
    """A profile as it is written, without what was found out before, and an experiment on it.

    Raises:
        ConfigError: every error of every file.
    """
    return load(cluster, size, config, (), with_facts=False)


def examine(patient: ExaminedCluster, wait: float | None) -> DoctorReport:
    """Ask, probe, judge, keep; with ``wait`` None no job is submitted.

    Raises:
        ConfigError: no plan fits the profile.
        SchedulerError: Slurm answers nothing at all.
    """
    loaded = patient.loaded
    plan = prepare.plan_of(loaded, STAGES)
    client = Client(job_environment(plan.site.environment, patient.environ))
    site = queries.read(client, [] if loaded.placeholders else list(job_options.of_plan(plan)))
    if rules.is_silent(site):
        raise SchedulerError(
            "Slurm does not answer on this machine", hint="log in to the cluster, or try again"
        )
    look = SiteView(
        site, loaded.cluster, run_measurements.workload(plan, patient.root, patient.size)
    )
    findings = rules.judge(look)
    file = facts_file.path_of(loaded.cluster.name, patient.environ)
    seen = see(patient, plan, client, earlier_probe(file), wait)
    facts = known.keep(look, seen.probe, patient.clock.now())
    facts_file.write(file, facts)
    return DoctorReport(
        findings=findings + seen.findings,
        strategy=rules.strategy(look, facts.slurm.submit_from_jobs),
        facts=facts,
        file=file,
    )


@dataclass(frozen=True)
class KnownNodes:
    """What compute nodes are known to be like."""

    findings: list[SiteFinding]
    probe: Probe | None = None
    """One that has reported, or still waits."""


def see(
    patient: ExaminedCluster, plan: Plan, client: Client, earlier: Probe | None, wait: float | None
) -> KnownNodes:
    """Look from compute nodes; without ``wait``, tell what an earlier probe saw."""
    if patient.loaded.placeholders:
        return KnownNodes([unseen("the profile has placeholders, so no job can look")], earlier)
    if wait is None:
        return remembered(patient, plan, earlier)
    try:
        found = earlier if is_pending(earlier) else None
        found = found or probe.submit(plan, patient.root, client, patient.clock.now())
    except probe.ProbeRefused as error:
        return KnownNodes([SiteFinding("probe job", "refused", FATAL, error.message, "sbatch")])
    except SchedulerError as error:
        return KnownNodes([unseen(error.message)])
    except OSError as error:
        meaning = f"{error.filename or patient.root}: {error.strerror}; name another --runs-dir"
        return KnownNodes([SiteFinding("runs directory", "", FATAL, meaning, "this machine")])
    patient.tell(
        f"job {found.job_id} looks from compute nodes; waiting up to {wait:.0f} s (--no-probe "
        "leaves it out)"
    )
    return outcome(patient, plan, probe.wait(found, client, patient.clock, wait))


def is_pending(earlier: Probe | None) -> bool:
    """Whether a probe was submitted that nobody has read yet."""
    return earlier is not None and earlier.report is None and Path(earlier.folder).is_dir()


def remembered(patient: ExaminedCluster, plan: Plan, earlier: Probe | None) -> KnownNodes:
    """What an earlier probe saw, with its age."""
    if earlier is None:
        return KnownNodes([unseen("not probed: leave --no-probe out")])
    found = replace(earlier, report=earlier.report or probe.fetch(earlier))
    if found.report is None:
        return KnownNodes([unseen(f"job {found.job_id} waits to look")], found)
    if earlier.report is None:
        remember(patient, found)
    age = facts_file.age(patient.clock.now() - found.report["time"])
    patient.tell(f"compute nodes were seen {age} ago")
    return judged(plan, found)


def outcome(patient: ExaminedCluster, plan: Plan, waited: probe.ProbeWait) -> KnownNodes:
    """What waiting for a probe has come to."""
    found = waited.probe
    if waited.problem:
        probe.remove(Path(found.folder))
        return KnownNodes([SiteFinding("probe job", "failed", FATAL, waited.problem, "probe job")])
    if found.report is None:
        patient.tell(
            f"job {found.job_id} still waits; `meditron doctor --cluster {patient.name}` reads "
            "later what it saw"
        )
        return KnownNodes([unseen(f"job {found.job_id} still waits to look")], found)
    remember(patient, found)
    return judged(plan, found)


def remember(patient: ExaminedCluster, found: Probe) -> None:
    """Put what speaks against a node into the cluster's ledger, so that jobs leave it out."""
    ledger = node_ledger.ledger(patient.root, patient.name)
    try:
        known = node_ledger.read(ledger)
        entries = still_true(strikes(found.report or {}), known, patient.clock.now())
        node_ledger.append(ledger, entries)
    except OSError as error:
        patient.tell(
            f"{error.filename or ledger}: {error.strerror}: no node was put into the ledger"
        )


def strikes(report: Mapping[str, Any]) -> list[NodeEntry]:
    """What a report says against nodes, as of the time when they were seen."""
    return [
        node_ledger.strike(
            item.node, node_ledger.verdict_of(item), item.code, item.message, float(report["time"])
        )
        for item in rules_probe.against_nodes(report)
    ]


def still_true(entries: list[NodeEntry], known: Sequence[NodeEntry], now: float) -> list[NodeEntry]:
    """Entries that have not expired, of nodes that nobody has cleared since."""
    cleared = {item.node: item.time for item in known if item.verdict == node_ledger.CLEARED}
    return [
        entry
        for entry in entries
        if entry.expires > now and cleared.get(entry.node, entry.time) <= entry.time
    ]


def judged(plan: Plan, found: Probe) -> KnownNodes:
    """The findings of a report; its folder is no longer needed."""
    probe.remove(Path(found.folder))
    need = float(plan.stage("pretrain").tasks[0].health["min_free_gb"])
    return KnownNodes(rules_probe.judge(found.report or {}, need), found)


def unseen(why: str) -> SiteFinding:
    """That nobody has looked from a compute node."""
    return unknown("compute nodes", "probe job", why)


def earlier_probe(file: Path) -> Probe | None:
    """The probe that a cache file knows of; a broken file knows none, and is written anew."""
    try:
        facts = facts_file.read(file)
    except facts_file.Broken:
        return None
    return facts.probe if facts else None
