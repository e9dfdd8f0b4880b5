"""Steps whose batch is not trained on. No torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from jobs.contract.metrics_log import MetricLine, SkipLine, SpikeLine

CONFIGURED = "pretrain.skip_steps"
"""The reason of steps that the experiment names."""


class Skips:
    """The steps that are skipped, with reasons.

    A batch has the number of the step that reads it. A skipped step reads nothing and changes no
    weights: the steps after it read the batches that they would read anyhow, at the same learning
    rates.
    """

    def __init__(self, configured: Collection[int], decided: Mapping[int, str]) -> None:
        """Skip what the experiment names, and what was decided before.

        Args:
            configured: ``PretrainSpec.skip_steps``.
            decided: reasons by step, of ``decided_before``.
        """
        self._reasons = {**decided, **dict.fromkeys(configured, CONFIGURED)}

    def reason(self, step: int) -> str:
        """Return why a step is skipped; empty for a step that trains."""
        return self._reasons.get(step, "")

    def add(self, step: int, reason: str) -> None:
        """Skip a step, in this attempt and in later ones once a metric line has it."""
        self._reasons.setdefault(step, reason)


def spike_reason(action: str, step: int) -> str:
    """Return the reason of a step that is skipped because of the spike of a step."""
    return f"{action} after the spike of step {step}"


def decided_before(lines: Iterable[MetricLine]) -> dict[int, str]:
    """Return the steps that training decided to skip, with reasons: they are skipped whenever they
    come again. Those that the experiment named at the time are not among them.
    """
    decided: dict[int, str] = {}
    for line in lines:
        if isinstance(line, SkipLine) and line.reason != CONFIGURED:
            decided[line.step] = line.reason
        elif isinstance(line, SpikeLine) and line.first is not None:
            reason = spike_reason(line.action, line.step)
            decided.update(dict.fromkeys(range(line.first, line.step + 1), reason))
    return decided
