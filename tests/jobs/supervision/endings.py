"""Build evidence, exit records and node entries with defaults."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Any

from jobs.contract.exit_record import ExitRecord
from jobs.contract.outcomes import Decision, NodeEntry, RetryAction, RootCause
from jobs.supervision.diagnosis.evidence import (
    AttemptFacts,
    Evidence,
    LogSign,
    Observed,
    Progress,
    RankExit,
    RecoveryOptions,
    SlurmReport,
)

NODES = ("gpu01", "gpu02")
SITE = RecoveryOptions(nodes=NODES, seconds_left=36_000.0)
AFTERWARDS = RecoveryOptions(in_allocation=False)
NOW = 1_800_000_000.0

KILL = -signal.SIGKILL


PARTS: dict[str, tuple[str, ...]] = {
    "attempt": (
        "stage", "number", "job_id", "began", "ended", "run", "world_size", "by_person", "done",
        "stop_requested",
    ),
    "observed": (
        "code", "ranks_started", "signals", "findings", "hang", "message", "hint",
        "is_configuration_error",
        "diagnosis", "storage_refuses",
    ),
    "traces": ("ranks", "failed_node", "oom_kills", "log_signs"),
    "slurm": ("state", "preempted", "cancelled", "cancelled_by", "supervisor_signal", "options"),
    "progress": ("step_before", "step_after", "last_step"),
}  # fmt: skip
"""Fields by the part of the evidence that has them."""

FIRST = Evidence(
    AttemptFacts("pretrain", 1, "12", NOW - 600, NOW, run="med", world_size=4),
    Observed(ranks_started=True),
    slurm=SlurmReport(options=SITE),
    progress=Progress(1100, 1200, 1204),
)


def evidence(**changes: Any) -> Evidence:
    """Return the evidence of a training of four ranks on two nodes that made a checkpoint."""
    return changed(FIRST, **changes)


def changed(case: Evidence, **changes: Any) -> Evidence:
    """Return the evidence with other values of fields, in the part that has them."""
    for part, names in PARTS.items():
        values = {name: changes.pop(name) for name in names if name in changes}
        case = replace(case, **{part: replace(getattr(case, part), **values)})
    assert not changes, f"no part of the evidence has {changes}"
    return case


def rank(number: int, code: int = 1, kind: str = "", message: str = "", **changes: Any) -> RankExit:
    """Return the exit of one of four ranks, two per node; higher ranks exit later."""
    values = {"node": NODES[number // 2], "time": NOW - 10 + number}
    return RankExit(number, code=code, kind=kind, message=message, **{**values, **changes})


def killed(number: int = 3, **changes: Any) -> Evidence:
    """Return the evidence of an attempt of which one rank was killed by SIGKILL."""
    return evidence(ranks=(rank(number, KILL),), code=KILL, **changes)


def raised(message: str, kind: str = "RuntimeError", **changes: Any) -> Evidence:
    """Return the evidence of an attempt of which one rank, ``by``, raised an exception."""
    node = changes.pop("node", NODES[0])
    frame = changes.pop("frame", "jobs.engine.trainer:step")
    left = rank(changes.pop("by", 1), 1, kind, message, node=node, frame=frame)
    return evidence(ranks=(left,), code=1, **changes)


def logged(name: str, number: int | None = None, of: int | None = 3, line: str = "") -> LogSign:
    """Return a signature in the log of one rank."""
    return LogSign(name, of, number, line or name)


def ending(case: Evidence, decision: Decision) -> ExitRecord:
    """Return the exit record of an attempt."""
    assert decision.diagnosis is not None
    return ExitRecord(
        stage=case.attempt.stage,
        index=0,
        attempt=case.attempt.number,
        job_id=case.attempt.job_id,
        cause=decision.diagnosis.cause,
        fingerprint=decision.diagnosis.fingerprint,
        node=decision.diagnosis.node,
        started=case.attempt.began,
        ended=case.attempt.ended,
        step_before=case.progress.step_before,
        step_after=case.progress.step_after,
        action=decision.action,
        by_person=case.attempt.by_person,
        last_step=case.progress.last_step,
    )


def past(cause: RootCause = RootCause.CRASH, **changes: Any) -> ExitRecord:
    """Return the exit record of an attempt of long ago."""
    values: dict[str, Any] = {
        "stage": "pretrain",
        "index": 0,
        "attempt": 0,
        "job_id": "11",
        "cause": cause,
        "fingerprint": "",
        "node": "",
        "started": NOW - 7200,
        "ended": NOW - 3600,
        "step_before": 1100,
        "step_after": 1100,
        "action": RetryAction.SUBMIT,
    }
    return ExitRecord(**{**values, **changes})


def listed(node: str, verdict: str = "FATAL", **changes: Any) -> NodeEntry:
    """Return an active line of the node ledger."""
    values: dict[str, Any] = {
        "time": NOW - 100,
        "node": node,
        "code": "gpu_lost",
        "verdict": verdict,
        "run": "other",
        "attempt": 1,
        "evidence": "GPU 3 fell off the bus",
        "expires": NOW + 1000,
    }
    return NodeEntry(**{**values, **changes})
