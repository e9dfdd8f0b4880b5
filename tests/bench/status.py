"""Seconds of ``meditron status`` with 1,000 runs on disk, and its queries to Slurm.

900 runs are over; of the 100 live ones the fake squeue shows all jobs but those of ten runs, which
have just left the queue, so that sacct has to be asked as well.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from jobs.contract import done_markers, specs
from jobs.contract.events import append_event
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import PIPELINE_STAGES
from meditron_cli.config.load import load
from meditron_cli.plan.model import Plan, StagePlan
from meditron_cli.runs import request, store
from meditron_cli.runs.prepare import plan_of, stages_of
from tests.bench import Figure, children_cpu_seconds, environment, seconds_of

RUNS = 1000
LIVE = 100
GONE = 10
"""Unfinished runs without a job in the queue."""
ROUNDS = 9
NUMBER = "NUMBER"
"""Placeholder of a run's number in the job ids of the run that is copied."""
DONE_BEFORE_TRAINING = ("curate", "tokenize")

START = {"job_id": NUMBER, "restarts": 0, "nodes": ["node1"], "began": 1.0, "step": None}
EXIT = {
    **START, "class": "stopped", "message": "as long as a sentence usually is", "hint": "",
    "node": "", "fingerprint": "", "step_before": 10, "step_after": 20, "last_step": 25,
    "reason": "a sentence about what is done, and why it is done now", "delay": 0.0,
    "exclude": [], "detect_s": None, "by": "supervisor", "started": 1.0, "ended": 60.0,
}  # fmt: skip
ENDINGS = (
    {**EXIT, "code": 75, "cause": "preempted", "action": "requeue"},
    {**EXIT, "code": 0, "cause": "completed", "action": "finish"},
)

PROGRAM = """#!/bin/sh
echo "$0 $*" >> "{calls}"
cat "{answer}"
"""


def figures(rounds: int = ROUNDS, count: int = RUNS) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environ = environment(MEDITRON_RUNS=str(folder / "runs"))
        environ["PATH"] = f"{folder / 'bin'}:{environ['PATH']}"
        status = [sys.executable, "-m", "meditron_cli", "status"]
        plan = make_plan(folder, environ)
        make_runs(folder / "runs", plan, count)
        calls = fake_slurm(folder, plan)
        seconds_of(status, environ, folder)  # bytecode is written now, and the page cache is warm
        asked = len(calls.read_text().splitlines())
        used = children_cpu_seconds()
        seconds = [seconds_of(status, environ, folder) for _ in range(rounds)]
        used = (children_cpu_seconds() - used) / rounds
    note = f"{count} runs, {LIVE} live; best {min(seconds):.2f} s, processor {used:.2f} s"
    return [
        Figure("status_1000_runs_s", statistics.median(seconds), "< 1", note),
        Figure("status_scheduler_calls", asked, "2", "one squeue, one sacct"),
    ]


def make_plan(folder: Path, environ: dict[str, str]) -> Plan:
    """Return the plan of the starter experiment on a Slurm cluster."""
    project = folder / "project"
    seconds_of([sys.executable, "-m", "meditron_cli", "init", str(project)], environ, folder)
    loaded = load("generic-h100", "tiny", project / "experiment.yaml", [])
    return plan_of(loaded, stages_of("pipeline", loaded.experiment))


def make_runs(root: Path, plan: Plan, count: int) -> None:
    """Make one finished and one training run as ``submit`` does, and copies of both."""
    finished = make_run(root, "finished", plan, PIPELINE_STAGES)
    training = make_run(root, "training", plan, DONE_BEFORE_TRAINING)
    for number in range(count):
        original = training if number < LIVE else finished
        copy = RunDir(root / f"med-tiny-{number:08x}")
        shutil.copytree(original.root, copy.root)
        copy.events.write_text(original.events.read_text().replace(NUMBER, str(number)))
    shutil.rmtree(finished.root)
    shutil.rmtree(training.root)


def make_run(root: Path, name: str, plan: Plan, done: Iterable[str]) -> RunDir:
    """Make a run whose jobs are submitted and whose ``done`` stages have finished."""
    run = store.create(root, name, request.Request({}, {}, "tiny", None, ["meditron"], 0.0), plan)
    shutil.rmtree(run.code)  # a thousand copies would fill a disk, and status never looks at it
    for stage in plan.stages:
        indices = [task.index for task in stage.tasks]
        fields = {"stage": stage.stage, "attempt": 1, "indices": indices, "scheduler": "slurm"}
        append_event(run, "intent", **fields)
        given = {"by": "person", "replaces": [], "recovery_jobs": [f"{NUMBER}9"], "exclude": []}
        append_event(run, "submit", **fields, **given, job_ids=job_ids(stage, NUMBER))
        run.attempt(stage.stage, 1).mkdir(parents=True)
        if stage.stage in done:
            finish(run, stage)
    return run


def job_ids(stage: StagePlan, number: object) -> list[str]:
    """Return the ids of a stage's jobs in run ``number``: an array where it has several tasks."""
    job = f"{number}{PIPELINE_STAGES.index(stage.stage)}"
    return [f"{job}_{task.index}" for task in stage.tasks] if len(stage.tasks) > 1 else [job]


def finish(run: RunDir, stage: StagePlan) -> None:
    """Write the files of a stage's tasks, each of which was interrupted once."""
    for task in stage.tasks:
        digest = specs.digest(task.spec)
        done_markers.write_done(
            run, stage.stage, task.index, spec_digest=digest, inputs=[], outputs=[], summary={},
            seconds=60.0,
        )  # fmt: skip
        for attempt, ending in enumerate(ENDINGS, 1):
            names = {"stage": stage.stage, "index": task.index, "attempt": attempt}
            append_event(run, "start", **names, **START)
            append_event(run, "exit", **names, **ending)


def fake_slurm(folder: Path, plan: Plan) -> Path:
    """Write squeue and sacct into ``folder/bin``; return the file with one line per call."""
    training, waiting = plan.stage("pretrain"), plan.stage("evaluate")
    queue = []
    for number in range(GONE, LIVE):
        name = f"med-tiny-{number:08x}.pretrain"
        queue += [f"{job}|RUNNING|N/A|{name}||None" for job in job_ids(training, number)]
        queue += [f"{job}|PENDING|N/A|{name}||Dependency" for job in job_ids(waiting, number)]
    day = "2026-01-01T00:00"
    ended = [
        f"{job}|COMPLETED|0:0|{day}:00|{day}:01|{day}:09|cpu01|med-tiny-{number:08x}.pretrain|"
        for number in range(GONE)
        for stage in (training, waiting)
        for job in job_ids(stage, number)
    ]
    calls = folder / "calls"
    (folder / "bin").mkdir()
    for name, lines in {"squeue": queue, "sacct": ended}.items():
        answer = folder / f"{name}.txt"
        answer.write_text("".join(f"{line}\n" for line in lines))
        program = folder / "bin" / name
        program.write_text(PROGRAM.format(calls=calls, answer=answer))
        program.chmod(0o755)
    return calls
