"""Send the notifications of a run: ``python -m jobs.notification RUN_DIR``.

Started by ``jobs.notification.sender`` after events were appended to the run's log. One process
sends at a time, by a lock; the next one sends what it leaves. Standard library only.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from jobs.contract import notification
from jobs.contract.errors import TaskError
from jobs.contract.events import append_event
from jobs.contract.files import json_values, read_small, write_json
from jobs.contract.locks import Locked, locked
from jobs.contract.notification import NotifySettings
from jobs.contract.rundir import RunDir
from jobs.notification import delivery, message
from jobs.notification.news import KINDS, NewsReader
from jobs.notification.outbox import OLDEST_SECONDS, REPEAT_SECONDS, Outbox
from jobs.runtime import secrets_file
from jobs.runtime.log import log

LOCK_SECONDS = 60.0
"""To wait for another process that sends."""
UNREAD_BYTES = 1 << 16
"""Of the log without news, which are read again rather than noted as read."""
PAUSES = (0.2, 2.0)
"""The shortest and the longest wait between two tries to get the lock."""


def main(argv: list[str] | None = None) -> int:
    """Send what is to be sent about one run; return 0, as nothing depends on it."""
    (root,) = sys.argv[1:] if argv is None else argv
    # Slurm ends all processes of a job with SIGTERM, some time before SIGKILL.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run = RunDir(Path(root))
    with suppress(FileNotFoundError):  # the run was removed
        try:
            send_when_free(run, LOCK_SECONDS)
        except OSError as error:
            log(f"no notification is sent: {error.strerror}")
    return 0


def send_when_free(run: RunDir, seconds: float) -> None:
    """Send what is to be sent once no other process does, unless that has done it."""
    deadline = time.monotonic() + seconds
    length = run.events.stat().st_size
    while True:
        with suppress(Locked), locked(run.notify_lock):
            send_new(run)
            return
        done = read_small(run.notify_state).get("offset", 0)
        if time.monotonic() > deadline or (isinstance(done, int) and done >= length):
            return
        time.sleep(random.uniform(*PAUSES))


def send_new(run: RunDir, seconds: float = delivery.SECONDS) -> None:
    """Read the events since the last time, and send what is due; the lock is held.

    The state is written before and after: a process that is killed in between sends again.
    """
    outbox = Outbox.from_json(read_small(run.notify_state))
    try:
        settings = notification.read(run)
    except TaskError as damage:
        if note_problem(run, outbox, f"no notification is sent: {damage.message}"):
            keep(run, outbox)
        return
    start, now = outbox.offset, time.time()
    values, outbox.offset = new_events(run, start, now - OLDEST_SECONDS)
    wanted = {event for target in settings.targets for event in target.events}
    reader = NewsReader(run, wanted)
    news = list(reader.news(values))
    outbox.add(news, settings.targets, now)
    waiting = {name: receiver for name, receiver in outbox.receivers.items() if receiver.items}
    due = [name for name, receiver in waiting.items() if receiver.is_due(now)]
    if len(due) < len(waiting) and reader.nothing_follows():
        due = [name for name, receiver in waiting.items() if receiver.is_due(now, True)]
    for name in due:
        outbox.receivers[name].begin(now)
    is_changed = due or news or outbox.offset - start > UNREAD_BYTES
    is_kept = keep(run, outbox) if is_changed else True
    if not due or not (is_kept or is_first(run, now)):
        return
    failures, problem = failures_of(run, settings, outbox, due, seconds)
    note_problem(run, outbox, problem)
    for name, error in failures.items():
        if outbox.receivers[name].note(now, error):
            report(run, name, error)
    keep(run, outbox)


def keep(run: RunDir, outbox: Outbox) -> bool:
    """Write the state; not where the run was removed meanwhile, whose folder must not reappear.
    Return False where the disk takes nothing.
    """
    if run.events.exists():
        try:
            write_json(run.notify_state, outbox.to_json())
        except OSError as error:
            log(f"it could not be noted what is sent: {error.strerror}")
            return False
    return True


def is_first(run: RunDir, now: float) -> bool:
    """Return whether nothing was sent lately, and note that by the time of the settings' file: a
    full disk takes no state, and is worth a message. The tasks of an array send one together.
    """
    if 0 <= now - run.notify.stat().st_mtime < REPEAT_SECONDS:
        return False
    os.utime(run.notify)
    return True


def new_events(run: RunDir, offset: int, oldest: float) -> tuple[list[dict[str, object]], int]:
    """Return the events that may be news since an offset in the log, and the new offset; none
    before a time, since each is looked for in the run's history.
    """
    with run.events.open("rb") as file:
        file.seek(offset)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    values = [
        value
        for value in json_values(whole.splitlines())
        if isinstance(value, dict)
        and value.get("event") in KINDS
        and isinstance(moment := value.get("time"), int | float)
        and moment >= oldest
    ]
    return values, offset + len(whole)


def failures_of(
    run: RunDir, settings: NotifySettings, outbox: Outbox, due: list[str], seconds: float
) -> tuple[dict[str, str], str]:
    """Send to the receivers that are due; return why it failed by name, empty where it did not, and
    why none could be tried.
    """
    try:
        addresses = secrets_file.read(settings.secrets_file)
    except TaskError as error:
        return {}, f"no notification is sent: {error.message}"
    known = {name: addresses[name] for name in due if addresses.get(name)}
    messages = {name: message.write(run, outbox.receivers[name].items) for name in known}
    failures = delivery.deliver(known, messages, seconds)
    missing = f"{settings.secrets_file} has no line {{}}=…"
    return {name: failures[name] if name in known else missing.format(name) for name in due}, ""


def note_problem(run: RunDir, outbox: Outbox, problem: str) -> bool:
    """Note why nothing can be sent to anybody, empty for no reason; report a new reason, and return
    whether it is one.
    """
    is_new = problem not in ("", outbox.problem)
    if is_new:
        report(run, "", problem)
    outbox.problem = problem
    return is_new


def report(run: RunDir, name: str, error: str) -> None:
    """Record a failure, which is done once until it has another reason."""
    log(f"the notification to {name} was not delivered: {error}" if name else error)
    with suppress(OSError):
        append_event(run, "notification", to=name, error=error)


if __name__ == "__main__":
    sys.exit(main())
