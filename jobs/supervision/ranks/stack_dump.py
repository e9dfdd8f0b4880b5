"""``python -m jobs.supervision.ranks.stack_dump RUN_DIR STAGE INDEX ATTEMPT``: examine this node's
ranks of a hanging attempt.

Runs once on every node before hanging ranks are killed. It requests the stacks of each rank's
threads, writes them to ``stacks-<task>-<rank>.txt`` of the attempt, and its report to
``stack-dump-<task>-<node>.json``. Standard library only.

Ranks get SIGUSR1 here and nowhere else (``jobs.runtime.heartbeat.STACK_SIGNAL``): ``faulthandler``
handles it in the middle of whatever the rank waits for, and while another thread holds the
interpreter.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.contract import rundir, specs
from jobs.contract.files import FormatError, read_json, write_bytes, write_json
from jobs.contract.job import node_name
from jobs.contract.stage_specs import STAGES
from jobs.contract.units import plural
from jobs.runtime import heartbeat, processes

STACK_SECONDS = 30.0
"""For all ranks of a node to write their stacks; a rank that can does so once it has a core."""

RECORD_SECONDS = 10.0
"""For all ranks of a node to write their collectives, after the stacks."""

POLL_SECONDS = 0.1

STATES = {
    "R": "running",
    "S": "asleep",
    "D": "in uninterruptible sleep, as for a disk or a device (state D)",
    "T": "stopped by a signal (state T)",
    "t": "stopped by a debugger (state t)",
    "Z": "dead",
    "X": "dead",
    "": "not there",
}
"""Descriptions of the state letters of proc(5)."""

SILENT = frozenset({"T", "t", "Z", "X", ""})
"""A process in such a state runs no handler."""


@dataclass(frozen=True)
class RankReport:
    """The report on one rank by its node."""

    rank: int
    node: str
    pid: int
    state: str
    """Letter of ``STATES``; empty without a process."""
    wchan: str
    """Where in the kernel it waits; empty where the kernel hides it."""
    phase: str
    step: int
    ticks: int
    age: float
    """Seconds since its last beat."""
    stack: str
    """Of all its threads, innermost frame first; empty where it wrote none."""


def main(argv: list[str] | None = None) -> int:
    """Examine this node's ranks of one attempt, and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.supervision.ranks.stack_dump", description=__doc__
    )
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("index", type=int)
    parser.add_argument("attempt", type=int)
    args = parser.parse_args(argv)
    run = rundir.RunDir(args.run_dir.resolve())
    task = specs.load_task(run, args.stage, args.index)
    folder = run.attempt(args.stage, args.attempt)
    requested = request_records(run, task, args.attempt, folder)
    reports = examine(run, task, args.attempt, os.environ)
    wait_for_records(requested)
    node = node_name(os.environ)
    fields = {"node": node, "time": time.time(), "ranks": [asdict(report) for report in reports]}
    write_json(folder / f"stack-dump-{args.index:05d}-{node}.json", fields)
    for report in reports:
        path = folder / f"stacks-{args.index:05d}-{report.rank:05d}.txt"
        write_bytes(path, describe(report).encode())
    return 0


def command(run: rundir.RunDir, stage: str, index: int, attempt: int) -> list[str]:
    """Return the command that examines one node's ranks."""
    return [
        sys.executable,
        "-m",
        "jobs.supervision.ranks.stack_dump",
        str(run.root),
        stage,
        str(index),
        str(attempt),
    ]


def read(run: rundir.RunDir, stage: str, index: int, attempt: int) -> list[RankReport]:
    """Read the reports of all nodes, by rank."""
    reports = []
    for path in run.attempt(stage, attempt).glob(f"stack-dump-{index:05d}-*.json"):
        with suppress(OSError, FormatError):
            reports += [RankReport(**fields) for fields in read_json(path)["ranks"]]
    return sorted(reports, key=lambda report: report.rank)


def request_records(
    run: rundir.RunDir, task: specs.TaskSpec, attempt: int, folder: Path
) -> list[Path]:
    """Request the collectives of this node's ranks; return the files to come."""
    requested = []
    for rank, beat in heartbeat.find(run, task.stage, task.index, attempt).items():
        if task.ranks > 1 and state_of(beat) not in SILENT:
            with suppress(OSError):
                heartbeat.request_record(beat.file)
                requested.append(folder / f"flight-{task.index:05d}-{rank}.json")
    return requested


