"""The job of a supervisor: Slurm's report about it, and the options for recovery. Standard library
only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from jobs.contract import specs
from jobs.contract.events import StartEvent
from jobs.contract.job import LOCAL_JOB, Job
from jobs.slurm import hostlist, queries, states
from jobs.slurm.client import Client
from jobs.slurm.queries import AccountRow, JobFacts
from jobs.supervision.diagnosis.evidence import RecoveryOptions, SlurmReport
from jobs.supervision.ranks.rank_monitor import Deadline

MAX_REQUEUES = "MaxBatchRequeue"
"""Key of ``scontrol show config``; Slurm holds a job after so many requeues."""

RUNNING = "RUNNING"
LOST_NODE = ("NODE_FAIL", "BOOT_FAIL")


@dataclass(frozen=True)
class Allocation:
    """A job and a client of its Slurm; no client without Slurm."""

    job: Job
    client: Client | None = None

    @staticmethod
    def current(environ: Mapping[str, str] = os.environ) -> Allocation:
        """Return the allocation of this process."""
        nodes = hostlist.node_names(environ.get("SLURM_JOB_NODELIST", ""))
        job = Job.current(environ, nodes)
        is_slurm = "SLURM_JOB_ID" in environ and LOCAL_JOB not in environ
        return Allocation(job, Client(environ) if is_slurm else None)

    def facts(self) -> JobFacts | None:
        """Return Slurm's facts about the job; None also without an answer."""
        return None if self.client is None else self.client.job(self.job.job_id)

    @cached_property
    def eligible_time(self) -> float | None:
        """Return when the job became eligible to run; queried once, since all attempts in an
        allocation share it. None without an answer.
        """
        facts = self.facts()
        return None if facts is None else facts.eligible_time

    def deadline(self) -> Deadline | None:
        """Return when the allocation ends. None also once Slurm has taken it back: its times are
        then those of the next start.
        """
        facts = self.facts()
        if facts is None or facts.end_time is None or facts.state != RUNNING:
            return None
        return Deadline(facts.end_time, facts.preempt_time is not None)

    def slurm_report(self, site: specs.SiteSpec, usable: bool = True) -> SlurmReport:
        """Return Slurm's report about the job at the end of its ranks.

        Args:
            site: the limits of the cluster.
            usable: ranks may be started once more in this allocation.
        """
        if self.client is None:
            return SlurmReport(options=RecoveryOptions("local", nodes=self.job.nodes))
        facts = self.facts()
        options = self._recovery_options(self.client, site, facts, usable)
        if facts is None:
            return SlurmReport(options=options)
        state = facts.state.split()[0]
        return SlurmReport(
            state=state,
            preempted=facts.preempt_time is not None,
            cancelled=state == "CANCELLED",
            failed_node=next(iter(self.client.rebooted_nodes(facts)), ""),
            options=options,
        )

    def _recovery_options(
        self, client: Client, site: specs.SiteSpec, facts: JobFacts | None, usable: bool
    ) -> RecoveryOptions:
        end = facts.end_time if facts else None
        return RecoveryOptions(
            scheduler="slurm",
            usable=usable,
            can_requeue=site.requeue and (facts is None or facts.can_requeue),
            can_submit=site.submit_from_jobs and client.has("sbatch"),
            requeues_left=self._requeues_left(client, facts),
            seconds_left=None if end is None else end - time.time(),
            nodes=self.job.nodes,
        )

    def _requeues_left(self, client: Client, facts: JobFacts | None) -> int | None:
        most = (client.config() or {}).get(MAX_REQUEUES, "")
        restarts = facts.restarts if facts else self.job.restarts
        return max(0, int(most) - restarts) if most.isdigit() else None


def recorded_report(client: Client | None, run: str, start: StartEvent) -> SlurmReport:
    """Return the accounting's report about a start whose supervisor is gone; empty without one.

    Args:
        client: None without Slurm.
        run: the name of the run.
        start: of one of its tasks.
    """
    job_id, nodes = start.job_id, start.nodes
    rows = (client.accounting([job_id], run) if client else None) or {}
    row = queries.start_row(rows.get(job_id, []), start.began)
    if row is None:
        return SlurmReport()
    state, _, uid = row.state.partition(" by ")
    steps = (
        step for name, items in rows.items() if name.startswith(f"{job_id}.") for step in items
    )
    return SlurmReport(
        state=state,
        preempted=state == "PREEMPTED",
        storage_requeue=client is not None and client.has_storage_mark(row, start.restarts),
        cancelled=states.was_cancelled(row.state),
        cancelled_by=_person(uid),
        out_of_memory=_any_out_of_memory(row, steps),
        supervisor_signal=_signal(row) if state == "FAILED" else 0,
        failed_node=_only_down(client, nodes) if state in LOST_NODE else "",
        ended=queries.seconds(row.end),
    )


def _signal(row: AccountRow) -> int:
    """Return the signal that ended the batch step of a job; 0 for none."""
    number = row.exit_code.partition(":")[2]
    return int(number) if number.isdigit() else 0


def _only_down(client: Client | None, nodes: tuple[str, ...]) -> str:
    """Return the one of these nodes that is down, or nothing: the accounting lists all nodes of a
    job that lost one (measured).
    """
    if len(nodes) == 1:
        return nodes[0]
    down = (client.down_nodes(nodes) if client and nodes else None) or ()
    return down[0] if len(down) == 1 else ""


def _person(uid: str) -> str:
    if not uid.isdigit():
        return ""
    return "owner" if int(uid) == os.getuid() else "admin"


def _any_out_of_memory(start: AccountRow, steps: Iterable[AccountRow]) -> bool:
    """Return whether a step of a start, which began after it, ran out of memory."""
    return any(row.state == "OUT_OF_MEMORY" and row.start >= start.start for row in steps)
