"""Examine a cluster: query Slurm, run the probe job, apply the rules, keep facts for plans."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contract.outcomes import NodeEntry
from jobs.contract.stage_specs import (
    FINETUNE,
    JUDGE,
    PIPELINE_STAGES,
    PREPARE,
    PRETRAIN,
    TRAINING_STAGES,
)
from jobs.health import node_ledger
from jobs.runtime.termination import deferred_signals
from jobs.slurm.client import Client
from jobs.slurm.job_environment import job_environment
from meditron_cli.config import facts_file
from meditron_cli.config.cluster_schema import StageEnvironments
from meditron_cli.config.evaluation.schema import Evaluate
from meditron_cli.config.facts_file import Facts, Probe
from meditron_cli.config.load import Loaded, load
from meditron_cli.doctor import (
    job_options,
    plan_facts,
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
from meditron_cli.scheduler.slurm import no_answer

if TYPE_CHECKING:
    from meditron_cli.plan.model import Plan
    from meditron_cli.services import Clock

UNPLANNED = ("clean", "deduplicate", PREPARE, FINETUNE, JUDGE)
"""Stages whose jobs are like those of others, and that many runs do without."""


@dataclass(frozen=True)
class ExaminedCluster:
    """A cluster to examine, and the means."""

    loaded: Loaded
    root: Path
    """The runs directory, in which the probe job writes."""
    size: str | None
    """The recipe that was named; None: any."""
    environ: Mapping[str, str]
    clock: Clock
    note: Callable[[str], None]
    """Prints a sentence for the user."""

    @property
    def name(self) -> str:
        """Return the cluster's name."""
        return self.loaded.cluster.name


@dataclass(frozen=True)
class DoctorReport:
    """The result of an examination."""

    findings: list[SiteFinding]
    strategy: str
    facts: Facts
    file: Path
    """The facts file."""

    @property
    def is_fatal(self) -> bool:
        """Return whether training cannot work."""
        return any(finding.verdict == FATAL for finding in self.findings)


def load_target(cluster: str, size: str, config: Path | None) -> Loaded:
    """Load a profile without earlier facts, and an experiment on it.

    Raises:
        ConfigError: every error of every file.
    """
    return load(cluster, size, config, (), with_facts=False)


def examine(target: ExaminedCluster, wait: float | None) -> DoctorReport:
    """Query, probe, apply the rules, and write the facts file.

    Args:
        wait: seconds to wait for the probe job; None submits none.

    Raises:
        ConfigError: no plan fits the profile.
        SchedulerError: Slurm answers no query.
    """
    loaded = target.loaded
    stages = [name for name in PIPELINE_STAGES if name not in UNPLANNED]
    plan = prepare.plan_of(loaded, stages)
    client = Client(job_environment(plan.site.environment, target.environ))
    site = queries.read(client, [] if loaded.placeholders else list(job_options.of_plan(plan)))
    if rules.is_unanswered(site):
        raise no_answer()
    view = SiteView(site, loaded.cluster, run_measurements.workload(plan, target.root, target.size))
    file = facts_file.path_of(loaded.cluster.name, target.environ)
    earlier = earlier_facts(file)
    nodes = examine_nodes(target, plan, client, earlier.probe if earlier else None, wait)
    findings = rules.apply(view) + nodes.findings
    facts = plan_facts.derive(view, findings, nodes.probe, target.clock.now())
    facts = replace(facts, speeds=earlier.speeds if earlier else None)
    facts_file.write(file, facts)
    return DoctorReport(
        findings=findings,
        strategy=rules.strategy(view, facts.slurm.submit_from_jobs),
        facts=facts,
        file=file,
    )


@dataclass(frozen=True)
class KnownNodes:
    """The findings about compute nodes, and the probe that they come from."""

    findings: list[SiteFinding]
    probe: Probe | None = None
    """One that has reported, or is still queued."""


def examine_nodes(
    target: ExaminedCluster, plan: Plan, client: Client, earlier: Probe | None, wait: float | None
) -> KnownNodes:
    """Probe compute nodes; with ``wait`` None use the report of an earlier probe."""
    if target.loaded.placeholders:
        reason = "the profile has placeholders, so that no job can be submitted"
        return KnownNodes([not_probed(reason)], earlier)
    if wait is None:
        return read_earlier(target, plan, earlier)
    try:
        waited = run_probe(target, plan, client, earlier, wait)
    except probe.ProbeRefused as error:
        return KnownNodes([SiteFinding("probe job", "refused", FATAL, error.message, "sbatch")])
    except SchedulerError as error:
        return KnownNodes([not_probed(error.message)])
    except OSError as error:
        meaning = f"{error.filename or target.root}: {error.strerror}; name another --runs-dir"
        return KnownNodes([SiteFinding("runs directory", "", FATAL, meaning, "this machine")])
    return finish(target, plan, waited)


def run_probe(
    target: ExaminedCluster, plan: Plan, client: Client, earlier: Probe | None, seconds: float
) -> probe.ProbeWait:
    """Submit a probe job, unless an earlier one is still queued, and wait for its report; raises
    like ``probe.submit``.
    """
    current = earlier if earlier is not None and is_pending(earlier) else None
    stages = own_environments(target.loaded) if current is None else {}
    with deferred_signals() as deliver:
        submitted = current or probe.submit(plan, stages, target.root, client, target.clock.now())

        def begin() -> None:
            deliver()
            target.note(
                f"job {submitted.job_id} examines compute nodes; waiting up to {seconds:.0f} s "
                "(--no-probe skips this)"
            )

        return probe.wait(submitted, client, target.clock, seconds, begin)


