"""Close attempts whose supervisor did not record their end: decide, and write the exit record."""

from __future__ import annotations

import time

from jobs.contract import attempt_history, rundir, specs
from jobs.contract.attempt_history import Start
from jobs.contract.job import Job
from jobs.contract.outcomes import Decision, NodeEntry
from jobs.contract.specs import read_task
from jobs.supervision import attempt_records
from jobs.supervision.diagnosis.evidence import Evidence
from jobs.supervision.diagnosis.postmortem import place_of
from jobs.supervision.recovery import retry_policy


def close(
    run: rundir.RunDir, start: Start, evidence: Evidence, ledger: tuple[NodeEntry, ...], by: str
) -> Decision:
    """Decide what follows from a start, and write its exit record and event.

    Args:
        ledger: active entries of the cluster's node ledger.
        by: who says it: ``supervisor``, ``recovery_job`` or ``recover``.
    """
    past = attempt_history.read(run, start.stage, start.index)
    limits = evidence_limits(run, start)
    decision = retry_policy.decide(past.endings, evidence, ledger, time.time(), limits)
    place, job = place_of(run, start), Job(start.job_id, start.restarts, start.nodes)
    attempt_records.record_exit(place, job, evidence, decision, by)
    return decision


def evidence_limits(run: rundir.RunDir, start: Start) -> specs.SupervisionSpec:
    """How patiently the task is watched; as by default when its spec cannot be read."""
    task = read_task(run, start.stage, start.index)
    return task.supervision if task else specs.SupervisionSpec()
