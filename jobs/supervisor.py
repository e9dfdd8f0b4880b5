"""The batch step of a task: check the nodes, start the ranks, pass on stop requests, say how it
ended.

No torch here: it survives a rank that dies. The record it leaves, ``exit-<task>.json`` of the
attempt, and
its exit code (``jobs.runtime``) tell the truth; success is the done marker, never an exit code
alone.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from jobs import launchers, rundir, runtime, specs

POLL_SECONDS = 0.2
LOCK_SECONDS = 60.0
"""How long to wait for an earlier attempt of the same task to be gone."""
PREFLIGHT_SECONDS = 60.0

WORDS = {
    runtime.FINISHED: "finished",
    runtime.CONFIGURATION: "configuration",
    runtime.UNHEALTHY: "unhealthy",
    runtime.STOPPED: "stopped",
}


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


def supervise(run: rundir.RunDir, stage: str, index: int, attempt: int) -> int:
    """Run one task to its end; returns the exit code after writing the exit record and an event."""
    started = time.time()
    signals = catch_signals()
    task = specs.task_from_json(rundir.read_json(run.spec(stage, index)))
    with ExitStack() as held:
        try:
            hold_task(held, run, task)
            environ = {**os.environ, **read_secrets(task.secrets_file)}
            outcome = run_ranks(run, task, attempt, environ, signals)
        except runtime.TaskError as error:
            outcome = Outcome(error.code, error.message, error.hint)
        except OSError as error:
            outcome = Outcome(runtime.FAILED, f"{error.filename or stage}: {error.strerror}")
        record_exit(run, task, attempt, outcome, started)
    return outcome.code


def catch_signals() -> list[int]:
    """Replace submitit's handlers by one that only notes the signal."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return received


def hold_task(held: ExitStack, run: rundir.RunDir, task: specs.TaskSpec) -> None:
    """Make sure that no other attempt of this task is writing; the lock dies with this process.

    Raises:
        TaskError: another one still is after a minute.
    """
    path = run.stage(task.stage) / "locks" / f"{task.index:05d}"
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            held.enter_context(rundir.locked(path))
        except rundir.Locked:
            if time.monotonic() > deadline:
                raise runtime.TaskError(
                    f"{task.stage} task {task.index} of {run.name} is still running in another job",
                    f"`meditron cancel {run.name}` ends it",
                    runtime.FAILED,
                ) from None
            time.sleep(POLL_SECONDS)
        else:
            return


def read_secrets(name: str) -> dict[str, str]:
    """NAME=value lines of a file only its owner can read; blank lines and # comments are skipped.

    Raises:
        TaskError: the file is missing or others may read it.
    """
    if not name:
        return {}
    path = Path(name)
    try:
        mode = path.stat().st_mode
        text = path.read_text()
    except OSError as error:
        raise runtime.TaskError(
            f"{path}: {error.strerror}", "set environment.secrets_file"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise runtime.TaskError(f"{path}: others may read this secret", f"`chmod 600 {path}`")
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs}


def run_ranks(
    run: rundir.RunDir,
    task: specs.TaskSpec,
    attempt: int,
    environ: Mapping[str, str],
    signals: Sequence[int],
) -> Outcome:
    """Pre-flight, then the ranks, until they end."""
    run.attempt(task.stage, attempt).mkdir(parents=True, exist_ok=True)
    clear_words(run, task, attempt)
    unfit = preflight(run, task, attempt, environ)
    if unfit is not None:
        return unfit
    if signals:
        return Outcome(runtime.STOPPED, f"{task.stage} was stopped before its ranks started")
    step = 1 if task.nodes > 1 else 0  # the pre-flight of several nodes was step 0
    ranks = launchers.start(run, task, attempt, environ, step)
    code = wait(run, task, ranks, signals, environ)
    return conclude(run, task, attempt, code)


