"""Run directories with events, for tests of notifications."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from jobs.contract import notification
from jobs.contract.events import Event, ExitEvent, ObservedEvent, StartEvent, append
from jobs.contract.exit_record import ExitRecord
from jobs.contract.files import write_bytes, write_json
from jobs.contract.notification import EVENTS, NotifySettings, NotifyTarget
from jobs.contract.outcomes import RetryAction, RootCause
from jobs.contract.rundir import RunDir


def make_run(folder: Path, **tasks: int) -> RunDir:
    """Make a run directory with a plan of stages, each with a number of tasks."""
    run = RunDir(folder / "med-tiny-1")
    run.root.mkdir(parents=True)
    stages = {name: {"tasks": list(range(count))} for name, count in tasks.items()}
    write_json(run.plan, {"stages": stages})
    run.events.touch()
    return run


def tell(run: RunDir, addresses: dict[str, str], *events: str) -> None:
    """Let receivers with these addresses be told of events, of all when none is named."""
    secrets = run.root.parent / "secrets"
    write_bytes(secrets, "".join(f"{k}={v}\n" for k, v in addresses.items()).encode(), 0o600)
    targets = tuple(NotifyTarget(name, events or EVENTS) for name in addresses)
    notification.write(run, NotifySettings(targets, str(secrets)))


def start(stage: str = "pretrain", index: int = 0, attempt: int = 1, **fields: Any) -> StartEvent:
    now = time.time()
    return StartEvent(now, stage, index, attempt, "4187", now, **fields)


def end(
    cause: str,
    action: str,
    stage: str = "pretrain",
    index: int = 0,
    attempt: int = 1,
    **fields: Any,
) -> ExitEvent:
    now = time.time()
    record = ExitRecord(
        stage, index, attempt, "4187", RootCause(cause), RetryAction(action), now, now, **fields
    )
    return (ObservedEvent if action == "wait" else ExitEvent)(now, record)


def happen(run: RunDir, *events: Event) -> None:
    """Append events; a task that finishes has its done marker before."""
    for event in events:
        if isinstance(event, ExitEvent) and event.record.action is RetryAction.FINISH:
            write_json(run.done(event.record.stage, event.record.index), {})
        append(run, event)
