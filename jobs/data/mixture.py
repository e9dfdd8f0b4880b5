"""Compute which corpus each sample of a training is of. Pure; standard library only.

The mixture depends on the sizes of the corpora, their weights and the samples consumed, never on
ranks or restarts. Within a phase, sample ``k`` of a corpus with the share ``s`` is due at
``(k + 1/2) / s``, and samples are taken in the order in which they are due. So every stretch of a
phase has each corpus in its share, within one or two samples, and each place is found without the
places before it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any, NamedTuple

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import PhaseSpec, PretrainSpec, TailSpec
from jobs.contract.units import plural


class CorpusSize(NamedTuple):
    """The size of a corpus."""

    documents: int
    tokens: int


UNITS: dict[str, Callable[[CorpusSize], float]] = {
    "tokens": lambda size: 1.0,
    "documents": lambda size: size.tokens / size.documents,
    "epochs": lambda size: float(size.tokens),
}
"""Tokens that a weight of 1 stands for, by what weights count."""


class Drawn(NamedTuple):
    """A sample as one of its corpus."""

    corpus: str
    number: int
    """Of the corpus's samples, from 0, over all its epochs."""


class Section(NamedTuple):
    """Samples of a corpus with one sequence length, up to the next section."""

    first: int
    """Of the corpus's samples, over all its epochs."""
    sequence_length: int


def shares(phase: PhaseSpec, sizes: Mapping[str, CorpusSize]) -> dict[str, float]:
    """Return the share of each corpus in the samples of a phase.

    A weight counts tokens (``by: tokens``), documents of the corpus's average length, or epochs of
    the corpus.

    Args:
        phase: with weights above 0.
        sizes: of its corpora, at least one document and token each.
    """
    parts = {
        item.corpus: item.weight * UNITS[phase.by](sizes[item.corpus]) for item in phase.weights
    }
    total = math.fsum(parts.values())
    return {name: part / total for name, part in parts.items()}


@dataclass(frozen=True)
class Interleaving:
    """The corpora of the samples of one phase, which counts them from 0."""

    shares: Mapping[str, float]

    def counts(self, samples: int) -> dict[str, int]:
        """Return how many of the first samples are of each corpus."""
        counts = {name: max(0, round(samples * share)) for name, share in self.shares.items()}
        while sum(counts.values()) < samples:
            counts[self._next(counts)] += 1
        while sum(counts.values()) > samples:
            counts[self._last(counts)] -= 1
        while self._due(last := self._last(counts), counts[last] - 1) > self._due(
            first := self._next(counts), counts[first]
        ):
            counts[last] -= 1
            counts[first] += 1
        return counts

    def take(self, first: int, count: int) -> list[Drawn]:
        """Return some consecutive samples."""
        counts = self.counts(first)
        taken = []
        for _ in range(count):
            name = self._next(counts)
            taken.append(Drawn(name, counts[name]))
            counts[name] += 1
        return taken

    def place(self, drawn: Drawn) -> int:
        """Return which sample of the phase is a corpus's sample; the inverse of ``take``."""
        due = self._due(drawn.corpus, drawn.number)
        place = drawn.number
        for name, share in self.shares.items():
            if name == drawn.corpus:
                continue
            before = max(0, math.floor(due[0] * share - 0.5))
            while self._due(name, before) < due:
                before += 1
            while before and self._due(name, before - 1) > due:
                before -= 1
            place += before
        return place

    @cached_property
    def _ranks(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(sorted(self.shares))}

    def _due(self, name: str, number: int) -> tuple[float, int]:
        """Return when a sample is due, and its corpus's rank among those due at once."""
        if number < 0:
            return -math.inf, 0
        return (number + 0.5) / self.shares[name], self._ranks[name]

    def _next(self, counts: Mapping[str, int]) -> str:
        return min(self.shares, key=lambda name: self._due(name, counts[name]))

    def _last(self, counts: Mapping[str, int]) -> str:
        return max(self.shares, key=lambda name: self._due(name, counts[name] - 1))


