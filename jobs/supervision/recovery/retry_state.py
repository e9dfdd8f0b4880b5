"""Counters over a task's attempts: progress, failures in a row, repeats of one failure. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from jobs.contract.exit_record import ExitRecord
from jobs.contract.outcomes import Diagnosis, NodeEntry, RetryAction, RootCause
from jobs.contract.specs import SupervisionSpec
from jobs.supervision.diagnosis import failure_causes
from jobs.supervision.diagnosis.evidence import Evidence
from jobs.supervision.recovery.retry_table import ROWS, Alike, Blame, RetryRow


@dataclass(frozen=True)
class RetryCase:
    """An attempt that has ended, with the history, the node ledger and the limits."""

    evidence: Evidence
    diagnosis: Diagnosis
    history: tuple[ExitRecord, ...]
    """All earlier attempts of the task, oldest first."""
    ledger: tuple[NodeEntry, ...]
    now: float
    limits: SupervisionSpec = field(default_factory=SupervisionSpec)

    @property
    def row(self) -> RetryRow:
        return ROWS[self.diagnosis.cause]

    @property
    def on_slurm(self) -> bool:
        return self.evidence.options.scheduler == "slurm"

    @property
    def live(self) -> bool:
        """Return whether the attempt's own supervisor decides."""
        return self.evidence.options.in_allocation

    @cached_property
    def present(self) -> ExitRecord:
        """Return the exit record of the attempt, still without a decision."""
        evidence, diagnosis = self.evidence, self.diagnosis
        return ExitRecord(
            stage=evidence.attempt.stage,
            index=0,
            attempt=evidence.attempt.number,
            job_id=evidence.attempt.job_id,
            cause=diagnosis.cause,
            fingerprint=diagnosis.fingerprint,
            node=diagnosis.node,
            started=evidence.attempt.began,
            ended=evidence.attempt.ended,
            step_before=evidence.progress.step_before,
            step_after=evidence.progress.step_after,
            action=RetryAction.WAIT,
            by_person=evidence.attempt.by_person,
            last_step=evidence.progress.last_step,
        )

    @cached_property
    def counted(self) -> tuple[ExitRecord, ...]:
        """Return the attempts since a person last started the task, this one included."""
        endings = (*self.history, self.present)
        first = max((n for n, ending in enumerate(endings) if ending.by_person), default=0)
        return endings[first:]

    @cached_property
    def stalled(self) -> tuple[tuple[ExitRecord, bool | None], ...]:
        """Return the attempts since the last newer checkpoint, with False for no progress."""
        attempts = tuple(zip(self.counted, progress(self.counted), strict=True))
        last = max((n for n, (_, newer) in enumerate(attempts) if newer), default=-1)
        return attempts[last + 1 :]

    @cached_property
    def failures(self) -> int:
        """Return the number of attempts in a row without progress, preemptions excluded."""
        failed = (e for e, newer in self.stalled if newer is False)
        return sum(ending.cause is not RootCause.PREEMPTED for ending in failed)

    @cached_property
    def spent(self) -> int:
        """Return the number of attempts in a row without progress that use retry budget."""
        return sum(newer is False and ROWS[ending.cause].counts for ending, newer in self.stalled)

    @cached_property
    def same(self) -> tuple[ExitRecord, ...]:
        """Return the attempts with this failure and no newer checkpoint; the last is this one."""
        if self.row.alike is Alike.CAUSE_WITHOUT_PROGRESS:
            cause = self.diagnosis.cause
            return tuple(e for e, newer in self.stalled if newer is False and e.cause is cause)
        step = self.evidence.progress.step_after
        at_step = (e for e in self.counted if e.step_after == step)
        return tuple(ending for ending in at_step if self.is_alike(ending))

    @property
    def repeats_allowed(self) -> int | None:
        """Return how often this failure may repeat at this checkpoint; None: within the budget."""
        first = self.row.repeats_before_first_checkpoint
        has_checkpoint = bool(self.evidence.progress.step_after)
        return self.row.repeats if has_checkpoint or first is None else first

    def is_alike(self, ending: ExitRecord) -> bool:
        """Return whether an attempt had the same failure."""
        by_cause = self.row.alike is Alike.CAUSE
        if ending is self.present or (by_cause and ending.cause is self.diagnosis.cause):
            return True
        return bool(self.diagnosis.fingerprint) and ending.fingerprint == self.diagnosis.fingerprint

    @cached_property
    def blamed(self) -> tuple[str, ...]:
        """Return the nodes that the next job must not use because of this attempt."""
        if not self.on_slurm or self.row.blame is Blame.NEVER:
            return ()
        if self.row.blame is Blame.FIRST:
            return tuple(dict.fromkeys(filter(None, (self.diagnosis.node, *self.refused_nodes))))
        nodes = {ending.node for ending in self.same}
        return tuple(nodes) if len(self.same) > 1 and len(nodes) == 1 and "" not in nodes else ()

    @property
    def refused_nodes(self) -> tuple[str, ...]:
        """Return the nodes with a FATAL finding of their own."""
        findings = self.evidence.observed.findings
        return tuple(
            f.node for f in findings if f.verdict == "FATAL" and not failure_causes.is_storage(f)
        )

    @cached_property
    def newest(self) -> int | None:
        """Return the step of the newest checkpoint the task ever had; None where not known."""
        steps = [s for e in (*self.history, self.present) for s in (e.step_before, e.step_after)]
        return max((step for step in steps if step is not None), default=None)


def progress(endings: Sequence[ExitRecord]) -> list[bool | None]:
    """Return per attempt whether it made a newer checkpoint than any before it; None where that is
    not known.

    The checkpoint of step 0 is no progress. An unknown step is no progress either where no
    checkpoint was ever observed.
    """
    best, newer = 0, list[bool | None]()
    for ending in endings:
        best = max(best, ending.step_before or 0)
        if ending.step_after is None:
            newer.append(None if best else False)
        else:
            newer.append(ending.step_after > best)
            best = max(best, ending.step_after)
    return newer
