"""Preflight check: ``python -m jobs.health.preflight RUN_DIR STAGE INDEX ATTEMPT``.

Runs once on every node before ranks start. Writes all findings to
``attempts/<n>/health-<task>-<node>.json``, logs those that are not OK, and exits with 0 (start),
2 (the task's specification is invalid) or 5 (a finding is FATAL).
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
"""Between two tries: processes of an earlier job may still be exiting."""

SILENT = "no answer in time"

_EXERCISE = "import sys; from jobs.health.preflight import exercise; exercise(sys.argv[1])"


def main(argv: list[str] | None = None) -> int:
    """Check this node for one task, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.health.preflight", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("index", type=int)
    parser.add_argument("attempt", type=int)
    parser.add_argument(
        "--process-wait", type=float, default=PROCESS_WAIT_SECONDS, metavar="SECONDS"
    )
    parser.add_argument("--scratch", type=Path, help="folder to create for temporary files")
    args = parser.parse_args(argv)
    run = rundir.RunDir(args.run_dir.resolve())
    try:
        expected = expectation(run, args.stage, args.index)
    except TaskError as error:
        print(f"preflight: {error.message}\nhint: {run.hint(error.hint)}", file=sys.stderr)
        return error.code
    folder = run.attempt(args.stage, args.attempt)
    findings = examine(folder, expected, lambda: time.sleep(args.process_wait))
    if args.scratch and "scratch" not in expected.skip:
        findings.append(examine_folder("scratch", args.scratch)[1])
    report(folder / f"health-{args.index:05d}-{node_checks.node_name(os.environ)}.json", findings)
    fatal = node_checks.worst(findings) is node_checks.HealthVerdict.FATAL
    return UNHEALTHY if fatal else FINISHED


def expectation(run: rundir.RunDir, stage: str, index: int) -> node_checks.Expected:
    """Return what the task's specification expects of each node.

    Raises:
        TaskError: the specification is missing, of another format, or has unknown expectations.
    """
    task = specs.load_task(run, stage, index)
    try:
        return node_checks.expectation(task.health, os.environ)
    except ValueError as error:
        hint = "correct health_skip of the cluster profile"
        raise TaskError(str(error), hint) from error


def examine(
    folder: Path, expected: node_checks.Expected, wait: Callable[[], None]
) -> list[node_checks.HealthFinding]:
    """Return every finding about this node.

    Storage is checked first; when it does not answer, no other check touches it.

    Args:
        folder: on the storage that the run writes to.
        wait: called between two tries while foreign processes occupy a GPU.
    """
    storage, finding = examine_folder("storage", folder)
    usable = folder if storage.verdict is node_checks.HealthVerdict.OK else None
    findings = check_node(usable, expected, wait)
    if "storage" in expected.skip:
        return findings
    return [finding, *findings]


def check_node(
    folder: Path | None, expected: node_checks.Expected, wait: Callable[[], None]
) -> list[node_checks.HealthFinding]:
    """Return the findings about this node's devices, memory and, unless None, a folder's disk."""

    def check() -> list[node_checks.HealthFinding]:
        sample = node_checks.read_sample(folder, os.environ, expected.gpus or None)
        return node_checks.check(sample, expected)

    return check_until_idle(check, PROCESS_TRIES, wait)


def examine_folder(code: str, folder: Path) -> tuple[Outcome, node_checks.HealthFinding]:
    """Check that a folder, created if missing, can be written and read."""
    outcome = check_storage(folder, run_limited(exercise_command(folder), STORAGE_LIMIT_SECONDS))
    subject = Subject(node_checks.node_name(os.environ))
    return outcome, finding_about(subject, code, outcome, time.time())


def check_until_idle(
    check: Callable[[], list[node_checks.HealthFinding]], tries: int, wait: Callable[[], None]
) -> list[node_checks.HealthFinding]:
    """Repeat a check until no foreign process computes on a GPU, at most ``tries`` times."""
    findings = check()
    for _ in range(tries - 1):
        if not any(_is_foreign_process(finding) for finding in findings):
            break
        wait()
        findings = check()
    return findings


def _is_foreign_process(finding: node_checks.HealthFinding) -> bool:
    return finding.code == "foreign_process" and finding.verdict is node_checks.HealthVerdict.FATAL


def exercise_command(folder: Path) -> list[str]:
    """Return the command of the child that writes to a folder as a run does."""
    return [sys.executable, "-c", _EXERCISE, str(folder)]


def exercise(folder: str) -> None:
    """Write, fsync, rename, read and delete 4 KB in a folder.

    Raises:
        SystemExit: with the reason of a failure.
    """
    path = Path(folder) / f"probe-{os.uname().nodename}-{os.getpid()}"
    content = os.urandom(4096)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_bytes(path, content)
        read = path.read_bytes()
        path.unlink()
    except OSError as error:
        raise SystemExit(error.strerror or str(error)) from error
    if read != content:
        raise SystemExit("the content read differs from the content written")


def run_limited(command: Sequence[str], limit_seconds: float) -> str:
    """Run a command; return the reason of its failure, or an empty string."""
    result = subprocesses.run(command, limit_seconds)
    if result.code is None:
        return SILENT
    lines = result.err.strip().splitlines()
    return "" if result.code == 0 else lines[-1] if lines else f"exit code {result.code}"


def check_storage(folder: Path, reason: str) -> Outcome:
    """Return the outcome of writing and reading 4 KB; full storage is not the node's fault."""
    if not reason:
        return Outcome(node_checks.HealthVerdict.OK, f"{folder} can be written and read")
    full = reason in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
    action = node_checks.NodeAction.RETRY_SAME if full else node_checks.NodeAction.EXCLUDE_NOW
    evidence = {"path": str(folder), "reason": reason, "silent": reason == SILENT}
    return Outcome(
        node_checks.HealthVerdict.FATAL, f"{folder} cannot be used: {reason}", evidence, action
    )


def report(path: Path, findings: list[node_checks.HealthFinding]) -> None:
    """Log findings that are not OK, and write all findings to the attempt's folder."""
    for line in lines(findings):
        print(line, file=sys.stderr)
    if any(finding.evidence.get("silent") for finding in findings):
        return  # writing there may block without end
    content = {
        "node": node_checks.node_name(os.environ),
        "time": time.time(),
        "verdict": node_checks.worst(findings).name,
        "findings": [finding.to_json() for finding in findings],
    }
    try:
        write_json(path, content)
    except OSError as error:  # the exit code holds all the same
        print(f"preflight: the findings could not be written: {error.strerror}", file=sys.stderr)


def lines(findings: Iterable[node_checks.HealthFinding]) -> list[str]:
    """Return one line per finding that is not OK, the worst first."""
    bad = [finding for finding in findings if finding.verdict is not node_checks.HealthVerdict.OK]
    return [str(f) for f in sorted(bad, key=lambda finding: -finding.verdict)]


if __name__ == "__main__":
    sys.exit(main())