@dataclass(frozen=True)
class MixedPhase:
    """One phase of a training."""

    first_step: int
    """Steps before it."""
    first_sample: int
    before: Mapping[str, int]
    """Samples of each corpus before it; 0 of those not named."""
    interleaving: Interleaving
    sequence_length: int
    tail: TailSpec | None = None

    def consumed(self, sample: int) -> dict[str, int]:
        """Return the samples of each corpus before a sample of the phase or the one after it."""
        counts = self.interleaving.counts(sample - self.first_sample)
        names = self.before.keys() | counts.keys()
        return {name: self.before.get(name, 0) + counts.get(name, 0) for name in sorted(names)}


@dataclass(frozen=True)
class Mixture:
    """The corpora of all samples of a training."""

    phases: Sequence[MixedPhase]

    def take(self, first: int, count: int) -> list[Drawn]:
        """Return which sample of which corpus some consecutive samples are."""
        taken: list[Drawn] = []
        ends = [phase.first_sample for phase in self.phases[1:]]
        for phase, end in zip(self.phases, [*ends, first + count], strict=True):
            begin, stop = max(first, phase.first_sample), min(first + count, end)
            if begin < stop:
                drawn = phase.interleaving.take(begin - phase.first_sample, stop - begin)
                before = phase.before
                taken += [Drawn(name, before.get(name, 0) + number) for name, number in drawn]
        return taken

    def consumed(self, samples: int) -> dict[str, int]:
        """Return how many of the first samples are of each corpus that a phase before had."""
        return self.phase_of(samples - 1).consumed(samples)

    def tokens(self, samples: int) -> dict[str, int]:
        """Return how many tokens of each corpus the first samples have."""
        read: Counter[str] = Counter()
        for phase, after in zip(self.phases, [*self.phases[1:], None], strict=True):
            end = min(samples, after.first_sample) if after else samples
            for name, count in phase.consumed(max(end, phase.first_sample)).items():
                read[name] += (count - phase.before.get(name, 0)) * phase.sequence_length
        return dict(read)

    def sections(self, corpus: str, samples: int) -> list[Section]:
        """Return the sections of the first samples of a corpus, one per change of the sequence
        length; at least one.
        """
        found: list[Section] = []
        for phase, after in zip(self.phases, [*self.phases[1:], None], strict=True):
            begin = phase.before.get(corpus, 0)
            end = min(samples, after.before.get(corpus, 0)) if after else samples
            is_read = begin < end or (after is None and not found)
            if is_read and (not found or found[-1].sequence_length != phase.sequence_length):
                found.append(Section(begin, phase.sequence_length))
        return found

    def place(self, drawn: Drawn) -> int | None:
        """Return which sample of the training is a corpus's sample; None where the last phase
        never reaches it.
        """
        for phase, after in zip(self.phases, [*self.phases[1:], None], strict=True):
            begin = phase.before.get(drawn.corpus, 0)
            end = after.before.get(drawn.corpus, 0) if after else math.inf
            if begin <= drawn.number < end and drawn.corpus in phase.interleaving.shares:
                inner = Drawn(drawn.corpus, drawn.number - begin)
                return phase.first_sample + phase.interleaving.place(inner)
        return None

    def started(self, step: int) -> list[dict[str, Any]]:
        """Return first step, shares, sequence length and tail of the phases that the first steps
        have a sample of, as checkpoints record them.
        """
        return [
            {
                "step": phase.first_step,
                "shares": dict(phase.interleaving.shares),
                "sequence_length": phase.sequence_length,
                "tail": asdict(phase.tail) if phase.tail else None,
            }
            for phase in self.phases
            if phase.first_step < step
        ]

    def length_of(self, sample: int) -> int:
        """Return the tokens of a sample."""
        return self.phase_of(sample).sequence_length

    def phase_of(self, sample: int) -> MixedPhase:
        """Return the phase of a sample."""
        found = self.phases[0]
        for phase in self.phases:
            if phase.first_sample <= sample:
                found = phase
        return found


