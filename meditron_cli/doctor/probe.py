"""The probe job: made, submitted, waited for, fetched (``jobs.health.site_probe`` is what
it runs).
"""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from jobs.contract.files import FormatError, read_json, write_bytes, write_json
from jobs.contract.rundir import RunDir
from jobs.health import site_probe as node_side
from jobs.slurm.client import Client
from jobs.slurm.sbatch import sbatch_reason
from meditron_cli.config.facts_file import Probe
from meditron_cli.doctor import job_options
from meditron_cli.errors import SchedulerError
from meditron_cli.plan.model import RUN, Plan
from meditron_cli.runs import code_snapshot
from meditron_cli.services import Clock

NAME = "meditron-doctor"
LOG = "probe.log"
MODULES = ("torch", "megatron.core")
"""What the ranks of training import."""
LOOK_SECONDS = 1.0
ASK_SECONDS = 10.0
"""Between two questions to Slurm, which matter only when no report comes."""


class ProbeRefused(SchedulerError):
    """sbatch does not take the probe job."""


@dataclass(frozen=True)
class ProbeWait:
    """What waiting came to: a report, a reason why there will be none, or neither yet."""

    probe: Probe
    problem: str = ""


def submit(plan: Plan, root: Path, client: Client, now: float) -> Probe:
    """Write a probe's folder below the runs directory, and hand its job to sbatch.

    Raises:
        Refused: by sbatch, in its words.
        SchedulerError: sbatch does not answer.
        OSError: the folder cannot be written.
    """
    folder = root / f".doctor-{uuid4().hex}"
    resources = job_options.probe_resources(plan)
    options = job_options.options(plan, resources)
    code_snapshot.copy_code(RunDir(folder))
    request = {
        "environment": list(plan.site.environment),
        "sbatch": options,
        "step": job_options.step(plan, resources, {RUN: str(folder)}),
        "host_step": job_options.on_every_node(resources),
        "nodes": resources.nodes,
        "cpus": resources.cpus_per_rank,
        "modules": list(MODULES),
        "health": plan.stage("pretrain").tasks[0].health,
    }
    write_json(folder / node_side.REQUEST, request)
    write_bytes(folder / "probe.sh", script(plan, folder).encode())
    try:
        job_id = hand_over(plan, folder, options, client)
    except BaseException:
        remove(folder)
        raise
    return Probe(job_id, str(folder), now)


def script(plan: Plan, folder: Path) -> str:
    """The batch script: what the site wants first, then ``jobs.health.site_probe``."""
    python = shlex.quote(plan.site.python or sys.executable)
    code = shlex.quote(str(folder / "code"))
    lines = [
        "#!/bin/bash",
        *plan.site.setup,
        f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1",
        f"exec {python} -u -m jobs.health.site_probe batch {shlex.quote(str(folder))}",
    ]
    return "\n".join(lines) + "\n"


def hand_over(plan: Plan, folder: Path, options: list[str], client: Client) -> str:
    """Submit the script; answers the job's id.

    Raises:
        Refused: by sbatch, in its words.
        SchedulerError: sbatch does not answer.
    """
    own = [f"--job-name={NAME}", f"--output={folder / LOG}", "--open-mode=append"]
    again = ["--requeue"] if plan.site.requeue else []
    done = client.run(
        [
            "sbatch",
            "--parsable",
            *own,
            *again,
            *options,
            f"--chdir={folder}",
            str(folder / "probe.sh"),
        ]
    )
    if done is None:
        raise SchedulerError("sbatch did not answer", hint="try again, or add --no-probe")
    if done.returncode != 0:
        reason = sbatch_reason(done.stderr)
        raise ProbeRefused(f"sbatch refused the probe job: {reason}", hint="add --no-probe")
    return done.stdout.strip().split(";")[0]


def wait(probe: Probe, client: Client, clock: Clock, seconds: float) -> ProbeWait:
    """Wait for a report, until it is there, the job is over, or the time is.

    A person who interrupts this ends the probe.
    """
    try:
        return watch(probe, client, clock, seconds)
    except KeyboardInterrupt:
        client.cancel([probe.job_id])
        remove(Path(probe.folder))
        raise


def watch(probe: Probe, client: Client, clock: Clock, seconds: float) -> ProbeWait:
    """The same, without an end to the probe."""
    deadline, ask_at = clock.now() + seconds, clock.now() + ASK_SECONDS
    is_over = False
    while True:
        report = fetch(probe)
        if report is not None:
            return ProbeWait(replace(probe, report=report))
        if is_over:
            return ProbeWait(probe, problem(Path(probe.folder)))
        now = clock.now()
        if now >= min(ask_at, deadline):
            ask_at = now + ASK_SECONDS
            is_over = client.states({"": [probe.job_id]})[""][probe.job_id].is_over
        if now >= deadline and not is_over:
            return ProbeWait(probe)
        clock.sleep(LOOK_SECONDS)


def fetch(probe: Probe) -> dict[str, Any] | None:
    """The report, when it is there."""
    try:
        return read_json(Path(probe.folder) / node_side.REPORT)
    except (OSError, FormatError):
        return None


def problem(folder: Path) -> str:
    """Why a probe that is over left no report."""
    try:
        said = (folder / LOG).read_text(errors="replace").splitlines()
    except OSError:
        return (
            f"the probe job ended without a word: compute nodes do not see {folder.parent}; name a "
            "runs directory on storage that they share"
        )
    return f"the probe job left no report: {said[-1] if said else 'its log is empty'}"


def remove(folder: Path) -> None:
    """Remove a probe's folder; what a job still writes there is lost."""
    shutil.rmtree(folder, ignore_errors=True)
