"""``meditron submit``: configuration → plan → run directory → jobs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.contract.errors import CONFIGURATION
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import ConfigError, RunFailed
from meditron_cli.runs import store
from meditron_cli.runs.record import RecordReader, RunRecord
from meditron_cli.runs.request import (
    Request,
    last_request,
    note_request,
    read_record,
    request_of_other,
)
from meditron_cli.services import Services

if TYPE_CHECKING:
    from jobs.contract.rundir import RunDir
    from meditron_cli.config.load import Loaded
    from meditron_cli.plan.model import Plan


@dataclass(frozen=True)
class SubmitTarget:
    """A submission: configuration, plan, and the run's directory."""

    loaded: Loaded
    plan: Plan
    root: Path
    name: str
    exists: bool
    reader: RecordReader
    """Of the run, in full; it reads nothing of a run that does not exist yet."""
    is_named: bool = False
    """Whether ``--run`` named it."""

    @property
    def path(self) -> Path:
        return self.root / self.name


@click.command()
@options.stage_argument
@options.optional_target_options
@click.option(
    "run_name",
    "--run",
    metavar="RUN",
    shell_complete=options.complete_run,
    help="Submit the stage for this run, with its own configuration and cluster.",
)
@options.runs_dir_option
@click.option("--dry-run", is_flag=True, help="Print the batch scripts; submit nothing.")
@click.option(
    "--wait",
    is_flag=True,
    help="Wait until the submitted stages end; exit with 4 if one fails, with 2 on bad input.",
)
@click.option("--new", is_flag=True, help="Start a new run instead of continuing the last one.")
@options.json_option
@click.pass_obj
def command(
    services: Services,
    stage: str,
    cluster: str | None,
    size: str | None,
    config: Path | None,
    overrides: tuple[str, ...],
    run_name: str | None,
    runs_dir: Path | None,
    dry_run: bool,
    wait: bool,
    new: bool,
    as_json: bool,
) -> None:
    """Run a stage, or the whole pipeline, on a cluster.

    Submitting the same configuration again continues its run: finished tasks are skipped, queued
    and running ones stay as they are, the rest starts. --run continues a run by name, without its
    options; --set beside it changes settings that do not decide what the run trains.
    """
    if run_name is not None:
        refuse_beside_run(cluster=cluster, size=size, config=config, new=new)
        submission = resolve_run(services, run_name, stage, runs_dir, overrides)
    else:
        loaded = options.load_target(*required(cluster, size), config, overrides)
        submission = resolve(services, loaded, stage, runs_dir, new)
        if not new:
            note_other_runs(submission, stage)
    if dry_run:
        show(services, submission)
        return
    refuse(submission)
    while True:
        try:
            run = open_run(services, submission)
            break
        except store.RunExists:  # another submit made it meanwhile: continue it, or make the next
            if new:
                submission = resolve(services, submission.loaded, stage, runs_dir, new)
            else:
                submission = replace(submission, exists=True)
    store.remember_root(submission.root, runs_dir, services.environ)
    start(services, submission, run, as_json)
    if wait:
        wait_for_end(services, submission.reader, [stage.stage for stage in submission.plan.stages])


def required(cluster: str | None, size: str | None) -> tuple[str, str]:
    """Return the two options that a submission without ``--run`` needs.

    Raises:
        click.MissingParameter: one is not given.
    """
    for name, value in (("--cluster", cluster), ("--size", size)):
        if value is None:
            raise click.MissingParameter(param_type="option", param_hint=f"'{name}'")
    return cluster or "", size or ""


def refuse_beside_run(**options: object) -> None:
    """Refuse options that would change the configuration which ``--run`` names.

    Raises:
        click.UsageError: one of them is given.
    """
    for name, value in options.items():
        if value:
            raise click.UsageError(
                f"--{name} cannot be given with --run, which submits the run as it is configured"
            )


