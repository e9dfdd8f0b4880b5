"""The request to sbatch for some tasks of a stage.

A submission is written to ``submission.json`` of its attempt first, so that a later job or login
node can resubmit these tasks with the same request.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.contract.errors import FAILED, TaskError
from jobs.contract.files import FormatError, read_json, write_json
from jobs.contract.rundir import RunDir


class SubmitError(TaskError):
    """Slurm refused a job, or did not answer."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, FAILED)


@dataclass(frozen=True)
class Submission:
    """Tasks of a stage and the request for their jobs."""

    stage: str
    indices: tuple[int, ...]
    attempt: int
    """The first number that a start of these tasks may take."""
    python: str
    """Interpreter of the batch step."""
    environment: tuple[str, ...]
    """Names of variables that the jobs inherit beside the usual ones."""
    parameters: dict[str, Any]
    """submitit's, as far as they are the same for every submission of the stage."""
    lead_seconds: int
    """Signal lead time: Slurm signals the job to save so long before its time limit."""
    longest_array: int
    """Elements of an array that the site takes at most."""
    recovery_job: dict[str, Any] | None
    """submitit's parameters for the recovery job; None for none."""
    exclude: tuple[str, ...] = ()
    """Nodes that must not be used; Slurm refuses the name of a node that does not exist."""
    delay_seconds: int = 0
    """From now to the earliest start."""
    measures_lead: bool = False
    """Whether the signal lead time of later jobs follows the run's own saves
    (``jobs.contract.metrics_log``).
    """
    after: tuple[str, ...] = ()
    """Jobs that must have ended well before; of whole arrays their one id."""


def path_of(run: RunDir, stage: str, attempt: int) -> Path:
    """Return the path of a submission's record."""
    return run.attempt(stage, attempt) / "submission.json"


def write(run: RunDir, submission: Submission) -> None:
    """Write a submission's record, before anything is submitted."""
    value = json.loads(json.dumps(dataclasses.asdict(submission)))
    write_json(path_of(run, submission.stage, submission.attempt), value)


def read(run: RunDir, stage: str, attempt: int) -> Submission:
    """Read the submission of an attempt.

    Raises:
        SubmitError: there is none, or none of this format.
    """
    path = path_of(run, stage, attempt)
    try:
        value = read_json(path)
        value.pop("format")
        for name in ("indices", "environment", "exclude", "after"):
            value[name] = tuple(value[name])
        return Submission(**value)
    except (OSError, FormatError, KeyError, TypeError) as error:
        raise SubmitError(
            f"{path} has no record of how {stage} was submitted ({type(error).__name__})",
            f"`{run.command('resume')}` submits it from the run's own record",
        ) from error


# ---- what sbatch is given


def job_name(run: RunDir, stage: str) -> str:
    """Return the name of a stage's jobs in Slurm."""
    return f"{run.name}.{stage}"


def job_comment(run: RunDir, attempt: int) -> str:
    """Return the comment by which a job is found whose id was lost."""
    return f"run={run.name},attempt={attempt}"


def python_command(python: str) -> str:
    """Return the command that starts Python in the batch step: ``exec``, so that signals reach
    Python and not the shell.
    """
    return "exec " + shlex.quote(python)


def settings(run: RunDir, submission: Submission) -> dict[str, Any]:
    """Return submitit's parameters for a submission; empty values are left out.

    ``--signal`` in its ``B:`` form reaches the batch step, where the supervisor is.
    """
    named = {
        "dependency": f"afterok:{':'.join(submission.after)}" if submission.after else "",
        "exclude": ",".join(submission.exclude),
    }
    more = {"begin": f"now+{submission.delay_seconds}"} if submission.delay_seconds else {}
    options = dict(submission.parameters)
    return {
        **options,
        **shared_parameters(run, job_name(run, submission.stage), submission.attempt),
        **{key: value for key, value in named.items() if value},
        "additional_parameters": {
            "chdir": str(run.code),
            **requeue_option(options),
            "signal": f"B:USR2@{submission.lead_seconds}",
            **options.get("additional_parameters", {}),
            **more,
        },
    }


def recovery_job_settings(
    run: RunDir, submission: Submission, job_ids: Sequence[str]
) -> dict[str, Any]:
    """Return submitit's parameters for the recovery job of these jobs."""
    options = dict(submission.recovery_job or {})
    arrays = dict.fromkeys(name.split("_")[0] for name in job_ids)
    return {
        **options,
        **shared_parameters(run, recovery_job_name(run, submission.stage), submission.attempt),
        "dependency": f"afterany:{':'.join(arrays)}",
        "additional_parameters": {
            "chdir": str(run.code),
            # Slurm fails a job whose log it cannot create, so on a full disk too; what this job
            # does is in the event log.
            "output": "/dev/null",
            **requeue_option(options),
            **options.get("additional_parameters", {}),
        },
    }


def requeue_option(options: Mapping[str, Any]) -> dict[str, bool]:
    """Return the option that allows Slurm to requeue the job, unless the site forbids it."""
    return {} if "no-requeue" in options.get("additional_parameters", {}) else {"requeue": True}


def shared_parameters(run: RunDir, name: str, attempt: int) -> dict[str, Any]:
    """Return the parameters that all jobs of a run share, name and comment among them."""
    return {
        "job_name": name,
        "comment": job_comment(run, attempt),
        "wckey": "",
        "stderr_to_stdout": True,
        "use_srun": False,
    }


def recovery_job_name(run: RunDir, stage: str) -> str:
    """Return the name of a stage's recovery job in Slurm."""
    return f"{job_name(run, stage)}.recovery_job"


def recovery_job_folder(run: RunDir, submission: Submission) -> Path:
    """Return the folder of a recovery job's script, pickle and log."""
    return run.attempt(submission.stage, submission.attempt) / "recovery_job"


def whole_arrays(job_ids: Sequence[str], lengths: Mapping[str, int]) -> list[str]:
    """Replace the ids of an array's elements by the array's where all of them are present.

    A dependency on thousands of elements is a burden for Slurm.
    """
    counts = Counter(name.split("_")[0] for name in job_ids)
    whole = {array for array, length in lengths.items() if counts[array] == length}
    return list(
        dict.fromkeys(a if (a := name.split("_")[0]) in whole else name for name in job_ids)
    )


def chunks(submission: Submission) -> list[Submission]:
    """Split a submission into arrays that the site accepts."""
    length, indices = submission.longest_array, submission.indices
    return [
        replace(submission, indices=indices[start : start + length])
        for start in range(0, len(indices), length)
    ]


def script(run: RunDir, submission: Submission) -> str:
    """Return the batch script that submitit writes for a submission of one array, without building
    an executor, which needs srun.
    """
    folder = run.attempt(submission.stage, submission.attempt)
    count = len(submission.indices)
    return _script(submission.python, folder, settings(run, submission), count)


def recovery_job_script(run: RunDir, submission: Submission, job_ids: Sequence[str]) -> str:
    """Return the batch script of a submission's recovery job."""
    folder = recovery_job_folder(run, submission)
    return _script(submission.python, folder, recovery_job_settings(run, submission, job_ids), 1)


def _script(python: str, folder: Path, parameters: Mapping[str, Any], count: int) -> str:
    """Return a batch script. submitit's private script builder is used here and nowhere else; a
    test compares it with a real submission's.
    """
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{python_command(python)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    text: str = _make_sbatch_string(
        command=command, folder=folder, map_count=count if count > 1 else None, **parameters
    )
    return text
