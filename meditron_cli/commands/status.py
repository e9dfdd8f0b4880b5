"""``meditron status``: one line per run, or one run in full."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import PRETRAIN
from jobs.contract.units import plural
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.reporting import tables
from meditron_cli.runs import query, state, store
from meditron_cli.runs.record import RunRecord
from meditron_cli.runs.views import RunView
from meditron_cli.services import Services

if TYPE_CHECKING:
    from meditron_cli.reporting.reasons.task_errors import TaskFailure
    from meditron_cli.reporting.run_times import RunTimes

WATCH_SECONDS = 30.0
"""Interval of ``--watch`` without a terminal; a scheduler should not be queried more often for one
person."""


@click.command()
@options.optional_run_argument
@options.runs_dir_option
@click.option(
    "--watch", is_flag=True, help="Show a live view; without a terminal, repeat every 30 seconds."
)
@options.json_option
@click.pass_obj
def command(
    services: Services, name: str | None, runs_dir: Path | None, watch: bool, as_json: bool
) -> None:
    """Show the state and progress of runs.

    Without RUN one line per run; with RUN its stages, attempts and last errors. A state that the
    scheduler did not confirm is `unknown`, never guessed.
    """
    root = store.existing_root(runs_dir, services.environ)
    if watch and not as_json and console.fancy(sys.stdout):
        from jobs.runtime import processes
        from meditron_cli.reporting.live import watch as live

        with processes.ending_children():  # a squeue that hangs would stay for good
            if name is None:
                live.watch_runs(services, root)
            else:
                live.watch_run(services, store.find(root, name))
        return
    while True:
        if name is None:
            show_all(services, root, as_json)
        else:
            show_one(services, store.find(root, name), as_json)
        if not (watch and console.has_reader()):
            return
        services.clock.sleep(WATCH_SECONDS)
        console.clear()


def show_all(services: Services, root: Path, as_json: bool) -> None:
    """Print one line per run."""
    views = query.observe(services, store.runs(root))
    if as_json:
        console.json_out({"runs": [run.to_json() for run in views]})
        return
    if not views:
        console.note(f"no runs in {root}; --runs-dir or {store.VARIABLE} selects another directory")
        return
    console.table(("run", "state", "stage", "done", "loss", "left"), [line(run) for run in views])
    for run in views:
        if run.problem and not run.unreadable:
            console.warning(run.problem)


def line(run: RunView) -> tuple[str | None, ...]:
    """Return a run's row; its stage is the first that has not succeeded."""
    stage = next((item for item in run.stages.values() if item.state != "succeeded"), None)
    if stage is None:
        return run.name, run.state_text, None, None, loss_text(run), None
    return (
        run.name,
        stage.state_text if run.state == stage.state else run.state_text,
        stage.stage,
        stage.amount,
        loss_text(run),
        tables.duration(run.eta_s),
    )


def loss_text(run: RunView) -> str | None:
    return None if run.loss is None else f"{run.loss:.4g}"


def show_one(services: Services, run: RunDir, as_json: bool) -> None:
    """Print one run in full."""
    from meditron_cli.reporting import finetuned, run_times
    from meditron_cli.reporting.reasons import task_errors, waiting

    record, infos, now = query.evidence(services, [run], in_full=True)[0]
    record.require_readable()
    view = state.derive_view(record, infos, now)
    times = run_times.measure(run, record, view, now)
    full = RunDetail(run, record, view, times, task_errors.of_run(run, record, infos, now), now)
    if as_json:
        stuck = [list(job) for job in state.stuck_jobs(record, infos)]
        console.json_out({"runs": [{**to_json(full), "stuck": stuck}]})
        return
    console.data(f"run {view.name}: {view.state_text}\nin  {run.root}")
    console.table(
        ("stage", "state", "done", "attempts", "jobs"),
        [
            (stage.stage, stage.state_text, stage.amount, stage.attempts, jobs_text(record, name))
            for name, stage in view.stages.items()
        ],
    )
    models = finetuned.models(run, view, times)
    print_facts(full)
    print_tables(full, models)
    print_alarms(full)
    print_starts(view)
    for sentence in waiting.sentences(run, record, view, infos):
        console.data(sentence)
    for sentence in task_errors.sentences(run, view, full.errors):
        console.data(sentence)
    for warning in (*finetuned.notes(models), *score_warnings(run)):
        console.warning(warning)


@dataclass(frozen=True)
class RunDetail:
    """A run with all that ``status RUN`` shows of it."""

    run: RunDir
    record: RunRecord
    view: RunView
    times: RunTimes
    errors: list[TaskFailure]
    now: float


def score_warnings(run: RunDir) -> list[str]:
    """Return a warning for each score whose prompts lost their beginning, or whose questions the
    model may have been finetuned on.
    """
    from meditron_cli.reporting import finetuned, scores

    found = scores.of_run(run)
    truncated = [
        f"{score.place}: {score.results['truncated']} of "
        f"{plural(score.results.get('prompts', score.results['n']), 'prompt')} had more tokens "
        "than the model reads and lost their beginning"
        for score in found
        if score.results.get("truncated")
    ]
    return truncated + finetuned.uncompared(run, found)


