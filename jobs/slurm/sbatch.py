"""Submit through submitit and sbatch."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from jobs.contract.errors import RESUME
from jobs.contract.files import fsync, fsync_folder, write_bytes
from jobs.contract.rundir import RunDir
from jobs.slurm import payload
from jobs.slurm.client import SILENT, Client
from jobs.slurm.job_environment import job_environment, only_environment, without_code
from jobs.slurm.payload import Payload
from jobs.slurm.submission import (
    Submission,
    SubmitError,
    chunks,
    python_command,
    recovery_job_folder,
    recovery_job_settings,
    settings,
    write,
)

if TYPE_CHECKING:
    from submitit import SlurmExecutor

SBATCH_SECONDS = 60.0
"""sbatch itself retries for about 200 s (measured) while the controller does not answer."""
TIMED_OUT = 124
"""Exit code of timeout(1)."""
MANY_TIMEOUTS = 1000
"""submitit's own count of time-outs plays no part here."""


WHEN_SLURM_ANSWERS = "when `squeue` works on this machine"
"""The end of a hint after a command to repeat."""


def submit(run: RunDir, submission: Submission, client: Client) -> list[str]:
    """Submit tasks as arrays no longer than the site allows.

    Returns:
        Job ids, one per task, in the order of the tasks.

    Raises:
        SubmitError: refused, or no answer; some of the jobs may be queued
            (``jobs.slurm.transaction`` cancels them).
    """
    require_commands(client)
    write(run, submission)
    submitted: list[str] = []
    for part in chunks(submission):
        indices = ",".join(map(str, part.indices))
        words = (str(run.root), part.stage, indices, str(part.attempt))
        folder = run.attempt(part.stage, part.attempt)
        call = Call(folder, settings(run, part), payload.TASK, words, len(part.indices))
        submitted += call_sbatch(call, run, submission, client)
    return submitted


def submit_recovery_job(
    run: RunDir, submission: Submission, job_ids: Sequence[str], client: Client
) -> list[str]:
    """Submit the recovery job of these jobs, where the site has one.

    Raises:
        SubmitError: refused, or no answer.
    """
    if submission.recovery_job is None:
        return []
    words = (str(run.root), submission.stage, str(submission.attempt))
    parameters = recovery_job_settings(run, submission, job_ids)
    call = Call(recovery_job_folder(run, submission), parameters, payload.RECOVERY, words)
    return call_sbatch(call, run, submission, client)


@dataclass(frozen=True)
class Call:
    """One call of sbatch."""

    folder: Path
    parameters: dict[str, Any]
    function: Payload
    words: tuple[str, ...]
    """Arguments of the function, the same for all elements."""
    elements: int = 1
    """Of the job array; 1 for a plain job."""