def own_environments(loaded: Loaded) -> dict[str, probe.OwnEnvironment]:
    """Return the environments of stages that have one of their own; that of training is probed
    anyway.

    Raises:
        ConfigError: no plan fits one.
    """
    found = {}
    environment = loaded.cluster.environment
    for stage, own in environment.stages.named():
        if stage == PRETRAIN:
            continue
        values = {"python": own.python, "container": own.container, "stages": StageEnvironments()}
        there = loaded.cluster.model_copy(
            update={"environment": environment.model_copy(update=values)}
        )
        training = prepare.plan_of(replace(loaded, cluster=there), [PRETRAIN]).training.tasks[0]
        found[stage] = probe.OwnEnvironment(training, modules_of(stage, loaded.experiment.evaluate))
    return found


def modules_of(stage: str, evaluate: Evaluate) -> tuple[str, ...]:
    """Return the modules that the ranks of a stage import."""
    if stage in TRAINING_STAGES:
        return probe.MODULES
    if stage == "evaluate":
        harness = any("harness" in benchmark.modes for benchmark in evaluate.benchmarks)
        return (*probe.MODULES, "tokenizers", *(["lm_eval"] if harness else []))
    section = evaluate.judge if stage == JUDGE and evaluate.judge else evaluate.generate
    return ("torch", "tokenizers", section.backend)


def is_pending(earlier: Probe) -> bool:
    """Return whether a probe's report has not been read yet, and still can be."""
    return earlier.report is None and Path(earlier.folder).is_dir()


def read_earlier(target: ExaminedCluster, plan: Plan, earlier: Probe | None) -> KnownNodes:
    """Return the findings of an earlier probe; print its age."""
    if earlier is None:
        return KnownNodes([not_probed("not probed: run without --no-probe")])
    current = replace(earlier, report=earlier.report or probe.fetch(earlier))
    if current.report is None:
        return KnownNodes([not_probed(f"probe job {current.job_id} is still queued")], current)
    if earlier.report is None:
        record_nodes(target, current.report)
    age = facts_file.age(target.clock.now() - current.report["time"])
    target.note(f"compute nodes were probed {age} ago")
    return findings_of(plan, current)


def finish(target: ExaminedCluster, plan: Plan, waited: probe.ProbeWait) -> KnownNodes:
    """Return the findings of a probe that was waited for."""
    current = waited.probe
    if waited.problem:
        probe.remove(Path(current.folder))
        return KnownNodes([SiteFinding("probe job", "failed", FATAL, waited.problem, "probe job")])
    if current.report is None:
        target.note(
            f"probe job {current.job_id} is still queued; run `meditron doctor --cluster "
            f"{shlex.quote(target.name)}` later to read its report"
        )
        return KnownNodes([not_probed(f"probe job {current.job_id} is still queued")], current)
    record_nodes(target, current.report)
    return findings_of(plan, current)


def record_nodes(target: ExaminedCluster, report: Mapping[str, Any]) -> None:
    """Add the report's problems of nodes to the node ledger, so that jobs exclude these nodes."""
    path = node_ledger.ledger(target.root, target.name)
    try:
        entries = unexpired(strikes(report), node_ledger.read(path), target.clock.now())
        node_ledger.append(path, entries)
    except OSError as error:
        target.note(
            f"{error.filename or path}: {error.strerror}: no node was added to the node ledger"
        )


def strikes(report: Mapping[str, Any]) -> list[NodeEntry]:
    """Return ledger entries for a report's problems of nodes, as of the report's time."""
    return [
        node_ledger.strike(
            item.node,
            node_ledger.verdict_of(item),
            item.code,
            item.message,
            float(report["time"]),
            gpu_uuid=item.gpu_uuid,
        )
        for item in rules_probe.node_problems(report)
    ]


def unexpired(entries: list[NodeEntry], ledger: Sequence[NodeEntry], now: float) -> list[NodeEntry]:
    """Return the entries that have not expired, of nodes that were not cleared since."""
    cleared = {item.node: item.time for item in ledger if item.verdict == node_ledger.CLEARED}
    return [
        entry
        for entry in entries
        if entry.expires > now and cleared.get(entry.node, entry.time) <= entry.time
    ]


def findings_of(plan: Plan, current: Probe) -> KnownNodes:
    """Apply the rules to a probe's report, and remove its folder."""
    probe.remove(Path(current.folder))
    need = float(plan.training.tasks[0].health["min_free_gb"])
    return KnownNodes(rules_probe.apply(current.report or {}, need), current)


def not_probed(reason: str) -> SiteFinding:
    """Return the finding that no compute node was examined."""
    return unknown("compute nodes", "probe job", reason)


def earlier_facts(file: Path) -> Facts | None:
    """Return the facts in a file; None without one, or when it cannot be read."""
    try:
        return facts_file.read(file)
    except facts_file.Broken:
        return None
