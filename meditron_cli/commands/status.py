"""``meditron status``: one line per run, or one run in full."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import PRETRAIN
from jobs.contract.units import plural
from jobs.slurm.states import HELD_BY_USER, is_held_after_launch
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.reporting import tables
from meditron_cli.runs import query, release, state, store
from meditron_cli.runs.record import RunRecord
from meditron_cli.runs.views import RunView
from meditron_cli.services import Services

if TYPE_CHECKING:
    from meditron_cli.reporting.run_times import RunTimes
    from meditron_cli.reporting.task_errors import TaskFailure

WATCH_SECONDS = 30.0
"""Interval of ``--watch`` without a terminal; a scheduler should not be queried more often for one
person."""

SHOWN = 5
"""Most tasks with the same error that are named."""


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
        from meditron_cli.reporting.live import watch as live

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
    from meditron_cli.reporting import finetuned, run_times, task_errors

    record, infos, now = query.evidence(services, [run], in_full=True)[0]
    record.require_readable()
    view = state.derive_view(record, infos, now)
    times = run_times.measure(run, record, view, now)
    full = RunDetail(run, record, view, times, task_errors.of_run(run, record, infos, now), now)
    stuck = state.stuck_jobs(record, infos)
    if as_json:
        console.json_out({"runs": [{**to_json(full), "stuck": [list(job) for job in stuck]}]})
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
    print_pending(run, view)
    print_unconfirmed(full)
    print_blocked(full, stuck)
    print_errors(full)
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

    measured = speed.newest(full.times.steps)
    return {
        **full.view.to_json(),
        **full.times.to_json(),
        "goodput": full.times.goodput,
        "speed": measured.to_json() if measured else None,
        "dir": str(full.run.root),
        "errors": [error.to_json() for error in full.errors],
        "blocked": [
            {"stages": stages, "origin": origin, "state": word}
            for (origin, word), stages in blocked_stages(full).items()
        ],
        "unconfirmed": unconfirmed_stages(full.record),
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
        ("left", tables.duration(full.view.eta_s)),
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


def print_pending(run: RunDir, view: RunView) -> None:
    """Print when pending stages are expected to start, and how to release held ones."""
    for stage in view.stages.values():
        if stage.state != "pending":
            continue
        if stage.expected_start is not None:
            at = datetime.fromtimestamp(stage.expected_start)
            console.data(f"{stage.stage}: starts about {at:%Y-%m-%d %H:%M}, as Slurm estimates")
        if stage.pending_reason == HELD_BY_USER:
            console.data(f"{stage.stage}: its owner holds it; `scontrol release` lets it start")
        elif is_held_after_launch(stage.pending_reason):
            console.data(f"{stage.stage}: Slurm holds it after a failed launch")
            console.data(f"hint: `{store.command(run, 'resume')}` releases it")


def unconfirmed_stages(record: RunRecord) -> list[str]:
    """Return the stages whose submission has no result on record."""
    return [name for name, stage in record.stages.items() if stage.unanswered]


def print_unconfirmed(full: RunDetail) -> None:
    """Print the stages whose submission has no result on record, and what follows."""
    stages = unconfirmed_stages(full.record)
    if not stages:
        return
    resume, cancel = (store.command(full.run, word) for word in ("resume", "cancel"))
    console.data(
        f"{', '.join(stages)}: the submission is unconfirmed: it is in progress, was killed, or "
        "got no answer"
    )
    console.data(f"hint: `{resume}` completes it, `{cancel}` withdraws it")


def blocked_stages(full: RunDetail) -> dict[tuple[str, str], list[str]]:
    """Return the stages that wait for one which will not finish by itself, by name and state."""
    return state.blocked_stages(full.record, full.view.stages)


def print_blocked(full: RunDetail, stuck: Iterable[tuple[str, str]]) -> None:
    """Print the stages that cannot start, one line per reason, and the remedy where nothing else
    has it.

    Args:
        stuck: stages and jobs whose dependency can never be satisfied.
    """
    jobs: dict[str, list[str]] = {}
    for stage, job_id in stuck:
        jobs.setdefault(stage, []).append(job_id)
    for (origin, word), stages in blocked_stages(full).items():
        if word == "cancelled" and jobs.keys().isdisjoint(stages):
            continue  # all of them are cancelled
        verb = "wait" if len(stages) > 1 else "waits"
        ending = "failed" if word == "failed" else f"is {word}"
        console.data(f"{', '.join(stages)}: {verb} for {origin}, which {ending}")
        for stage in stages:
            jobs.pop(stage, None)
    for stage, job_ids in jobs.items():
        console.data(f"{stage}: {release.jobs_text(job_ids)} waits for a job that failed")
        hint = store.command(full.run, "resume")
        console.data(f"hint: `{hint}` gives it a new dependency")


def print_errors(full: RunDetail) -> None:
    """Print the errors of tasks and the remedies, equal errors of a stage once, and how the run
    continues unless one of them names the command.
    """
    tasks: dict[tuple[str, str, str, str], list[int]] = {}
    for error in full.errors:
        reason = "" if error.reason == error.message else error.reason
        reason = reason.removeprefix(f"{error.message}; ")
        key = (error.stage, error.message, reason, error.hint)
        tasks.setdefault(key, []).append(error.index)
    for (stage, message, reason, hint), indices in tasks.items():
        console.data(f"{stage} {tasks_text(indices)}: {message}")
        if reason:
            console.data(reason)
        if hint:
            console.data(f"hint: {hint}")
    resume = store.command(full.run, "resume")
    is_named = any(f"`{resume}" in text for key in tasks for text in key)
    if full.view.state in ("failed", "stopped", "cancelled") and not is_named:
        console.data(f"hint: `{resume}` continues it")


def tasks_text(indices: Sequence[int]) -> str:
    """Return ``task 7``, ``tasks 0, 1, 2 and 5 more``."""
    if len(indices) == 1:
        return f"task {indices[0]}"
    more = f" and {len(indices) - SHOWN} more" if len(indices) > SHOWN else ""
    return f"tasks {', '.join(map(str, indices[:SHOWN]))}{more}"


def jobs_of(record: RunRecord) -> dict[str, list[str]]:
    """Return the jobs of each stage's tasks, the last job of each task."""
    return {
        name: sorted({job.job_id for job in stage.jobs.values()})
        for name, stage in record.stages.items()
    }


def jobs_text(record: RunRecord, stage: str) -> str:
    ids = jobs_of(record)[stage]
    return ", ".join(ids[:2]) + (f" … {len(ids)} in all" if len(ids) > 2 else "")
