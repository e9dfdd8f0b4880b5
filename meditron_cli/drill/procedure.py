"""Run a drill: make tokens, train undisturbed, train with injected faults, compare."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.contract.rundir import RunDir
from meditron_cli import console
from meditron_cli.config.identity import run_name
from meditron_cli.drill import settings
from meditron_cli.drill.faults import Fault
from meditron_cli.drill.training import STAGE, Training
from meditron_cli.drill.verdict import (
    TOLERANCE,
    FaultRow,
    InjectedFault,
    Result,
    difference,
    not_injected,
    row_of,
)
from meditron_cli.errors import MeditronError, RunFailed, SchedulerError
from meditron_cli.reporting import follow
from meditron_cli.runs import cancel, launch, prepare, store
from meditron_cli.runs.recover import Notice, OpenedRun, recover
from meditron_cli.runs.request import Request
from meditron_cli.runs.state import derive_view
from meditron_cli.scheduler.fault_injection import FaultInjector
from meditron_cli.services import Services

if TYPE_CHECKING:
    from meditron_cli.config.load import Loaded

POLL_SECONDS = 0.2
QUERY_SECONDS = 15.0
"""Between two queries of the scheduler about a run without news."""
INJECT_TRIES = 3
"""Tries to find a rank, which may still be starting."""
INJECT_RETRY_SECONDS = 2.0
RECOVER_SECONDS = 5.0
"""Between two recoveries of a run whose own jobs cannot submit."""
RECOVER_LIMIT_SECONDS = 120.0
"""For Slurm to report how such a run's job ended, and the drill to resubmit it."""

Load = Callable[[Sequence[str]], "Loaded"]
"""Loads the drill's configuration with more ``--set`` values."""


