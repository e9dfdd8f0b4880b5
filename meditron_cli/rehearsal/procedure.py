"""Run a rehearsal: the pipeline of a miniature with a killed rank and a change of the layout."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from jobs.contract.files import read_json
from jobs.contract.rundir import RunDir
from jobs.verification.stage import FOLDER
from meditron_cli import console
from meditron_cli.drill.faults import FAULTS
from meditron_cli.drill.procedure import Drill
from meditron_cli.drill.training import STAGE, Training
from meditron_cli.errors import RunFailed
from meditron_cli.rehearsal.miniature import Layout
from meditron_cli.reporting import follow
from meditron_cli.runs import cancel, launch, prepare

if TYPE_CHECKING:
    from meditron_cli.config.load import Loaded

KILL = "kill-rank"


@dataclass(frozen=True)
class Step:
    """One thing that a rehearsal did."""

    name: str
    result: str
    """What was measured."""
    seconds: float


@dataclass
class Rehearsal:
    """One rehearsal of a configuration."""

    drill: Drill
    """Starts, follows and disturbs runs."""
    load: Callable[[Layout, int], Loaded]
    """Loads the miniature in a layout, behind a number of steps in another."""
    steps: list[Step] = field(default_factory=list)

    def run(self, first: Layout, second: Layout) -> RunDir:
        """Run every stage: train in the first layout, kill a rank, stop, and go on in the second.

        Raises:
            RunFailed: a stage failed, or its result is not what it must be.
        """
        loaded = self.load(first, 0)
        stages = prepare.stages_of(prepare.PIPELINE, loaded.experiment)
        prepare.require_submittable(loaded, stages)
        with self.step(f"submit {', '.join(stages)}") as result:
            run = self.drill.start(loaded, stages)
            result.append(f"{first} on CPU processes of this machine")
        training = Training(run)
        with self.step("import the base model and train") as result:
            self.require(run, self.drill.wait_for_progress(training), "did not begin to train")
            result.append(self.summary(run, "convert"))
        with self.step("kill a rank, and resume from the last checkpoint") as result:
            self.kill(training, result)
        with self.step("stop with a checkpoint") as result:
            cancel.stop(run, self.drill.services.scheduler)
            follow.follow(self.drill.services, self.drill.opened[run].records)
            result.append(f"at step {training.last_step()}")
        with self.step(f"resume in another layout: {second}") as result:
            self.resume(run, second, training.last_step(), stages)
            result.append(f"step {training.last_step()}, {losses(training)}")
            result += [
                f"phase from step {start.first_step + 1}" for start in training.spec.starts[1:]
            ]
        for stage in stages[stages.index(STAGE) + 1 :]:
            with self.step(stage) as result:
                result.append(self.summary(run, stage))
        return run

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time a step; the block appends what it measured."""
        result: list[str] = []
        started = time.monotonic()
        console.note(f"{name} …")
        yield result
        self.steps.append(Step(name, "; ".join(result), time.monotonic() - started))

    def kill(self, training: Training, result: list[str]) -> None:
        """Kill a rank of a training, and wait until a later attempt has trained on."""
        injected = self.drill.inject(training, FAULTS[KILL])
        self.drill.wait(training.run, partial(training.has_resumed, injected.attempt))
        attempts = [line.attempt for line in training.steps()]
        self.require(
            training.run,
            bool(attempts) and attempts[-1] > injected.attempt,
            "did not resume after a rank was killed",
        )
        result.append(f"killed at step {injected.step}")

    def resume(self, run: RunDir, layout: Layout, trained: int, stages: Sequence[str]) -> None:
        """Submit the run again in another layout, and wait until it succeeds."""
        loaded = self.load(layout, trained)
        plan = prepare.plan_of(loaded, stages)
        scheduler = self.drill.services.scheduler(plan.site.scheduler)
        launch.launch(plan, scheduler, self.drill.opened[run].records)
        self.drill.finish(run)

    def summary(self, run: RunDir, stage: str) -> str:
        """Return what the tasks of a finished stage measured, in a few words."""
        markers = sorted(run.done(stage, 0).parent.glob("?????.json"))
        self.require(run, bool(markers), f"has no result of {stage}")
        parts = [words(stage, read_json(path)["summary"]) for path in markers]
        return "; ".join(filter(None, [*parts, verified(run, stage)]))

    def require(self, run: RunDir, holds: bool, otherwise: str) -> None:
        """Refuse a result.

        Raises:
            RunFailed: it does not hold; with the run's own first error where it has one.
        """
        if holds:
            return
        sentence, hint, _ = follow.first_error(self.drill.services, self.drill.opened[run].records)
        raise RunFailed(
            f"run {run.name} {otherwise}{': ' + sentence if sentence else ''}",
            hint=hint or f"`{run.command('logs')}` shows its logs",
        )


def losses(training: Training) -> str:
    """Return the first and last loss of a training.

    Raises:
        RunFailed: one of them is not finite.
    """
    values = [line.loss for line in training.steps()]
    if not all(map(math.isfinite, values)):
        raise RunFailed(
            "a loss of the miniature is not finite",
            hint="set a smaller pretrain.learning_rate, or open an issue with the kept files",
        )
    return f"loss {values[0]:.3f} at first, {values[-1]:.3f} at last"


def words(stage: str, summary: dict[str, Any]) -> str:
    """Return the figures of a task's summary."""
    if stage == "evaluate":
        return (
            f"step {summary['checkpoint_step']}: {summary['correct']:g} of {summary['n']} correct, "
            f"chance {summary['chance']:.0%}"
        )
    return f"{summary['bytes'] / 1e6:.1f} MB"


def verified(run: RunDir, stage: str) -> str:
    """Return the figures of the verification that a stage ended with; empty without any."""
    shown = []
    for path in sorted(run.path(FOLDER).glob(f"{stage}-*.json")):
        result = read_json(path)
        logits = result["logits"]
        shown.append(
            f"logits differ by {logits['max']:.2g} at most, mean {logits['mean']:.2g}, over "
            f"{logits['positions']} positions and {result['rows']} tokens"
        )
    return "; ".join(shown)
