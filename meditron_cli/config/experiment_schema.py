"""The models of experiments and recipes.

One field, one meaning, one unit in its name. The docstring under a field is its documentation: it
feeds ``meditron explain``, ``meditron schema`` and ``clusters/README.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from jobs.contract.stage_specs import TOLERANCE
from jobs.contract.units import plural
from meditron_cli.config.corpus.schema import ALL, Curate
from meditron_cli.config.evaluation.schema import Benchmark, Evaluate
from meditron_cli.config.field_types import (
    OPERATIONAL,
    Checkpoints,
    DurationMinutes,
    Line,
    Name,
)
from meditron_cli.config.notification.schema import Notify, repeated
from meditron_cli.config.section import Section
from meditron_cli.config.training.finetune import Finetune, Prepare
from meditron_cli.config.training.model import Model, Parallel, Vocabulary
from meditron_cli.config.training.pretrain import Pretrain


class Tokenize(Section):
    """Shards to Megatron indexed datasets."""

    tokenizer: Path | None = None
    """A Hugging Face tokenizer.json; relative to the file that names it."""
    special_tokens_in_text: bool = False
    """Whether the name of an added token in a text becomes that token; default: ordinary text."""
    engine: Annotated[Literal["auto", "gigatoken", "tokenizers"], OPERATIONAL] = "auto"
    """Library that encodes; it decides no byte. ``auto`` is gigatoken where it is installed and
    gives the ids of ``tokenizers``; they are compared all the while.
    """
    shard_tokens: PositiveInt = 1_000_000_000
    """Most tokens of an indexed dataset: a larger shard becomes several."""
    tasks: Annotated[Annotated[int, Field(gt=0, le=100_000)] | None, OPERATIONAL] = None
    """Tasks of the stage; the default is one per shard. They decide no byte: of more tasks than
    shards, several share a shard that becomes several datasets.
    """
    cpus: Annotated[PositiveInt, OPERATIONAL] = 1
    """Cores of one task. More tasks are quicker than more cores: gigatoken encodes in one."""
    max_parallel: Annotated[PositiveInt, OPERATIONAL] = 64
    """Tasks that run at once."""
    time_minutes: Annotated[DurationMinutes, OPERATIONAL] = 240
    """Time limit of one task."""


class Index(Section):
    """Check of a training's tokens, and its samples in their order, one process on a CPU node."""

    cpus: Annotated[PositiveInt, OPERATIONAL] = 2
    """Cores."""
    time_minutes: Annotated[DurationMinutes, OPERATIONAL] = 60
    """Time limit of the task."""


class Convert(Section):
    """Base weights to the checkpoint of step 0, one process on a CPU node."""

    cpus: Annotated[PositiveInt, OPERATIONAL] = 8
    """Cores; as many layers are converted side by side."""
    time_minutes: Annotated[DurationMinutes, OPERATIONAL] = 240
    """Time limit of the task; a later one keeps the files that this one finished."""


class Verify(Section):
    """Logits of imported and exported weights beside those of the checkpoint, on the CPU."""

    enabled: bool = True
    """Compare at the end of convert and export; a difference beyond ``tolerance`` fails the
    stage."""
    tokens: PositiveInt = 128
    """Tokens of each text that are compared."""
    tolerance: PositiveFloat = TOLERANCE
    """Difference of a logit in fp32 that is accepted, as a share of the largest logit; differences
    of two implementations grow with depth."""


class Export(Section):
    """Checkpoints written as folders that transformers, vLLM and lm-eval load."""

    step: Checkpoints = ("last",)
    """``last`` (the target step, into ``export``), ``first`` (before training) or a step number
    that is kept (into ``export-first``, ``export-500``), ``kept`` for each of
    ``pretrain.keep_steps``, or a list of these; [] for none."""
    finetuned: bool = True
    """Whether the last checkpoint of each finetuned model is written too (into ``export-NAME``)."""
    dtype: Literal["source", "bf16", "fp32"] = "source"
    """Type of the tensors; ``source`` is that of the checkpoint, for the first one that of the base
    weights."""
    max_shard_gb: Annotated[float, Field(gt=0, le=1000)] = 5.0
    """Largest size of the tensors in one file; a larger tensor has a file of its own."""
    license: Line = ""
    """Licence on the card, by its identifier on the Hugging Face hub (``llama2``); default: that
    of the base weights, where their folder states it."""
    languages: tuple[Line, ...] = ()
    """Languages of the model on the card, ISO 639 codes (``en``)."""
    cpus: PositiveInt = 4
    """Cores of one task."""
    max_parallel: PositiveInt = 4
    """Tasks that run at once."""
    time_minutes: DurationMinutes = 240
    """Time limit of one task."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that checkpoints differ; equal ones would write the same folder."""
        for index, step in enumerate(self.step):
            if step in self.step[:index]:
                yield f"step.{index}", f"{step} is listed twice"


class Selftest(Section):
    """Trials of a cluster's nodes, by `meditron selftest`."""

    steps: Annotated[int, Field(ge=4, le=1000, multiple_of=2)] = 20
    """Steps of each small training that is compared with another; half of them precede a resume."""
    time_minutes: DurationMinutes = 60
    """Time limit of its job."""