def to_json(full: RunDetail) -> dict[str, Any]:
    """Return the run as ``status RUN --json`` prints it."""
    from meditron_cli.reporting import finetuned, report, speed
    from meditron_cli.reporting.health import alarms, usage
    from meditron_cli.reporting.reasons import waiting

    measured = speed.newest(full.times.steps)
    return {
        **full.view.to_json(),
        "eta_s": speed.seconds_left(full.record, full.view, measured, full.now),
        **full.times.to_json(),
        "goodput": full.times.goodput,
        "speed": measured.to_json() if measured else None,
        "dir": str(full.run.root),
        "errors": [error.to_json() for error in full.errors],
        "blocked": [
            {"stages": stages, "origin": origin, "state": word}
            for (origin, word), stages in state.blocked_stages(
                full.record, full.view.stages
            ).items()
        ],
        "unconfirmed": waiting.unconfirmed_stages(full.record),
        "jobs": jobs_of(full.record),
        "validation_corpora": report.validation_corpora(full.times.steps.validated),
        "weights": report.weights(full.run, full.view),
        "checkpoint_step": checkpoint_step(full.run, full.view),
        "warnings": score_warnings(full.run),
        "models": finetuned.models(full.run, full.view, full.times),
        "usage": usage.of_run(full.run, full.record, full.times).to_json(),
        "alarms": alarms.to_json(full.record.history),
    }


def print_facts(full: RunDetail) -> None:
    """Print the facts about the whole run, one per line."""
    from meditron_cli.reporting import report, speed, tables
    from meditron_cli.reporting.health import usage

    measured = speed.newest(full.times.steps)
    step = checkpoint_step(full.run, full.view)
    for label, value in (
        ("weights", report.weights(full.run, full.view)),
        ("loss", loss_text(full.view)),
        ("validation", validation_text(full.times)),
        ("speed", measured.text if measured else None),
        ("memory", measured.memory_text if measured else None),
        ("last spike", spike_text(full)),
        ("left", tables.duration(speed.seconds_left(full.record, full.view, measured, full.now))),
        ("goodput", None if full.times.goodput is None else f"{full.times.goodput:.0%}"),
        ("used", tables.hours_text(full.times)),
        ("energy and cost", usage.of_run(full.run, full.record, full.times).text),
        ("resumes from", None if step is None else f"the checkpoint of step {step}"),
        ("problem", full.view.problem or None),
        ("last interruption", last_interruption(full)),
    ):
        if value is not None:
            console.data(f"{label}: {value}")


def validation_text(times: RunTimes) -> str | None:
    """Return loss and perplexity of each corpus in the last validation; None before the first."""
    validated = times.steps.validated
    if not validated:
        return None
    parts = [
        f"{found['loss']:.4f} (perplexity {found['perplexity']:.4g}) on {name}"
        for name, found in validated[-1].corpora.items()
    ]
    return f"after step {validated[-1].step}: {', '.join(parts) or f'{validated[-1].loss:.4f}'}"


def checkpoint_step(run: RunDir, view: RunView) -> int | None:
    """Return the step of the checkpoint from which unfinished pretraining would resume.

    None where there is none, or the storage does not respond.
    """
    from jobs.checkpoints import manifest

    if PRETRAIN not in view.stages or view.stages[PRETRAIN].finished:
        return None
    try:
        latest = manifest.find_latest(run.path("checkpoints"))
    except OSError:
        return None
    return latest[1].iteration if latest else None


def spike_text(full: RunDetail) -> str | None:
    """Return the last spike of training and what followed."""
    if not full.times.spikes:
        return None
    last = full.times.spikes[-1]
    return f"{last.problem}: {last.action}"


def last_interruption(full: RunDetail) -> str | None:
    """Return why an unfinished stage was interrupted last, unless ``errors`` has it."""
    ended = [
        item.attempt
        for item in full.times.interruptions
        if not full.view.stages[item.attempt.stage].finished
    ]
    if not ended:
        return None
    last = max(ended, key=lambda attempt: attempt.ended or 0.0)
    if (last.stage, last.index) in {(error.stage, error.index) for error in full.errors}:
        return None
    return f"{last.stage} attempt {last.number}: {last.sentence}"


def print_tables(full: RunDetail, models: Sequence[dict[str, Any]]) -> None:
    """Print finetuned models, attempts, interruptions, and where the time went."""
    from meditron_cli.reporting import finetuned, tables

    if models:
        console.data("\nfinetuned models")
        console.table(finetuned.COLUMNS, finetuned.rows(models))
    for title, columns, rows in tables.all_tables(full.times, full.view, full.now):
        if rows:
            console.data(f"\n{title}")
            console.table(columns, rows)


def print_alarms(full: RunDetail) -> None:
    """Print the newest alarm of each kind and node."""
    from meditron_cli.reporting import tables
    from meditron_cli.reporting.health import alarms

    found = alarms.newest(full.record.history.alarms)
    if found:
        console.data("\nalarms")
        console.table(
            alarms.COLUMNS,
            [
                (
                    tables.moment(alarm.time),
                    f"{alarm.verdict} {alarm.code}",
                    alarm.node or f"{alarm.stage} attempt {alarm.attempt}",
                    alarm.message,
                )
                for alarm in found
            ],
        )


def print_starts(view: RunView) -> None:
    """Print when pending stages are expected to start."""
    from meditron_cli.reporting.reasons import waiting

    for stage in view.stages.values():
        if start := waiting.start_text(stage):
            console.data(f"{stage.stage}: {start}, as Slurm estimates")


def jobs_of(record: RunRecord) -> dict[str, list[str]]:
    """Return the jobs of each stage's tasks, the last job of each task."""
    return {
        name: sorted({job.job_id for job in stage.jobs.values()})
        for name, stage in record.stages.items()
    }


def jobs_text(record: RunRecord, stage: str) -> str:
    ids = jobs_of(record)[stage]
    return ", ".join(ids[:2]) + (f" … {len(ids)} in all" if len(ids) > 2 else "")
