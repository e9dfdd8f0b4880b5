"""The corpora of a training and how often it reads them. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from jobs.contract.errors import TaskError
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import CorpusSpec, PhaseSpec, PhaseStart, PretrainSpec
from jobs.contract.units import plural
from jobs.data import tokenized
from jobs.data.indexed_dataset import stored_size
from jobs.data.mixture import CorpusSize, mixture_of, shares


class NotAllowed(TaskError):
    """A training that another value of a setting allows."""

    def __init__(self, message: str, setting: str, advice: str = "") -> None:
        super().__init__(
            message, f"{advice}{{meditron submit pretrain --set {setting} --run}} allows it"
        )
        self.setting = setting
        """With the value, as ``--set`` takes it."""
        self.advice = advice
        """What else helps, before the command in the hint."""


class Datasets(NamedTuple):
    """The indexed datasets of a corpus, by prefix."""

    train: tuple[str, ...]
    validation: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.train, *self.validation)


def datasets(run: RunDir, corpus: CorpusSpec) -> Datasets:
    """Return the indexed datasets of a corpus of a run's training.

    Raises:
        NotTokenized: a run has not curated or tokenized all of them.
    """
    return Datasets(
        tokenized.prefixes(run, corpus.data, tokenized.TRAIN),
        tokenized.prefixes(run, corpus.validation_data, tokenized.VALIDATION),
    )


def sizes(run: RunDir, spec: PretrainSpec) -> dict[str, CorpusSize] | None:
    """Return the training documents and tokens of each corpus; None while they are not known:
    tokenize has not finished, or a dataset made elsewhere cannot be read on this machine.

    Args:
        run: the training's, which need not exist.
    """
    found = {}
    for corpus in spec.corpora:
        try:
            prefixes = tokenized.prefixes(run, corpus.data, tokenized.TRAIN)
            made = tokenized.written(run, prefixes)
            counted = [_size(prefix, made.get(prefix)) for prefix in prefixes]
        except (TaskError, OSError, KeyError):
            return None
        documents, tokens = (sum(column) for column in zip((0, 0), *counted, strict=True))
        found[corpus.name] = CorpusSize(documents, tokens)
    return found


def _size(prefix: str, made: tokenized.TokenizedShard | None) -> CorpusSize:
    """Return the size of a dataset that tokenize has finished, or of one elsewhere by its files.

    Raises:
        NotTokenized: it is one of this run, and not finished.
        TaskError, OSError: it cannot be read.
        KeyError: its record has no counts.
    """
    if made is not None:
        return CorpusSize(made.documents, made.tokens)
    if not Path(prefix).is_absolute():
        raise tokenized.NotTokenized(f"{prefix} is not tokenized")
    return CorpusSize(*stored_size(Path(prefix)))


def require_enough(spec: PretrainSpec, sizes: Mapping[str, CorpusSize]) -> None:
    """Refuse corpora that are too small for a training, and weights that are.

    Raises:
        TaskError: there are fewer sequences than one global batch, or a corpus of a phase has no
            token or no sequence in it.
        NotAllowed: the training would read a corpus more often than ``max_epochs``.
    """
    for start in spec.starts:
        _require_batch(spec, start, sizes)
    mixture = mixture_of(spec, sizes)
    last = spec.train_steps * spec.global_batch_size
    ends = [*(phase.first_sample for phase in mixture.phases[1:]), last]
    for phase, end in zip(mixture.phases, ends, strict=True):
        after = phase.consumed(end)
        for name in phase.interleaving.shares:
            if end > phase.first_sample and after[name] == phase.before.get(name, 0):
                raise TaskError(
                    f"the weight of the corpus {name!r} gives it none of the "
                    f"{end - phase.first_sample:,} sequences of the phase that begins with step "
                    f"{phase.first_step + 1}",
                    "raise its weight in pretrain.mixture or pretrain.phases, or leave it out",
                )
    _require_epochs(spec, sizes)


def _require_batch(spec: PretrainSpec, start: PhaseStart, sizes: Mapping[str, CorpusSize]) -> None:
    """Refuse corpora of a phase with fewer sequences than one global batch."""
    batch, length = spec.global_batch_size, start.sequence_length
    tokens = sum(sizes[item.corpus].tokens for item in start.phase.weights)
    sequences = max(0, tokens - 1) // length
    if sequences < batch:
        raise TaskError(
            f"{plural(tokens, 'training token')} are {plural(sequences, 'sequence')} of {length}, "
            f"and pretrain.global_batch_size is {batch}: one batch would repeat documents",
            "train on more documents, or lower pretrain.global_batch_size in a submission with "
            "--new, which starts another run",
        )


def _require_epochs(spec: PretrainSpec, sizes: Mapping[str, CorpusSize]) -> None:
    if spec.max_epochs is None:
        return
    read = epochs_after(spec, sizes, spec.train_steps)
    worst = max(read, key=lambda name: read[name])
    if read[worst] <= spec.max_epochs:
        return
    low, high = 0, spec.train_steps  # the most steps within the limit, and too many
    while high - low > 1:
        middle = (low + high) // 2
        fits = max(epochs_after(spec, sizes, middle).values()) <= spec.max_epochs
        low, high = (middle, high) if fits else (low, middle)
    most = math.ceil(read[worst])
    whose = f" of the corpus {worst!r}" if len(spec.corpora) > 1 else ""
    raise NotAllowed(
        f"{plural(spec.train_steps, 'step')} read the {sizes[worst].tokens:,} training tokens"
        f"{whose} {read[worst]:.1f} times, and pretrain.max_epochs is {spec.max_epochs:g}, which "
        f"{plural(low, 'step')} would keep to",
        f"pretrain.max_epochs={most}",
    )


def epochs_after(
    spec: PretrainSpec, sizes: Mapping[str, CorpusSize], steps: int
) -> dict[str, float]:
    """Return how often the first steps of a training read each corpus."""
    read = mixture_of(spec, sizes).tokens(steps * spec.global_batch_size)
    return {
        name: read.get(name, 0) / size.tokens if size.tokens else 0.0
        for name, size in sizes.items()
    }


def rows(spec: PretrainSpec, sizes: Mapping[str, CorpusSize], steps: int) -> list[dict[str, Any]]:
    """Return name, documents, tokens, epochs and share of the tokens read of each corpus after
    some steps of a training.
    """
    try:
        read = mixture_of(spec, sizes).tokens(steps * spec.global_batch_size)
    except TaskError:  # a corpus of the mixture is empty
        read = {}
    return [
        {
            "name": name,
            "documents": size.documents,
            "tokens": size.tokens,
            "epochs": read.get(name, 0) / size.tokens if size.tokens else 0.0,
            "share": read.get(name, 0) / spec.tokens(steps) if steps else 0.0,
        }
        for name, size in sizes.items()
    ]


def phase_rows(spec: PretrainSpec, sizes: Mapping[str, CorpusSize] | None) -> list[dict[str, Any]]:
    """Return first step, tokens before it, sequence length, tokens of a step, weights, shares and
    tail of each phase of a training.

    Args:
        sizes: of the corpora; None while they are not known. Shares by tokens follow without them,
            others are None.
    """
    return [
        {
            "first_step": start.first_step + 1,
            "tokens_before": start.tokens,
            "sequence_length": start.sequence_length,
            "tokens_per_step": spec.step_tokens(start.first_step + 1),
            "by": start.phase.by,
            "weights": {item.corpus: item.weight for item in start.phase.weights},
            "shares": _known_shares(start.phase, sizes),
            "tail": asdict(start.phase.tail) if start.phase.tail else None,
        }
        for start in spec.starts
    ]


def _known_shares(
    phase: PhaseSpec, sizes: Mapping[str, CorpusSize] | None
) -> dict[str, float] | None:
    names = [item.corpus for item in phase.weights]
    if phase.by == "tokens" or len(names) == 1:
        return shares(phase, dict.fromkeys(names, CorpusSize(1, 1)))
    if sizes is None or not all(sizes[name].tokens for name in names):
        return None
    return shares(phase, sizes)
