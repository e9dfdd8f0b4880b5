"""Slurm through submitit: the batch scripts, submission, states, cancelling."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from meditron_cli.errors import ConfigError, SchedulerError
from meditron_cli.plan.model import RUN, Plan, Resources, StagePlan
from meditron_cli.scheduler import queries
from meditron_cli.scheduler.base import LEFT_THE_QUEUE, JobInfo, JobState
from meditron_cli.scheduler.environment import job_environment

TIMEOUT_SECONDS = 20
SACCT_IDS = 4000
"""Ids asked for in one call: one argument of a command holds 128 KiB (execve(2))."""
ACCOUNTING_OFF = "accounting storage is disabled"
"""What sacct says where a site keeps no accounting (verified on Slurm 22.05)."""
NO_ACCOUNTING = "no accounting"
COMMAND_PREFIXES = ("SLURM_", "SQUEUE_", "SACCT_", "SCANCEL_")
"""Settings of a person or of a surrounding job that would change what Slurm's commands say."""
MANY_TIMEOUTS = 1000
"""submitit's own count of time-outs plays no part here."""
SILENT = ("timed out", "Unable to contact", "Connection refused")
"""What sbatch says when the controller does not answer, which does not mean that it refused."""
UNWRITABLE = r"[%\\:\x00-\x1f\x7f]"
"""Characters of a path that mean something in ``#SBATCH --output`` or PYTHONPATH, or end a line."""
UNMOUNTABLE = r"[,%\\:\x00-\x1f\x7f]"
"""The same, and the one that means something in a container's mount option."""


