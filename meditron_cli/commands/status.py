"""``meditron status``: one line a run, or one run in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from jobs.rundir import RunDir
from meditron_cli import console, observe, runs, view
from meditron_cli.commands import options
from meditron_cli.services import Services
from meditron_cli.view import RunRecord, RunView

WATCH_SECONDS = 30.0
"""Between two looks of ``--watch``; as often as a polite person asks a scheduler."""


@click.command()
@click.argument("name", metavar="[RUN]", required=False)
@options.runs_dir_option
@click.option("--watch", is_flag=True, help="Look again every 30 seconds until interrupted.")
@options.json_option
@click.pass_obj
def command(
    services: Services, name: str | None, runs_dir: Path | None, watch: bool, as_json: bool
) -> None:
    """Show runs and how far they are.

    Without RUN one line a run; with RUN its stages, attempts and last errors. A state that the
    scheduler did not confirm is `unknown`, never guessed.
    """
    root = runs.runs_root(runs_dir, services.environ, None)
    while True:
        if name is None:
            show_all(services, root, as_json)
        else:
            show_one(services, runs.find(root, name), as_json)
        if not watch:
            return
        services.clock.sleep(WATCH_SECONDS)
        console.clear()


def show_all(services: Services, root: Path, as_json: bool) -> None:
    """One line a run."""
    found = [RunDir(root / name) for name in runs.names(root)]
    views = observe.observe(services, [run for run in found if run.record.exists()])
    if as_json:
        console.json_out({"runs": [run.to_json() for run in views]})
        return
    if not views:
        console.note(f"no runs in {root}; --runs-dir or {runs.VARIABLE} names another place")
        return
    console.table(("run", "state", "stage", "done", "loss", "left"), [line(run) for run in views])
    for run in views:
        if run.problem:
            console.warning(run.problem)


def line(run: RunView) -> tuple[str | None, ...]:
    """A run in one line: the stage is the one that is at work, failed, or comes next."""
    stage = next((item for item in run.stages.values() if item.state != "succeeded"), None)
    if stage is None:
        return run.name, run.state, None, None, loss_text(run), None
    return (
        run.name,
        run.state,
        stage.stage,
        stage.amount,
        loss_text(run),
        duration(run.eta_s),
    )


def loss_text(run: RunView) -> str | None:
    return None if run.loss is None else f"{run.loss:.4g}"


def duration(seconds: float | None) -> str | None:
    """``2d 3h``, ``3h 05m``, ``4m 10s``."""
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s"


def show_one(services: Services, run: RunDir, as_json: bool) -> None:
    """One run in full."""
    from meditron_cli.report import goodput

    record, infos, now = observe.evidence(services, [run])[0]
    seen = view.fold(record, infos, now)
    share = goodput(run, record, now)
    errors = [problem(*words) for words in view.last_words(record)]
    if as_json:
        more = {"goodput": share, "dir": str(run.root), "errors": errors, "jobs": jobs_of(record)}
        console.json_out({"runs": [{**seen.to_json(), **more}]})
        return
    console.data(f"run {seen.name}: {seen.state}\nin  {run.root}")
    console.table(
        ("stage", "state", "done", "attempts", "jobs"),
        [
            (stage.stage, stage.state, stage.amount, stage.attempts, jobs_text(record, name))
            for name, stage in seen.stages.items()
        ],
    )
    for label, value in (
        ("loss", loss_text(seen)),
        ("left", duration(seen.eta_s)),
        ("goodput", None if share is None else f"{share:.0%}"),
        ("problem", seen.problem or None),
    ):
        if value is not None:
            console.data(f"{label}: {value}")
    say_errors(seen, errors)


def say_errors(seen: RunView, errors: list[dict[str, Any]]) -> None:
    """The last error sentence of every task that has one, and what to do."""
    for error in errors:
        console.data(f"{error['stage']} task {error['task']}: {error['message']}")
        if error["hint"]:
            console.data(f"hint: {error['hint']}")
    if seen.state in ("failed", "stopped", "cancelled"):
        console.data(f"hint: `meditron resume {seen.name}` continues where it ended")


def problem(stage: str, index: int, words: dict[str, Any]) -> dict[str, Any]:
    """An exit record in the words of ``status``."""
    keys = ("message", "hint", "class", "code", "node")
    return {"stage": stage, "task": index, **{key: words.get(key) for key in keys}}


def jobs_of(record: RunRecord) -> dict[str, list[str]]:
    """The jobs that each stage's tasks were last given to."""
    return {
        name: sorted({job.job_id for job in stage.jobs.values()})
        for name, stage in record.stages.items()
    }


def jobs_text(record: RunRecord, stage: str) -> str:
    ids = jobs_of(record)[stage]
    return ", ".join(ids[:2]) + (f" … {len(ids)} in all" if len(ids) > 2 else "")
