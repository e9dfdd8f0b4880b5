"""Run a selftest's job until every trial has a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.contract.files import FormatError
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import SELFTEST
from jobs.selftest import record
from meditron_cli import console
from meditron_cli.drill.procedure import Drill
from meditron_cli.errors import RunFailed
from meditron_cli.reporting import follow
from meditron_cli.runs import launch, prepare

if TYPE_CHECKING:
    from meditron_cli.config.load import Loaded


def run(drill: Drill, loaded: Loaded) -> tuple[dict[str, Any], str]:
    """Submit the job, and again behind each trial that has ended it, and wait for its end.

    Args:
        drill: starts and follows runs.
        loaded: the configuration of the selftest.

    Returns:
        The record, as far as it came, and why it is not whole; empty if it is.
    """
    run = drill.start(loaded, (SELFTEST,))
    known = 0
    while True:
        state = drill.follow(run)
        content = trials_of(run)
        tries = sum(trial.get("tries", 1) for trial in content.get("trials", {}).values())
        if state == "succeeded":
            return content, ""
        if state != "failed" or tries <= known:  # the last job has begun no trial
            return content, problem(drill, run, state)
        known = tries
        console.note(f"{problem(drill, run, state)}; the trials behind it follow in another job")
        plan = prepare.plan_of(loaded, (SELFTEST,))
        scheduler = drill.services.scheduler(plan.site.scheduler)
        launch.launch(plan, scheduler, drill.opened[run].records)


def trials_of(run: RunDir) -> dict[str, Any]:
    """Return the record of a selftest; empty where there is none.

    Raises:
        RunFailed: it is damaged.
    """
    try:
        return record.read(run, SELFTEST)
    except FormatError as error:
        raise RunFailed(str(error), hint=f"`{run.command('logs')}` shows the logs") from error


def problem(drill: Drill, run: RunDir, state: str) -> str:
    """Return why a selftest did not end well, in a sentence."""
    sentence, _, _ = follow.first_error(drill.services, drill.opened[run].records)
    return sentence or f"run {run.name} {state}"
