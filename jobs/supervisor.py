"""The batch step of a task: check the nodes, start the ranks, pass on stop requests, say how it
ended.

No torch here: it survives a rank that dies. The record it leaves, ``exit-<task>.json`` of the
attempt, and its exit code (``jobs.runtime``) tell the truth; success is the done marker, never an
exit code alone.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

from jobs import launchers, rundir, runtime, specs

POLL_SECONDS = 0.2
ASK_AGAIN_SECONDS = 2.0
"""Until a stop request that did not reach the ranks is repeated."""

LOCAL_JOB = "MEDITRON_LOCAL_JOB"
"""Names the local scheduler's process that started this one (``local:<host>:<pid>:<start>``)."""

SCRATCH_SECONDS = 20.0
"""For temporary files to be removed."""

SECRET_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*=([^\0]*)")

WORDS = {
    runtime.FINISHED: "finished",
    runtime.CONFIGURATION: "configuration",
    runtime.UNHEALTHY: "unhealthy",
    runtime.STOPPED: "stopped",
}


@dataclass(frozen=True)
class Limits:
    """How long to wait for what."""

    lock_seconds: float = 60.0
    """For an earlier attempt of the same task to be gone."""
    preflight_seconds: float = 60.0
    peers_seconds: float = launchers.Patience.peers_seconds
    leave_seconds: float = launchers.Patience.leave_seconds

    def patience(self, task: specs.TaskSpec) -> launchers.Patience:
        """The part that launchers need, with all the time to leave that the task wants."""
        leave_seconds = max(self.leave_seconds, task.leave_seconds)
        return launchers.Patience(self.peers_seconds, leave_seconds)


@dataclass(frozen=True)
class Outcome:
    """How a task ended, for people and for the next attempt."""

    code: int
    message: str
    hint: str = ""
    node: str = ""

    @property
    def kind(self) -> str:
        """finished, stopped, configuration, unhealthy or failed."""
        return WORDS.get(self.code, "failed")


@dataclass(frozen=True)
class Place:
    """Which task of which attempt this is, and when it began."""

    run: rundir.RunDir
    stage: str
    index: int
    attempt: int
    began: float
    start: str = field(default_factory=lambda: uuid4().hex[:12])
    """Names this start: a requeued job works in the same attempt once more."""

    @property
    def folder(self) -> Path:
        """The attempt's."""
        return self.run.attempt(self.stage, self.attempt)

    @property
    def ranks_log(self) -> Path:
        """What the ranks printed."""
        return self.folder / f"ranks-{self.index:05d}.log"


def supervise(
    run: rundir.RunDir, stage: str, index: int, attempt: int, limits: Limits | None = None
) -> int:
    """Run one task to its end; answers the exit code after writing the exit record and an event."""
    place = Place(run, stage, index, attempt, time.time())
    signals = catch_signals()
    with ExitStack() as held:
        try:
            outcome = attend(place, limits or Limits(), signals, held)
        except runtime.TaskError as error:
            outcome = Outcome(error.code, error.message, error.hint)
        except OSError as error:
            outcome = Outcome(runtime.FAILED, f"{error.filename or stage}: {error.strerror}")
        except Exception as error:  # a task must not end without a record, whatever went wrong
            traceback.print_exc()
            message = f"the supervisor of {stage} met {type(error).__name__}: {error}"
            outcome = Outcome(runtime.FAILED, message, "the job's log has the traceback")
        record_exit(place, outcome)
    return outcome.code


def refuse(run: rundir.RunDir, stage: str, index: int, attempt: int, message: str) -> int:
    """Leave the record of a task that must not be started; answers the exit code."""
    outcome = Outcome(runtime.CONFIGURATION, message)
    record_exit(Place(run, stage, index, attempt, time.time()), outcome)
    return outcome.code