def preflight(
    run: rundir.RunDir, task: specs.TaskSpec, attempt: int, environ: Mapping[str, str]
) -> Outcome | None:
    """Check every node of this job before work; None when all are fit."""
    arguments = [str(run.root), task.stage, str(task.index), str(attempt)]
    command = [sys.executable, "-m", "jobs.preflight", *arguments]
    if task.launcher == "srun" and task.nodes > 1:
        per_node = [f"--ntasks={task.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=0"]
        command = ["srun", *per_node, "--distribution=block", *command]
    environment = {
        **environ,
        "PYTHONPATH": launchers.python_path(run, environ),
        "PYTHONSAFEPATH": "1",
    }
    try:
        done = subprocess.run(
            command,
            env=environment,
            timeout=PREFLIGHT_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Outcome(
            runtime.UNHEALTHY,
            f"the pre-flight of {task.stage} did not end within {PREFLIGHT_SECONDS:.0f} s",
            "look at the attempt's health files for the node that is missing",
        )
    if done.returncode == 0:
        return None
    return unfit_nodes(run, task, attempt, done.returncode)


def unfit_nodes(run: rundir.RunDir, task: specs.TaskSpec, attempt: int, code: int) -> Outcome:
    """Name the nodes that failed, with the reason of the first finding of each."""
    reasons = {}
    for path in sorted(run.attempt(task.stage, attempt).glob("health-*.json")):
        report = rundir.read_json(path)
        fatal = [item for item in report["findings"] if item["verdict"] == "FATAL"]
        if fatal:
            reasons[report["node"]] = (
                f"{report['node']}: {fatal[0]['message']} ({fatal[0]['code']})"
            )
    if not reasons and code in (runtime.CONFIGURATION, runtime.UNHEALTHY):
        return Outcome(
            code,
            f"the pre-flight of {task.stage} refused this node and could write no report",
            "the job's log names the node and the reason",
        )
    if not reasons:
        return Outcome(runtime.FAILED, f"the pre-flight of {task.stage} ended with code {code}")
    return Outcome(
        runtime.UNHEALTHY,
        "; ".join(reasons.values()),
        "submit again without these nodes, and tell the site",
        ",".join(reasons),
    )


def wait(
    run: rundir.RunDir,
    task: specs.TaskSpec,
    ranks: launchers.Ranks,
    signals: Sequence[int],
    environ: Mapping[str, str],
) -> int:
    """Wait for the ranks; pass the first stop request on, once.

    With the local launcher the scheduler's process is watched too, so that ranks do not outlive it.
    """
    asked = False
    while (code := ranks.poll()) is None:
        if not asked and (signals or abandoned(environ)):
            asked = True
            rundir.append_event(
                run, "signal", stage=task.stage, index=task.index, signals=list(signals)
            )
            ranks.stop()
        time.sleep(POLL_SECONDS)
    return code


def abandoned(environ: Mapping[str, str]) -> bool:
    """Whether the local scheduler's process that started this task is gone."""
    keeper = environ.get("MEDITRON_LOCAL_SCHEDULER", "")
    return bool(keeper) and not Path(f"/proc/{keeper}").exists()


def conclude(run: rundir.RunDir, task: specs.TaskSpec, attempt: int, code: int) -> Outcome:
    """What the ranks' last words, their exit code and the done marker say together."""
    digest = specs.digest(task.spec)
    if code == 0 and rundir.is_done(run, task.stage, task.index, digest):
        return Outcome(runtime.FINISHED, f"{task.stage} task {task.index} finished")
    words = last_words(run, task, attempt)
    if words:
        first = min(words, key=lambda item: float(item["time"]))
        return Outcome(first["code"], first["message"], first["hint"], first["node"])
    log = run.attempt(task.stage, attempt) / f"ranks-{task.index:05d}.log"
    if code == 0:
        return Outcome(runtime.FAILED, f"{task.stage} left without a done marker", f"see {log}")
    return Outcome(runtime.FAILED, f"{task.stage}: {describe_code(code)}", f"see {log}")


def describe_code(code: int) -> str:
    """``a rank was ended by SIGKILL`` or ``a rank left with exit code 3``; srun reports 128 +
    signal.
    """
    number = -code if code < 0 else code - 128
    if number in set(signal.Signals):
        return f"a rank was ended by {signal.Signals(number).name}"
    return f"a rank left with exit code {code}"


def last_words(run: rundir.RunDir, task: specs.TaskSpec, attempt: int) -> list[dict[str, Any]]:
    """What the ranks wrote on leaving (``jobs.__main__``)."""
    folder = run.attempt(task.stage, attempt)
    return [rundir.read_json(path) for path in folder.glob(f"words-{task.index:05d}-*.json")]


def clear_words(run: rundir.RunDir, task: specs.TaskSpec, attempt: int) -> None:
    """A requeued job works in the same attempt folder; its earlier words are not about this
    start.
    """
    for path in run.attempt(task.stage, attempt).glob(f"words-{task.index:05d}-*.json"):
        path.unlink()


def record_exit(
    run: rundir.RunDir, task: specs.TaskSpec, attempt: int, outcome: Outcome, started: float
) -> None:
    """Write the exit record and the event, and print the sentence into the job's log."""
    print(f"{outcome.kind}: {outcome.message}", file=sys.stderr, flush=True)
    job = os.environ.get("SLURM_JOB_ID", os.environ.get("MEDITRON_LOCAL_SCHEDULER", ""))
    fields = {
        **asdict(outcome),
        "class": outcome.kind,
        "stage": task.stage,
        "index": task.index,
        "attempt": attempt,
        "node": outcome.node or os.environ.get("SLURMD_NODENAME", os.uname().nodename),
        "job_id": job,
        "started": started,
        "ended": time.time(),
    }
    try:
        rundir.write_json(run.exit_record(task.stage, attempt, task.index), fields)
        rundir.append_event(run, "exit", **fields)
    except OSError as error:  # a full disk: the sentence above is in the log all the same
        print(f"the exit record could not be written: {error.strerror}", file=sys.stderr)
