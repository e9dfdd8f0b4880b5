"""What ``meditron doctor`` asks compute nodes: ``python -m jobs.health.site_probe {batch,node,host}
FOLDER``.

The batch step looks for Slurm's commands, and starts one process a node, as ranks are started. The
first of these waits for the second, which finds it by a file in ``FOLDER``; so they learn whether
they share storage and locks, reach each other by name, and agree on the time. Then it starts one
process a node as the pre-flight of a training is started, on the host: these look at health and
quotas. Whatever fails is a line of the report; ``report.json`` is written last. Standard library
only.
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
from jobs.contract.job import node_name
from jobs.health import node_checks, preflight, quota
from jobs.health.site_probe_peers import find_peer, wait_for_peer
from jobs.runtime import subprocesses
from jobs.slurm.client import Client
from jobs.slurm.job_environment import job_environment

REQUEST = "request.json"
REPORT = "report.json"
COMMANDS = ("srun", "scontrol", "sbatch", "squeue", "scancel", "sacct")
"""Of Slurm, that the batch step uses."""
STEP_SECONDS = 240.0
"""For the step of ranks: both nodes met, modules imported, and a container started before that."""
HOST_STEP_SECONDS = 200.0
"""For the step on the hosts: health, and each tool for quotas."""
STEP_GRACE_SECONDS = 5.0
"""For srun to end a step that it is asked to end."""
CHILD_SECONDS = 100.0
"""For modules from a shared disk that all of a site reads, and for drivers that do not answer."""
LAST_LINES = 5


def main(words: list[str]) -> int:
    """Run one of the parts; 0 also when what it found is bad."""
    if words[0] == "health":
        print(json.dumps(health_findings(json.loads(words[1]))))
        return 0
    part, folder = words[0], Path(words[1])
    if part == "batch":
        write_json(folder / REPORT, batch_report(folder, os.environ))
        return 0
    number = int(os.environ.get("SLURM_PROCID", "0"))
    found = host_report(folder) if part == "host" else node_report(folder, number)
    write_json(folder / f"{part}-{number}.json", found)
    return 0


# ---- the batch step


def batch_report(folder: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """What the batch step finds, with the reports of the nodes."""
    request = read_json(folder / REQUEST)
    client = Client(job_environment(request["environment"], environ))
    step = run_step(
        [*request["step"], "-m", "jobs.health.site_probe", "node", str(folder)], STEP_SECONDS
    )
    host = [
        *request["host_step"],
        sys.executable,
        "-m",
        "jobs.health.site_probe",
        "host",
        str(folder),
    ]
    host_step = run_step(host, HOST_STEP_SECONDS)
    return {
        "time": time.time(),
        "node": node_name(os.environ),
        "commands": {name: shutil.which(name) is not None for name in COMMANDS},
        "requeue": can_requeue(client, environ.get("SLURM_JOB_ID", "")),
        "submit": test_submit(client, request["sbatch"]),
        "step": step,
        "host_step": host_step,
        "asked_nodes": request["nodes"],
        "asked_cpus": request["cpus"],
        "nodes": reports(folder, "node"),
        "hosts": reports(folder, "host"),
    }


def reports(folder: Path, part: str) -> list[dict[str, Any]]:
    """What the processes of a step have left."""
    return [read_json(path) for path in sorted(folder.glob(f"{part}-*.json"))]


def can_requeue(client: Client, job_id: str) -> bool | None:
    """Whether Slurm would queue this job again, which asked for it; None when it does not say."""
    facts = client.job(job_id)
    return None if facts is None else facts.can_requeue


def test_submit(client: Client, options: list[str]) -> dict[str, Any] | None:
    """What sbatch says here of a job like this one; None when it is missing or silent."""
    done = client.run(["sbatch", "--test-only", *options, "--wrap=true"])
    if done is None:
        return None
    return {"accepted": done.returncode == 0, "said": last_lines(done.stderr)}


def run_step(command: list[str], seconds: float) -> dict[str, Any]:
    """Start one process a node; the exit code and last words. The code is None when there is no
    srun, or no end.
    """
    try:
        said = subprocesses.run(command, seconds, STEP_GRACE_SECONDS)
    except FileNotFoundError as error:
        return {"code": None, "said": [f"{error.filename}: no such program"]}
    except OSError as error:
        return {"code": None, "said": [str(error)]}
    words = last_lines(said.out + said.err)
    if said.code is None:
        words.append(f"no end after {seconds:.0f} s")
    return {"code": said.code, "said": words}


def last_lines(text: str) -> list[str]:
    """The end of what a program said."""
    return [line for line in text.splitlines() if line.strip()][-LAST_LINES:]


# ---- each node, as ranks are started


def node_report(folder: Path, number: int) -> dict[str, Any]:
    """What one node finds."""
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    request = read_json(folder / REQUEST)
    meet = {0: wait_for_peer, 1: find_peer}.get(number) if nodes > 1 else None
    found = attempt(lambda: meet(folder)) if meet else {}
    return {
        "node": node_name(os.environ),
        "cpus": len(os.sched_getaffinity(0)),
        "python": sys.executable,
        "python_version": ".".join(map(str, sys.version_info[:3])),
        "modules": import_modules(request["modules"]),
        "storage": attempt(lambda: storage(folder)),
        **found,
    }


def attempt(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a part of the report says, or the error that kept it from saying it."""
    try:
        return part()
    except OSError as error:
        return {"error": f"{error.filename or type(error).__name__}: {error.strerror or error}"}