def catch_signals() -> list[int]:
    """Replace submitit's handlers by one that only notes the signal."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return received


def attend(place: Place, limits: Limits, signals: Sequence[int], held: ExitStack) -> Outcome:
    """Hold the task, look at its nodes, then start its ranks and wait for them.

    Raises:
        TaskError: the spec or the secrets cannot be used, or the task runs elsewhere.
        OSError: a program that is needed is missing, or the disk takes nothing.
    """
    task = read_task(place)
    hold_task(held, place, limits.lock_seconds, signals)
    place.folder.mkdir(parents=True, exist_ok=True)
    forget_earlier_start(place)
    environ = {**os.environ, **read_secrets(task.secrets_file)}
    if task.scratch_dir:
        held.callback(remove_scratch, place, task)
    unfit = preflight(place, task, environ, limits.preflight_seconds, signals)
    if unfit is not None:
        return unfit
    if signals:
        return before_ranks(place)
    if task.scratch_dir:
        environ["TMPDIR"] = str(scratch(place, task))
    with launchers.reserved_port() as port:
        patience = limits.patience(task)
        ranks = launchers.start(place.run, task, place.attempt, environ, port, patience)
        code, asked = wait(place, ranks, signals, environ)
    return conclude(place, task, code, asked)


def read_task(place: Place) -> specs.TaskSpec:
    """What the task is given.

    Raises:
        TaskError: the spec is missing, or one this program does not read.
    """
    path = place.run.spec(place.stage, place.index)
    try:
        return specs.task_from_json(rundir.read_json(path))
    except OSError as error:
        raise runtime.TaskError(f"{path}: {error.strerror}", "submit again") from error
    except rundir.FormatError as error:
        raise runtime.TaskError(str(error)) from error
    except ValueError as error:
        raise runtime.TaskError(f"{path}: {error}") from error


def scratch(place: Place, task: specs.TaskSpec) -> Path:
    """The folder of this start for temporary files; the pre-flight makes it on every node."""
    return Path(task.scratch_dir) / f"meditron-{place.start}"


def remove_scratch(place: Place, task: specs.TaskSpec) -> None:
    """Remove the temporary files on every node; a node that is gone keeps its own."""
    command = [*on_every_node(task), "rm", "-rf", "--", str(scratch(place, task))]
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, timeout=SCRATCH_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"{scratch(place, task)} may be left: {error}")


def on_every_node(task: specs.TaskSpec) -> list[str]:
    """What a command begins with to run once on each node of the job; nothing if it has but one."""
    if task.launcher != "srun" or task.nodes == 1:
        return []
    per_node = [f"--ntasks={task.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=0"]
    return ["srun", *per_node, "--distribution=block"]


def before_ranks(place: Place) -> Outcome:
    """The outcome of a stop request that came early."""
    return Outcome(runtime.STOPPED, f"{place.stage} was stopped before its ranks started")


def hold_task(held: ExitStack, place: Place, seconds: float, signals: Sequence[int]) -> None:
    """Make sure that no other attempt of this task is writing; the lock dies with this process.

    Raises:
        TaskError: another one still is when the wait is over, or this one is to stop.
    """
    path = place.run.stage(place.stage) / "locks" / f"{place.index:05d}"
    deadline = time.monotonic() + seconds
    while True:
        try:
            held.enter_context(rundir.locked(path))
        except rundir.Locked:
            if signals:
                raise runtime.TaskError(before_ranks(place).message, code=runtime.STOPPED) from None
            if time.monotonic() > deadline:
                raise runtime.TaskError(
                    f"{place.stage} task {place.index} of {place.run.name} is still running in "
                    "another job",
                    f"`meditron cancel {place.run.name}` ends it",
                    runtime.FAILED,
                ) from None
            time.sleep(POLL_SECONDS)
        else:
            return


def forget_earlier_start(place: Place) -> None:
    """A requeued job works in the same attempt folder; what its earlier start said is not about
    this one. The events keep it.
    """
    place.run.exit_record(place.stage, place.attempt, place.index).unlink(missing_ok=True)
    for path in place.folder.glob(f"words-{place.index:05d}-*.json"):
        path.unlink()


def read_secrets(name: str) -> dict[str, str]:
    """NAME=value lines of a file only its owner can read; blank lines and # comments are skipped.

    Raises:
        TaskError: the file is missing, others may read it, or a line is something else; a message
            never holds what the file does.
    """
    if not name:
        return {}
    path = Path(name)
    try:
        mode = path.stat().st_mode
        lines = path.read_bytes().decode(errors="replace").splitlines()
    except OSError as error:
        raise runtime.TaskError(
            f"{path}: {error.strerror}", "set environment.secrets_file"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise runtime.TaskError(f"{path}: others may read this secret", f"`chmod 600 {path}`")
    found = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        match = SECRET_LINE.fullmatch(line)
        if match is None:
            raise runtime.TaskError(f"{path}:{number}: no NAME=value", "a # begins a comment")
        found[match[1]] = match[2].strip()
    return found


def preflight(
    place: Place,
    task: specs.TaskSpec,
    environ: Mapping[str, str],
    seconds: float,
    signals: Sequence[int],
) -> Outcome | None:
    """Check every node of this job before work; None when all are fit."""
    arguments = [str(place.run.root), place.stage, str(place.index), str(place.attempt)]
    arguments += ["--start", place.start]
    if task.scratch_dir:
        arguments += ["--scratch", str(scratch(place, task))]
    command = [*on_every_node(task), sys.executable, "-m", "jobs.preflight", *arguments]
    environment = {**environ, **launchers.code_environment(place.run, environ)}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + seconds
    while (code := process.poll()) is None:
        if not signals and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            continue
        process.terminate()  # nobody waits for its end: it may be stuck in the kernel
        return before_ranks(place) if signals else silent_nodes(place, task, seconds)
    return None if code == 0 else unfit_nodes(place, task, code)


def silent_nodes(place: Place, task: specs.TaskSpec, seconds: float) -> Outcome:
    """The outcome of a pre-flight that does not end."""
    where = f" on {node_name()}" if task.nodes == 1 else ""
    return Outcome(
        runtime.UNHEALTHY,
        f"the pre-flight of {place.stage} did not end within {seconds:.0f} s{where}",
        f"a node without a new health file in {place.folder} hangs; submit again without it",
    )


def unfit_nodes(place: Place, task: specs.TaskSpec, code: int) -> Outcome:
    """Name the nodes that failed, with the reason of the first finding of each."""
    reasons = {
        report["node"]: f"{report['node']}: {fatal[0]['message']} ({fatal[0]['code']})"
        for report in health_reports(place, task)
        if (fatal := [item for item in report["findings"] if item["verdict"] == "FATAL"])
    }
    if reasons:
        return Outcome(
            runtime.UNHEALTHY,
            "; ".join(reasons.values()),
            "put that right, or submit again without these nodes and tell the site",
            ",".join(reasons),
        )
    if code in (runtime.CONFIGURATION, runtime.UNHEALTHY):
        return Outcome(
            code,
            f"the pre-flight of {place.stage} refused this node and could write no report",
            "the job's log names the node and the reason",
        )
    return Outcome(runtime.FAILED, f"the pre-flight of {place.stage} ended with code {code}")


def health_reports(place: Place, task: specs.TaskSpec) -> list[dict[str, Any]]:
    """What the pre-flight found on this task's nodes.

    Other tasks of the attempt leave their reports in the same folder, and so does an earlier start.
    """
    names = f"health-{node_name()}.json" if task.nodes == 1 else "health-*.json"
    reports = [rundir.read_json(path) for path in sorted(place.folder.glob(names))]
    return [report for report in reports if report.get("start") == place.start]


def node_name() -> str:
    """This node as Slurm knows it, else as the kernel does."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def wait(
    place: Place, ranks: launchers.Ranks, signals: Sequence[int], environ: Mapping[str, str]
) -> tuple[int, bool]:
    """Wait for the ranks, and pass a stop request on until it has reached them.

    With the local launcher the scheduler's process is watched too, so that ranks do not outlive it.

    Returns:
        The code of the first rank that failed, or 0; and whether they were asked to stop.
    """
    asked, again = False, 0.0
    while (code := ranks.poll()) is None:
        if not asked and time.monotonic() >= again and (signals or abandoned(environ)):
            asked, again = ranks.stop(), time.monotonic() + ASK_AGAIN_SECONDS
            if asked:
                note_event(place, "signal", {"signals": list(signals)})
        time.sleep(POLL_SECONDS)
    return code, asked


