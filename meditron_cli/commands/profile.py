"""``meditron profile``: profile steps of a running training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import click

from jobs.contract import specs
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import PRETRAIN
from jobs.contract.units import plural
from jobs.runtime import profile_record
from jobs.runtime.profile_record import ProfileRecord, ProfileRequest
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import ConfigError, RunFailed
from meditron_cli.profiling.step_times import NoSteps, RankTimes, rank_times
from meditron_cli.reporting.follow import FINAL, require_present
from meditron_cli.runs import query, store
from meditron_cli.runs.views import bytes_text
from meditron_cli.services import Services

POLL_SECONDS = 1.0
STATE_SECONDS = 15.0
"""Interval between queries of the run's state while waiting."""
MOST_STEPS = 50
"""A trace has some MB per step and rank."""


@click.command("profile", short_help="Show where the time of training's steps goes.")
@options.run_argument
@click.option(
    "--steps",
    type=click.IntRange(1, MOST_STEPS),
    default=3,
    show_default=True,
    help="Number of steps.",
)
@click.option("rank_list", "--ranks", default="0", show_default=True, metavar="0,8", help="Ranks.")
@click.option("--memory", is_flag=True, help="Record allocations too.")
@click.option("--nsys", is_flag=True, help="Profile by Nsight Systems, in the next attempt.")
@options.runs_dir_option
@options.json_option
@click.pass_obj
def command(
    services: Services,
    name: str,
    steps: int,
    rank_list: str,
    memory: bool,
    nsys: bool,
    runs_dir: Path | None,
    as_json: bool,
) -> None:
    """Profile the next steps of RUN's training on some of its ranks, and show the time of a step on
    each: compute, communication that no compute overlaps, waiting for data, idle.

    Nothing is restarted, and losses stay the same bit for bit. Where training has not begun, the
    request waits for it. The traces, for chrome://tracing or Perfetto, lie in RUN/profiles.
    """
    run = options.find_run(services, runs_dir, name)
    request = ProfileRequest(new_name(run), steps, parse_ranks(rank_list), memory=memory, nsys=nsys)
    require_possible(services, run, request)
    profile_record.write_request(run, request)
    if nsys:
        console.note(
            "nsys starts with the ranks: the next attempt is profiled; "
            f"`{store.command(run, 'cancel', '--save')}`, then `{store.command(run, 'resume')}` "
            "begin one"
        )
    try:
        records = wait(services, run, request)
    except KeyboardInterrupt:
        console.note(f"the request remains; training writes {run.profile(request.name)}")
        raise
    show(run, request, records, as_json)
    failed = [record for record in records.values() if record.error]
    if failed:
        raise RunFailed("\n".join(f"rank {record.rank}: {record.error}" for record in failed))


def parse_ranks(text: str) -> tuple[int, ...]:
    """Parse numbers of ranks, separated by commas; return them ascending, each once.

    Raises:
        ConfigError: it is no such list.
    """
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(
            f"--ranks: {text!r} is no list of ranks", hint="separate ranks by commas: --ranks 0,8"
        )
    return tuple(sorted({int(part) for part in parts}))


def new_name(run: RunDir) -> str:
    """Return the name of a profile that has no folder yet."""
    number = 1
    while run.profile(f"{number:03d}").exists():
        number += 1
    return f"{number:03d}"


