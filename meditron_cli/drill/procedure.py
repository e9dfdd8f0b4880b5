"""The course of a drill: make tokens, train undisturbed, train and hit, compare."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contract.events import read_events
from jobs.contract.files import read_json, read_lines
from jobs.contract.outcomes import RetryAction
from jobs.contract.rundir import RunDir
from meditron_cli import console
from meditron_cli.config.identity import run_name
from meditron_cli.drill import settings
from meditron_cli.drill.faults import Fault
from meditron_cli.drill.verdict import (
    TOLERANCE,
    FaultRow,
    InjectedFault,
    Result,
    difference,
    following,
    judge,
    not_dealt,
)
from meditron_cli.errors import RunFailed, SchedulerError
from meditron_cli.reporting import follow
from meditron_cli.runs import cancel, launch, prepare, store
from meditron_cli.runs.record import read
from meditron_cli.runs.recover import Notice, look
from meditron_cli.runs.request import Request
from meditron_cli.runs.state import fold
from meditron_cli.scheduler.fault_injection import FaultInjector
from meditron_cli.services import Services

if TYPE_CHECKING:
    from meditron_cli.config.load import Loaded

LOOK_SECONDS = 0.2
ASK_SECONDS = 15.0
"""Between two questions whether a run that says nothing is still alive."""
STRIKES = 3
"""Tries to find a rank, which may be about to start."""
STRIKE_AGAIN_SECONDS = 2.0
LOOK_AFTER_SECONDS = 5.0
"""Between two looks after a run with which its own jobs cannot go on."""
PATIENCE_SECONDS = 120.0
"""For Slurm to say how such a run's job ended, so that the drill can go on with it."""

Load = Callable[[Sequence[str]], "Loaded"]
"""The drill's configuration with more of ``--set``."""


@dataclass
class Drill:
    """One drill."""

    services: Services
    hands: FaultInjector
    root: Path
    """A runs directory of its own, so that no faked trouble goes into the site's node ledger."""
    load: Load
    begun: list[RunDir] = field(default_factory=list)
    guards: bool = False
    """Whether it goes on with its runs itself, since nodes may not submit jobs."""
    looked: float = 0.0
    """When it last looked after a run."""
    moved: float = 0.0
    """When the run that is waited for was last seen to wait or work."""
    said: set[Notice] = field(default_factory=set)

    def run(self, faults: Sequence[Fault]) -> Result:
        """Do all of it.

        Raises:
            RunFailed: a run that nothing befell failed: there is nothing to compare with.
            SchedulerError: a fault could not be dealt.
        """
        tokens = self.load([settings.named(settings.TOKENS)])
        if tokens.experiment.pretrain.data:
            own: tuple[str, ...] = ()
        else:
            made = self.begin(tokens, ("curate", "tokenize"))
            self.finish(made)
            own = settings.own_tokens(made, tokens.experiment)
        undisturbed = self.train(settings.UNDISTURBED, own)
        self.finish(undisturbed)
        hit = self.train(settings.HIT, own)
        rows = self.hit(hit, faults)
        return self.compare(undisturbed, hit, rows)

    def train(self, name: str, own: Sequence[str]) -> RunDir:
        """Begin one of the two trainings."""
        return self.begin(self.load([settings.named(name), *own]), ("pretrain",))

    def begin(self, loaded: Loaded, stages: tuple[str, ...]) -> RunDir:
        """Make a run and submit its stages."""
        plan = prepare.plan_of(loaded, stages)
        site = loaded.cluster
        self.guards = site.scheduler == "slurm" and not site.slurm.submit_from_jobs
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
        self.begun.append(run)
        launch.launch(plan, self.services.scheduler(plan.site.scheduler), run)
        console.note(f"begun: {run.root}")
        return run

    def finish(self, run: RunDir) -> None:
        """Follow a run that nothing befalls to its end.

        Raises:
            RunFailed: it did not succeed.
        """
        state = self.follow(run)
        if state != "succeeded":
            sentence, hint, _ = follow.why(self.services, run)
            raise RunFailed(
                f"run {run.name} {state} with no fault at all{': ' + sentence if sentence else ''}",
                hint=hint or "put that right, then drill again",
            )

    def follow(self, run: RunDir) -> str:
        """Follow a run to its end; answers its last state."""
        if self.guards:
            self.wait(run, lambda: False)
        return follow.follow(self.services, run)

    def hit(self, run: RunDir, faults: Sequence[Fault]) -> tuple[FaultRow, ...]:
        """Deal the faults, each after the run has come through the one before; answers a line for
        each.
        """
        blows: dict[str, InjectedFault] = {}
        for fault in faults:
            if not self.wait_for_progress(run):
                break
            blows[fault.name] = self.deal(run, fault)
            self.wait(run, lambda blow=blows[fault.name]: went_on(run, blow.attempt))  # type: ignore[misc]
        self.follow(run)
        exits, lines = ends(run), list(read_lines(run.metrics()))
        return tuple(
            judge(blows[fault.name], exits, lines) if fault.name in blows else not_dealt(fault)
            for fault in faults
        )

    def wait_for_progress(self, run: RunDir) -> bool:
        """Wait until the newest attempt has saved twice and trained on, so that there is something
        to lose and something to fall back on; whether it did before the run was over.
        """
        return self.wait(run, lambda: is_under_way(run))

    def deal(self, run: RunDir, fault: Fault) -> InjectedFault:
        """Let a fault befall the run."""
        start = last_start(run)
        job, rank = str(start["job_id"]), self.last_rank(run)
        blow = InjectedFault(
            fault, int(start["attempt"]), last_step(run), self.services.clock.now()
        )
        console.note(f"step {blow.step}: {fault.does}")
        if fault.name == "preempt":
            self.hands.preempt(job)
        elif fault.name == "time-limit":
            self.hands.limit(job)
        elif fault.name == "freeze-rank":
            self.strike(run, job, "freeze", rank)
        else:
            if fault.name == "damage-checkpoint":
                console.note(f"damaged {damage_newest(run)}")
            self.strike(run, job, "kill", rank)
        return blow

    def strike(self, run: RunDir, job: str, word: str, rank: int) -> None:
        """Hit a rank.

        Raises:
            SchedulerError: it is on none of the job's nodes.
        """
        for _ in range(STRIKES):
            node = self.hands.strike(run, job, word, rank)
            if node:
                console.note(f"rank {rank} was on {node}")
                return
            self.services.clock.sleep(STRIKE_AGAIN_SECONDS)
        raise SchedulerError(
            f"rank {rank} of job {job} is on none of its nodes",
            hint=f"`meditron logs {run.name} --runs-dir {self.root}` shows what it did",
        )

    def last_rank(self, run: RunDir) -> int:
        """The last rank of training, which is not on the node of the supervisor where there are
        several.
        """
        task = read_json(run.spec("pretrain", 0))
        return int(task["ranks"]) - 1

    def wait(self, run: RunDir, happened: Callable[[], bool]) -> bool:
        """Wait until something has happened, or the run is over; whether it happened."""
        asked = self.moved = self.services.clock.now()
        while not happened():
            self.look_after(run)
            now = self.services.clock.now()
            if now - asked > ASK_SECONDS:
                asked = now
                if self.is_over(run):
                    return happened()
            elif run.done("pretrain", 0).exists():
                return False
            self.services.clock.sleep(LOOK_SECONDS)
        return True

    def is_over(self, run: RunDir) -> bool:
        """Whether nobody works on a run any more, and nobody will."""
        from meditron_cli.runs.query import ask

        now = self.services.clock.now()
        record = read(run)
        (infos,) = ask(self.services, [record], now)
        state = fold(record, infos, now).state
        if state in follow.FINAL and state != "succeeded" and self.guards:
            return now - self.moved > PATIENCE_SECONDS
        self.moved = now
        return state in follow.FINAL

    def look_after(self, run: RunDir) -> None:
        """Go on with a run whose own jobs cannot, as ``meditron recover`` does."""
        now = self.services.clock.now()
        if not self.guards or now - self.looked < LOOK_AFTER_SECONDS:
            return
        self.looked = now
        for item in look(self.services, [run]).said:
            if item not in self.said:
                console.note(item.sentence)
            self.said.add(item)

    def compare(self, undisturbed: RunDir, hit: RunDir, rows: tuple[FaultRow, ...]) -> Result:
        """Hold the two trainings beside each other."""
        want, have = (list(read_lines(run.metrics())) for run in (undisturbed, hit))
        spec = read_json(undisturbed.spec("pretrain", 0))["spec"]
        tolerance = TOLERANCE[spec["device"]]
        return Result(
            rows,
            steps=spec["train_steps"],
            different=difference(want, have, tolerance),
            reached=hit.done("pretrain", 0).exists(),
            is_exact=difference(want, have) is None,
        )

    def cancel(self) -> None:
        """End whatever the drill has begun."""
        for run in self.begun:
            cancel.cancel(run, self.services.scheduler)


