"""``python -m jobs.health.preflight RUN_DIR STAGE INDEX ATTEMPT``: is this node fit to start ranks?

Runs once on every node. Leaves ``attempts/<n>/health-<task>-<node>.json`` with every finding,
prints those that are not OK, and exits with 0 (go on), 2 (the task's specification cannot be) or 5
(FATAL).
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jobs.contract import rundir, specs
from jobs.contract.errors import FINISHED, UNHEALTHY, TaskError
from jobs.contract.files import write_bytes, write_json
from jobs.contract.stage_specs import STAGES
from jobs.health import node_checks
from jobs.health.findings import Outcome, Subject, finding_about
from jobs.runtime import subprocesses

STORAGE_LIMIT_SECONDS = 10.0
PROCESS_TRIES = 3
PROCESS_WAIT_SECONDS = 5.0
"""An earlier job's processes may take a moment to leave a GPU."""

SILENT = "no answer in time"

_EXERCISE = "import sys; from jobs.health.preflight import exercise; exercise(sys.argv[1])"


def main(argv: list[str] | None = None) -> int:
    """Examine this node for one task; the exit code says whether ranks may start."""
    parser = argparse.ArgumentParser(prog="python -m jobs.health.preflight", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("index", type=int)
    parser.add_argument("attempt", type=int)
    parser.add_argument(
        "--process-wait", type=float, default=PROCESS_WAIT_SECONDS, metavar="SECONDS"
    )
    parser.add_argument("--scratch", type=Path, help="folder to make for temporary files")
    args = parser.parse_args(argv)
    run = rundir.RunDir(args.run_dir.resolve())
    try:
        expected = expectation(run, args.stage, args.index)
    except TaskError as error:
        print(f"preflight: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.code
    folder = run.attempt(args.stage, args.attempt)
    findings = examine(folder, expected, args.process_wait)
    if args.scratch and "scratch" not in expected.skip:
        findings.append(examine_folder("scratch", args.scratch)[1])
    report(folder / f"health-{args.index:05d}-{node_checks.node_name(os.environ)}.json", findings)
    fatal = node_checks.worst(findings) is node_checks.HealthVerdict.FATAL
    return UNHEALTHY if fatal else FINISHED


def expectation(run: rundir.RunDir, stage: str, index: int) -> node_checks.Expected:
    """What the task's specification expects of each node.

    Raises:
        TaskError: the specification is missing, of another format, or expects something unheard of.
    """
    task = specs.load_task(run, stage, index)
    try:
        return node_checks.expectation(task.health, os.environ)
    except ValueError as error:
        hint = "put the cluster profile right, then submit again"
        raise TaskError(str(error), hint) from error


def examine(
    folder: Path, expected: node_checks.Expected, process_wait: float
) -> list[node_checks.HealthFinding]:
    """Every finding about this node; ``folder`` lies on the storage the run writes to.

    Storage goes first, and nothing looks at it again if it does not answer.
    """
    storage, finding = examine_folder("storage", folder)
    runs = folder if storage.verdict is node_checks.HealthVerdict.OK else None

    def look() -> list[node_checks.HealthFinding]:
        return node_checks.check(node_checks.read_sample(runs, os.environ), expected)

    findings = settled(look, PROCESS_TRIES, lambda: time.sleep(process_wait))
    if "storage" in expected.skip:
        return findings
    return [finding, *findings]


def examine_folder(code: str, folder: Path) -> tuple[Outcome, node_checks.HealthFinding]:
    """Whether a folder, made if need be, takes and gives back what is written to it."""
    outcome = judge_storage(folder, run_limited(exercise_command(folder), STORAGE_LIMIT_SECONDS))
    subject = Subject(node_checks.node_name(os.environ))
    return outcome, finding_about(subject, code, outcome, time.time())


def settled(
    look: Callable[[], list[node_checks.HealthFinding]], tries: int, wait: Callable[[], None]
) -> list[node_checks.HealthFinding]:
    """Look until no foreign process computes on a GPU, ``tries`` times at most."""
    findings = look()
    for _ in range(tries - 1):
        if not any(_is_foreign_process(finding) for finding in findings):
            break
        wait()
        findings = look()
    return findings


def _is_foreign_process(finding: node_checks.HealthFinding) -> bool:
    return finding.code == "foreign_process" and finding.verdict is node_checks.HealthVerdict.FATAL


def exercise_command(folder: Path) -> list[str]:
    """The command of the child that writes to a folder as a run would."""
    return [sys.executable, "-c", _EXERCISE, str(folder)]


def exercise(folder: str) -> None:
    """Write, fsync, rename and read 4 KB in a folder, then clean up.

    Raises:
        SystemExit: it failed; the message is the reason.
    """
    path = Path(folder) / f"probe-{os.uname().nodename}-{os.getpid()}"
    content = os.urandom(4096)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_bytes(path, content)
        found = path.read_bytes()
        path.unlink()
    except OSError as error:
        raise SystemExit(error.strerror or str(error)) from error
    if found != content:
        raise SystemExit("what was read is not what was written")


def run_limited(command: Sequence[str], limit_seconds: float) -> str:
    """Run a command; an empty string when it succeeds in time, else the reason."""
    done = subprocesses.run(command, limit_seconds)
    if done.code is None:
        return SILENT
    lines = done.err.strip().splitlines()
    return "" if done.code == 0 else lines[-1] if lines else f"exit code {done.code}"


def judge_storage(folder: Path, reason: str) -> Outcome:
    """Storage that does not take and give back 4 KB; full storage is no node's fault."""
    if not reason:
        return Outcome(node_checks.HealthVerdict.OK, f"{folder} can be written and read")
    full = reason in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
    action = node_checks.NodeAction.RETRY_SAME if full else node_checks.NodeAction.EXCLUDE_NOW
    evidence = {"path": str(folder), "reason": reason, "silent": reason == SILENT}
    return Outcome(
        node_checks.HealthVerdict.FATAL, f"{folder} cannot be used: {reason}", evidence, action
    )


def report(path: Path, findings: list[node_checks.HealthFinding]) -> None:
    """Print what is not OK to stderr, and leave all of it in the attempt's folder."""
    for line in lines(findings):
        print(line, file=sys.stderr)
    if any(finding.evidence.get("silent") for finding in findings):
        return  # to write there could hang for ever
    content = {
        "node": node_checks.node_name(os.environ),
        "time": time.time(),
        "verdict": node_checks.worst(findings).name,
        "findings": [finding.to_json() for finding in findings],
    }
    try:
        write_json(path, content)
    except OSError as error:  # what was found counts, written or not
        print(f"preflight: the findings could not be written: {error.strerror}", file=sys.stderr)


def lines(findings: Iterable[node_checks.HealthFinding]) -> list[str]:
    """One line a finding that is not OK, the worst first."""
    bad = [finding for finding in findings if finding.verdict is not node_checks.HealthVerdict.OK]
    return [str(f) for f in sorted(bad, key=lambda finding: -finding.verdict)]


if __name__ == "__main__":
    sys.exit(main())