def storage(folder: Path) -> dict[str, Any]:
    """Room where runs lie, in bytes and files; that a whole file can be put in place."""
    write_json(folder / f"written-{node_name(os.environ)}.json", {})
    room = os.statvfs(folder)
    return {
        "free_bytes": room.f_bavail * room.f_frsize,
        # Some file systems count no files, and say 0 of 0.
        "free_files": room.f_favail if room.f_files else None,
    }


def import_modules(names: list[str]) -> dict[str, Any]:
    """Version of each module that training needs, and how long it took to import; or the reason
    why it cannot be imported. In a process of its own, since a broken library may take it down.
    """
    program = (
        "import importlib, json, sys, time\n"
        "for name in sys.argv[1:]:\n"
        "    began = time.monotonic()\n"
        "    version = getattr(importlib.import_module(name), '__version__', '')\n"
        "    print(json.dumps([name, str(version), time.monotonic() - began]), flush=True)\n"
    )
    out, reason = ask_child("-c", program, *names)
    found: dict[str, Any] = {}
    for line in out.splitlines():
        with suppress(ValueError, TypeError):
            name, version, seconds = json.loads(line)
            found[name] = {"version": version, "seconds": seconds}
    for name in names:
        if name not in found:
            found[name] = {"error": reason}
            break
    return found


def ask_child(*words: str) -> tuple[str, str]:
    """What another Python prints, and its last words when it fails."""
    said = subprocesses.run([sys.executable, *words], CHILD_SECONDS)
    if said.code is None:
        return said.out, f"no end after {CHILD_SECONDS:.0f} s"
    return said.out, (last_lines(said.err) or [f"exit {said.code}"])[-1]


# ---- each node, as the pre-flight is started


def host_report(folder: Path) -> dict[str, Any]:
    """What the host of a node finds, beside the containers and options of ranks."""
    request = read_json(folder / REQUEST)
    return {
        "node": node_name(os.environ),
        "health": health_of(request["health"]),
        "quota": attempt(lambda: quota_of(folder)),
    }


def quota_of(folder: Path) -> dict[str, Any]:
    """What quotas leave, in bytes and files; nothing where nobody tells."""
    allowed = quota.room(folder)
    return {} if allowed is None else asdict(allowed)


def health_of(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What the pre-flight of a training would say of this node (``jobs.health.preflight``), but for
    its disks; or the reason why it says nothing. In a process of its own, since a broken driver may
    not answer.
    """
    out, reason = ask_child("-m", "jobs.health.site_probe", "health", json.dumps(wanted))
    try:
        return {"findings": json.loads(out)}
    except ValueError:
        return {"error": reason}


def health_findings(wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """All findings about this node.

    Raises:
        ValueError: something unheard of is wanted.
    """
    expected = node_checks.expectation(wanted, os.environ)

    def look() -> list[node_checks.HealthFinding]:
        return node_checks.check(node_checks.read_sample(None, os.environ), expected)

    tries, seconds = preflight.PROCESS_TRIES, preflight.PROCESS_WAIT_SECONDS
    found = preflight.settled(look, tries, lambda: time.sleep(seconds))
    return [finding.to_json() for finding in found]


# ---- two nodes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