def resolve_run(
    services: Services, name: str, stage: str, runs_dir: Path | None, overrides: Sequence[str]
) -> SubmitTarget:
    """Plan a submission for an existing run from its own configuration; write nothing."""
    from meditron_cli.config import stored
    from meditron_cli.runs import prepare

    run = options.find_run(services, runs_dir, name)
    reader = RecordReader(run, in_full=True)
    request = last_request(run, reader.history_reader.current())
    loaded = stored.loaded(request, run.name, overrides)
    planned = prepare.with_corpus_tasks(loaded, run)
    stages = prepare.stages_of(stage, planned.experiment)
    plan = prepare.plan_of(planned, stages, prepare.measured_times(run, stages), run=run)
    root = run.root.parent
    return SubmitTarget(loaded, plan, root, run.name, exists=True, reader=reader, is_named=True)


def note_other_runs(submission: SubmitTarget, stage: str) -> None:
    """Name the newest run of the same experiment and size that this submission does not continue,
    and what differs.
    """
    from meditron_cli.config.identity import differences

    loaded = submission.loaded
    others = store.runs_of(submission.root, f"{loaded.experiment.name}-{loaded.size}")
    # An equal submission may have made this very run since.
    if submission.exists or any(run.name == submission.name for run in others) or not others:
        return
    newest = others[0]
    try:
        recorded = request_of_other(newest)
    except ConfigError:  # its record is damaged, so that nothing can continue it
        return
    keys = differences(loaded.experiment, recorded["experiment"])
    if recorded["cluster"].get("name") != loaded.cluster.name:
        keys = [f"cluster ({recorded['cluster'].get('name')})", *keys]
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    console.note(
        f"{submission.name} is a new run: {newest.name} differs in "
        f"{', '.join(keys[:3]) or 'its input files'}{more}; "
        f"`{store.command(newest, 'submit', stage, '--run')}` continues that one, "
        "--new starts a run without this note"
    )


def resolve(
    services: Services, loaded: Loaded, stage: str, runs_dir: Path | None, new: bool
) -> SubmitTarget:
    """Plan a submission and name its run; write nothing."""
    from jobs.contract.rundir import RunDir
    from meditron_cli.config.identity import run_name
    from meditron_cli.runs import moved, prepare

    experiment, cluster = loaded.experiment, loaded.cluster
    root = store.runs_root(runs_dir, services.environ, cluster.runs_dir)
    identity = run_name(experiment, loaded.size, cluster.name)
    newest = moved.newest_run(root, loaded)
    name = store.next_of(root, identity) if new or newest is None else newest
    run = RunDir(root / name)
    planned = prepare.with_corpus_tasks(loaded, run)
    stages = prepare.stages_of(stage, planned.experiment)
    plan = prepare.plan_of(planned, stages, prepare.measured_times(run, stages), run=run)
    reader = RecordReader(run, in_full=True)
    return SubmitTarget(loaded, plan, root, name, exists=name == newest, reader=reader)


def show(services: Services, submission: SubmitTarget) -> None:
    """Print the batch scripts, and on stderr what ``submit`` would refuse.

    Raises:
        ConfigError: the training's tokens or checkpoints.
    """
    from jobs.contract.rundir import RunDir
    from meditron_cli.runs import prepare

    plan = submission.plan
    for text in prepare.warnings(plan, submission.loaded, services.clock.now()):
        console.warning(text)
    console.data(services.scheduler(plan.site.scheduler).render(plan, submission.path))
    stage = click.get_current_context().params["stage"]
    options.require_trainable(plan, RunDir(submission.path), stage, partly=True)


def refuse(submission: SubmitTarget) -> None:
    """Refuse a submission that cannot run, before anything is created.

    Raises:
        ConfigError: placeholders in the profile or missing inputs, all of them; else the first
            reason for which tokens or checkpoints do not allow the training.
    """
    from jobs.contract.rundir import RunDir
    from meditron_cli.runs import launch_plan, prepare

    run, plan = RunDir(submission.path), submission.plan
    stages = [stage.stage for stage in plan.stages if not prepare.has_begun(run, stage)]
    prepare.require_submittable(submission.loaded, stages)
    options.require_trainable(plan, run, click.get_current_context().params["stage"])
    if submission.exists:
        return
    try:
        launch_plan.decide(submission.plan, RunRecord(submission.name, submission.path), {}, {}, {})
    except launch_plan.MissingInputs as error:
        one, pipeline = map(options.submit_command, (error.needed, prepare.PIPELINE))
        hint = f"`{one}` makes it, `{pipeline}` runs all stages in order"
        raise ConfigError(error.message, hint=hint) from error


