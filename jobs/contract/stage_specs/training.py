"""The stages that train: settings of one task of each. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from jobs.contract.stage_specs.model import ASIDE, ModelSpec, ParallelSpec, TokenizerRef


@dataclass(frozen=True)
class OptimizerSpec:
    """AdamW and its learning rate: linear warmup, then a cosine."""

    learning_rate: float
    min_learning_rate: float
    warmup_steps: int
    decay_steps: int
    """End of the cosine; may be larger than ``train_steps``."""
    adam_beta1: float
    adam_beta2: float
    adam_eps: float
    weight_decay: float
    clip_grad: float


WARN, SKIP, REWIND = "warn", "skip", "rewind"
"""Policies about spikes of the loss or the gradient norm."""

BY_TOKENS = "tokens"
"""The average loss that no layout and no micro-batch size changes."""

OWN_RUN = "."
"""The run itself, as an entry of a corpus's data."""

MAIN_CORPUS = "corpus"
"""Name of the corpus that the run itself curates, or that stands in its place."""


@dataclass(frozen=True)
class CorpusSpec:
    """Documents that are trained on under one name."""

    name: str
    data: tuple[str, ...]
    """Directories of runs, ``.`` for this one, whose training shards are taken, by their records;
    and indexed datasets without suffix. Empty datasets are skipped."""
    validation_data: tuple[str, ...] = ()
    """The same for validation."""


@dataclass(frozen=True)
class CorpusWeight:
    """The weight of a corpus in a mixture."""

    corpus: str
    weight: float
    """Above 0; only ratios count."""


LINEAR = "linear"


@dataclass(frozen=True)
class TailSpec:
    """The end of the learning rate's schedule, from the start of a phase on."""

    learning_rate: float
    """At its last step, and behind it."""
    shape: str
    """``linear`` or ``cosine``."""
    last_step: int
    """The target step when the phase is the last one."""


@dataclass(frozen=True)
class PhaseSpec:
    """A stretch of the training with one mixture and one sequence length, up to the next phase."""

    from_tokens: int
    """Tokens trained on before it, rounded up to whole steps of the phase before."""
    by: str
    """What weights count: ``tokens``, ``documents`` or ``epochs`` of their corpora."""
    weights: tuple[CorpusWeight, ...]
    tail: TailSpec | None = None
    """Replaces the rest of the schedule; None leaves it as it is."""
    sequence_length: int | None = None
    """Tokens of a sequence; None for ``model.seq_length``."""


class PhaseStart(NamedTuple):
    """The place where a phase begins."""

    phase: PhaseSpec
    first_step: int
    """Steps before it."""
    tokens: int
    """Of the steps before it."""
    sequence_length: int


WHOLE = PhaseSpec(0, "epochs", (CorpusWeight(MAIN_CORPUS, 1.0),))
"""The mixture of a training on one corpus."""


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """Settings that all trainings have: start or resume, and train until ``train_steps``."""

    model: ModelSpec
    parallel: ParallelSpec
    device: str
    """``cuda`` or ``cpu``."""
    precision: str
    """``bf16`` or ``fp32``."""
    tokenizer: TokenizerRef
    micro_batch_size: int
    global_batch_size: int
    train_steps: int
    optimizer: OptimizerSpec
    seed: int
    validation_interval: int
    """Steps between validations; 0 validates at the end only."""
    validation_batches: int
    """Global batches per validation."""
    save_interval: int
    keep_checkpoints: int
    """Newest checkpoints kept besides step 0 and the last; ``jobs.checkpoints.retention`` lists
    further exceptions.
    """
    checkpoint_dir: str
    """Relative: ``checkpoints``, or ``finetune/<name>/checkpoints``."""
    tensorboard_dir: str
    """Relative: ``tensorboard``, or ``finetune/<name>/tensorboard``."""
    keep_steps: tuple[int, ...] = ()
    """Steps at which a checkpoint is saved that is never deleted, ascending."""
    skip_steps: tuple[int, ...] = ()
    """Steps whose batches are not trained on, ascending."""
    keep_weights_only: bool = False
    """Of these steps weights alone are kept, from which no training resumes."""
    async_save: bool = True
    """Threads write checkpoints from a copy in host memory while training continues."""
    save_memory_gb: float | None = None
    """Most memory of a node that this copy takes; None: half of what is free."""
    loss_average: str = BY_TOKENS
    """``tokens``: over the scored tokens of a global batch; ``micro-batches``: over its
    micro-batches, each the average over its own scored tokens.
    """
    spike_policy: str = WARN
    """``warn`` trains a step whose loss or gradient norm spikes; ``skip`` leaves its update out;
    ``rewind`` returns to the newest checkpoint and skips the steps up to the spike."""
    spike_window: int = 128
    """Steps that trained last, with which a step is compared; before there are as many, none is."""
    spike_deviations: float = 7.0
    """A loss spikes that is as many robust standard deviations above the median of the window."""
    spike_norm_factor: float = 10.0
    """A gradient norm spikes that is as many times the median of the window."""
    spike_rewind_steps: int = 200
    """Most steps that a rewind skips, the spike's last."""
    deterministic: bool = False
    """Every library chooses algorithms whose results are bit-equal when repeated."""

    @property
    def starts(self) -> list[PhaseStart]:
        """Return where each phase begins; a training without a mixture has one."""
        return [PhaseStart(WHOLE, 0, 0, self.model.seq_length)]

    @property
    def longest(self) -> int:
        """Return the tokens of the longest sequence."""
        return max(start.sequence_length for start in self.starts)

    def start_of(self, step: int) -> PhaseStart:
        """Return where the phase of a step begins, which counts from 1."""
        return [start for start in self.starts if start.first_step < max(1, step)][-1]

    def step_tokens(self, step: int) -> int:
        """Return the tokens of the batch of a step, which counts from 1: with rows of unequal
        length the most that it can have.
        """
        return self.global_batch_size * self.start_of(step).sequence_length

    def flops(self, step: int, *, attention: bool) -> float:
        """Return the floating-point operations of a step (``ModelSpec.flops_per_token``)."""
        model = replace(self.model, seq_length=self.start_of(step).sequence_length)
        return self.step_tokens(step) * model.flops_per_token(attention=attention)

    def longest_over(self, step: int) -> float:
        """Return the operations of the longest step as a multiple of those of this one. Its time is
        at most this multiple, since attention computes less than counts here.
        """
        longest = replace(self.model, seq_length=self.longest)
        most = self.global_batch_size * self.longest * longest.flops_per_token()
        return most / self.flops(step, attention=True)

    def tokens(self, steps: int) -> int:
        """Return the tokens of the batches of the first steps, as ``step_tokens`` counts them."""
        start = self.start_of(steps)
        batches = steps - start.first_step
        return start.tokens + batches * self.global_batch_size * start.sequence_length

    @property
    def sequences(self) -> int:
        """Return the sequences of the whole training."""
        return self.train_steps * self.global_batch_size


