"""Submit the probe job, wait for it and read its report (it runs ``jobs.health.site_probe``)."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from jobs.contract.files import FormatError, read_json, write_bytes, write_json
from jobs.contract.rundir import RunDir
from jobs.contract.specs import RUN, TaskSpec
from jobs.health import site_probe as node_side
from jobs.slurm.client import Client
from jobs.slurm.sbatch import sbatch_reason
from meditron_cli.config.facts_file import Probe
from meditron_cli.doctor import job_options
from meditron_cli.errors import SchedulerError
from meditron_cli.plan.model import Plan
from meditron_cli.runs import code_snapshot
from meditron_cli.services import Clock

NAME = "meditron-doctor"
LOG = "probe.log"
MODULES = ("torch", "megatron.core")
"""The modules that the ranks of training import."""
POLL_SECONDS = 1.0
QUERY_SECONDS = 10.0
"""Between two queries of Slurm, which matter only when no report arrives."""


class ProbeRefused(SchedulerError):
    """sbatch refused the probe job."""


@dataclass(frozen=True)
class ProbeWait:
    """The result of waiting for a probe: its report, or why there is none, or neither yet."""

    probe: Probe
    problem: str = ""
    """Why there will be no report."""


@dataclass(frozen=True)
class OwnEnvironment:
    """The environment of a stage that is not training's."""

    training: TaskSpec
    """As its ranks would be started there."""
    modules: tuple[str, ...]
    """That the stage's ranks import."""


def submit(
    plan: Plan, stages: Mapping[str, OwnEnvironment], root: Path, client: Client, now: float
) -> Probe:
    """Create the probe's folder in the runs directory, and submit its job.

    Args:
        plan: with the training whose jobs are probed.
        stages: those with an environment of their own.

    Raises:
        ProbeRefused: with sbatch's reason.
        SchedulerError: sbatch does not answer.
        OSError: the folder cannot be written.
    """
    folder = root / f".doctor-{uuid4().hex}"
    resources = job_options.probe_resources(plan, len(stages))
    options = job_options.options(plan, resources)
    code_snapshot.copy_code(RunDir(folder))
    request = {
        "environment": list(plan.site.environment),
        "sbatch": options,
        "step": job_options.step(plan.training.tasks[0], resources, {RUN: str(folder)}),
        "stages": {
            name: {
                "step": job_options.step(own.training, resources, {RUN: str(folder)}),
                "modules": list(own.modules),
            }
            for name, own in stages.items()
        },
        "host_step": job_options.on_every_node(resources),
        "nodes": resources.nodes,
        "cpus": resources.cpus_per_rank,
        "modules": list(MODULES),
        "health": plan.training.tasks[0].health,
    }
    write_json(folder / node_side.REQUEST, request)
    write_bytes(folder / "probe.sh", script(plan, folder).encode())
    try:
        job_id = run_sbatch(plan, folder, options, client)
    except BaseException:
        remove(folder)
        raise
    return Probe(job_id, str(folder), now)


def script(plan: Plan, folder: Path) -> str:
    """Return the batch script: the profile's setup lines, then ``jobs.health.site_probe``."""
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


def run_sbatch(plan: Plan, folder: Path, options: list[str], client: Client) -> str:
    """Submit the script and return the job's id.

    Raises:
        ProbeRefused: with sbatch's reason.
        SchedulerError: sbatch does not answer.
    """
    own = [f"--job-name={NAME}", f"--output={folder / LOG}", "--open-mode=append"]
    requeue = ["--requeue"] if plan.site.requeue else []
    script_words = [f"--chdir={folder}", str(folder / "probe.sh")]
    without = f"meditron doctor --no-probe --cluster {shlex.quote(plan.site.cluster)}"
    result = client.run(["sbatch", "--parsable", *own, *requeue, *options, *script_words])
    if result is None:
        raise SchedulerError("sbatch did not answer", hint=f"`{without}` reads settings only")
    if result.returncode != 0:
        reason = sbatch_reason(result.stderr)
        raise ProbeRefused(
            f"sbatch refused the probe job: {reason}", hint=f"`{without}` reads settings only"
        )
    return result.stdout.strip().split(";")[0]


def wait(
    probe: Probe, client: Client, clock: Clock, seconds: float, begin: Callable[[], None]
) -> ProbeWait:
    """Wait until the report exists, the job has ended, or the time is up.

    A signal that ends the program, or an error, cancels the probe job.

    Args:
        begin: called first.
    """
    try:
        begin()
        return poll(probe, client, clock, seconds)
    except BaseException:
        client.cancel([probe.job_id])
        remove(Path(probe.folder))
        raise


def poll(probe: Probe, client: Client, clock: Clock, seconds: float) -> ProbeWait:
    """Wait as ``wait`` does, without cancelling the job."""
    deadline, query_at = clock.now() + seconds, clock.now() + QUERY_SECONDS
    is_over = False
    while True:
        report = fetch(probe)
        if report is not None:
            return ProbeWait(replace(probe, report=report))
        if is_over:
            return ProbeWait(probe, problem(Path(probe.folder)))
        now = clock.now()
        if now >= min(query_at, deadline):
            query_at = now + QUERY_SECONDS
            is_over = client.states({"": [probe.job_id]})[""][probe.job_id].is_over
        if now >= deadline and not is_over:
            return ProbeWait(probe)
        clock.sleep(POLL_SECONDS)


def fetch(probe: Probe) -> dict[str, Any] | None:
    """Return the report; None when it does not exist yet."""
    try:
        return read_json(Path(probe.folder) / node_side.REPORT)
    except (OSError, FormatError):
        return None


def problem(folder: Path) -> str:
    """Return why a probe that has ended wrote no report."""
    try:
        lines = (folder / LOG).read_text(errors="replace").splitlines()
    except OSError:
        return (
            f"the probe job ended without a log: compute nodes do not see {folder.parent}; name a "
            "--runs-dir on storage that all nodes share"
        )
    return f"the probe job wrote no report: {lines[-1] if lines else 'its log is empty'}"


def remove(folder: Path) -> None:
    """Remove a probe's folder; anything that a job still writes there is lost."""
    shutil.rmtree(folder, ignore_errors=True)