def require_possible(services: Services, run: RunDir, request: ProfileRequest) -> None:
    """Refuse a request that training cannot fulfil.

    Raises:
        ConfigError: the run does not train, has ended, has no such rank, or nsys no GPU.
    """
    is_planned = PRETRAIN in store.read_plan(run)["stages"]
    task = specs.read_task(run, PRETRAIN, 0) if is_planned else None
    if task is None or task.training is None:
        raise ConfigError(
            f"run {run.name} has no pretraining to profile",
            hint=f"`{store.command(run, 'status')}` shows its stages",
        )
    if request.ranks[-1] >= task.ranks:
        raise ConfigError(
            f"--ranks: there is no rank {request.ranks[-1]}, the training has "
            f"{plural(task.ranks, 'rank')}",
            hint=f"`{store.command(run, 'profile', '--ranks', '0')}`",
        )
    if request.nsys and task.training.device != "cuda":
        raise ConfigError(
            "--nsys: Nsight Systems profiles GPUs, and this training runs on CPUs",
            hint=f"`{store.command(run, 'profile')}`",
        )
    require_unfinished(services, run, task.stage)


def require_unfinished(services: Services, run: RunDir, stage: str) -> None:
    """Refuse a run whose training makes no more steps.

    Raises:
        ConfigError: it has ended.
    """
    (view,) = query.observe(services, [run])
    training = view.stages[stage]
    if training.finished or view.state in FINAL:
        raise ConfigError(
            f"run {run.name} does not train: its training is {training.state}",
            hint=f"`{store.command(run, 'resume')}` continues one that stopped early",
        )


def wait(services: Services, run: RunDir, request: ProfileRequest) -> dict[int, ProfileRecord]:
    """Return the records of all ranks of a request, once they are written.

    Raises:
        RunFailed: the run ended before; the request is removed.
    """
    asked = services.clock.now()
    while True:
        records = profile_record.read_records(run, request)
        if len(records) == len(request.ranks):
            return records
        if services.clock.now() - asked >= STATE_SECONDS:
            require_present(run)
            (view,) = query.observe(services, [run])
            if view.state in FINAL:
                run.profile_file.unlink(missing_ok=True)
                raise RunFailed(
                    f"run {run.name} is {view.state}, and its training was not profiled before",
                    hint=f"`{store.command(run, 'status')}` shows why",
                )
            asked = services.clock.now()
        services.clock.sleep(POLL_SECONDS)


def read_times(run: RunDir, request: ProfileRequest, record: ProfileRecord) -> RankTimes | None:
    """Return the times in a rank's trace; None where it has none that can be read."""
    if not record.trace or request.nsys:
        return None
    path = run.profile(request.name) / record.trace
    try:
        return rank_times(json.loads(path.read_bytes())["traceEvents"])
    except (ValueError, KeyError, TypeError, NoSteps):
        console.warning(f"{path}: no steps in this trace")
        return None


def show(
    run: RunDir, request: ProfileRequest, records: Mapping[int, ProfileRecord], as_json: bool
) -> None:
    """Print the times of each rank, in seconds per step."""
    times = {rank: read_times(run, request, record) for rank, record in records.items()}
    folder = run.profile(request.name)
    if as_json:
        rows = [
            {**asdict(records[rank]), "times": asdict(found) if found else None}
            for rank, found in times.items()
        ]
        console.json_out({"run": run.name, "folder": str(folder), "ranks": rows})
        return
    known = {rank: found for rank, found in times.items() if found}
    if not known:
        console.note(f"reports in {folder}")
        return
    groups = sorted({group for found in known.values() for group in found.groups})
    columns = ["rank", "steps", "step", "compute", "exposed", *groups, "data", "idle", "memory"]
    console.table(columns, [row(rank, found, groups) for rank, found in known.items()])
    console.note(f"seconds per step; traces in {folder}")


def row(rank: int, times: RankTimes, groups: list[str]) -> list[object]:
    """Return a row of the table; exposed communication of each group."""

    def seconds(value: float) -> str:
        return f"{value:.4g} s ({value / times.step:.0%})"

    exposed = [times.groups[group].exposed if group in times.groups else 0.0 for group in groups]
    return [
        rank,
        times.steps,
        f"{times.step:.4g} s",
        *map(seconds, (times.compute, times.exposed, *exposed, times.data, times.idle)),
        None if times.peak_bytes is None else bytes_text(times.peak_bytes),
    ]