@dataclass
class Drill:
    """One drill."""

    services: Services
    injector: FaultInjector
    root: Path
    """A runs directory of its own, so that injected faults stay out of the site's node ledger."""
    load: Load
    opened: dict[RunDir, OpenedRun] = field(default_factory=dict)
    """The runs started so far."""
    recovers: bool = False
    """Whether the drill resubmits its runs itself, since nodes may not submit jobs."""
    recovered_at: float = 0.0
    """The time of the last recovery."""
    alive_at: float = 0.0
    """The time at which the run in question was last queued or running."""
    printed: set[Notice] = field(default_factory=set)

    def run(self, faults: Sequence[Fault]) -> Result:
        """Run the whole drill.

        Raises:
            RunFailed: a run failed without a fault, so that there is nothing to compare with.
            SchedulerError: a fault could not be injected.
        """
        loaded = self.load([settings.named(settings.TOKENS)])
        if loaded.experiment.pretrain.data:
            own: tuple[str, ...] = ()
        else:
            curate = prepare.stages_of("curate", loaded.experiment)
            tokens_run = self.start(loaded, (*curate, "tokenize"))
            self.finish(tokens_run)
            own = settings.own_tokens(tokens_run, loaded.experiment)
        undisturbed = self.train(settings.UNDISTURBED, own)
        self.finish(undisturbed)
        disturbed = Training(self.train(settings.DISTURBED, own))
        rows = self.disturb(disturbed, faults)
        return self.compare(Training(undisturbed), disturbed, rows)

    def train(self, name: str, own: Sequence[str]) -> RunDir:
        """Start one of the two trainings."""
        return self.start(self.load([settings.named(name), *own]), ("index", STAGE))

    def start(self, loaded: Loaded, stages: tuple[str, ...]) -> RunDir:
        """Create a run and submit its stages."""
        plan = prepare.plan_of(loaded, stages)
        site = loaded.cluster
        self.recovers = site.scheduler == "slurm" and not site.slurm.submit_from_jobs
        name = run_name(loaded.experiment, loaded.size, loaded.cluster.name)
        request = Request(
            experiment=loaded.experiment.model_dump(mode="json"),
            cluster=loaded.cluster.model_dump(mode="json"),
            size=loaded.size,
            config_file=None,
            command=sys.argv,
            time=self.services.clock.now(),
        )
        run = store.create(self.root, name, request, plan)
        self.opened[run] = OpenedRun.of(run)
        scheduler = self.services.scheduler(plan.site.scheduler)
        launch.launch(plan, scheduler, self.opened[run].records)
        console.note(f"started: {run.root}")
        return run

    def finish(self, run: RunDir) -> None:
        """Wait for the end of a run without faults.

        Raises:
            RunFailed: it did not succeed.
        """
        state = self.follow(run)
        if state != "succeeded":
            sentence, hint, _ = follow.first_error(self.services, self.opened[run].records)
            raise RunFailed(
                f"run {run.name} {state} without a fault{': ' + sentence if sentence else ''}",
                hint=hint or f"`{run.command('logs')}` shows its logs",
            )

    def follow(self, run: RunDir) -> str:
        """Wait for the end of a run, and return its final state."""
        if self.recovers:
            self.wait(run, lambda: False)
        return follow.follow(self.services, self.opened[run].records)

    def disturb(self, training: Training, faults: Sequence[Fault]) -> tuple[FaultRow, ...]:
        """Inject the faults, each once the run has recovered from the one before.

        Returns:
            A row per fault.
        """
        injected: dict[str, InjectedFault] = {}
        for fault in faults:
            if not self.wait_for_progress(training):
                break
            last = injected[fault.name] = self.inject(training, fault)
            self.wait(training.run, partial(training.has_resumed, last.attempt))
        self.follow(training.run)
        exits, lines = training.past().ended, training.lines()
        return tuple(
            row_of(injected[fault.name], exits, lines)
            if fault.name in injected
            else not_injected(fault)
            for fault in faults
        )

    def wait_for_progress(self, training: Training) -> bool:
        """Wait until the newest attempt has saved twice and trained on.

        A fault then costs steps, and there is an older checkpoint to fall back to. Return whether
        that happened before the run ended.
        """
        return self.wait(training.run, training.is_under_way)

    def inject(self, training: Training, fault: Fault) -> InjectedFault:
        """Inject a fault into the newest attempt of a training."""
        run, start = training.run, training.last_start()
        job = start.job_id
        rank = training.task.ranks - 1  # of several nodes, it is not on the supervisor's
        injected = InjectedFault(
            fault, start.attempt, training.last_step(), self.services.clock.now()
        )
        console.note(f"step {injected.step}: {fault.description}")
        if fault.name == "preempt":
            self.injector.preempt(run, job)
        elif fault.name == "time-limit":
            self.injector.lower_limit(run, job)
        elif fault.name == "freeze-rank":
            self.signal_rank(run, job, "freeze", rank)
        else:
            if fault.name == "damage-checkpoint":
                console.note(f"damaged {damage_newest(run)}")
            self.signal_rank(run, job, "kill", rank)
        return injected

    def signal_rank(self, run: RunDir, job: str, word: str, rank: int) -> None:
        """Kill or freeze a rank.

        Raises:
            SchedulerError: it runs on none of the job's nodes.
        """
        for _ in range(INJECT_TRIES):
            node = self.injector.signal_rank(run, job, word, rank)
            if node:
                console.note(f"rank {rank} was on {node}")
                return
            self.services.clock.sleep(INJECT_RETRY_SECONDS)
        raise SchedulerError(
            f"rank {rank} of job {job} runs on none of its nodes",
            hint=f"see `{run.command('logs')}`",
        )

    def wait(self, run: RunDir, happened: Callable[[], bool]) -> bool:
        """Wait until a condition holds or the run has ended; return whether it holds."""
        queried = self.alive_at = self.services.clock.now()
        while not happened():
            self.recover(run)
            now = self.services.clock.now()
            if now - queried > QUERY_SECONDS:
                queried = now
                if self.is_over(run):
                    return happened()
            elif run.done(STAGE, 0).exists():
                return False
            self.services.clock.sleep(POLL_SECONDS)
        return True

    def is_over(self, run: RunDir) -> bool:
        """Return whether a run has ended, and will not be resubmitted."""
        from meditron_cli.runs.query import query_schedulers

        now = self.services.clock.now()
        record = self.opened[run].records.read()
        (infos,) = query_schedulers(self.services, [record], now)
        state = derive_view(record, infos, now).state
        if state in follow.FINAL and state != "succeeded" and self.recovers:
            return now - self.alive_at > RECOVER_LIMIT_SECONDS
        self.alive_at = now
        return state in follow.FINAL

    def recover(self, run: RunDir) -> None:
        """Resubmit a run whose own jobs cannot, as ``meditron recover`` does."""
        now = self.services.clock.now()
        if not self.recovers or now - self.recovered_at < RECOVER_SECONDS:
            return
        self.recovered_at = now
        for item in recover(self.services, [self.opened[run]]).notices:
            if item not in self.printed:
                console.note(item.message)
            self.printed.add(item)

    def compare(
        self, undisturbed: Training, disturbed: Training, rows: tuple[FaultRow, ...]
    ) -> Result:
        """Compare losses and samples of the two trainings."""
        want, have = undisturbed.lines(), disturbed.lines()
        spec = undisturbed.spec
        return Result(
            rows,
            steps=spec.train_steps,
            first_difference=difference(want, have, TOLERANCE[spec.device]),
            reached=disturbed.is_done,
            is_exact=difference(want, have) is None,
        )

    def cancel(self) -> tuple[list[str], dict[str, MeditronError]]:
        """Cancel all jobs of the drill; return their ids, and the error per run whose jobs may
        remain.
        """
        job_ids: list[str] = []
        problems = {}
        for run in self.opened:
            try:
                job_ids += cancel.cancel(run, self.services.scheduler)
            except MeditronError as error:
                problems[run.name] = error
        return job_ids, problems


def damage_newest(run: RunDir) -> Path:
    """Truncate the largest file of the newest checkpoint to half its size; return its path."""
    from jobs.checkpoints import manifest

    latest = manifest.find_latest(run.path("checkpoints"))
    if latest is None:
        raise SchedulerError(f"{run.root} has no checkpoint to damage")
    shard = max(latest[0].glob("*.distcp"), key=lambda path: path.stat().st_size)
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)
    return shard