def abandoned(environ: Mapping[str, str]) -> bool:
    """Whether the local scheduler's process that started this task is gone."""
    _, _, name = environ.get(LOCAL_JOB, "").partition(":")
    return bool(name) and not launchers.is_alive(name)


def conclude(place: Place, task: specs.TaskSpec, code: int, asked: bool) -> Outcome:
    """What the ranks' last words, their exit code and the done marker say together."""
    digest = specs.digest(task.spec)
    if code == 0 and rundir.is_done(place.run, place.stage, place.index, digest):
        return Outcome(runtime.FINISHED, f"{place.stage} task {place.index} finished")
    words = last_words(place)
    first = min(words, key=lambda item: float(item["time"])) if words else None
    see = f"see {place.ranks_log}"
    if asked and (first is None or ended_by(code) is signal.SIGTERM):
        message = f"{place.stage} was stopped: {describe_code(code)}"
        return Outcome(runtime.STOPPED, message, see)
    if first is not None and (asked or code not in launchers.SUDDEN):
        return Outcome(first["code"], first["message"], first["hint"], first["node"])
    if code == 0:
        return Outcome(runtime.FAILED, f"{place.stage} left without a done marker", see)
    known = code if code in WORDS else runtime.FAILED
    return Outcome(known, f"{place.stage}: {describe_code(code)}", see)