def open_run(services: Services, submission: SubmitTarget) -> RunDir:
    """Return the run's directory, and create it unless it exists."""
    from jobs.contract.rundir import RunDir

    if submission.exists:
        run = RunDir(submission.path)
        read_record(run)
        return run
    request = request_of(services, submission)
    return store.create(submission.root, submission.name, request, submission.plan)


def request_of(services: Services, submission: SubmitTarget) -> Request:
    """Return the request that the run records."""
    loaded = submission.loaded
    return Request(
        experiment=loaded.experiment.model_dump(mode="json"),
        cluster=loaded.cluster.model_dump(mode="json"),
        size=loaded.size,
        config_file=str(loaded.config_file) if loaded.config_file else None,
        command=sys.argv,
        time=services.clock.now(),
    )


def start(services: Services, submission: SubmitTarget, run: RunDir, as_json: bool) -> None:
    """Launch the jobs and print the run and its jobs."""
    from meditron_cli.runs import prepare, space
    from meditron_cli.runs.launch import launch
    from meditron_cli.runs.launch_plan import WaitingStages

    plan, known = submission.plan, submission.loaded.known
    for text in (*plan.warnings, *(known.warnings(services.clock.now()) if known else ())):
        console.warning(text)
    if submission.exists:
        why = (
            "" if submission.is_named else "the configuration is the same; --new starts another run"
        )
        console.note(continuing(submission.reader.read(), services.clock.now(), why))
    for text in space.space_warnings(plan, run):
        console.warning(text)
    scheduler, reader = services.scheduler(plan.site.scheduler), submission.reader
    try:
        started = launch(plan, scheduler, reader, console.note, compares_settings=True)
    except WaitingStages as error:
        hint = f"`{options.submit_command(prepare.PIPELINE)}` submits all of them"
        raise WaitingStages(error.message, hint=hint) from error
    note_request(run, request_of(services, submission), reader.history_reader.current())
    if as_json:
        console.json_out({"run": run.name, "dir": str(run.root), "jobs": started})
        return
    console.data(f"run {run.name} in {run.root}")
    console.table(
        ("stage", "tasks", "jobs"),
        [
            (stage.stage, len(stage.tasks), short(started[stage.stage]) or "finished already")
            for stage in plan.stages
        ],
    )
    hint_runs_dir(services, submission)


def continuing(record: RunRecord, now: float, why: str) -> str:
    """Return which run is continued, from where and why."""
    from meditron_cli.runs.state import derive_view

    stages = derive_view(record, {}, now).stages.values()
    far = ", ".join(f"{stage.stage} {stage.amount}" for stage in stages)
    return f"continuing run {record.name} ({far or 'nothing done'})" + f": {why}" * bool(why)


def short(job_ids: list[str]) -> str:
    """Return job ids for a table's cell."""
    return ", ".join(job_ids) if len(job_ids) <= 3 else f"{job_ids[0]} … {job_ids[-1]}"


def hint_runs_dir(services: Services, submission: SubmitTarget) -> None:
    """Print how commands in other folders find a run that lies where the profile puts it."""
    if submission.root != store.runs_root(None, services.environ, None):
        root = shlex.quote(str(submission.root))
        console.note(
            f"hint: `export {store.VARIABLE}={root}` shows the run to commands in other folders"
        )


def wait_for_end(services: Services, reader: RecordReader, stages: Collection[str]) -> None:
    """Wait until the stages that were submitted end. An earlier failure of another stage of the run
    is none of theirs.

    Raises:
        ConfigError: a task found invalid input or configuration.
        RunFailed: it did not reach its target for another reason.
    """
    from meditron_cli.reporting.follow import first_error, follow

    run, state = reader.run, follow(services, reader, stages)
    others = set(reader.read().stages) - set(stages)
    waited = f"{', '.join(stages)} of run {run.name}" if others else f"run {run.name}"
    if state != "succeeded":
        sentence, hint, code = first_error(services, reader, stages)
        error = ConfigError if code == CONFIGURATION else RunFailed
        raise error(
            f"{waited} {state}{': ' + sentence if sentence else ''}",
            hint=hint or f"`{store.command(run, 'logs')}` shows its logs",
        )
    report = store.command(run, "report")
    console.note(f"{waited} succeeded; `{report}` shows the results")
