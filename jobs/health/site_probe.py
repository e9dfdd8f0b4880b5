"""The job with which ``meditron doctor`` examines compute nodes. Standard library only.

``python -m jobs.health.site_probe {batch,node,host,STAGE} FOLDER``

The batch step looks for Slurm's commands and starts job steps of one process per node. In the
first, started as ranks are, each checks storage, libraries and, with two nodes, the connection
between them. In the second, started on the host as the preflight check is, each checks health and
quotas. In one more for each stage with an environment of its own, started as its ranks are, each
checks the libraries that the stage needs. A failure becomes an entry of the report;
``report.json`` is written last.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.contract.files import read_json, write_json
from jobs.contract.job import node_name, usable_cores
from jobs.health import node_checks, preflight, quota
from jobs.health.site_probe_peers import contact_peer, serve_peer
from jobs.runtime import subprocesses
from jobs.slurm.client import Client
from jobs.slurm.job_check import check_job
from jobs.slurm.job_environment import job_environment

REQUEST = "request.json"
REPORT = "report.json"
COMMANDS = ("srun", "scontrol", "sbatch", "squeue", "scancel", "sacct")
"""The Slurm commands that a batch step uses."""
STEP_SECONDS = 240.0
"""Limit of the ranks' step: a container start, the peer checks, and importing modules."""
HOST_STEP_SECONDS = 200.0
"""Limit of the hosts' step: health checks, and each quota tool."""
STEP_GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL to srun."""
CHILD_SECONDS = 100.0
"""Limit of a child: imports from a busy shared disk, or a driver that does not answer."""
LAST_LINES = 5


def main(words: list[str]) -> int:
    """Run one part; return 0 also when it found problems."""
    if words[0] == "health":
        print(json.dumps(health_findings(json.loads(words[1]))))
        return 0
    part, folder = words[0], Path(words[1])
    if part == "batch":
        write_json(folder / REPORT, batch_report(folder, os.environ))
        return 0
    number = int(os.environ.get("SLURM_PROCID", "0"))
    if part == "host":
        report = host_report(folder)
    elif part == "node":
        report = node_report(folder, number)
    else:
        report = libraries(read_json(folder / REQUEST)["stages"][part]["modules"])
    write_json(folder / f"{part}-{number}.json", report)
    return 0


# ---- the batch step


def batch_report(folder: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Run both steps, and return their reports with the batch step's own checks."""
    request = read_json(folder / REQUEST)
    client = Client(job_environment(request["environment"], environ))
    module = ["-m", "jobs.health.site_probe"]
    step = run_step([*request["step"], *module, "node", str(folder)], STEP_SECONDS)
    host_command = [*request["host_step"], sys.executable, *module, "host", str(folder)]
    host_step = run_step(host_command, HOST_STEP_SECONDS)
    stages = {
        name: {
            "step": run_step([*wanted["step"], *module, name, str(folder)], STEP_SECONDS),
            "nodes": reports(folder, name),
        }
        for name, wanted in request["stages"].items()
    }
    return {
        "time": time.time(),
        "node": node_name(os.environ),
        "commands": {name: shutil.which(name) is not None for name in COMMANDS},
        "requeue": can_requeue(client, environ.get("SLURM_JOB_ID", "")),
        "submit": check_submission(client, request["sbatch"]),
        "step": step,
        "host_step": host_step,
        "requested_nodes": request["nodes"],
        "requested_cpus": request["cpus"],
        "nodes": reports(folder, "node"),
        "hosts": reports(folder, "host"),
        "stages": stages,
    }


def reports(folder: Path, part: str) -> list[dict[str, Any]]:
    """Read the reports of a step's processes."""
    return [read_json(path) for path in sorted(folder.glob(f"{part}-*.json"))]


def can_requeue(client: Client, job_id: str) -> bool | None:
    """Return whether Slurm would requeue this job; None for no answer."""
    facts = client.job(job_id)
    return None if facts is None else facts.can_requeue


def check_submission(client: Client, options: list[str]) -> dict[str, Any] | None:
    """Return sbatch's answer here about a job like this one; None for no answer."""
    check = check_job(client, options)
    if check is None:
        return None
    return {"accepted": check.accepted, "lines": list(check.lines[-LAST_LINES:])}


def run_step(
    command: list[str], seconds: float, grace: float = STEP_GRACE_SECONDS
) -> dict[str, Any]:
    """Run a job step; return its exit code and last lines.

    The code is None when it cannot be started or does not end in time.
    """
    try:
        result = subprocesses.run(command, seconds, grace)
    except FileNotFoundError as error:
        return {"code": None, "lines": [f"{error.filename}: no such program"]}
    except OSError as error:
        return {"code": None, "lines": [str(error)]}
    lines = last_lines(result.out + result.err)
    if result.code is None:
        lines.append(f"no end after {seconds:.0f} s")
    return {"code": result.code, "lines": lines}


