"""Close open attempts whose supervisor did not record their end: examine, decide, record. Used by
the next start of the same job, the recovery job and ``meditron recover``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs.contract import events, specs
from jobs.contract.attempt_history import TaskHistory
from jobs.contract.events import Event, ExitEvent, ObservedEvent, StartEvent
from jobs.contract.exit_record import ExitRecord
from jobs.contract.job import Job
from jobs.contract.outcomes import Decision, NodeEntry, RetryAction
from jobs.contract.run_reader import RunReader
from jobs.contract.rundir import RunDir
from jobs.health import node_ledger
from jobs.runtime.log import log
from jobs.slurm.client import Client
from jobs.supervision import attempt_records
from jobs.supervision.attempt_records import FolderListing
from jobs.supervision.diagnosis.evidence import RecoveryOptions
from jobs.supervision.diagnosis.postmortem import attempt_of, examine
from jobs.supervision.recovery import retry_policy


@dataclass
class AttemptCloser:
    """Closes attempts of a stage. Records are kept until ``write``, so that all tasks of an array
    cost one append to the event log and one to the node ledger.
    """

    run: RunDir
    by: str
    """The deciding process: ``supervisor``, ``recovery_job`` or ``recover``."""
    client: Client | None
    """None without Slurm."""
    options: RecoveryOptions
    """The recovery options of that process."""
    reader: RunReader
    """Of the run's metrics."""
    own_job: str = ""
    """The job that decides about its own earlier starts."""
    _events: list[Event] = field(default_factory=list)
    _closed: dict[tuple[str, int], list[ExitRecord]] = field(default_factory=dict)
    _listings: dict[Path, FolderListing] = field(default_factory=dict)
    _ledgers: dict[Path, list[NodeEntry]] = field(default_factory=dict)
    _suspects: dict[Path, dict[tuple[object, ...], NodeEntry]] = field(default_factory=dict)

    def close(self, start: StartEvent, history: TaskHistory) -> Decision:
        """Return the decision after an attempt; it stays open where another process decides
        (``WAIT``).
        """
        task = specs.read_task(self.run, start.stage, start.index)
        options = replace(self.options, started_again=start.job_id == self.own_job)
        listing = self._listing(self.run.attempt(start.stage, start.attempt))
        metrics = self.reader.metrics(start.stage, start.index)
        evidence = examine(self.run, start, task, self.client, options, history, metrics, listing)
        closed = self._closed.setdefault((start.stage, start.index), [])
        path = node_ledger.ledger_of(self.run, task)
        decision = retry_policy.decide(
            (*history.exits, *closed),
            evidence,
            self._entries(path),
            time.time(),
            task.supervision if task else None,
        )
        decision = replace(decision, reason=self.run.hint(decision.reason))
        job = Job(start.job_id, start.restarts, start.nodes)
        attempt = attempt_of(self.run, start, listing)
        record = attempt_records.exit_record(attempt, job, evidence, decision, self.by)
        self._keep(record, history)
        closed.append(replace(record, by_person=evidence.attempt.by_person))
        if path:
            self._note_suspects(path, decision.suspects)
        return decision

    def write(self) -> None:
        """Append the records to the event log, and suspects to the node ledger.

        Raises:
            OSError: the disk takes nothing.
        """
        events.append(self.run, *self._events)
        self._events.clear()
        for path, suspects in self._suspects.items():
            node_ledger.append(path, suspects.values())
        self._suspects.clear()

    def _keep(self, record: ExitRecord, history: TaskHistory) -> None:
        log(f"{record.category}: {record.reason}")
        if record.action is not RetryAction.WAIT:
            self._events.append(ExitEvent(time.time(), record))
        elif record.attempt not in history.observed:
            self._events.append(ObservedEvent(time.time(), record))

    def _note_suspects(self, path: Path, suspects: Iterable[NodeEntry]) -> None:
        """Keep the entries of this attempt, once for all tasks that died with one node."""
        noted = self._suspects.setdefault(path, {})
        for entry in suspects:
            key = (entry.node, entry.verdict, entry.code, entry.stage, entry.attempt)
            if key not in noted:
                noted[key] = entry
                self._entries(path).append(entry)

    def _listing(self, folder: Path) -> FolderListing:
        if folder not in self._listings:
            self._listings[folder] = FolderListing(folder)
        return self._listings[folder]

    def _entries(self, path: Path | None) -> list[NodeEntry]:
        """Return the active entries of a node ledger, with those of attempts closed before."""
        if path is None:
            return []
        if path not in self._ledgers:
            self._ledgers[path] = list(node_ledger.active(node_ledger.read(path), time.time()))
        return self._ledgers[path]
