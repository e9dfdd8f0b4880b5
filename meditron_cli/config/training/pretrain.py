"""The section of pretraining: corpora, mixture, phases, recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from jobs.contract.stage_specs import MAIN_CORPUS
from jobs.contract.units import plural
from meditron_cli.config.field_types import (
    OPERATIONAL,
    DurationMinutes,
    LossAverage,
    Name,
    Share,
    StepRanges,
    Steps,
    Weight,
)
from meditron_cli.config.section import Section
from meditron_cli.config.training.conflicts import rates_and_batches


class Corpus(Section):
    """Documents to train on beside the run's own."""

    name: Name
    """Name in the weights of mixtures."""
    data: tuple[Path, ...] = ()
    """Directories of runs that have tokenized a corpus, and indexed datasets (without
    .bin/.idx)."""
    validation_data: tuple[Path, ...] = ()
    """Likewise for validation; of runs their validation shard. Alone for a corpus that is only
    validated on."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that there are documents."""
        if not self.data and not self.validation_data:
            yield "data", "names no run and no indexed dataset"


class Mixture(Section):
    """Corpora and their shares in the training."""

    by: Literal["tokens", "documents", "epochs"] = "epochs"
    """What weights count: ``tokens`` of each corpus, so that weights of 99 and 1 are shares of 99 %
    and 1 %; its ``documents``, at their average length; or its ``epochs``, so that equal weights
    read each equally often, in proportion to its tokens, as MEDITRON's training did."""
    weights: dict[Name, Weight] = Field({MAIN_CORPUS: 1.0})
    """Weight by the name of the corpus: ``corpus`` is the run's own (or pretrain.data), others are
    those of pretrain.corpora; only ratios count. A corpus without a weight is not read."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that there is something to train on."""
        if not self.weights:
            yield "weights", f"names no corpus; the run's own is {MAIN_CORPUS}"


class Tail(Section):
    """The end of the learning rate's schedule."""

    learning_rate: Annotated[NonNegativeFloat, Field(le=1)]
    """Learning rate at the last step."""
    shape: Literal["linear", "cosine"] = "linear"
    """Curve from the learning rate before the phase to this one."""


class Phase(Section):
    """A stretch of the training with settings of its own."""

    from_tokens: Annotated[PositiveInt, Field(le=10**16)]
    """Tokens trained on before it; it begins with the first step after them."""
    mixture: Mixture | None = None
    """Its mixture, up to the next phase; default: the one before."""
    sequence_length: Annotated[PositiveInt, Field(le=100_000_000)] | None = None
    """Tokens per sequence, up to the next phase; default: as before it, model.seq_length first.
    global_batch_size sequences are a step in every phase."""
    tail: Tail | None = None
    """Replaces the rest of the learning rate's schedule, up to the target; default: it stays."""
    train_steps: Annotated[PositiveInt, Field(le=100_000_000)] | None = None
    """Optimizer steps in the whole run from this phase on, more than before it; default: as before
    it, pretrain.train_steps first. So a finished run is trained further."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that the phase changes something."""
        keys = ("mixture", "sequence_length", "tail", "train_steps")
        if all(getattr(self, key) is None for key in keys):
            yield "from_tokens", f"the phase changes nothing; give it one of {', '.join(keys)}"


