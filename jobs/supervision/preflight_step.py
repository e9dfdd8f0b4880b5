"""Run the preflight check once per node before ranks start. Standard library only; the check itself
is ``jobs.health.preflight``.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.contract import specs
from jobs.contract.errors import CONFIGURATION, UNHEALTHY
from jobs.contract.files import read_small
from jobs.contract.outcomes import NodeFinding
from jobs.health.findings import against_nodes
from jobs.runtime.log import log
from jobs.slurm.steps import one_per_node
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.ranks import launcher

POLL_SECONDS = 0.2
SCRATCH_SECONDS = 20.0
"""For temporary files to be removed."""


@dataclass(frozen=True)
class PreflightResult:
    """The verdict of the preflight check on the job's nodes."""

    problem: str = ""
    """Why no rank may start, in one sentence; empty when all may."""
    hint: str = ""
    findings: tuple[NodeFinding, ...] = ()
    """Findings against nodes, also against those that pass."""
    is_configuration_error: bool = False


@dataclass(frozen=True)
class PreflightTimeout:
    """The end of the preflight check: a time limit or a signal."""

    seconds: float
    signals: Sequence[int]
    """Signals received so far."""


def check(
    attempt: AttemptRef,
    task: specs.TaskSpec,
    nodes: Collection[str],
    environ: Mapping[str, str],
    timeout: PreflightTimeout,
) -> PreflightResult:
    """Check every node of this job; a signal ends the check early, without a problem."""
    arguments = [str(attempt.run.root), attempt.stage, str(attempt.index), str(attempt.number)]
    if task.scratch_dir:
        arguments += ["--scratch", str(scratch(attempt, task))]
    command = [
        *on_every_node(attempt, task),
        sys.executable,
        "-m",
        "jobs.health.preflight",
        *arguments,
    ]
    environment = {**environ, **launcher.code_environment(attempt.run, environ)}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + timeout.seconds
    while (code := process.poll()) is None:
        if not timeout.signals and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            continue
        process.terminate()  # do not wait for its end: it may be stuck in the kernel
        return PreflightResult() if timeout.signals else timed_out(attempt, nodes, timeout.seconds)
    return combine(attempt, code)


def on_every_node(attempt: AttemptRef, task: specs.TaskSpec) -> list[str]:
    """Return the prefix that runs a command once per node of the job; none for a single node."""
    if task.launcher != "srun" or task.nodes == 1:
        return []
    return one_per_node(task.nodes, f"--job-name=check-{attempt.step_name}")


def beside_ranks(task: specs.TaskSpec, step_name: str) -> list[str]:
    """Return the prefix that runs a command once per node of the job beside its ranks."""
    if task.launcher != "srun":
        return []
    return one_per_node(task.nodes, "--overlap", f"--job-name={step_name}")


def combine(attempt: AttemptRef, code: int) -> PreflightResult:
    """Combine the reports and the exit code of the preflight check."""
    findings = tuple(against_nodes(health_reports(attempt)))
    fatal: dict[str, NodeFinding] = {}
    for finding in findings:
        if finding.verdict == "FATAL":
            fatal.setdefault(finding.node, finding)
    if fatal:
        resume = attempt.run.command("resume")
        return PreflightResult(
            "; ".join(f"{item.node}: {item.message} ({item.code})" for item in fatal.values()),
            f"fix it, then `{resume}`; later jobs exclude these nodes",
            findings,
        )
    if code == 0:
        return PreflightResult(findings=findings)
    if code in (CONFIGURATION, UNHEALTHY):
        return PreflightResult(
            f"the preflight check of {attempt.stage} refused this node and could write no report",
            f"`{attempt.run.command('logs')}` names the node and the reason",
            findings,
            is_configuration_error=code == CONFIGURATION,
        )
    return PreflightResult(
        f"the preflight check of {attempt.stage} ended with code {code}", findings=findings
    )


def timed_out(attempt: AttemptRef, nodes: Collection[str], seconds: float) -> PreflightResult:
    """Return the result of a preflight check that timed out, with the nodes that did not report."""
    reported = {report["node"] for report in health_reports(attempt)}
    missing = [name for name in nodes if name not in reported]
    problem = f"the preflight check of {attempt.stage} did not end within {seconds:.0f} s"
    if missing:
        problem += f" on {', '.join(missing)}"
    return PreflightResult(
        problem,
        f"`ls {shlex.quote(str(attempt.folder))}`: a node without a health file hangs",
        tuple(NodeFinding(name, "preflight_silent", "FATAL", problem) for name in missing),
    )


def health_reports(attempt: AttemptRef) -> list[dict[str, Any]]:
    """Read the preflight reports of this attempt's nodes; unreadable ones are skipped."""
    return [report for path in attempt.files("health") if (report := read_small(path))]


def scratch(attempt: AttemptRef, task: specs.TaskSpec) -> Path:
    """Return the folder for temporary files of this start; the preflight check creates it."""
    return Path(task.scratch_dir) / f"meditron-{attempt.start_id}"


def remove_scratch(attempt: AttemptRef, task: specs.TaskSpec) -> None:
    """Remove the temporary files on every node; a node that is gone keeps its own."""
    folder = scratch(attempt, task)
    command = [*on_every_node(attempt, task), "rm", "-rf", "--", str(folder)]
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, timeout=SCRATCH_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        log(f"{folder} may be left: {error}")