def call_sbatch(
    call: Call,
    run: RunDir,
    submission: Submission,
    client: Client,
    seconds: float = SBATCH_SECONDS,
) -> list[str]:
    """Call sbatch through submitit in the environment that the job inherits; return the job ids.

    Raises:
        SubmitError: with Slurm's reason, or that sbatch did not answer within ``seconds``.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    inherited = job_environment(submission.environment, client.environ)
    # submitit prints sbatch's error, which is part of our sentence.
    with only_environment(without_code(inherited, run.code)), redirect_stderr(io.StringIO()):
        try:
            executor = make_executor(call.folder, python_command(submission.python), seconds)
            executor.update_parameters(**call.parameters)
            return submit_call(executor, call)
        except (FailedJobError, FailedSubmissionError) as error:
            if getattr(error.__cause__, "returncode", None) == TIMED_OUT:
                raise SubmitError(
                    f"sbatch did not answer for {submission.stage} within {seconds:.0f} s",
                    f"{RESUME} {WHEN_SLURM_ANSWERS}",
                ) from error
            raise refusal(run, submission.stage, str(error)) from error


def submit_call(executor: SlurmExecutor, call: Call) -> list[str]:
    """Submit a job, or an array whose elements share one pickle; return the job ids.

    ``map_array`` of submitit would write a pickle per element, of which a file system makes some
    thousand per second, and call sbatch for arrays from another executor than ours.
    """
    from submitit.core.utils import DelayedSubmission, JobPaths

    pickle = call.folder / f".{uuid4().hex}.pkl"
    pickle.parent.mkdir(parents=True, exist_ok=True)
    delayed = DelayedSubmission(call.function, *call.words)
    delayed.set_timeout(call.parameters.get("time", 0), MANY_TIMEOUTS)
    if call.elements > 1:
        executor.parameters["map_count"] = call.elements
    try:
        delayed.dump(pickle)
        fsync(pickle)  # a job that is requeued reads it again
        job = executor._submit_command(executor._submitit_command_str).job_id
        ids = element_ids(job, call.elements)
        name = str(JobPaths(call.folder).submitted_pickle)
        for job_id in ids:
            link(pickle, Path(name.replace("%j", job_id)))
    finally:
        pickle.unlink(missing_ok=True)
    fsync_folder(call.folder)
    return ids


def has_arguments(folder: Path, job_id: str) -> bool:
    """Return whether the pickle of a job is in the folder that it was submitted from."""
    from submitit.core.utils import JobPaths

    return bool(JobPaths(folder, job_id).submitted_pickle.exists())


def element_ids(array: str, count: int) -> list[str]:
    """Return the ids of an array's elements; a list of one is submitted as a plain job."""
    return [array] if count == 1 else [f"{array}_{element}" for element in range(count)]


def link(file: Path, name: Path) -> None:
    """Give a file another name, or copy it where the file system has no hard links."""
    try:
        name.hardlink_to(file)
    except OSError:
        write_bytes(name, file.read_bytes())


def make_executor(folder: Path, python: str, seconds: float) -> SlurmExecutor:
    """Return submitit's executor with a time-out for sbatch, which retries for minutes while the
    controller does not respond.
    """
    import submitit

    timeout = shutil.which("timeout", path=os.defpath)
    prefix = [timeout, "--foreground", "--kill-after=5", str(seconds)] if timeout else []

    # submitit derives the kind of executor from the name of the class.
    class SlurmExecutor(submitit.SlurmExecutor):  # type: ignore[misc]
        def _make_submission_command(self, submission_file_path: Path) -> list[str]:
            return [*prefix, *super()._make_submission_command(submission_file_path)]

    return SlurmExecutor(folder, max_num_timeout=MANY_TIMEOUTS, python=python)


def require_commands(client: Client) -> None:
    """Refuse on a machine without Slurm's commands; submitit requires srun, and calls sbatch.

    Raises:
        SubmitError: naming the one that is missing.
    """
    for name in ("sbatch", "srun"):
        if not client.has(name):
            raise SubmitError(
                f"{name} is not on PATH, so this machine cannot submit to Slurm",
                "log in to the cluster, or use `--cluster local`",
            )


def refusal(run: RunDir, stage: str, text: str) -> SubmitError:
    """Map sbatch's stderr to a SubmitError."""
    reason = sbatch_reason(text)
    if any(word in reason for word in SILENT):
        return SubmitError(
            f"Slurm did not answer sbatch for {stage}: {reason}",
            f"{RESUME} {WHEN_SLURM_ANSWERS}",
        )
    return SubmitError(
        f"sbatch refused {stage}: {reason}",
        f"`{run.command('submit', stage, '--dry-run', '--run')}` shows the script",
    )


def sbatch_reason(text: str) -> str:
    """Return sbatch's errors in one line; a site's own come before Slurm's."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.split("error:", 1)[1].strip() for line in lines if "error:" in line]
    messages = [line.removeprefix("Batch job submission failed: ") for line in errors or lines[-1:]]
    plain = [line for line in dict.fromkeys(messages) if line != "Unspecified error"]
    return "; ".join(plain or messages) or "it gave no reason"