class Pretrain(Section):
    """Continued pretraining."""

    data: tuple[Path, ...] = ()
    """Directories of runs that have tokenized a corpus, and indexed datasets (without .bin/.idx),
    to train on instead of this run's own tokens."""
    validation_data: tuple[Path, ...] = ()
    """Likewise for validation."""
    corpora: Annotated[tuple[Corpus, ...], OPERATIONAL] = ()
    """Further corpora, each ``{name, data}``, for the weights of mixtures; one may be added to a
    run, for a phase that has not started."""
    mixture: Mixture = Mixture()
    """Mixture from the start of the training to its first phase."""
    phases: Annotated[tuple[Phase, ...], OPERATIONAL] = ()
    """Changes of the mixture, the sequence length, the schedule's tail or the target, each
    ``{from_tokens, mixture, sequence_length, tail, train_steps}``, in ascending order. One that has
    started cannot be changed; one may be appended, also to a finished run."""
    micro_batch_size: Annotated[PositiveInt, OPERATIONAL]
    """Sequences per rank and forward pass."""
    global_batch_size: Annotated[PositiveInt, Field(le=1_000_000)]
    """Sequences per optimizer step."""
    train_steps: Annotated[PositiveInt, Field(le=100_000_000)]
    """Optimizer steps in the whole run, unless a phase has more."""
    max_epochs: Annotated[PositiveFloat | None, OPERATIONAL] = 4.0
    """How often training may read a corpus; more is refused; null for any number. Up to 4 epochs
    lose little against as many new tokens (arXiv 2305.16264); MEDITRON's training had 1.03."""
    require_eod: Annotated[bool, OPERATIONAL] = True
    """Whether a dataset made elsewhere is refused if none of its documents ends with
    vocabulary.eod_token: it looks tokenized with another tokenizer, or without ends."""
    learning_rate: Annotated[PositiveFloat, Field(le=1)]
    """Peak, reached at the end of warm-up."""
    min_learning_rate: NonNegativeFloat
    """Learning rate at the end of the cosine."""
    warmup_steps: NonNegativeInt
    """Steps of linear warm-up."""
    decay_steps: PositiveInt | None = None
    """Steps until the cosine ends; default: train_steps. MEDITRON stopped halfway
    (arXiv 2311.16079, App. D.1)."""
    adam_beta1: Share = 0.9
    """AdamW beta 1."""
    adam_beta2: Share = 0.95
    """AdamW beta 2."""
    adam_eps: PositiveFloat = 1e-5
    """AdamW epsilon."""
    weight_decay: Annotated[NonNegativeFloat, Field(le=1)] = 0.1
    """Decoupled weight decay of matrices; one-dimensional parameters have none."""
    clip_grad: NonNegativeFloat = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    loss_average: LossAverage = "tokens"
    """``tokens``: the average over a global batch's scored tokens, the same for every layout and
    micro_batch_size; ``micro-batches``: the average of its micro-batches' averages, as MEDITRON's.
    They differ only where eod_mask_loss leaves micro-batches with unequal numbers of tokens."""
    reset_attention_mask: bool = False
    """Whether attention ends at the end of a document, so that documents in one sequence do not
    read each other; off in MEDITRON."""
    reset_position_ids: bool = False
    """Whether positions count from the start of each document; off in MEDITRON. Beside
    reset_attention_mask it changes nothing, since RoPE depends on distances alone."""
    eod_mask_loss: bool = False
    """Whether the loss leaves out the token that follows a document's end, the first of another
    document; the end itself is scored. Off in MEDITRON."""
    spike_policy: Annotated[Literal["warn", "skip", "rewind"], OPERATIONAL] = "warn"
    """After a loss or gradient norm far above those of the steps before: ``warn`` trains on,
    ``skip`` leaves the step's update out, ``rewind`` returns to the newest checkpoint and skips the
    steps up to the spike."""
    spike_window: Annotated[Annotated[int, Field(ge=8)], OPERATIONAL] = 128
    """Steps before a step with which it is compared; the first so many are compared with none."""
    spike_deviations: Annotated[PositiveFloat, OPERATIONAL] = 7.0
    """Robust standard deviations above the window's median from which a loss is a spike."""
    spike_norm_factor: Annotated[Annotated[float, Field(gt=1)], OPERATIONAL] = 10.0
    """Multiple of the window's median from which a gradient norm is a spike."""
    spike_rewind_steps: Annotated[PositiveInt, OPERATIONAL] = 200
    """Most steps that ``rewind`` skips, the spike's last."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Precision of weights and activations; gradients are always summed in fp32."""
    deterministic: Annotated[bool, OPERATIONAL] = False
    """Whether a repeated training is bit-equal on GPUs, in the same layout: torch, cuBLAS, NCCL,
    transformer-engine and megatron.core choose slower algorithms for it. On CPUs it always is."""
    validation_interval: NonNegativeInt = 500
    """Steps between validations; 0 validates at the end only."""
    validation_batches: PositiveInt = 10
    """Global batches per validation."""
    save_interval: Annotated[PositiveInt, OPERATIONAL] = 500
    """Steps between checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=2), OPERATIONAL] = 3
    """Newest checkpoints kept, besides step 0 and the last."""
    keep_steps: Annotated[Steps, OPERATIONAL] = ()
    """Steps saved at and kept besides, in ascending order: ``[500, 1000]``. Those behind the end of
    a shorter training are passed over, with a warning."""
    skip_steps: Annotated[StepRanges, OPERATIONAL] = ()
    """Steps whose batches are not trained on, such as those of a loss spike: ``[1200, 1310-1330]``.
    They change no weights; later steps read the same batches as without."""
    keep_weights_only: Annotated[bool, OPERATIONAL] = False
    """Whether the steps of `keep_steps` are kept as weights alone: enough to evaluate and export,
    not to resume; a seventh of the size in bf16, a quarter in fp32."""
    async_save: Annotated[bool, OPERATIONAL] = True
    """Write checkpoints while training continues, from a copy in host memory: checkpoint size /
    ranks for each rank."""
    save_memory_gb: Annotated[PositiveFloat | None, OPERATIONAL] = None
    """Most GiB of a node's memory that the copy takes, divided among the node's ranks; default:
    half of what is free. Where that is too little, a step's update waits while the rest is written.
    Weights that are kept beside a checkpoint may take as much again."""
    time_minutes: Annotated[DurationMinutes, OPERATIONAL] = 1440
    """Time limit of one job; a run may take several."""
    signal_lead_seconds: Annotated[PositiveInt | None, OPERATIONAL] = None
    """Seconds before the time limit at which Slurm signals the job to save; default: computed from
    the run's own saves, before the first one estimated from the checkpoint's size."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check the schedule's order, whole micro-batches, and that a job has time to save."""
        key = "train_steps" if self.decay_steps is None else "decay_steps"
        end = self.decay_steps or self.train_steps
        if self.warmup_steps >= end:
            yield "warmup_steps", f"{self.warmup_steps} is not below {key}, {end}"
        yield from rates_and_batches(self)
        yield from self._skip_conflicts()
        for index, step in enumerate(self.keep_steps):
            if index and step <= self.keep_steps[index - 1]:
                yield (
                    f"keep_steps.{index}",
                    f"{step} is not above the step before it, {self.keep_steps[index - 1]}",
                )
        yield from self._corpus_conflicts()
        yield from self._twice_conflicts()
        yield from self._phase_conflicts()
        yield from self._weight_conflicts()
        if self.signal_lead_seconds and self.signal_lead_seconds >= self.time_minutes * 60:
            yield (
                "time_minutes",
                f"{plural(self.time_minutes, 'minute')} must exceed signal_lead_seconds, "
                f"{self.signal_lead_seconds}",
            )

    def _skip_conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that skipped steps are in the training and leave some to train."""
        for step in self.skip_steps[-1:]:
            if int(step) > self.target_step:
                yield "skip_steps", f"{step} is above train_steps, {self.target_step}"
        if len(self.skip_steps) == self.target_step:
            yield "skip_steps", f"all {self.target_step} steps are skipped, and none trains"

    def _corpus_conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that corpora have different names."""
        names = [MAIN_CORPUS]
        for index, corpus in enumerate(self.corpora):
            if corpus.name in names:
                why = "the run's own corpus has" if corpus.name == MAIN_CORPUS else "another has"
                yield f"corpora.{index}.name", f"{why} the name {corpus.name!r}"
            names.append(corpus.name)

    def _phase_conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that phases are in order, that targets rise, and that tails fall."""
        for index, (phase, target) in enumerate(zip(self.phases, self.targets, strict=False)):
            if phase.train_steps is not None and phase.train_steps <= target:
                yield (
                    f"phases.{index}.train_steps",
                    f"{phase.train_steps} is not above {target}, the target before the phase",
                )
            if index and phase.from_tokens <= self.phases[index - 1].from_tokens:
                yield (
                    f"phases.{index}.from_tokens",
                    f"{phase.from_tokens} is not above that of the phase before it",
                )
            if phase.tail and phase.tail.learning_rate > self.learning_rate:
                yield (
                    f"phases.{index}.tail.learning_rate",
                    f"{phase.tail.learning_rate:g} is above pretrain.learning_rate, the peak, "
                    f"{self.learning_rate:g}",
                )

    def _twice_conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that no documents are read by two names."""
        used: set[Path] = set()
        lists = {"data": self.data} | {
            f"corpora.{index}.data": corpus.data for index, corpus in enumerate(self.corpora)
        }
        for key, paths in lists.items():
            for index, path in enumerate(paths):
                if path in used:
                    yield f"{key}.{index}", f"{path} is named twice; its epochs would add up unseen"
                used.add(path)

    def _weight_conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that weights name corpora to train on."""
        names = [MAIN_CORPUS, *(corpus.name for corpus in self.corpora)]
        unread = {corpus.name for corpus in self.corpora if not corpus.data}
        mixtures = {f"phases.{n}.mixture": phase.mixture for n, phase in enumerate(self.phases)}
        for key, mixture in ({"mixture": self.mixture} | mixtures).items():
            for name in mixture.weights if mixture else ():
                if name not in names:
                    known = ", ".join(names)
                    yield f"{key}.weights.{name}", f"no corpus has this name; there are {known}"
                elif name in unread:
                    yield f"{key}.weights.{name}", "this corpus has no data to train on"

    @property
    def target_step(self) -> int:
        """Return the last step of the whole training."""
        return max(self.targets)

    @property
    def targets(self) -> list[int]:
        """Return the last step of the training as it is known from its start and each phase on."""
        found = [self.train_steps]
        for phase in self.phases:
            found.append(phase.train_steps or found[-1])
        return found

    @property
    def steps_to_keep(self) -> tuple[int, ...]:
        """Return those of ``keep_steps`` that the training reaches."""
        return tuple(step for step in self.keep_steps if step <= self.target_step)

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """Return the steps of the checkpoints of a finished run: 0, the newest, the last, and
        those of ``keep_steps``.
        """
        every = range(self.save_interval, self.target_step, self.save_interval)
        saved = sorted({*every, *self.steps_to_keep} - {self.target_step})
        newest = saved[-self.keep_checkpoints :]
        return tuple(sorted({0, *newest, *self.steps_to_keep, self.target_step}))