class SlurmScheduler:
    """Jobs on a Slurm cluster."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._arrays: dict[str, int] = {}
        """Arrays submitted here, and their lengths."""

    def render(self, plan: Plan, run: Path) -> str:
        """Every batch script of a first submission, byte for byte, each under a line that names it.

        Job ids that only submission will know stand as ``<curate>``.
        """
        refuse_path(plan, run)
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
        refuse_path(plan, run)
        self._refuse_absence()
        longest = max(len(chunk) for chunk in stage.chunks)
        parts = [indices[start : start + longest] for start in range(0, len(indices), longest)]
        waits_for = whole_arrays(after, self._arrays)
        submitted: list[str] = []
        try:
            for part in parts:
                submitted += self._submit_array(plan, stage, part, run, attempt, waits_for)
        except BaseException as error:
            self._take_back(submitted, run, stage.stage, attempt, error)
            raise
        return submitted

    def _refuse_absence(self) -> None:
        """Refuse on a machine without Slurm's commands; submitit looks for srun, and calls sbatch.

        Raises:
            SchedulerError: naming the one that is missing.
        """
        for name in ("sbatch", "srun"):
            if shutil.which(name, path=self._environ.get("PATH")) is None:
                raise SchedulerError(
                    f"{name} is not on PATH, so this machine cannot submit to Slurm",
                    hint="log in to the cluster, or use `--cluster local`",
                )

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

        folder = job_folder(run, stage.stage, attempt)
        columns = [[str(value)] * len(indices) for value in (run, stage.stage)]
        numbers = [str(index) for index in indices]
        attempts = [str(attempt)] * len(indices)
        # submitit prints what sbatch said; it is part of our sentence.
        inherited = job_environment(plan.site.environment, self._environ)
        with only_environment(inherited), redirect_stderr(io.StringIO()):
            try:
                executor = submitit.SlurmExecutor(
                    folder, max_num_timeout=MANY_TIMEOUTS, python=python_command(plan)
                )
                executor.update_parameters(**parameters(plan, stage, run, attempt, after))
                jobs = executor.map_array(entry.run_task, *columns, numbers, attempts)
            except (FailedJobError, FailedSubmissionError) as error:
                raise refusal(stage.stage, str(error)) from error
        if len(jobs) > 1:
            self._arrays[jobs[0].job_id.split("_")[0]] = len(jobs)
        return [job.job_id for job in jobs]

    def _take_back(
        self, submitted: list[str], run: Path, stage: str, attempt: int, error: BaseException
    ) -> None:
        """Cancel what a failed submission has left in the queue.

        Raises:
            SchedulerError: Slurm does not answer; it says what may still be there.
        """
        try:
            self.cancel([*submitted, *self._find(run, stage, attempt)])
        except SchedulerError as silence:
            reason = error.message if isinstance(error, SchedulerError) else type(error).__name__
            raise SchedulerError(
                f"{reason}; jobs named {job_name(run, stage)} may be queued all the same",
                hint=f"when Slurm answers: `scancel --name={job_name(run, stage)}`, submit again",
            ) from silence

    def _find(self, run: Path, stage: str, attempt: int) -> list[str]:
        """Jobs of an attempt that are in the queue, by what was written on them.

        An sbatch that got no answer in time may have submitted its job all the same (verified).

        Raises:
            SchedulerError: no answer.
        """
        text = self._ask(queries.squeue_named_command(job_name(run, stage)))
        if text is None:
            raise SchedulerError("squeue did not answer", hint="try again when it does")
        marks = (job_comment(run, attempt), str(code_folder(run)))
        rows = queries.parse(text, queries.NamedRow)
        return list(dict.fromkeys(row.job_id for row in rows if (row.comment, row.folder) == marks))

    def states(self, job_ids: Sequence[str]) -> dict[str, JobInfo]:
        """One squeue for all, then one sacct for those it does not show.

        Nothing is guessed: when squeue does not answer, every job is UNKNOWN, and so is one that
        has left the queue while the accounting is silent. Where a site has no accounting at all,
        such a job is MISSING.
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
        found.update(self._ended([name for name in job_ids if name not in found]))
        return {name: found[name] for name in job_ids}

    def _ended(self, job_ids: list[str]) -> dict[str, JobInfo]:
        if not job_ids:
            return {}
        if shutil.which("sacct", path=self._environ.get("PATH")) is None:
            return {name: JobInfo(name, JobState.MISSING, "", NO_ACCOUNTING) for name in job_ids}
        found: dict[str, JobInfo] = {}
        for start in range(0, len(job_ids), SACCT_IDS):
            found.update(self._accounted(job_ids[start : start + SACCT_IDS]))
        return found

    def _accounted(self, job_ids: list[str]) -> dict[str, JobInfo]:
        done = self._run(queries.sacct_command(job_ids))
        if done is None or done.returncode != 0:
            off = done is not None and ACCOUNTING_OFF in done.stderr
            state = JobState.MISSING if off else JobState.UNKNOWN
            reason = NO_ACCOUNTING if off else LEFT_THE_QUEUE
            return {name: JobInfo(name, state, "", reason) for name in job_ids}
        rows = queries.latest(queries.parse(done.stdout, queries.AccountRow))
        words = {name: rows[name].state if name in rows else "" for name in job_ids}
        return {
            name: JobInfo(name, JobState.from_slurm(word), word) for name, word in words.items()
        }

    def cancel(self, job_ids: Sequence[str]) -> None:
        """End the jobs; those that are gone are no error."""
        for start in range(0, len(job_ids), 500):
            part = list(job_ids[start : start + 500])
            if self._ask(["scancel", "--quiet", *part]) is None:
                raise SchedulerError(
                    "scancel did not answer", hint="try again when `squeue` works on this machine"
                )

    def withdraw(self, run: Path, stage: str, attempt: int) -> None:
        """Cancel an attempt's jobs by what was written on them."""
        self.cancel(self._find(run, stage, attempt))

    def _ask(self, command: list[str]) -> str | None:
        """What a Slurm command prints, or None when it fails or does not answer."""
        done = self._run(command)
        return done.stdout if done is not None and done.returncode == 0 else None

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str] | None:
        """A Slurm command to its end, or None when it cannot be started or does not answer."""
        try:
            return subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
                env=command_environment(self._environ),
            )
        except (OSError, subprocess.TimeoutExpired):
            return None


def has_stage(plan: Plan, name: str) -> bool:
    """Whether a plan runs a stage, so that others can wait for it."""
    return any(stage.stage == name for stage in plan.stages)