@dataclass(frozen=True, kw_only=True)
class PretrainSpec(TrainingSpec):
    """Continue the training of a base model, or train from random weights, on a mixture of
    corpora.
    """

    weights: str
    """``random``, or the base model that the stage ``convert`` brought in as step 0."""
    corpora: tuple[CorpusSpec, ...]
    index_dir: str
    """Relative: ``tokens/index``, the epochs that the stage ``index`` laid out."""
    reset_attention_mask: bool = False
    """No attention from one document to another."""
    reset_position_ids: bool = False
    """Positions count from the start of each document."""
    eod_mask_loss: bool = False
    """The token after the end of a document is not scored."""
    max_epochs: float | None = None
    """How often the training may read a corpus; None for any number of times."""
    require_eod: bool = field(default=True, metadata={ASIDE: True})
    """A dataset made elsewhere is refused if none of its documents ends with the EOD token."""
    phases: tuple[PhaseSpec, ...] = (WHOLE,)
    """In their order; the first begins with the training."""

    def length_of(self, phase: PhaseSpec) -> int:
        """Return the tokens of a sequence of a phase."""
        return phase.sequence_length or self.model.seq_length

    @property
    def starts(self) -> list[PhaseStart]:
        """Return where each phase begins."""
        found: list[PhaseStart] = []
        step = tokens = step_tokens = 0
        for phase in self.phases:
            if found:
                steps = max(0, -(-(phase.from_tokens - tokens) // step_tokens))
                step, tokens = step + steps, tokens + steps * step_tokens
            length = self.length_of(phase)
            step_tokens = self.global_batch_size * length
            found.append(PhaseStart(phase, step, tokens, length))
        return found

    @property
    def order(self) -> dict[str, Any]:
        """Return the settings that decide, with the tokens, which samples are read, and in which
        order.
        """
        return {
            "corpora": [asdict(corpus) for corpus in self.corpora],
            "phases": [asdict(phase) for phase in self.phases],
            "seq_length": self.model.seq_length,
            "samples": self.sequences,
            "validation_samples": self.validation_batches * self.global_batch_size,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class StartRef:
    """The checkpoint that a finetuning begins with."""

    checkpoint: str
    """``first`` (step 0), ``last`` (the target step) or a step number."""
    target_step: int
    """Target of its training; ``last`` is refused while the newest checkpoint is below it."""
    checkpoint_dir: str
    """Relative: ``checkpoints``; absolute where it is another run's."""

    @property
    def text(self) -> str:
        """Return the checkpoint for people, another run's with its folder."""
        names = {"first": "step 0", "last": "the last step"}
        step = names.get(self.checkpoint, f"step {self.checkpoint}")
        return f"{step} in {self.checkpoint_dir}" if self.checkpoint_dir.startswith("/") else step


WEIGHT_PARTS = 100
"""The loss weight of a prompt's token is a whole number of parts of that of an answer's."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSpec(TrainingSpec):
    """Train a model on answers to the questions of one preparation, from the weights of a
    checkpoint, with an optimizer of its own.
    """

    name: str
    """Of the model; unique in the run."""
    start: StartRef
    rows_dir: str
    """Relative: ``finetune/<name>/rows``. Each row is a document of the indexed datasets ``train``
    and ``validation``, beside which ``.answers.npy`` has the number of the token with which each
    row's answer begins.
    """
    prompt_loss_weight: float = 0.0
    """Of a prompt's token in the loss, beside 1 of an answer's: hundredths, from 0 to 1."""
    packing: bool = False
    """Micro-batches are rows one behind another, each of which attends to itself alone, instead of
    rows side by side that padding makes equally long. Steps have the same rows either way.
    """


@dataclass(frozen=True)
class IndexSpec:
    """Check the tokens of a training, and lay out its samples in their order."""

    order: dict[str, Any]
    """``PretrainSpec.order`` of the training."""
    training: PretrainSpec = field(metadata={ASIDE: True})
    output_dir: str
    """Relative: ``tokens/index``."""