def last_lines(text: str) -> list[str]:
    """Return the last lines of a program's output."""
    return [line for line in text.splitlines() if line.strip()][-LAST_LINES:]


# ---- each node, as ranks are started


def node_report(folder: Path, number: int) -> dict[str, Any]:
    """Return one node's report: its storage, libraries, cores and peer."""
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    request = read_json(folder / REQUEST)
    check_peer = {0: serve_peer, 1: contact_peer}.get(number) if nodes > 1 else None
    peer = attempt(lambda: check_peer(folder)) if check_peer else {}
    return {
        **libraries(request["modules"]),
        "cpus": usable_cores(),
        "storage": attempt(lambda: storage(folder)),
        **peer,
    }


def libraries(modules: list[str]) -> dict[str, Any]:
    """Return one node's report of an interpreter and of the modules that it imports."""
    return {
        "node": node_name(os.environ),
        "python": sys.executable,
        "python_version": ".".join(map(str, sys.version_info[:3])),
        "modules": import_modules(modules),
    }


def attempt(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a part of the report, or the operating system's error in its place."""
    try:
        return part()
    except OSError as error:
        return {"error": f"{error.filename or type(error).__name__}: {error.strerror or error}"}


def storage(folder: Path) -> dict[str, Any]:
    """Write a file to the runs directory, and return its free bytes and files."""
    write_json(folder / f"written-{node_name(os.environ)}.json", {})
    free = os.statvfs(folder)
    return {
        "free_bytes": free.f_bavail * free.f_frsize,
        # Some file systems do not count files and report 0 of 0.
        "free_files": free.f_favail if free.f_files else None,
    }


def import_modules(names: list[str]) -> dict[str, Any]:
    """Import training's modules in a child, since a broken library may kill the process.

    Returns:
        The version and import time in seconds per module; ``error`` for the first that fails.
    """
    program = (
        "import importlib, json, sys, time\n"
        "for name in sys.argv[1:]:\n"
        "    began = time.monotonic()\n"
        "    version = getattr(importlib.import_module(name), '__version__', '')\n"
        "    print(json.dumps([name, str(version), time.monotonic() - began]), flush=True)\n"
    )
    out, reason = run_child("-c", program, *names)
    modules: dict[str, Any] = {}
    for line in out.splitlines():
        with suppress(ValueError, TypeError):
            name, version, seconds = json.loads(line)
            modules[name] = {"version": version, "seconds": seconds}
    for name in names:
        if name not in modules:
            modules[name] = {"error": reason}
            break
    return modules


def run_child(*words: str, seconds: float = CHILD_SECONDS) -> tuple[str, str]:
    """Run Python with these arguments; return its output, and its last error line."""
    result = subprocesses.run([sys.executable, *words], seconds)
    if result.code is None:
        return result.out, f"no end after {seconds:.0f} s"
    return result.out, (last_lines(result.err) or [f"exit code {result.code}"])[-1]


# ---- each node, as the preflight check is started


def host_report(folder: Path) -> dict[str, Any]:
    """Return one host's report, without the containers and srun options of ranks."""
    request = read_json(folder / REQUEST)
    return {
        "node": node_name(os.environ),
        "health": check_health(request["health"]),
        "quota": attempt(lambda: quota_left(folder)),
    }


def quota_left(folder: Path) -> dict[str, Any]:
    """Return what quotas leave, in bytes and files; nothing when no tool reports one."""
    left = quota.read(folder)
    return {} if left is None else asdict(left)


def check_health(health: Mapping[str, Any]) -> dict[str, Any]:
    """Run the preflight check without its disk checks in a child: a broken driver may hang.

    Returns:
        The ``findings``, or an ``error``.
    """
    out, reason = run_child("-m", "jobs.health.site_probe", "health", json.dumps(health))
    try:
        return {"findings": json.loads(out)}
    except ValueError:
        return {"error": reason}


def health_findings(
    health: dict[str, Any],
    wait: Callable[[], None] = lambda: time.sleep(preflight.PROCESS_WAIT_SECONDS),
) -> list[dict[str, Any]]:
    """Return all findings about this node.

    Args:
        health: of the training task.
        wait: called between two tries while foreign processes occupy a GPU.

    Raises:
        ValueError: ``health`` names an unknown check.
    """
    findings = preflight.check_node(None, node_checks.expectation(health, os.environ), wait)
    return [finding.to_json() for finding in findings]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
