"""Slurm through submitit: the batch scripts, submission, states, cancelling."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meditron_cli.errors import SchedulerError
from meditron_cli.plan.model import Plan, Resources, StagePlan
from meditron_cli.scheduler import queries
from meditron_cli.scheduler.base import JobInfo, JobState

TIMEOUT_SECONDS = 20
KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "SLURM_CONF")
"""Variables of the submitting shell that every job needs."""
MODULE_PREFIXES = ("LMOD_", "MODULE", "BASH_ENV", "BASH_FUNC_module", "BASH_FUNC_ml", "__LMOD")
"""What the ``module`` command needs in a batch shell."""
STAGE_LEAD_SECONDS = 60
"""Lead of the stop signal for stages whose tasks are simply run again."""
MANY_TIMEOUTS = 1000
"""submitit's own count of time-outs plays no part here."""


class SlurmScheduler:
    """Jobs on a Slurm cluster."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ

    def render(self, plan: Plan, run: Path) -> str:
        """Every batch script of a first submission, byte for byte, each under a line that names it.

        Job ids that only submission will know stand as ``<curate>``.
        """
        parts = []
        for stage in plan.stages:
            after = [f"<{name}>" for name in stage.after if has_stage(plan, name)]
            for number, chunk in enumerate(stage.chunks, 1):
                script = batch_script(plan, stage, len(chunk), run, 1, after)
                title = f"#### {stage.stage}: script {number} of {len(stage.chunks)}"
                parts.append(f"{title}, {len(chunk)} tasks ####\n{script}")
        return "\n".join(parts)

    def submit(
        self,
        plan: Plan,
        stage: StagePlan,
        indices: Sequence[int],
        run: Path,
        attempt: int,
        after: Sequence[str],
    ) -> list[str]:
        """Submit tasks as arrays no longer than the site allows; all of them, or none."""
        longest = max(len(chunk) for chunk in stage.chunks)
        parts = [indices[start : start + longest] for start in range(0, len(indices), longest)]
        submitted: list[str] = []
        for part in parts:
            try:
                submitted += self._submit_array(plan, stage, part, run, attempt, after)
            except SchedulerError:
                self.cancel(submitted)
                raise
        return submitted

    def _submit_array(
        self,
        plan: Plan,
        stage: StagePlan,
        indices: Sequence[int],
        run: Path,
        attempt: int,
        after: Sequence[str],
    ) -> list[str]:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from jobs import entry

        if shutil.which("srun") is None:
            raise SchedulerError(
                "srun is not on PATH, so this machine cannot submit to Slurm",
                hint="log in to the cluster, or use `--cluster local`",
            )
        folder = job_folder(run, stage.stage, attempt)
        columns = [[str(value)] * len(indices) for value in (run, stage.stage)]
        numbers = [str(index) for index in indices]
        attempts = [str(attempt)] * len(indices)
        with only_environment(job_environment(plan, self._environ)):
            try:
                executor = submitit.SlurmExecutor(
                    folder, max_num_timeout=MANY_TIMEOUTS, python=python_command(plan)
                )
                executor.update_parameters(**parameters(plan, stage, run, attempt, after))
                jobs = executor.map_array(entry.run_task, *columns, numbers, attempts)
            except (FailedJobError, FailedSubmissionError) as error:
                raise SchedulerError(
                    f"sbatch refused {stage.stage}: {sbatch_reason(str(error))}",
                    hint=f"`meditron submit {stage.stage} --dry-run` shows the script",
                ) from error
        return [job.job_id for job in jobs]

    def states(self, job_ids: Sequence[str]) -> dict[str, JobInfo]:
        """One squeue for all, then one sacct for those it does not show.

        Nothing is guessed: when squeue does not answer, every job is UNKNOWN; a job that has left
        the queue
        is MISSING where there is no accounting to say how it ended.
        """
        if not job_ids:
            return {}
        text = self._ask(queries.squeue_command())
        if text is None:
            return {name: JobInfo(name, JobState.UNKNOWN, "") for name in job_ids}
        queue = {row.job_id: row for row in queries.parse(text, queries.QueueRow)}
        found = {
            name: JobInfo(
                name, JobState.from_slurm(queue[name].state), queue[name].state, queue[name].reason
            )
            for name in job_ids
            if name in queue
        }
        return {**self._ended([name for name in job_ids if name not in found]), **found}

    def _ended(self, job_ids: list[str]) -> dict[str, JobInfo]:
        if not job_ids:
            return {}
        text = self._ask(queries.sacct_command(job_ids))
        rows = queries.latest(queries.parse(text or "", queries.AccountRow))
        reason = "no accounting" if text is None else ""
        words = {name: rows[name].state if name in rows else "" for name in job_ids}
        return {
            name: JobInfo(name, JobState.from_slurm(word), word, reason)
            for name, word in words.items()
        }

    def cancel(self, job_ids: Sequence[str]) -> None:
        """End the jobs; those that are gone are no error."""
        for start in range(0, len(job_ids), 500):
            part = list(job_ids[start : start + 500])
            if self._ask(["scancel", "--quiet", *part]) is None:
                raise SchedulerError(
                    "scancel did not answer", hint="try again when `squeue` works on this machine"
                )

    def _ask(self, command: list[str]) -> str | None:
        """What a Slurm command prints, or None when it fails or does not answer."""
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
                env=dict(self._environ),
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None


def has_stage(plan: Plan, name: str) -> bool:
    return any(stage.stage == name for stage in plan.stages)


def job_folder(run: Path, stage: str, attempt: int) -> Path:
    """Where an attempt's scripts, pickles and logs lie."""
    return run / "stages" / stage / "attempts" / str(attempt)


