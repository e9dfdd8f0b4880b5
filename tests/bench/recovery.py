"""Seconds of one recovery pass over an array whose tasks all died without an exit record.

The stage has been submitted as one job array on the fake Slurm; each task has a start, no exit, a
rank's log and a row in the accounting. The pass closes every attempt and resubmits all tasks.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path

from jobs.contract import events, specs
from jobs.contract.attempt_history import read
from jobs.contract.events import StartEvent, SubmitEvent
from jobs.contract.rundir import RunDir
from jobs.slurm import submission
from jobs.slurm.client import Client
from jobs.slurm.submission import Submission
from jobs.supervision.recovery import recovery_job
from tests import fake_slurm
from tests.bench import Figure
from tests.corpus_specs import curate_spec
from tests.task_specs import task_spec

STAGE = "curate"
TIME = "2026-01-01T10:00:00"
LONGEST_ARRAY = 1001
"""Slurm's default MaxArraySize."""


def figures(rounds: int = 3, counts: tuple[int, ...] = (1000, 4000)) -> list[Figure]:
    return [measure(count, rounds) for count in counts]


def measure(count: int, rounds: int) -> Figure:
    """Return one figure: the median over some rounds."""
    seconds = [seconds_of_pass(count) for _ in range(rounds)]
    note = f"{count} open attempts closed and resubmitted; best {min(seconds):.2f} s"
    aim = "< 5" if count == 4000 else ""
    return Figure(f"recovery_{count}_tasks_s", statistics.median(seconds), aim, note)


def seconds_of_pass(count: int) -> float:
    """Seconds of one pass over a stage of that many dead tasks.

    Raises:
        RuntimeError: it did not close and resubmit them all.
    """
    with tempfile.TemporaryDirectory() as name:
        programs = fake_slurm.install(Path(name) / "slurm")
        run = RunDir(Path(name) / "runs" / "med-tiny-0")
        run.code.mkdir(parents=True)
        job_ids = tuple(f"50_{index}" for index in range(count))
        make_stage(run, job_ids)
        rows = (f"{job}|NODE_FAIL|1:0|{TIME}|{TIME}|{TIME}|cpu01" for job in job_ids)
        programs.tell("accounting", "".join(f"{row}\n" for row in rows))
        programs.name_jobs(submission.job_name(run, STAGE))
        began = time.perf_counter()
        with redirect_stderr(StringIO()):  # the job's log
            found = recovery_job.recover_stage(run, STAGE, Client(programs.environ), "recovery_job")
        seconds = time.perf_counter() - began
        tasks = read(run).tasks(STAGE).values()
        if any(task.starts or len(task.submissions) != 2 for task in tasks):
            raise RuntimeError(f"not all tasks were recovered: {found.messages[-1]}")
    return seconds


def make_stage(run: RunDir, job_ids: tuple[str, ...]) -> None:
    """Leave what a submission and the starts of its tasks leave."""
    indices = tuple(range(len(job_ids)))
    folder, now = run.attempt(STAGE, 1), time.time() - 3600
    folder.mkdir(parents=True)
    run.spec(STAGE, 0).parent.mkdir(parents=True)
    task = task_spec(STAGE, curate_spec(), launcher="srun", site=specs.SiteSpec("site"))
    for index in indices:
        data = specs.to_json(replace(task, index=index))
        run.spec(STAGE, index).write_text(json.dumps(data))
        (folder / f"ranks-{index:05d}.log").write_text("0: reading documents\n")
    asked = Submission(
        stage=STAGE, indices=indices, attempt=1, python="/venv/bin/python", environment=(),
        parameters={"time": 30, "nodes": 1, "partition": "cpu"}, lead_seconds=30,
        longest_array=LONGEST_ARRAY, recovery_job={"time": 10, "nodes": 1},
    )  # fmt: skip
    submission.write(run, asked)
    events.append(
        run,
        SubmitEvent(now, STAGE, 1, indices, "slurm", job_ids=job_ids, recovery_jobs=("51",)),
        *(
            StartEvent(now, STAGE, index, 1, job_id, now, nodes=("cpu01",))
            for index, job_id in zip(indices, job_ids, strict=True)
        ),
    )
