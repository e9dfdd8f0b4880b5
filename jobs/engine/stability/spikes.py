"""Respond to a step whose loss or gradient norm is not as in the steps before: compute it again,
keep evidence, and follow the policy.

A second computation of the same step on the same ranks distinguishes a transient fault, after which
it is as usual, from a persistent one: the data, the weights, or a device that always errs.
docs/resilience.md states why megatron.core's rerun state machine is not used.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from jobs.checkpoints import manifest
from jobs.contract.errors import FAILED, RESUME, TaskError
from jobs.contract.files import write_json
from jobs.contract.metrics_log import (
    ENDED,
    RECOMPUTED,
    REWOUND,
    SKIPPED,
    WARNED,
    SpikeLine,
    to_json,
)
from jobs.contract.stage_specs import REWIND, WARN, PretrainSpec, TrainingSpec
from jobs.engine import device as devices
from jobs.engine.reporter import Reporter
from jobs.engine.stability import guards
from jobs.engine.stability.guards import Guard, Step
from jobs.runtime.context import Context

with devices.quiet():
    from megatron.core import parallel_state


class NonFiniteLoss(TaskError):
    """The loss or gradient norm is not finite (NaN or infinite)."""


class LossSpike(TaskError):
    """Spikes that the policy does not get rid of."""


@dataclass
class Computed:
    """A step before its update."""

    result: Any
    """``BatchResult``."""
    step: Step
    losses: list[torch.Tensor]
    """Of this rank's micro-batches, on the last pipeline stage: sum and weight."""


