"""Speed, utilisation and memory of a training, from the metric lines that count. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.contract.metrics_log import SLOW, CountedSteps, PeriodLine, quantile
from jobs.contract.units import GIB
from meditron_cli.runs import state
from meditron_cli.runs.record import RunRecord
from meditron_cli.runs.views import RunView


@dataclass(frozen=True)
class Speed:
    """Measured over a number of steps; times are of steps, without validation and saves."""

    tokens_per_s: float
    tokens_per_s_per_rank: float
    mfu: float | None
    """Share of the peak in bf16; None where no peak is known."""
    mfu_without_attention: float | None
    step_p50: float
    """Seconds."""
    step_p95: float
    step_max: float
    data: float
    """Share of the steps' time."""
    communication: float
    """Share of the steps' time in reductions at their ends."""
    param_norm: float
    """After the last step."""
    memory_bytes: int
    """The largest peak of a rank."""

    def to_json(self) -> dict[str, Any]:
        """Return all figures as ``--json`` prints them."""
        return asdict(self)

    @property
    def text(self) -> str:
        """Return the speed in one line."""
        words = f"{self.tokens_per_s:,.0f} tokens/s, {self.tokens_per_s_per_rank:,.0f} per rank"
        if self.mfu is not None:
            words += f", MFU {self.mfu:.1%} ({self.mfu_without_attention:.1%} without attention)"
        return f"{words}; a step {self.step_p50:.3g} s, 95 % within {self.step_p95:.3g} s"

    @property
    def memory_text(self) -> str:
        """Return the memory in one phrase."""
        return f"{self.memory_bytes / GIB:,.2f} GiB at most on a rank"


def newest(counted: CountedSteps) -> Speed | None:
    """Return the speed in the newest period; None before the first."""
    if not counted.periods:
        return None
    line = counted.periods[-1]
    return _speed([line], line.step_p50, line.step_p95, line.step_max)


def seconds_left(record: RunRecord, view: RunView, speed: Speed | None, now: float) -> float | None:
    """Return the seconds until the training of a run ends, at the speed of its newest period where
    there is one: single steps vary more.
    """
    training = state.training_of(record, view.stages)
    if view.eta_s is None or training is None or training.progress is None:
        return view.eta_s
    return state.eta(training.progress, now, speed.tokens_per_s if speed else None)


def overall(counted: CountedSteps) -> Speed | None:
    """Return the speed over all periods; None before the first."""
    if not counted.periods:
        return None
    seconds = [line.seconds for line in counted.trained]
    return _speed(counted.periods, quantile(seconds, 0.5), quantile(seconds, SLOW), max(seconds))


def _speed(periods: Sequence[PeriodLine], median: float, slow: float, slowest: float) -> Speed:
    seconds = sum(line.seconds for line in periods)

    def average(values: Sequence[float | None]) -> float | None:
        """Return the mean by time; None where one is not known."""
        pairs = list(zip(values, periods, strict=True))
        known = [value * line.seconds for value, line in pairs if value is not None]
        return sum(known) / seconds if len(known) == len(pairs) else None

    return Speed(
        tokens_per_s=sum(line.tokens_per_s * line.seconds for line in periods) / seconds,
        tokens_per_s_per_rank=sum(line.tokens_per_s_per_rank * line.seconds for line in periods)
        / seconds,
        mfu=average([line.mfu for line in periods]),
        mfu_without_attention=average([line.mfu_without_attention for line in periods]),
        step_p50=median,
        step_p95=slow,
        step_max=slowest,
        data=sum(line.data for line in periods) / seconds,
        communication=sum(line.communication for line in periods) / seconds,
        param_norm=periods[-1].param_norm,
        memory_bytes=max(line.memory_bytes for line in periods),
    )
