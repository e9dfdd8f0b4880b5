"""The section of finetuned models.

The defaults are those with which the published models were finetuned: section 4.2 (p. 7) of the
paper, arXiv 2311.16079, and finetuning/finetune_sft.sh:94-96 and 173-181 of epfLLM/meditron.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from jobs.contract import preparations
from meditron_cli.config.field_types import (
    DataPath,
    DurationMinutes,
    LossAverage,
    Name,
    Share,
    Start,
    Token,
)
from meditron_cli.config.section import Section
from meditron_cli.config.training.conflicts import rates_and_batches
from meditron_cli.config.training.model import Parallel

MOST_TRAIN_STEPS = 100_000_000
TrainKind = Literal[
    "mcq",
    "medqa",
    "medqa4",
    "medmcqa",
    "pubmedqa",
    "mmlu",
    "medxpertqa",
    "mmlu_pro",
    "headqa",
    "prompts",
]


class TrainFile(Section):
    """A file of questions with answers."""

    path: DataPath
    """The file: a path, relative to the file that names it, or
    ``hf://datasets/ORG/NAME/PATH``, with ``@REVISION`` after NAME for one revision."""
    kind: TrainKind | None = None
    """Layout of the file, of which train records count; ``prompts`` is .jsonl of {"prompt", "gold",
    "system" (optional)}, used as they are. Default: that of the preparation if it takes a single
    one, else mcq."""
    first_answer: Literal[0, 1] = 1
    """Number of the first option in ``cop`` of medmcqa: 1 as published, 0 in mirrors."""


class FinetunedModel(Section):
    """A model that is finetuned."""

    name: Name
    """Its name in paths, tables, and ``model`` of a benchmark."""
    preparation: str = ""
    """How its rows are made: ``medqa``, ``medmcqa``, ``pubmedqa``, their variants with
    explanations ``cotmedqa``, ``cotmedmcqa``, ``cotpubmedqa``, or ``mixed``, ``mixedmed``,
    ``cotmixedmed``; default: name. Another word takes every train record of ``data``."""
    data: tuple[TrainFile, ...] = ()
    """Files with its questions, each ``{path, kind}``."""
    reasoned: bool = False
    """Whether an answer is its question's explanation, then the choice, as in ``cotmedqa``; only of
    a preparation that is not published. Questions without an explanation are left out."""
    items: Annotated[PositiveInt, Field(le=1_000_000_000)] | None = None
    """Questions that it is trained on, from which the steps follow; default: the published number
    of the preparation."""
    strict: bool = False
    """Whether another number of items than the published one, or ``items``, fails the preparation,
    instead of being reported."""
    train_steps: Annotated[PositiveInt, Field(le=MOST_TRAIN_STEPS)] | None = None
    """Optimizer steps; default: 10 x ceil(epochs x items / global_batch_size / 10)."""

    @property
    def prepared_as(self) -> str:
        """Return the name of the preparation."""
        return self.preparation or self.name

    @property
    def counted_items(self) -> int | None:
        """Return the number of items by which steps are counted; None where it is not known."""
        return self.items or preparations.ITEMS.get(self.prepared_as)

    def kind_of(self, file: TrainFile) -> str:
        """Return the layout of a file of the model."""
        kinds = [part.kind for part in preparations.PARTS.get(self.prepared_as, ())]
        return file.kind or (kinds[0] if len(kinds) == 1 else "mcq")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check the kinds of the questions, and that the number of steps is known."""
        if self.name in ("first", "last", "kept") or self.name.isdigit():
            yield "name", f"{self.name} names a checkpoint; give the model another name"
        yield from self._data_conflicts()
        if self.reasoned and self.prepared_as in preparations.PARTS:
            yield (
                "reasoned",
                f"{self.prepared_as} is published and decides it; give preparation another name",
            )
        if self.counted_items is None and self.train_steps is None:
            yield (
                "items",
                f"{self.prepared_as} is no published preparation, so that the number of its items "
                f"is not known; give items or train_steps, or set preparation to one of "
                f"{', '.join(preparations.ITEMS)}",
            )

    def _data_conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that there are files, each once, and of the kinds that the preparation takes."""
        if not self.data:
            yield "data", "names no file with questions"
            return
        paths = [file.path for file in self.data]
        for index, path in enumerate(paths):
            if path in paths[:index]:
                yield f"data.{index}.path", f"{path} is listed twice"
        kinds = [self.kind_of(file) for file in self.data]
        for place, problem in preparations.wrong_kinds(self.prepared_as, kinds):
            yield "data" if place is None else f"data.{place}.kind", problem


class FinetuneDecontaminate(Section):
    """Training questions that occur in test questions are left out."""

    enabled: bool = True
    """Compare with the test questions of every benchmark of ``evaluate.benchmarks``."""
    ngram: PositiveInt = 8
    """Words of a run of words that is compared; 8 as in the paper (App. B.5, p. 26)."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of a question's runs of words in test questions from which it is left out."""
    against: tuple[TrainFile, ...] = ()
    """Further files of test questions, each ``{path, kind}``."""