def require_same_phases(
    spec: PretrainSpec,
    mixture: Mixture,
    recorded: Sequence[Mapping[str, Any]],
    step: int,
    checkpoint: str,
) -> None:
    """Refuse other phases than the steps before a checkpoint had.

    Args:
        recorded: ``Mixture.started`` when it was saved.
        step: its step.
        checkpoint: its name, for messages.

    Raises:
        TaskError: a phase that had started is another.
    """
    now = mixture.started(step)
    pairs = zip_longest(recorded, now, fillvalue=None)
    changed = ((number, _changed(*pair)) for number, pair in enumerate(pairs))
    number, key = next(((number, key) for number, key in changed if key), (0, ""))
    if not key:
        return
    key = f"phases.{number - 1}{key}" if number else key[1:]
    tokens = _tokens(spec, recorded, step)
    later = f"; another phase of pretrain.phases may begin from_tokens: {tokens}"
    if step >= spec.train_steps:
        later += f", with train_steps above {spec.train_steps}"
    raise TaskError(
        f"pretrain.{key}: the phases of the first {plural(step, 'step')} have changed since "
        f"{checkpoint} was saved: {_text(recorded)} then, {_text(now)} now",
        f"restore pretrain.mixture and the phases that have started{later}",
    )


def _tokens(spec: PretrainSpec, recorded: Sequence[Mapping[str, Any]], step: int) -> int:
    """Return the tokens of the steps before a checkpoint; an earlier version's record has one
    length.
    """
    ends = [*(phase["step"] for phase in recorded[1:]), step]
    lengths: list[int] = [
        (end - phase["step"]) * phase.get("sequence_length", spec.model.seq_length)
        for phase, end in zip(recorded, ends, strict=True)
    ]
    return spec.global_batch_size * sum(lengths)


def _changed(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """Return the key of a phase by which it is another than the one recorded in its place; empty
    if none. An earlier version's record has fewer values.
    """
    if before is None or now is None or before["step"] != now["step"]:
        return ".from_tokens"
    if before["shares"] != now["shares"]:
        return ".mixture"
    if before.get("sequence_length", now["sequence_length"]) != now["sequence_length"]:
        return ".sequence_length"
    mine, theirs = now["tail"] or {}, before["tail"] or {}
    if bool(mine) != bool(theirs) or any(mine[name] != theirs[name] for name in theirs):
        return (
            ".train_steps"
            if mine and mine == {**theirs, "last_step": mine["last_step"]}
            else ".tail"
        )
    return ""


def _text(phases: Sequence[Mapping[str, Any]]) -> str:
    """Return phases as text: ``from step 1 corpus 0.99, replay 0.01``."""
    return "; ".join(
        f"from step {phase['step'] + 1} "
        + ", ".join(f"{name} {share:.4g}" for name, share in phase["shares"].items())
        + (f" of {length} tokens" if (length := phase.get("sequence_length")) else "")
        + (f" with a tail to {tail['learning_rate']:g}" if (tail := phase["tail"]) else "")
        + (f" at step {tail['last_step']}" if tail and "last_step" in tail else "")
        for phase in phases
    )


def undivided(corpus: str, sequence_length: int) -> Mixture:
    """Return the mixture of one corpus alone."""
    return Mixture([MixedPhase(0, 0, {}, Interleaving({corpus: 1.0}), sequence_length)])


def mixture_of(spec: PretrainSpec, sizes: Mapping[str, CorpusSize]) -> Mixture:
    """Return the mixture of a training.

    Args:
        sizes: of the corpora that its phases name.

    Raises:
        TaskError: a corpus of a phase has no tokens.
    """
    phases: list[MixedPhase] = []
    before: dict[str, int] = {}
    for start in spec.starts:
        phase = start.phase
        for item in phase.weights:
            if not sizes[item.corpus].tokens:
                raise TaskError(
                    f"the corpus {item.corpus!r} has no training tokens",
                    "take it out of the weights of pretrain.mixture and pretrain.phases",
                )
        sample = start.first_step * spec.global_batch_size
        if phases:
            before = phases[-1].consumed(sample)
        mixed = Interleaving(shares(phase, sizes))
        phases.append(
            MixedPhase(start.first_step, sample, before, mixed, start.sequence_length, phase.tail)
        )
    return Mixture(phases)