def describe_code(code: int) -> str:
    """``a rank was ended by SIGKILL`` or ``a rank left with exit code 3``."""
    number = ended_by(code)
    return f"a rank was ended by {number.name}" if number else f"a rank left with exit code {code}"


def ended_by(code: int) -> signal.Signals | None:
    """The signal an exit code stands for, if any; srun reports 128 + signal, and 130 is ours."""
    number = -code if code < 0 else code - 128
    known = code != runtime.STOPPED and number in set(signal.Signals)
    return signal.Signals(number) if known else None


def last_words(place: Place) -> list[dict[str, Any]]:
    """What the ranks wrote on leaving (``jobs.__main__``)."""
    return [rundir.read_json(path) for path in place.folder.glob(f"words-{place.index:05d}-*.json")]


def record_exit(place: Place, outcome: Outcome) -> None:
    """Write the exit record and the event, and print the sentence into the job's log."""
    say(f"{outcome.kind}: {outcome.message}")
    fields = {
        **asdict(outcome),
        "class": outcome.kind,
        "stage": place.stage,
        "index": place.index,
        "attempt": place.attempt,
        "node": outcome.node or node_name(),
        "job_id": os.environ.get("SLURM_JOB_ID") or os.environ.get(LOCAL_JOB, ""),
        "started": place.began,
        "ended": time.time(),
    }
    try:
        rundir.write_json(place.run.exit_record(place.stage, place.attempt, place.index), fields)
    except OSError as error:  # a full disk: the sentence above is in the log all the same
        say(f"the exit record could not be written: {error.strerror}")
    note_event(place, "exit", fields)


def note_event(place: Place, kind: str, fields: Mapping[str, Any]) -> None:
    """Append an event; a disk that refuses it must not keep the ranks from anything."""
    try:
        rundir.append_event(
            place.run, kind, **{"stage": place.stage, "index": place.index, **fields}
        )
    except OSError as error:
        say(f"the event {kind!r} could not be written: {error.strerror}")


def say(text: str) -> None:
    """Print into the job's log, which may lie on the disk that is full."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
