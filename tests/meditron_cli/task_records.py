"""Write events, exit records and metric lines as supervisors and ranks do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.contract.events import append_event, read_events
from jobs.contract.rundir import RunDir

from .. import metric_lines


@dataclass(frozen=True)
class TaskRecords:
    """The records of one task, written by hand; times are seconds after ``zero``."""

    run: RunDir
    zero: float
    stage: str = "pretrain"
    index: int = 0
    job: str = "104_0"

    def event(self, kind: str, time: float, **fields: Any) -> None:
        append_event(self.run, kind, time=self.zero + time, **fields)

    def submit(self, time: float, attempt: int, job: str, **more: Any) -> None:
        fields = {"stage": self.stage, "attempt": attempt, "indices": [self.index]}
        more = {"by": "supervisor", "replaces": [], "recovery_jobs": [], "exclude": [], **more}
        self.event("submit", time, scheduler="local", job_ids=[job], **fields, **more)

    def start(self, attempt: int, time: float, *, job: str = "", **more: Any) -> None:
        """Append a start; `restarts` is 0 and `step` unknown by default."""
        fields = {"stage": self.stage, "index": self.index, "attempt": attempt}
        fields.update(restarts=0, nodes=["node1", "node2"], step=None)
        fields.update(job_id=job or self.job, began=self.zero + time)
        self.event("start", time, **{**fields, **more})

    def exit(self, attempt: int, time: float, cause: str, action: str, **more: Any) -> None:
        """Append an exit; `code` is 75 by default."""
        fields: dict[str, Any] = {
            "stage": self.stage, "index": self.index, "attempt": attempt, "job_id": self.job,
            "code": 75, "class": "stopped", "message": f"it ended: {cause}", "hint": "",
            "node": "", "cause": cause, "action": action, "reason": f"so it will {action}",
            "delay": 0.0, "exclude": [], "detect_s": None, "last_step": None,
            "step_before": None, "step_after": None, "fingerprint": "", "by": "supervisor",
            "started": self.zero, "ended": self.zero + time, **more,
        }  # fmt: skip
        self.event("observed" if action == "wait" else "exit", time, **fields)

    def steps(self, attempt: int, first: int, last: int, begin: float) -> None:
        """Append metric lines of steps of ten seconds each."""
        for step in range(first, last + 1):
            time = begin + 10 * (step - first + 1)
            line = metric_lines.step(step, attempt, loss=3.0, seconds=10.0, time=self.zero + time)
            metric_lines.append(self.run, line, stage=self.stage)


def interrupt_once(run: RunDir) -> TaskRecords:
    """Record a training that waits 20 s, makes 10 steps, is preempted after 180 s, waits 40 s
    more and resumes from step 8 to step 12, which is done after 280 s.
    """
    submitted = [event for event in read_events(run) if event["event"] == "submit"]
    (time, job) = next(
        (event["time"], event["job_ids"][0]) for event in submitted if event["stage"] == "pretrain"
    )
    records = TaskRecords(run, time, job=job)
    records.start(1, 20)
    records.steps(1, 1, 10, begin=40)
    metric_lines.append(
        run,
        metric_lines.validation(10, loss=3.0, seconds=5.0, time=time + 145),
        metric_lines.save(8, seconds=5.0, time=time + 150),
    )
    records.exit(1, 180, "preempted", "requeue", last_step=10, reason="the partition was taken")
    records.start(2, 220, restarts=1, step=8)
    records.steps(2, 9, 12, begin=240)
    return records