def python_command(plan: Plan) -> str:
    """How the batch step starts Python: ``exec``, so that signals reach it and not the shell."""
    return "exec " + shlex.quote(plan.site.python or sys.executable)


def batch_script(
    plan: Plan, stage: StagePlan, count: int, run: Path, attempt: int, after: Sequence[str]
) -> str:
    """The text submitit writes for ``count`` tasks, without building an executor, which needs srun.

    submitit's private script builder is used here and nowhere else; a test holds it equal to what
    a real
    submission writes.
    """
    from submitit.slurm.slurm import _make_sbatch_string

    folder = job_folder(run, stage.stage, attempt)
    command = f"{python_command(plan)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    settings = parameters(plan, stage, run, attempt, after)
    text: str = _make_sbatch_string(
        command=command, folder=folder, map_count=count if count > 1 else None, **settings
    )
    return text


def parameters(
    plan: Plan, stage: StagePlan, run: Path, attempt: int, after: Sequence[str]
) -> dict[str, Any]:
    """submitit's parameters for a stage; values that are empty are left out."""
    resources = stage.resources
    lead = plan.site.signal_lead_seconds if stage.stage == "pretrain" else STAGE_LEAD_SECONDS
    code = run / "code"
    setup = [
        *plan.site.setup,
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1",
    ]
    named = {
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "mem": f"{resources.memory_gb}G" if resources.memory_gb else "",
        "dependency": f"afterok:{':'.join(after)}" if after else "",
    }
    return {
        "job_name": f"{run.name}.{stage.stage}",
        "time": resources.time_minutes,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.ranks_per_node,
        "cpus_per_task": resources.cpus_per_rank,
        "array_parallelism": stage.max_parallel,
        "setup": setup,
        "wckey": "",
        "stderr_to_stdout": True,
        "use_srun": False,
        "comment": f"run={run.name},attempt={attempt}",
        **{key: value for key, value in named.items() if value},
        **gpu_parameters(resources),
        "additional_parameters": {
            "chdir": str(code),
            "requeue": True,
            "signal": f"B:USR2@{lead}",
            **dict(plan.site.sbatch),
        },
    }


def gpu_parameters(resources: Resources) -> dict[str, Any]:
    """GPUs by number, or by typed gres where the site has types."""
    if not resources.gpus_per_node:
        return {}
    if resources.gpu_type:
        return {"gres": f"gpu:{resources.gpu_type}:{resources.gpus_per_node}"}
    return {"gpus_per_node": resources.gpus_per_node}


def job_environment(plan: Plan, environ: Mapping[str, str]) -> dict[str, str]:
    """What a job inherits: a few variables every program needs, the module system's, the
    allow-list.

    Everything else stays behind, above all an outer job's SLURM_*, PMI_* and MASTER_*.
    """
    names = {*KEPT, *plan.site.environment}
    return {
        name: value
        for name, value in environ.items()
        if name in names or name.startswith(MODULE_PREFIXES)
    }


@contextmanager
def only_environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Run a block with exactly these environment variables; submitit hands ours on to sbatch."""
    saved = dict(os.environ)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


def sbatch_reason(text: str) -> str:
    """The last thing sbatch said, without its prefix."""
    lines = [line for line in text.splitlines() if "error:" in line]
    words = (
        lines[-1].split("error:", 1)[1]
        if lines
        else (text.strip().splitlines() or ["no reason"])[-1]
    )
    return words.strip()