def wait_for_records(requested: Iterable[Path]) -> None:
    """Wait until ranks have written their collectives; one that has no process group never does."""
    deadline = time.monotonic() + RECORD_SECONDS
    waiting = list(requested)
    while waiting and time.monotonic() < deadline:
        waiting = [path for path in waiting if not path.exists()]
        time.sleep(POLL_SECONDS)


def examine(
    run: rundir.RunDir, task: specs.TaskSpec, attempt: int, environ: Mapping[str, str]
) -> list[RankReport]:
    """Examine every rank of an attempt on this node, and have those that can write their stacks."""
    beats = heartbeat.find(run, task.stage, task.index, attempt, environ=environ)
    now = time.monotonic()
    before = {rank: len(heartbeat.stacks(beat.file)) for rank, beat in beats.items()}
    wait_for_stacks([beat for beat in beats.values() if request_stack(beat)], before)
    node = node_name(environ)
    return [
        report_on(beats[rank], node, now) if rank in beats else missing(rank, node)
        for rank in ranks_here(beats, task.ranks_per_node)
    ]


def ranks_here(ranks: Iterable[int], per_node: int) -> list[int]:
    """Return all ranks of this node from those with a heartbeat: a node's ranks are a block
    (``jobs.supervision.ranks.launcher``).
    """
    nodes = {rank // per_node for rank in ranks}
    return [
        rank for node in sorted(nodes) for rank in range(node * per_node, (node + 1) * per_node)
    ]


def request_stack(beat: heartbeat.Heartbeat) -> bool:
    """Request a rank's stacks; return False when it is gone, or in a state that runs no handler."""
    if state_of(beat) in SILENT:
        return False
    with suppress(ProcessLookupError):
        os.kill(beat.pid, heartbeat.STACK_SIGNAL)
    return True


def wait_for_stacks(requested: Iterable[heartbeat.Heartbeat], before: Mapping[int, int]) -> None:
    """Wait for ranks to write their stacks; ``before`` is the size written earlier."""
    deadline = time.monotonic() + STACK_SECONDS
    waiting = {beat.rank: beat.file for beat in requested}
    sizes = dict(before)
    while waiting and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        for rank, file in list(waiting.items()):
            size = len(heartbeat.stacks(file))
            if before[rank] < size == sizes[rank]:  # a rank writes its stacks without a pause
                del waiting[rank]
            sizes[rank] = size


def report_on(beat: heartbeat.Heartbeat, node: str, now: float) -> RankReport:
    """Return the report on a rank. Its state is read a second time: a rank that waited for a disk
    by chance has resumed.
    """
    return RankReport(
        rank=beat.rank,
        node=node,
        pid=beat.pid,
        state=state_of(beat),
        wchan=wchan(beat.pid),
        phase=beat.phase.label,
        step=beat.step,
        ticks=beat.ticks,
        age=now - beat.time,
        stack=heartbeat.stacks(beat.file),
    )


def missing(rank: int, node: str) -> RankReport:
    """Return the report on a rank without a process, or with one that has not begun."""
    return RankReport(rank, node, 0, "", "", "startup", 0, 0, 0.0, "")


def state_of(beat: heartbeat.Heartbeat) -> str:
    """Return the state letter of a rank's process; empty when it is gone or its pid was reused."""
    process = processes.read(beat.pid)
    return process.state if process is not None and process.started == beat.started else ""


def wchan(pid: int) -> str:
    """Return where in the kernel a process waits; empty where the kernel hides it (proc(5))."""
    try:
        symbol = Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""
    return "" if symbol == "0" else symbol


def describe(report: RankReport) -> str:
    """Return the text of a rank's stacks file."""
    if not report.pid:
        return f"rank {report.rank} on {report.node}: no process\n"
    state = STATES.get(report.state, f"in state {report.state}")
    waits = f", waiting in {report.wchan}" if report.wchan else ""
    head = (
        f"rank {report.rank} on {report.node}, process {report.pid}: {state}{waits}\n"
        f"phase {report.phase}, {plural(report.step, 'step')} done, beat {report.ticks}, "
        f"{report.age:.0f} s ago\n\n"
    )
    return head + (report.stack or "No stacks: a process in this state runs no signal handler.\n")


if __name__ == "__main__":
    sys.exit(main())
