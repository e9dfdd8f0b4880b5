"""Summarize for people what a training reads, and its learning rate. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from jobs.contract.units import ranges_text
from meditron_cli.plan.figures import count

if TYPE_CHECKING:
    from jobs.contract.stage_specs import PretrainSpec


def figures(spec: PretrainSpec) -> dict[str, Any]:
    """Return the schedule of the learning rate, and the steps that are skipped."""
    optimizer = spec.optimizer
    return {
        "schedule": {
            "learning_rate": optimizer.learning_rate,
            "min_learning_rate": optimizer.min_learning_rate,
            "warmup_steps": optimizer.warmup_steps,
            "decay_steps": optimizer.decay_steps,
        },
        "skip_steps": list(spec.skip_steps),
    }


def lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a training reads and its schedule as sentences: a line per phase where there are
    several corpora or phases.

    Args:
        facts: of ``summary.training``, with ``corpora`` and ``phases`` where they are known.
    """
    yield schedule_line(facts)
    yield corpora_line(facts)
    phases = facts.get("phases") or []
    if len(phases) > 1 or any(len(phase["weights"]) > 1 for phase in phases):
        yield f"mixture      {mixture_text(phases[0])}"
    steps = facts.get("phase_steps") or [None] * len(phases)
    for (before, phase), step in zip(pairwise(phases), steps[1:], strict=False):
        yield phase_line(phase, before, step)
    if facts["skip_steps"]:
        yield f"skipped      the batches of steps {ranges_text(facts['skip_steps'])}"


def schedule_line(facts: Mapping[str, Any]) -> str:
    """Return the schedule of the learning rate; the tail of a phase replaces the rest of it."""
    schedule, target = facts["schedule"], facts["train_steps"]
    warmup, end = schedule["warmup_steps"], schedule["decay_steps"]
    start = f" after {warmup} steps of warmup" if warmup else ""
    beyond = f", beyond the target of {target}" if end > target else ""
    return (
        f"schedule     learning rate {schedule['learning_rate']:g}{start}, then a cosine to "
        f"{schedule['min_learning_rate']:g} at step {end}{beyond}"
    )


def corpora_line(facts: Mapping[str, Any]) -> str:
    """Return what is read and how often, as far as it is tokenized."""
    most = facts["max_epochs"]
    limit = "any number of epochs" if most is None else f"at most {plural_epochs(most)}"
    known = facts.get("corpora")
    if not known:
        return f"data         {limit}; tokens are counted once tokenize has finished"
    read = ", ".join(
        f"{plural_epochs(corpus['epochs'])} of {corpus['name']} ({count(corpus['tokens'])} tokens)"
        for corpus in known
    )
    return f"data         {read}; {limit}" + (" of each" if len(known) > 1 else "")


def plural_epochs(number: float) -> str:
    """Return ``1 epoch``, ``6.97 epochs``."""
    return f"{number:,.3g} epoch{'' if f'{number:.3g}' == '1' else 's'}"


def mixture_text(phase: Mapping[str, Any]) -> str:
    """Return the shares of the corpora in a phase; their weights while the shares are not known."""
    if phase["shares"] is not None:
        return ", ".join(f"{100 * share:.3g}% {name}" for name, share in phase["shares"].items())
    weights = ", ".join(f"{name} {weight:g}" for name, weight in phase["weights"].items())
    return f"{weights}, by {phase['by']}; shares are known once tokenize has finished"


def phase_line(
    phase: Mapping[str, Any], before: Mapping[str, Any], step: Mapping[str, Any] | None
) -> str:
    """Return where a phase begins, its mixture and its tail, and, where it changes them, its target
    and its sequence length with the computed time of a step.
    """
    tail = phase["tail"]
    changes = ""
    if phase["sequence_length"] != before["sequence_length"]:
        changes += f"; sequences of {phase['sequence_length']} tokens"
        changes += f", {count(phase['tokens_per_step'])} per step"
        if step:
            changes += f" of {step['step']['seconds']:,.2f} s at {step['mfu']:.1%} of the peak"
            changes += ", computed"
    if phase["train_steps"] != before["train_steps"]:
        changes += f"; to step {phase['train_steps']}"
    if tail:
        changes += f"; {tail['shape']} to {tail['learning_rate']:g} at step {tail['last_step']}"
    return (
        f"phase        from step {phase['first_step']} ({count(phase['tokens_before'])} tokens): "
        f"{mixture_text(phase)}{changes}"
    )
