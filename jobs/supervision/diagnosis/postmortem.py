"""Collect evidence about an attempt whose supervisor is gone, from the accounting, the attempt's
folder, and the supervisor's own records. Standard library only.
"""

from __future__ import annotations

from dataclasses import replace

from jobs.contract import rundir, specs
from jobs.contract.attempt_history import TaskHistory
from jobs.contract.events import StartEvent
from jobs.contract.job import Job
from jobs.contract.metrics_log import MetricsReader
from jobs.health.findings import against_nodes
from jobs.health.monitor import records
from jobs.slurm import srun_output
from jobs.slurm.client import Client
from jobs.supervision import allocation, preflight_step
from jobs.supervision.attempt_records import AttemptRef, FolderListing
from jobs.supervision.diagnosis import evidence_collection
from jobs.supervision.diagnosis.evidence import Evidence, Observed, RecoveryOptions


def examine(  # noqa: PLR0913 - one argument per source of evidence
    run: rundir.RunDir,
    start: StartEvent,
    task: specs.TaskSpec | None,
    client: Client | None,
    options: RecoveryOptions,
    history: TaskHistory,
    metrics: MetricsReader,
    listing: FolderListing | None = None,
) -> Evidence:
    """Return the evidence about an attempt.

    Args:
        options: the recovery options of the process that decides.
        history: of the task.
        metrics: of the task.
        listing: of the attempt's folder, where many tasks of one attempt are examined.
    """
    attempt = attempt_of(run, start, listing)
    slurm = allocation.recorded_report(client, run.name, start)
    before = history.observed.get(start.attempt)
    reports = records.read_reports(attempt.folder, attempt.index, start.nodes)
    preflight = against_nodes(preflight_step.health_reports(attempt))
    observed = Observed(
        ranks_started=attempt.ranks_log.exists(),
        failures=tuple(srun_output.failures(evidence_collection.read_text(attempt.srun_log))),
        findings=(*preflight, *against_nodes(reports)),
        storage_refuses=slurm.storage_requeue,
        diagnosis=before.diagnosis if before else None,
    )
    slurm = replace(slurm, options=options, ended=before.ended if before else slurm.ended)
    job = Job(start.job_id, start.restarts, start.nodes)
    return evidence_collection.evidence(attempt, task, job, observed, slurm, history, metrics)


def attempt_of(
    run: rundir.RunDir, start: StartEvent, listing: FolderListing | None = None
) -> AttemptRef:
    """Return the reference to a start's attempt."""
    return AttemptRef(
        run, start.stage, start.index, start.attempt, start.began, start.step, "", listing
    )
