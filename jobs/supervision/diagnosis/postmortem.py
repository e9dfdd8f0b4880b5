"""Say how a start ended whose supervisor died without saying it: from the accounting, and from what
lies in its folder. Standard library only.
"""

from __future__ import annotations

from dataclasses import replace

from jobs.contract import rundir, specs
from jobs.contract.attempt_history import Start
from jobs.contract.files import FormatError, read_json
from jobs.contract.job import Job
from jobs.contract.outcomes import Diagnosis, RootCause
from jobs.slurm import srun_output
from jobs.slurm.client import Client
from jobs.supervision import allocation, preflight_step
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.diagnosis import evidence_collection
from jobs.supervision.diagnosis.evidence import Evidence, RecoveryOptions
from jobs.supervision.diagnosis.evidence_collection import Observed


def examine(
    run: rundir.RunDir,
    start: Start,
    task: specs.TaskSpec | None,
    client: Client | None,
    site: RecoveryOptions,
) -> Evidence:
    """What is known of the start; ``site`` is where the decision is made."""
    place = place_of(run, start)
    said = allocation.recorded(client, run.name, start)
    seen = Observed(
        ranks_started=place.ranks_log.exists(),
        failures=tuple(srun_output.failures(evidence_collection.read_text(place.srun_log))),
        findings=tuple(preflight_step.found_in(preflight_step.health_reports(place))),
    )
    job = Job(start.job_id, start.restarts, start.nodes)
    found = evidence_collection.evidence(place, task, job, seen, replace(said, site=site))
    return replace(found, known=told_before(place))


def told_before(place: AttemptRef) -> Diagnosis | None:
    """What the start's own supervisor made of its end; None where it has left no record."""
    try:
        record = read_json(place.run.exit_record(place.stage, place.attempt, place.index))
        return Diagnosis(
            RootCause(record["cause"]),
            record["message"],
            record["node"],
            record["fingerprint"],
            record["hint"],
        )
    except (OSError, FormatError, KeyError, ValueError):  # ValueError: a cause of later
        return None


def place_of(run: rundir.RunDir, start: Start) -> AttemptRef:
    """Where the start worked."""
    return AttemptRef(run, start.stage, start.index, start.attempt, start.began, start.step)