class Finetune(Section):
    """Models finetuned on the training questions of benchmarks, each from the same checkpoint."""

    models: tuple[FinetunedModel, ...] = ()
    """Models, each ``{name, preparation, data}``; without any nothing is finetuned."""
    start: Start = "last"
    """Checkpoint that all of them begin with: ``last`` (the target step of pretraining), ``first``
    (before it, also of base weights without any pretraining) or a step that is kept."""
    run: Path | None = None
    """Directory of another run whose checkpoint ``start`` names; default: this run. Nothing is
    pretrained then unless ``curate.sources`` or ``pretrain.data`` names something to train on."""
    added_tokens: tuple[Token, ...] = ("<|im_start|>", "<|im_end|>")
    """Tokens of the template; those that the tokenizer lacks are added behind the vocabulary."""
    template: Literal["code", "paper"] = "code"
    """``code``: turns as the released code and models have them, without a system's turn;
    ``paper``: as the paper describes them, with one."""
    instructions: Path | None = None
    """A file in the format of epfLLM/meditron:evaluation/instructions.json; default: our own
    words."""
    sequence_length: Annotated[PositiveInt, Field(le=100_000_000)] | None = None
    """Most tokens of a row; a longer one loses tokens of its context. Default: model.seq_length."""
    prompt_loss_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of a prompt's tokens in the loss, beside 1 of an answer's; whole hundredths."""
    loss_average: LossAverage = "tokens"
    """``tokens``: the average over a batch's scored tokens, the same for every layout and
    micro_batch_size; ``micro-batches``: the average of its micro-batches' averages, as published.
    ``token`` and ``micro_batch`` are the same two."""
    packing: bool = False
    """Whether a micro-batch is rows one behind another without padding, each of which attends to
    itself alone; the steps have the same rows."""
    holdout: Share = 0.03
    """Share of the questions that is validated on instead, by ``seed``."""
    decontaminate: FinetuneDecontaminate = FinetuneDecontaminate()
    """Training questions that occur in test questions."""
    epochs: Annotated[PositiveFloat, Field(le=10_000)] = 3.0
    """How often each question is trained on, before steps are rounded up."""
    global_batch_size: Annotated[PositiveInt, Field(le=1_000_000)] = 64
    """Questions per optimizer step."""
    micro_batch_size: PositiveInt = 1
    """Questions per rank and forward pass."""
    parallel: Parallel | None = None
    """3D layout of finetuning; default: that of pretraining."""
    learning_rate: Annotated[PositiveFloat, Field(le=1)] = 2e-5
    """Peak, reached at the end of warm-up."""
    min_learning_rate: NonNegativeFloat = 2e-6
    """Learning rate at the last step, the end of the cosine."""
    warmup_share: Share = 0.1
    """Share of the steps that is linear warm-up."""
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
    validation_interval: NonNegativeInt = 100
    """Steps between validations; 0 validates at the end only."""
    validation_batches: PositiveInt = 10
    """Global batches per validation."""
    save_interval: PositiveInt = 800
    """Steps between checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """Newest checkpoints kept, besides the last."""
    max_parallel: PositiveInt = 4
    """Models that are finetuned at once."""
    time_minutes: DurationMinutes = 1440
    """Time limit of one job; a model may take several."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that models have different names, and that batches divide."""
        for index, model in enumerate(self.models):
            if any(model.name == other.name for other in self.models[:index]):
                yield (
                    f"models.{index}.name",
                    f"a model before this one is named {model.name!r} too",
                )
            if self.steps_of(model) > MOST_TRAIN_STEPS:
                yield (
                    f"models.{index}.items",
                    f"{model.counted_items} items and {self.epochs:g} epochs are more than "
                    f"{MOST_TRAIN_STEPS:,} steps",
                )
        yield from rates_and_batches(self)
        if round(100 * self.prompt_loss_weight, 6) % 1:
            yield "prompt_loss_weight", f"{self.prompt_loss_weight:g} has parts of a hundredth"
        if len(set(self.added_tokens)) < len(self.added_tokens):
            yield "added_tokens", "a token is listed twice"

    def steps_of(self, model: FinetunedModel) -> int:
        """Return the optimizer steps of a model."""
        items = model.counted_items or 0
        steps = preparations.train_steps(items, self.epochs, self.global_batch_size)
        return model.train_steps or steps

    def model(self, name: str) -> FinetunedModel | None:
        """Return the model of a name; None where there is none."""
        return next((model for model in self.models if model.name == name), None)


class Prepare(Section):
    """Rows of tokens of each finetuned model, one process on a CPU node."""

    cpus: PositiveInt = 2
    """Cores of one task."""
    max_parallel: PositiveInt = 16
    """Tasks that run at once."""
    time_minutes: DurationMinutes = 60
    """Time limit of one task."""