def events(run: RunDir, kind: str) -> list[dict[str, Any]]:
    """Events of a kind about training, oldest first."""
    return [
        event
        for event in read_events(run)
        if event["event"] == kind and event.get("stage") == "pretrain"
    ]


def ends(run: RunDir) -> dict[int, dict[str, Any]]:
    """Exit events of training by attempt."""
    return {int(event["attempt"]): event for event in events(run, "exit")}


def last_start(run: RunDir) -> Mapping[str, Any]:
    """The newest start of training."""
    return events(run, "start")[-1]


def trained(run: RunDir) -> list[dict[str, Any]]:
    """Metric lines of training steps."""
    return [line for line in read_lines(run.metrics()) if "loss" in line]


def last_step(run: RunDir) -> int:
    """The last step on record."""
    lines = trained(run)
    return int(lines[-1]["step"]) if lines else 0


def is_under_way(run: RunDir) -> bool:
    """Whether an attempt works that has saved twice and trained on since."""
    starts = events(run, "start")
    if not starts or int(starts[-1]["attempt"]) in ends(run):
        return False
    interval = read_json(run.spec("pretrain", 0))["spec"]["save_interval"]
    steps = [line["step"] for line in trained(run) if line["attempt"] == starts[-1]["attempt"]]
    return (
        bool(steps)
        and steps[-1] // interval - steps[0] // interval >= 2
        and (steps[-1] % interval > 0)
    )


def went_on(run: RunDir, attempt: int) -> bool:
    """Whether a later attempt has trained a step, or there will be none."""
    end = ends(run).get(attempt)
    if end is not None and end["action"] in (RetryAction.STOP.value, RetryAction.FINISH.value):
        return True
    return bool(following(trained(run), attempt))


def damage_newest(run: RunDir) -> Path:
    """Cut the largest file of the newest checkpoint in half; answers its path."""
    from jobs.checkpoints import manifest

    found = manifest.find_latest(run.path("checkpoints"))
    if found is None:
        raise SchedulerError(f"{run.root} has no checkpoint to damage")
    shard = max(found[0].glob("*.distcp"), key=lambda path: path.stat().st_size)
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)
    return shard
