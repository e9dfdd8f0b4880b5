"""One decision to make: an attempt that has ended among those before it, and what follows from that
alone. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from jobs.contract.exit_record import ExitRecord
from jobs.contract.outcomes import Diagnosis, NodeEntry, RetryAction, RootCause
from jobs.contract.specs import SupervisionSpec
from jobs.supervision.diagnosis import failure_causes
from jobs.supervision.diagnosis.evidence import Evidence
from jobs.supervision.recovery.retry_table import ROWS, Blame, RetryRow


@dataclass(frozen=True)
class RetryCase:
    """One decision to make: what is known, and what follows from it alone."""

    evidence: Evidence
    verdict: Diagnosis
    past: tuple[ExitRecord, ...]
    """All earlier attempts of the task, oldest first."""
    ledger: tuple[NodeEntry, ...]
    now: float
    limits: SupervisionSpec = field(default_factory=SupervisionSpec)

    @property
    def row(self) -> RetryRow:
        return ROWS[self.verdict.cause]

    @property
    def on_slurm(self) -> bool:
        return self.evidence.site.scheduler == "slurm"

    @property
    def live(self) -> bool:
        """Whether the attempt's own supervisor asks."""
        return self.evidence.site.in_allocation

    @cached_property
    def present(self) -> ExitRecord:
        """Return the exit record of the attempt, still without a decision."""
        evidence, verdict = self.evidence, self.verdict
        return ExitRecord(
            stage=evidence.attempt.stage,
            index=0,
            attempt=evidence.attempt.number,
            job_id=evidence.attempt.job_id,
            cause=verdict.cause,
            fingerprint=verdict.fingerprint,
            node=verdict.node,
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
        """Attempts since a person last started the task, this one too."""
        endings = (*self.past, self.present)
        first = max((n for n, ending in enumerate(endings) if ending.by_person), default=0)
        return endings[first:]

    @cached_property
    def stalled(self) -> tuple[tuple[ExitRecord, bool | None], ...]:
        """Attempts since the last that made a newer checkpoint, with False for no progress."""
        steps = tuple(zip(self.counted, progress(self.counted), strict=True))
        last = max((n for n, (_, newer) in enumerate(steps) if newer), default=-1)
        return steps[last + 1 :]

    @cached_property
    def failures(self) -> int:
        """Attempts in a row that are known to have brought nothing, preemptions aside."""
        found = (e for e, newer in self.stalled if newer is False)
        return sum(ending.cause is not RootCause.PREEMPTED for ending in found)

    @cached_property
    def spent(self) -> int:
        """Those of them that count against the attempts a run may make without progress."""
        return sum(newer is False and ROWS[ending.cause].counts for ending, newer in self.stalled)

    @cached_property
    def same(self) -> tuple[ExitRecord, ...]:
        """Attempts that failed as this one, at this checkpoint; this one is the last of them."""
        here = (e for e in self.counted if e.step_after == self.evidence.progress.step_after)
        return tuple(ending for ending in here if self.is_alike(ending))

    @property
    def repeats_allowed(self) -> int | None:
        """Return how often the same failure may come back at this checkpoint; None: as any may."""
        first = self.row.repeats_before_first_checkpoint
        has_checkpoint = bool(self.evidence.progress.step_after)
        return self.row.repeats if has_checkpoint or first is None else first

    def is_alike(self, ending: ExitRecord) -> bool:
        """Whether an attempt failed as this one did."""
        if ending is self.present or (self.row.by_cause and ending.cause is self.verdict.cause):
            return True
        return bool(self.verdict.fingerprint) and ending.fingerprint == self.verdict.fingerprint

    @cached_property
    def blamed(self) -> tuple[str, ...]:
        """Nodes that the next job must not use for what they did in this attempt."""
        if not self.on_slurm or self.row.blame is Blame.NEVER:
            return ()
        if self.row.blame is Blame.FIRST:
            return tuple(dict.fromkeys(filter(None, (self.verdict.node, *self.refused_nodes))))
        there = {ending.node for ending in self.same}
        return tuple(there) if len(self.same) > 1 and len(there) == 1 and "" not in there else ()

    @property
    def refused_nodes(self) -> tuple[str, ...]:
        """Nodes with a FATAL finding of their own."""
        findings = self.evidence.observed.findings
        return tuple(
            f.node for f in findings if f.verdict == "FATAL" and not failure_causes.is_storage(f)
        )

    @cached_property
    def newest(self) -> int | None:
        """The step of the newest checkpoint the task ever had, as far as is known."""
        steps = [s for e in (*self.past, self.present) for s in (e.step_before, e.step_after)]
        return max((step for step in steps if step is not None), default=None)


def progress(endings: Sequence[ExitRecord]) -> list[bool | None]:
    """Whether each attempt left a newer checkpoint than any before it; None where that is unknown.

    The checkpoint of step 0 holds nothing that was trained. Where none was ever seen there is no
    progress: that nothing is known then only says that there is nothing.
    """
    best, answers = 0, list[bool | None]()
    for ending in endings:
        best = max(best, ending.step_before or 0)
        if ending.step_after is None:
            answers.append(None if best else False)
        else:
            answers.append(ending.step_after > best)
            best = max(best, ending.step_after)
    return answers