class SpikeWatch:
    """The guard of a training on this rank. All ranks call its methods together."""

    def __init__(self, context: Context, spec: TrainingSpec, reporter: Reporter) -> None:
        self._context = context
        self._spec = spec
        self._reporter = reporter
        self._guard = Guard(spec)
        self._warned = 0
        """The last step that was warned of."""

    def resume(self, step: int) -> None:
        """Take over the steps that trained up to a step, from the metrics."""
        before, window = guards.steps_before_mixture(self._spec, step + 1), self._spec.spike_window
        recent = devices.decide_once(
            lambda: guards.recent_steps(self._reporter.lines(), before, step, window)
        )
        self._guard = Guard(self._spec, recent, before)

    def judge(
        self,
        number: int,
        computed: Computed,
        compute: Callable[[Computed], Computed],
        skipped_before: Callable[[], int],
        newest_saved: Callable[[], int | None],
    ) -> tuple[Computed, str]:
        """Return the computation to train with, and the action after a spike; empty without one.

        Args:
            number: of the step.
            computed: the step.
            compute: computes it again, after the first computation.
            skipped_before: returns the steps in a row before it that training decided to skip.
            newest_saved: returns the step of the newest checkpoint; None without any.

        Raises:
            NonFiniteLoss: of the step, and the policy is ``warn``, or its limits are reached.
            LossSpike: the limits of the policy are reached.
        """
        problem = self._guard.problem(number, computed.step)
        if not problem:
            self._guard.add(computed.step)
            return computed, ""
        if self._spec.spike_policy == WARN and computed.step.finite and self._warned == number - 1:
            self._warned = number  # one warning of several steps in a row
            self._guard.add(computed.step)
            return computed, WARNED
        again = compute(computed)
        saved: int | None = None
        if self._guard.problem(number, again.step) and self._spec.spike_policy == REWIND:
            saved = newest_saved()
        action, limit = self._action(number, again, skipped_before, saved)
        line = SpikeLine(
            step=number,
            problem=problem,
            action=action,
            samples=computed.result.samples,
            saved=saved if action == REWOUND else None,
            first=self._first_skipped(number, action, saved),
            time=time.time(),
            attempt=self._context.attempt,
        )
        self._record(line, computed, again, limit)
        if action == ENDED:
            raise self._error(line, again.step.finite, limit, newest_saved())
        if action in (RECOMPUTED, WARNED):
            self._guard.add(again.step)
        if action == WARNED:
            self._warned = number
        return again, action

    def _first_skipped(self, number: int, action: str, saved: int | None) -> int | None:
        """Return the first step that is skipped because of a spike."""
        if action == REWOUND and saved is not None:
            return max(saved, number - self._spec.spike_rewind_steps) + 1
        return number if action == SKIPPED else None

    def _action(
        self,
        number: int,
        again: Computed,
        skipped_before: Callable[[], int],
        saved: int | None,
    ) -> tuple[str, str]:
        """Return the action after a second computation, and the limit of the policy that ended the
        training, if one did.
        """
        if not self._guard.problem(number, again.step):
            return RECOMPUTED, ""
        if self._spec.spike_policy == WARN:
            return WARNED if again.step.finite else ENDED, ""
        if self._spec.spike_policy != REWIND:
            skipped = skipped_before()
            if skipped < guards.MOST_SKIPPED:
                return SKIPPED, ""
            return ENDED, f"the {skipped} steps before it were skipped too"
        if saved is None:
            return ENDED, "there is no checkpoint to return to"
        count = devices.decide_once(lambda: guards.rewinds(self._reporter.lines(), saved))
        if count < guards.MOST_REWINDS:
            return REWOUND, ""
        return ENDED, f"training returned to the weights of step {saved} {count} times"

    def _error(self, line: SpikeLine, finite: bool, limit: str, saved: int | None) -> TaskError:
        """Return the error that ends the training, which all ranks raise."""
        kept = manifest.name(saved) if saved is not None else "no checkpoint"
        reason = f"; {limit}" if limit else ""
        kind = LossSpike if finite else NonFiniteLoss
        return kind(
            f"{line.problem}{reason}; {kept} holds the last good state",
            self._advice(line.step),
            FAILED,
        )

    def _advice(self, step: int) -> str:
        """Return what a person can do about a spike that ended the training."""
        recurs = f"{RESUME} shows whether it recurs; if it does, lower"
        if not isinstance(self._spec, PretrainSpec):
            return f"{recurs} finetune.learning_rate"
        return (
            f"{{meditron samples --step {step}}} prints its documents; {recurs} the learning rate, "
            "or name the step in pretrain.skip_steps"
        )

    def _record(self, line: SpikeLine, computed: Computed, again: Computed, limit: str) -> None:
        """Write the evidence of a spike and its metric line, and warn, on rank 0."""
        parts = devices.from_all(lambda: self._part(computed, again))
        if self._context.rank:
            return
        size = self._spec.global_batch_size
        run = self._context.run
        name = f"step-{line.step:07d}-attempt-{line.attempt}.json"
        task = self._context.task
        path = run.spikes(task.stage, task.index) / name
        command = ""
        if isinstance(self._spec, PretrainSpec):
            command = run.command("samples", "--step", str(line.step))
        evidence = {
            **to_json(line),
            "limit": limit,
            "sequences": {"first": (line.step - 1) * size, "last": line.step * size - 1},
            "loss": json_number(computed.step.loss),
            "grad_norm": json_number(computed.step.norm),
            "second": {
                "loss": json_number(again.step.loss),
                "grad_norm": json_number(again.step.norm),
            },
            "ranks": [part for part in parts if part["losses"]],
            "before": [[step.loss, step.norm] for step in self._guard.recent],
            "policy": {
                name: getattr(self._spec, name)
                for name in type(self._spec).__dataclass_fields__
                if name.startswith("spike_")
            },
            "documents": command,
        }
        try:
            write_json(path, evidence)
        except OSError as error:  # training is worth more than evidence
            print(f"no evidence of this spike: {error}", file=sys.stderr)
        self._reporter.spike(line)
        printing = f", `{command}` prints the documents" if command else ""
        print(
            f"warning: {line.problem}: {line.action}; {path} has the evidence{printing}",
            file=sys.stderr,
            flush=True,
        )

    def _part(self, computed: Computed, again: Computed) -> dict[str, Any]:
        """Return the mean losses of this rank's micro-batches, of both computations."""
        counts = parallel_state.get_tensor_model_parallel_rank() == 0
        return {
            "rank": self._context.rank,
            "data_rank": parallel_state.get_data_parallel_rank(),
            "node": os.uname().nodename,
            "losses": means(computed.losses) if counts else [],
            "second_losses": means(again.losses) if counts else [],
        }


def means(losses: list[torch.Tensor]) -> list[float | str | None]:
    """Return the mean loss of each micro-batch; None of one without a scored token."""
    pairs = [tuple(loss.tolist()) for loss in losses]
    return [json_number(total / weight) if weight else None for total, weight in pairs]


def json_number(value: float) -> float | str:
    """Return a number as JSON has it: ``nan`` and ``inf`` as text."""
    return value if math.isfinite(value) else str(value)
