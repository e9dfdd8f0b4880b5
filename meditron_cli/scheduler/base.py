"""The protocol of schedulers; job states are those of the node side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from jobs.slurm.states import LEFT_THE_QUEUE, JobInfo, JobState
from jobs.slurm.transaction import JobQueue

if TYPE_CHECKING:
    from meditron_cli.plan.model import Plan, StagePlan

__all__ = ["LEFT_THE_QUEUE", "JobInfo", "JobState", "Scheduler"]


class Scheduler(JobQueue, Protocol):
    """Slurm or this machine; ``adopt`` and ``withdraw`` are those of its queue."""

    def require_answer(self) -> None:
        """Refuse a scheduler that this machine cannot submit to, before anything is created.

        Raises:
            SchedulerError: its commands are missing, or do not answer.
        """
        ...

    def render(self, plan: Plan, run: Path) -> str:
        """Return the exact text that ``submit`` would submit, all stages; change nothing."""
        ...

    def submit(
        self,
        plan: Plan,
        stage: StagePlan,
        indices: Sequence[int],
        run: Path,
        attempt: int,
        after: Sequence[str],
    ) -> list[str]:
        """Submit some tasks of a stage to start after the jobs ``after`` have ended well.

        Returns:
            Job ids, one per task, or one for all where the scheduler has one job for them; an
                array's are ``123_0``, ``123_1`` …

        Raises:
            SchedulerError: refused, or no answer; some of the jobs may be queued.
        """
        ...

    def submit_recovery_job(
        self, plan: Plan, stage: StagePlan, run: Path, attempt: int, job_ids: Sequence[str]
    ) -> list[str]:
        """Submit the recovery job of these jobs of an attempt; return its ids, none where none is
        needed.

        Raises:
            SchedulerError: refused, or no answer.
        """
        ...

    def node_names(self, partition: str) -> tuple[str, ...] | None:
        """Return the nodes of a partition; None where they are not known."""
        ...

    def states(self, jobs: Mapping[str, Collection[str]]) -> dict[str, dict[str, JobInfo]]:
        """Return the state of each job, by run and job id, from as few calls as possible.

        Args:
            jobs: job ids by the name of their run; another job with the same id is not that job.
        """
        ...

    def cancel(
        self, run: str, job_ids: Collection[str], accepted: Callable[[], None] = lambda: None
    ) -> None:
        """Cancel jobs of a run; ids that are unknown, have ended or name other jobs are ignored.

        Args:
            run: its name.
            job_ids: of its jobs.
            accepted: called once the scheduler has accepted the request, before jobs have ended.

        Raises:
            SchedulerError: refused, or no answer.
        """
        ...

    def release(self, job_ids: Collection[str]) -> list[str]:
        """Release jobs that the scheduler holds; return the jobs for which that worked."""
        ...

    def start_now(self, job_ids: Collection[str]) -> list[str]:
        """Drop the start time that pending jobs wait for; return the jobs for which that worked."""
        ...