def job_folder(run: Path, stage: str, attempt: int) -> Path:
    """Where an attempt's scripts, pickles and logs lie."""
    return run / "stages" / stage / "attempts" / str(attempt)


def code_folder(run: Path) -> Path:
    """The run's own copy of the code, where its jobs start."""
    return run / "code"


def job_name(run: Path, stage: str) -> str:
    """What squeue calls a stage's jobs."""
    return f"{run.name}.{stage}"


def job_comment(run: Path, attempt: int) -> str:
    """By which a job is known whose id was lost."""
    return f"run={run.name},attempt={attempt}"


def refuse_path(plan: Plan, run: Path) -> None:
    """Refuse a run directory whose path would be read as something else on its way to a node.

    Raises:
        ConfigError: naming the characters.
    """
    commands = [(*task.python, *task.srun_args) for stage in plan.stages for task in stage.tasks]
    mounted = any(RUN in word for command in commands for word in command)
    forbidden = UNMOUNTABLE if mounted else UNWRITABLE
    found = sorted(set(re.findall(forbidden, str(run))))
    if found:
        raise ConfigError(
            f"the run directory {str(run)!r} has {' '.join(map(repr, found))} in its path, which "
            "Slurm or Python would not take literally",
            hint="name another place with --runs-dir",
        )


def whole_arrays(job_ids: Sequence[str], lengths: Mapping[str, int]) -> list[str]:
    """The same jobs, with the id of the array for the ids of its elements where all are there.

    A dependency on thousands of elements is a burden for Slurm.
    """
    counts = Counter(name.split("_")[0] for name in job_ids)
    whole = {array for array, length in lengths.items() if counts[array] == length}
    return list(
        dict.fromkeys(a if (a := name.split("_")[0]) in whole else name for name in job_ids)
    )


def python_command(plan: Plan) -> str:
    """How the batch step starts Python: ``exec``, so that signals reach it and not the shell."""
    return "exec " + shlex.quote(plan.site.python or sys.executable)


def batch_script(
    plan: Plan, stage: StagePlan, count: int, run: Path, attempt: int, after: Sequence[str]
) -> str:
    """The text submitit writes for ``count`` tasks, without building an executor, which needs srun.

    submitit's private script builder is used here and nowhere else; a test holds it equal to what a
    real submission writes.
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
    resources, code = stage.resources, code_folder(run)
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
        "job_name": job_name(run, stage.stage),
        "time": resources.time_minutes,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.ranks_per_node,
        "cpus_per_task": resources.cpus_per_rank,
        "array_parallelism": stage.max_parallel,
        "setup": setup,
        "wckey": "",
        "stderr_to_stdout": True,
        "use_srun": False,
        "comment": job_comment(run, attempt),
        **{key: value for key, value in named.items() if value},
        **gpu_parameters(resources),
        "additional_parameters": {
            "chdir": str(code),
            "requeue": True,
            "signal": f"B:USR2@{resources.signal_lead_seconds}",
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


def command_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What squeue, sacct and scancel are given: everything but what would change their answer."""
    return {
        name: value
        for name, value in environ.items()
        if name == "SLURM_CONF" or not name.startswith(COMMAND_PREFIXES)
    }


def refusal(stage: str, text: str) -> SchedulerError:
    """The error for what sbatch said."""
    reason = sbatch_reason(text)
    if any(word in reason for word in SILENT):
        return SchedulerError(
            f"Slurm did not answer sbatch for {stage}: {reason}",
            hint="submit again when `squeue` works on this machine",
        )
    return SchedulerError(
        f"sbatch refused {stage}: {reason}",
        hint=f"`meditron submit {stage} --dry-run` shows the script",
    )


def sbatch_reason(text: str) -> str:
    """What sbatch said, in one line: all its errors, since a site's own come before Slurm's."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.split("error:", 1)[1].strip() for line in lines if "error:" in line]
    said = [line.removeprefix("Batch job submission failed: ") for line in errors or lines[-1:]]
    plain = [line for line in dict.fromkeys(said) if line != "Unspecified error"]
    return "; ".join(plain or said) or "it gave no reason"