class Supervision(Section):
    """Timeouts for hangs, and the retry budget."""

    attempts_without_progress: PositiveInt = 3
    """Attempts in a row without a newer checkpoint after which a run stops."""
    restarts_in_allocation: NonNegativeInt = 2
    """Restarts of the ranks within one job; after these a new job continues."""
    startup_limit_seconds: PositiveInt | None = None
    """Heartbeat timeout from the start of the ranks to their first step; by default computed from
    the bytes that a start reads and this run's saves, else a guessed speed."""
    step_limit_seconds: PositiveInt = 120
    """Heartbeat timeout of a step; five times the 99th percentile of steps if that is longer."""
    retry_delay_seconds: NonNegativeInt = 30
    """Backoff before the second attempt; doubled with each failure in a row, up to 15 minutes."""
    storage_delay_seconds: NonNegativeInt = 600
    """Backoff after a full or failing disk; doubled up to an hour."""


class Experiment(Section):
    """One experiment: defaults, recipe, cluster defaults, experiment file and ``--set``, merged."""

    name: Name = "med"
    """First part of a run's name: lower-case letters, digits and hyphens."""
    seed: Annotated[NonNegativeInt, Field(lt=2**31)] = 1234
    """Seed of weights and data order."""
    curate: Curate = Curate()
    """Raw documents to clean JSONL shards."""
    tokenize: Tokenize = Tokenize()
    """Shards to Megatron indexed datasets."""
    vocabulary: Vocabulary = Vocabulary()
    """Tokens added to the base model's vocabulary, and tokens with a role."""
    model: Model
    """The architecture; recipes fill it in."""
    parallel: Annotated[Parallel, OPERATIONAL] = Parallel()
    """3D layout of pretraining."""
    index: Index = Index()
    """Samples of the training in their order."""
    convert: Convert = Convert()
    """Base weights to the checkpoint of step 0."""
    pretrain: Pretrain
    """Continued pretraining; recipes fill it in."""
    prepare: Annotated[Prepare, OPERATIONAL] = Prepare()
    """Rows of tokens of each finetuned model."""
    finetune: Annotated[Finetune, OPERATIONAL] = Finetune()
    """Models finetuned on the training questions of benchmarks."""
    evaluate: Annotated[Evaluate, OPERATIONAL] = Evaluate()
    """Checkpoints scored on benchmarks."""
    verify: Annotated[Verify, OPERATIONAL] = Verify()
    """Imported and exported weights compared with checkpoints."""
    export: Annotated[Export, OPERATIONAL] = Export()
    """Checkpoints written as folders that other programs load."""
    selftest: Annotated[Selftest, OPERATIONAL] = Selftest()
    """Trials of a cluster's nodes, by `meditron selftest` alone."""
    supervision: Annotated[Supervision, OPERATIONAL] = Supervision()
    """Hangs, restarts and retries."""
    notify: Annotated[tuple[Notify, ...], OPERATIONAL] = ()
    """Receivers of messages about the run (docs/notifications.md)."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that the model has rows for added tokens, and that training keeps the checkpoints
        to evaluate and to export.
        """
        rows, unused = self.model.vocab_size, self.vocabulary.unused_rows
        if max(len(self.vocabulary.added_tokens), unused) >= rows:
            beside = plural(len(self.vocabulary.added_tokens), "added token")
            beside += f" and {plural(unused, 'unused row')}" if unused else ""
            yield "model.vocab_size", f"{rows} leaves no base beside {beside}"
        yield from self._phase_conflicts()
        yield from self._decontamination_conflicts()
        kept = self.pretrain.kept_steps
        named = {"evaluate.checkpoints": self.evaluate.checkpoints, "export.step": self.export.step}
        for key, index, step in (
            (key, index, step) for key, names in named.items() for index, step in enumerate(names)
        ):
            if isinstance(step, int) and step not in kept:
                steps = ", ".join(map(str, kept))
                yield (
                    f"{key}.{index}",
                    f"no checkpoint of step {step} is kept; pretrain.save_interval, "
                    f"keep_checkpoints and keep_steps keep those of steps {steps}",
                )
            elif step == "kept" and not self.pretrain.steps_to_keep:
                yield f"{key}.{index}", "pretrain.keep_steps lists no step of this training"
        yield from self._length_conflicts()
        yield from self._finetune_conflicts()
        yield from self._generation_conflicts()
        yield from repeated(self.notify)

    def _length_conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that a model that began with random weights reads no longer prompts than texts."""
        phases, asked = self.pretrain.phases, self.evaluate.seq_length or 0
        longest = max([self.model.seq_length, *(phase.sequence_length or 0 for phase in phases)])
        scored = [benchmark for benchmark in self.evaluate.benchmarks if benchmark.scored]
        if scored and all(benchmark.model for benchmark in scored):
            longest = max(longest, self.finetune.sequence_length or 0)
        if self.model.weights == "random" and asked > longest:
            yield (
                "evaluate.seq_length",
                f"{asked} is more than the {longest} tokens of the longest sequence in training",
            )

    @property
    def finetunes_base(self) -> bool:
        """Return whether models are finetuned from base weights as they are."""
        section, weights = self.finetune, self.model.weights
        return section.run is None and section.start in ("first", 0) and weights != "random"

    @property
    def only_finetunes(self) -> bool:
        """Return whether nothing is pretrained: models are finetuned from base weights or another
        run's, and nothing to pretrain on is named.
        """
        brings_weights = self.finetune.run is not None or self.finetunes_base
        trains_on = (self.curate.sources, self.pretrain.data, self.pretrain.corpora)
        return bool(self.finetune.models) and brings_weights and not any(trains_on)

    def checkpoints(self, names: Iterable[str | int]) -> list[str | int]:
        """Return the checkpoints that a setting names, each once, with ``kept`` as steps; where
        nothing is pretrained, step 0 of base weights at most.
        """
        keep_steps = self.pretrain.steps_to_keep
        found = [step for name in names for step in (keep_steps if name == "kept" else (name,))]
        if self.only_finetunes:
            found = [step for step in found if self.finetunes_base and step in ("first", 0)]
        return list(dict.fromkeys(found))

    def _finetune_conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that finetuning starts from a checkpoint that is kept, and makes the models that
        benchmarks name.
        """
        start, kept = self.finetune.start, self.pretrain.kept_steps
        if isinstance(start, int) and self.finetune.run is None and start not in kept:
            steps = ", ".join(map(str, kept))
            yield (
                "finetune.start",
                f"no checkpoint of step {start} is kept; pretrain.save_interval, "
                f"keep_checkpoints and keep_steps keep those of steps {steps}",
            )
        known = ", ".join(model.name for model in self.finetune.models)
        for index, benchmark in enumerate(self.evaluate.benchmarks):
            if benchmark.model and self.finetune.model(benchmark.model) is None:
                there = f"there are {known}" if known else "finetune.models lists none"
                yield (
                    f"evaluate.benchmarks.{index}.model",
                    f"no finetuned model is called {benchmark.model!r}; {there}",
                )
            elif self.only_finetunes and not (benchmark.model or self.finetunes_base):
                yield (
                    f"evaluate.benchmarks.{index}.model",
                    f"{benchmark.name} names no finetuned model, and nothing is pretrained here; "
                    "score the checkpoints of finetune.run in their own run",
                )

    @property
    def generating_checkpoints(self) -> list[str | int]:
        """Return the checkpoints that are evaluated and exported, whose exports generate."""
        exported = self.checkpoints(self.export.step)
        return [step for step in self.checkpoints(self.evaluate.checkpoints) if step in exported]

    def _generation_conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that there are exported models to generate with."""
        for index, benchmark in enumerate(self.evaluate.benchmarks):
            if not benchmark.generated:
                continue
            if benchmark.model and not self.export.finetuned:
                yield (
                    f"evaluate.benchmarks.{index}.modes",
                    f"{benchmark.generated[0]} generates with exported models, and "
                    "export.finetuned is false",
                )
            if not (benchmark.model or self.generating_checkpoints):
                yield (
                    f"evaluate.benchmarks.{index}.modes",
                    f"{benchmark.generated[0]} generates with exported models, and export.step "
                    "names none of evaluate.checkpoints",
                )

    @property
    def compared_benchmarks(self) -> tuple[Benchmark, ...]:
        """Return the benchmarks whose questions no document may contain."""
        names = self.curate.decontaminate.benchmarks
        found = (item for item in self.evaluate.benchmarks if item.name in names or ALL in names)
        return tuple(found)

    def _decontamination_conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that the benchmarks exist with which documents are compared."""
        known = [benchmark.name for benchmark in self.evaluate.benchmarks]
        for index, name in enumerate(self.curate.decontaminate.benchmarks):
            key = f"curate.decontaminate.benchmarks.{index}"
            if not known:
                yield key, f"{name}: evaluate.benchmarks lists no benchmark"
            elif name not in (ALL, *known):
                yield key, f"no benchmark is called {name!r}; there are {', '.join(known)}"

    def _phase_conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that each phase has a step of its own."""
        training = self.pretrain
        step = tokens = before_step = 0
        length, target = self.model.seq_length, training.train_steps
        for index, phase in enumerate(training.phases):
            key = f"pretrain.phases.{index}.from_tokens"
            per_step = training.global_batch_size * length
            steps = -(-(phase.from_tokens - tokens) // per_step)
            target = phase.train_steps or target
            if step + steps >= target:
                last = tokens + (target - 1 - step) * per_step
                yield key, f"{phase.from_tokens} is after the last step begins, at {last}"
            elif steps <= 0 and phase.from_tokens > training.phases[index - 1].from_tokens:
                yield (
                    key,
                    f"{phase.from_tokens} begins at the same step as the phase before it: a step "
                    f"takes {before_step} tokens",
                )
            before_step = per_step
            step, tokens = step + steps, tokens + steps * per_step
            length = phase.sequence_length or length
