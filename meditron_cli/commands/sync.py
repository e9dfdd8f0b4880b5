"""``meditron sync``: replay a training's metrics into an experiment tracker."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.contract.locks import Locked, locked
from jobs.contract.metrics_log import MetricsLog
from jobs.contract.rundir import RunDir
from jobs.contract.units import plural
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import ConfigError
from meditron_cli.reporting.follow import FINAL, require_present
from meditron_cli.runs import query
from meditron_cli.services import Services
from meditron_cli.tracking import trackers
from meditron_cli.tracking.identity import tracked_run
from meditron_cli.tracking.replay import Replay, Tracker

FOLLOW_SECONDS = 30.0


@click.command("sync", short_help="Copy a training's metrics into MLflow or W&B.")
@options.run_argument
@options.model_option
@click.option(
    "kind",
    "--tracker",
    type=click.Choice(trackers.KINDS),
    required=True,
    help="Where to; server and key as its own variables name them.",
)
@click.option(
    "--project",
    default="meditron",
    show_default=True,
    metavar="NAME",
    help="Project of W&B, experiment of MLflow.",
)
@click.option("--follow", is_flag=True, help="Continue every 30 seconds until the run has ended.")
@options.runs_dir_option
@options.json_option
@click.pass_obj
def command(
    services: Services,
    name: str,
    model: str | None,
    kind: str,
    project: str,
    follow: bool,
    runs_dir: Path | None,
    as_json: bool,
) -> None:
    """Copy the metrics of RUN's pretraining, or of the finetuning of one model, into a tracker,
    from a machine with access to it.

    All attempts are one run there, and each line of `metrics.jsonl` is sent once: the command can
    be repeated, also after it was killed. Jobs never contact a tracker.
    """
    run = options.find_run(services, runs_dir, name)
    tracked = tracked_run(run, project, options.finetuning_of(run, model)[0] if model else None)
    replay = Replay(MetricsLog(run, tracked.stage, tracked.index))
    try:
        with (
            locked(run.sync_lock(tracked.stage, kind, tracked.index)),
            trackers.opened(kind, tracked, services.environ) as tracker,
        ):
            sent = replay.send_new(tracker)
            if follow:
                sent += send_until_end(services, run, replay, tracker)
    except Locked as error:
        raise ConfigError(
            f"another `meditron sync` copies run {run.name} into {kind}",
            hint="wait for its end, or end it",
        ) from error
    if as_json:
        console.json_out(
            {"run": run.name, "tracker": kind, "id": tracked.id, "sent": sent,
             "lines": replay.lines}
        )  # fmt: skip
        return
    console.data(f"run {run.name}: {plural(sent, 'line')} sent to {kind}")


def send_until_end(services: Services, run: RunDir, replay: Replay, tracker: Tracker) -> int:
    """Send what training adds until the run has ended; return the number of lines."""
    sent, state = 0, ""
    while state not in FINAL:
        services.clock.sleep(FOLLOW_SECONDS)
        require_present(run)
        (view,) = query.observe(services, [run])
        state = view.state
        sent += replay.send_new(tracker)
    return sent
