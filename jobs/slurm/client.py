"""Slurm's commands with time-outs. A command that fails or does not answer is None; nothing is
raised for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from jobs.slurm import queries
from jobs.slurm.job_environment import command_environment
from jobs.slurm.queries import AccountRow, Dependent, JobFacts, QueueRow
from jobs.slurm.states import LEFT_THE_QUEUE, NO_ACCOUNTING, JobInfo, JobState

TIMEOUT_SECONDS = 20.0
"""slurmctld that is down lets its clients wait 9 s (measured on 22.05)."""
SACCT_IDS = 4000
"""Job ids per sacct call: one argument of a command holds 128 KiB (execve(2))."""
SCANCEL_IDS = 500
REQUEUED = "REQUEUED"
"""The accounting's state of a start after which Slurm queued the job again (sacct(1))."""
REVOKED = "REVOKED"
"""A job's row on a cluster of a federation where it does not run (squeue(1))."""
SILENT = ("timed out", "Unable to contact", "Connection refused")
"""Messages of Slurm's commands when the controller does not answer, which is not a refusal."""
SILENCE = "Slurm did not answer"
ACCOUNTING_OFF = "accounting storage is disabled"
"""sacct's error at a site without accounting (measured on Slurm 22.05)."""


class Client:
    """Slurm as this process reaches it, on a login node or in a job."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.environ = environ

    # ---- questions

    def queue(self) -> dict[str, QueueRow] | None:
        """Return this user's pending and running jobs by id, array elements one by one.

        A job that runs on another cluster of a federation has a row here too (``--all``), in state
        REVOKED, and is left out.
        """
        text = self._ask(queries.squeue_command())
        if text is None:
            return None
        rows = queries.parse(text, QueueRow)
        return {row.job_id: row for row in rows if row.state != REVOKED}

    def queued_of_run(self, run: str, job_ids: Collection[str]) -> list[str] | None:
        """Return those of these jobs that are in the queue and belong to a run by name or comment;
        None without an answer.
        """
        queue = self.queue() if job_ids else {}
        if queue is None:
            return None
        return [name for name in job_ids if name in queue and queries.is_of_run(queue[name], run)]

    def states(self, jobs: Mapping[str, Collection[str]]) -> dict[str, dict[str, JobInfo]]:
        """Return the states of jobs, by run and id, from one squeue and one sacct.

        Nothing is guessed: when squeue does not answer, every job is UNKNOWN, and so is one that
        has left the queue while sacct does not answer. Where a site has no accounting at all,
        such a job is MISSING.

        Args:
            jobs: job ids by the name of their run. A job of another run, or of none, that has the
                same id is not that job. An empty name accepts any job.
        """
        pairs = [(run, job_id) for run, ids in jobs.items() for job_id in ids]
        queue = self.queue() if pairs else {}
        if queue is None:
            unknown = {job: JobInfo(job[1], JobState.UNKNOWN, "") for job in pairs}
            return by_run(jobs, unknown)
        in_queue = {
            (run, job_id): queued(queue[job_id])
            for run, job_id in pairs
            if job_id in queue and queries.is_of_run(queue[job_id], run)
        }
        return by_run(
            jobs, {**in_queue, **self._ended([job for job in pairs if job not in in_queue])}
        )

    def _ended(self, jobs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], JobInfo]:
        """Return the states of jobs, as run and id, that are not in the queue."""
        if not jobs:
            return {}
        rows = self.accounting(list(dict.fromkeys(job_id for _, job_id in jobs)))
        if rows is None:
            is_accounted = self.keeps_accounts()
            state = JobState.UNKNOWN if is_accounted else JobState.MISSING
            reason = LEFT_THE_QUEUE if is_accounted else NO_ACCOUNTING
            return {job: JobInfo(job[1], state, "", reason) for job in jobs}
        own = {
            (run, job_id): [row for row in rows.get(job_id, ()) if queries.is_of_run(row, run)]
            for run, job_id in jobs
        }
        return {
            job: accounted(job[1], items[-1].state if items else "") for job, items in own.items()
        }

    def accounting(
        self, job_ids: Sequence[str], run: str = ""
    ) -> dict[str, list[AccountRow]] | None:
        """Return all rows of these jobs, oldest first, by job id; steps apart (``123.batch``).

        Where a site keeps no accounts, they are those that the controller keeps (MinJobAge, five
        minutes as a rule). None: no answer, or a site without accounts whose controller has
        dropped the jobs.

        Args:
            job_ids: of jobs and elements; an array is queried as a whole.
            run: rows of other jobs with the same id are dropped; empty keeps them.
        """
        rows: dict[str, list[AccountRow]] = {}
        for start in range(0, len(job_ids), SACCT_IDS):
            text = self._ask(queries.sacct_command(job_ids[start : start + SACCT_IDS]))
            if text is None:
                return None if self.keeps_accounts() else self._remembered(job_ids, run)
            rows.update(queries.by_job(queries.parse(text, AccountRow)))
        return queries.own_rows(rows, run)

    def _remembered(self, job_ids: Sequence[str], run: str) -> dict[str, list[AccountRow]] | None:
        """Return the controller's rows of jobs and arrays, one each."""
        rows: list[AccountRow] = []
        for job_id in dict.fromkeys(name.split("_")[0] for name in job_ids):
            text = self._ask(queries.scontrol_job_command(job_id))
            rows += queries.parse_remembered(text or "")
        return queries.own_rows(queries.by_job(rows), run) or None

    def keeps_accounts(self) -> bool:
        """Return whether the site keeps accounts, even if slurmdbd does not answer now."""
        if not self.has("sacct"):
            return False
        result = self.run(queries.sacct_command(["0"]))
        return result is None or ACCOUNTING_OFF not in result.stderr

    def job(self, job_id: str) -> JobFacts | None:
        """Return the controller's facts about a job; None for one that it no longer lists."""
        text = self._ask(queries.scontrol_job_command(job_id))
        return None if text is None else queries.parse_job(text)

    def find(self, name: str, comment: str, folder: Path) -> list[str] | None:
        """Return the ids of queued jobs with this name, comment and folder; one id per array."""
        text = self._ask(queries.squeue_named_command(name))
        if text is None:
            return None
        rows = queries.parse(text, queries.NamedRow)
        own = (
            row.job_id
            for row in rows
            if (queries.without_mark(row.comment), row.folder) == (comment, str(folder))
        )
        return list(dict.fromkeys(own))

    def dependents(self, job_ids: Collection[str]) -> list[Dependent] | None:
        """Return this user's jobs that depend on any of these, or on the array of one of them."""
        text = self._ask(queries.squeue_dependents_command())
        if text is None:
            return None
        names = set(job_ids) | {name.split("_")[0] for name in job_ids}
        return [
            row
            for row in queries.parse_dependents(text)
            if names & set(queries.ids_in(row.expression))
        ]

    def step_ids(self, job_id: str, name: str) -> list[str] | None:
        """Return the running steps of a job with this name (``srun --job-name``)."""
        text = self._ask(queries.squeue_steps_command(job_id))
        if text is None:
            return None
        return [row.step_id for row in queries.parse(text, queries.StepRow) if row.name == name]

    def partition_nodes(self, partition: str) -> tuple[str, ...] | None:
        """Return the nodes of a partition, or of the cluster where it is empty, sorted; none for an
        unknown one.
        """
        text = self._ask(queries.sinfo_command(partition))
        return None if text is None else tuple(sorted(set(text.split())))

    def down_nodes(self, nodes: Sequence[str]) -> tuple[str, ...] | None:
        """Return those of these nodes that are down or do not respond, sorted."""
        text = self._ask(queries.sinfo_down_command(nodes))
        return None if text is None else tuple(sorted(set(text.split())))

    def rebooted_nodes(self, job: JobFacts | None) -> tuple[str, ...]:
        """Return the nodes of a job that have booted since it started, sorted: nothing that ran
        there before is left, although Slurm lists its steps until every node has reported their
        end.
        """
        if job is None or job.start_time is None or not job.nodes:
            return ()
        text = self._ask(queries.scontrol_nodes_command(job.nodes))
        booted = queries.parse_boot_times(text or "")
        return tuple(sorted(name for name, time in booted.items() if time > job.start_time))

    def config(self) -> dict[str, str] | None:
        """Return Slurm's settings (``scontrol show config``)."""
        text = self._ask(["scontrol", "show", "config"])
        return None if text is None else queries.parse_config(text)

    def has(self, program: str) -> bool:
        """Return whether a Slurm command is on PATH here."""
        return shutil.which(program, path=self.environ.get("PATH")) is not None

    # ---- requests: each returns whether Slurm accepted it

    def requeue(self, job_id: str) -> bool:
        """Requeue a job; Slurm refuses that for jobs submitted with ``--no-requeue``."""
        return self._request(["scontrol", "requeue", job_id])

    def mark_storage(self, job_id: str, restarts: int) -> bool:
        """Mark in a job's comment that this start of it ends because the storage takes no files."""
        facts = self.job(job_id)
        comment = queries.marked_comment(facts.comment, restarts) if facts else ""
        change = f"Comment={comment}"
        return comment != "" and self._request(["scontrol", "update", f"JobId={job_id}", change])

    def has_storage_mark(self, row: AccountRow, restarts: int) -> bool:
        """Return whether a start of a job has that mark (``mark_storage``): in its row, at sites
        that store comments (AccountingStoreFlags, slurm.conf(5)), else while the controller lists
        the job.
        """
        if queries.is_marked(row.comment, restarts):
            return True
        facts = self.job(row.job_id) if row.state == REQUEUED else None
        return facts is not None and queries.is_marked(facts.comment, restarts)

    def cancel_of_run(self, run: str, job_ids: Collection[str]) -> str:
        """Cancel those of these jobs that belong to a run and are still in the queue.

        Returns:
            As ``try_to_cancel``.
        """
        own = self.queued_of_run(run, job_ids)
        return SILENCE if own is None else self.try_to_cancel(own)

    def try_to_cancel(self, job_ids: Sequence[str]) -> str:
        """Cancel jobs that are known to be ours; those that have ended are ignored.

        Returns:
            Slurm's reason where it did not accept that, ``SILENCE`` where it did not answer, and
            nothing where it did.
        """
        for start in range(0, len(job_ids), SCANCEL_IDS):
            result = self.run(["scancel", "--quiet", *job_ids[start : start + SCANCEL_IDS]])
            if result is None or (
                result.returncode and any(word in result.stderr for word in SILENT)
            ):
                return SILENCE
            if result.returncode:
                return result.stderr.strip().rpartition("error: ")[2] or f"code {result.returncode}"
        return ""

    def cancel(self, job_ids: Sequence[str]) -> bool:
        """Cancel jobs that are known to be ours; those that have ended are ignored."""
        return not self.try_to_cancel(job_ids)

    def signal_ranks(self, step_id: str, name: str) -> bool:
        """Send a signal (``TERM``) to the processes of a step, or of all steps of a job, but not to
        the batch step.
        """
        return self._request(["scancel", f"--signal={name}", step_id])

    def end_step(self, step_id: str) -> bool:
        """Cancel a step: SIGTERM, SIGKILL after KillWait."""
        return self._request(["scancel", step_id])

    def set_dependency(self, job_id: str, expression: str) -> bool:
        """Replace the dependency of a pending job; an empty one lets it start."""
        return self._request(["scontrol", "update", f"JobId={job_id}", f"Dependency={expression}"])

    def release(self, job_id: str) -> bool:
        """Release a held job; Slurm refuses the owner where an administrator holds it."""
        return self._request(["scontrol", "release", job_id])

    def start_now(self, job_id: str) -> bool:
        """Drop the start time of a pending job, set by ``sbatch --begin`` or, after a requeue, by
        Slurm; return whether Slurm accepted that.
        """
        return self._request(["scontrol", "update", f"JobId={job_id}", "StartTime=now"])

    # ---- the edge

    def _request(self, command: list[str]) -> bool:
        return self._ask(command) is not None

    def _ask(self, command: list[str]) -> str | None:
        """Return the output of a Slurm command, or None when it fails or does not answer."""
        result = self.run(command)
        return result.stdout if result is not None and result.returncode == 0 else None

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
        """Run a Slurm command; return None when it cannot be started or times out."""
        try:
            return subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=TIMEOUT_SECONDS,
                check=False,
                env=command_environment(self.environ),
            )
        except (OSError, subprocess.TimeoutExpired):
            return None


def by_run(
    jobs: Mapping[str, Collection[str]], infos: Mapping[tuple[str, str], JobInfo]
) -> dict[str, dict[str, JobInfo]]:
    """Return the states of jobs by run and id, in the order of the request."""
    return {run: {job_id: infos[run, job_id] for job_id in ids} for run, ids in jobs.items()}


def queued(row: QueueRow) -> JobInfo:
    """Return the state of a job that squeue lists."""
    state = JobState.from_slurm(row.state)
    start = queries.seconds(row.start) if state is JobState.QUEUED else None
    return JobInfo(row.job_id, state, row.state, row.reason, start)


def accounted(job_id: str, word: str) -> JobInfo:
    """Return the state of a job that has left the queue, from the accounting, which may lag."""
    info = JobInfo(job_id, JobState.from_slurm(word), word)
    return JobInfo(job_id, JobState.UNKNOWN, word, LEFT_THE_QUEUE) if info.is_in_queue else info
