"""Translate sections of the experiment into parts of specs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contract.corpus.benchmark_files import BenchmarkOptions
from jobs.contract.stage_specs import (
    MAIN_CORPUS,
    OWN_RUN,
    CorpusSpec,
    CorpusWeight,
    ModelSpec,
    ParallelSpec,
    PhaseSpec,
    RopeScaling,
    TailSpec,
    VerifySpec,
    VocabularySpec,
)
from meditron_cli.config.data_files import place
from meditron_cli.plan import layout

if TYPE_CHECKING:
    from meditron_cli.config.evaluation.schema import Benchmark
    from meditron_cli.config.experiment_schema import Experiment
    from meditron_cli.config.training.model import Parallel
    from meditron_cli.config.training.pretrain import Mixture


def shared(section: Any, spec: type[Any]) -> dict[str, Any]:
    """Return the settings of a section of the experiment that a spec has under the same names."""
    names = spec.__dataclass_fields__.keys() & type(section).model_fields.keys()
    return {name: getattr(section, name) for name in names}


def model_spec(experiment: Experiment) -> ModelSpec:
    """Return the architecture."""
    model = experiment.model
    scaling = model.rope_scaling
    return ModelSpec(
        **shared(model, ModelSpec)
        | {
            "head_dim": model.head_dim or model.hidden_size // model.attention_heads,
            "rope_scaling": RopeScaling(**shared(scaling, RopeScaling)) if scaling else None,
        },
        padded_vocab_size=layout.padded_vocabulary(model.vocab_size, model.vocab_multiple),
    )


def benchmark_options(
    experiment: Experiment, benchmark: Benchmark, data_dir: Path | None, *, train: bool = True
) -> BenchmarkOptions:
    """Return what decides the questions of a benchmark beside its file; without ``train``, of its
    test questions.
    """
    named = benchmark.train if train else None
    return BenchmarkOptions(
        train=str(place(named, data_dir) or named) if named else "",
        subjects=benchmark.subjects,
        first_answer=benchmark.first_answer,
        skip_first_rows=benchmark.skip_first_rows,
        seed=experiment.seed,
    )


def finetuned_model_spec(experiment: Experiment, grown: Sequence[str]) -> ModelSpec:
    """Return the architecture of finetuned models: with rows for the tokens that they add, and
    sequences of their own length.
    """
    model, multiple = model_spec(experiment), experiment.model.vocab_multiple
    tokens = vocabulary_spec(experiment).size + len(grown)
    rows = max(model.vocab_size, tokens)
    length = experiment.finetune.sequence_length or model.seq_length
    padded = layout.padded_vocabulary(rows, multiple)
    return replace(model, vocab_size=rows, padded_vocab_size=padded, seq_length=length)


def checkpoint_dir_of(model: str) -> str:
    """Return the folder of a finetuned model's checkpoints, relative to the run's."""
    return f"finetune/{model}/checkpoints"


def rows_dir_of(model: str) -> str:
    """Return the folder of the rows that a model is finetuned on, relative to the run's."""
    return f"finetune/{model}/rows"


def models_of(experiment: Experiment) -> list[ModelSpec]:
    """Return the architecture with each sequence length of the training, the longest last."""
    model = model_spec(experiment)
    later = {phase.sequence_length for phase in experiment.pretrain.phases if phase.sequence_length}
    return [replace(model, seq_length=length) for length in sorted({model.seq_length, *later})]


def vocabulary_spec(experiment: Experiment) -> VocabularySpec:
    """Return the tokens added to the base vocabulary, and those with a role.

    Of ``model.vocab_size`` rows, the base model's tokens have those that neither added tokens nor
    unused rows take; added tokens take unused rows first.
    """
    vocabulary = experiment.vocabulary
    return VocabularySpec(
        **shared(vocabulary, VocabularySpec)
        | {"eos_token": vocabulary.eos_token or vocabulary.eod_token},
        base_size=experiment.model.vocab_size
        - max(len(vocabulary.added_tokens), vocabulary.unused_rows),
    )


def parallel_spec(experiment: Experiment) -> ParallelSpec:
    """Return the training layout."""
    return layout_spec(experiment.parallel)


def finetune_parallel(experiment: Experiment) -> ParallelSpec:
    """Return the layout of finetuning: its own, else that of pretraining."""
    return layout_spec(experiment.finetune.parallel or experiment.parallel)


def layout_spec(parallel: Parallel) -> ParallelSpec:
    """Return a layout; sequence parallelism follows tensor parallelism by default."""
    enabled = parallel.sequence_parallel
    return ParallelSpec(
        tensor=parallel.tensor,
        pipeline=parallel.pipeline,
        data=parallel.data,
        sequence_parallel=parallel.tensor > 1 and enabled is not False,
        distributed_optimizer=parallel.distributed_optimizer,
        recompute=parallel.recompute,
        virtual=parallel.virtual,
    )


def batch_of(experiment: Experiment) -> layout.BatchLayout:
    """Return the sequences of a training step."""
    pretrain = experiment.pretrain
    return layout.BatchLayout(
        pretrain.micro_batch_size, pretrain.global_batch_size, experiment.parallel.data
    )


def finetune_batch(experiment: Experiment) -> layout.BatchLayout:
    """Return the rows of a finetuning's step."""
    section, data = experiment.finetune, finetune_parallel(experiment).data
    return layout.BatchLayout(section.micro_batch_size, section.global_batch_size, data)


def verify_spec(experiment: Experiment) -> VerifySpec:
    """Return how a stage compares weights with a checkpoint at its end."""
    return VerifySpec(**shared(experiment.verify, VerifySpec))


def corpora_of(experiment: Experiment) -> tuple[CorpusSpec, ...]:
    """Return the corpora of the training; which datasets they have is known once it starts."""
    pretrain = experiment.pretrain
    own = (OWN_RUN,)
    data = tuple(map(str, pretrain.data))
    validation = tuple(map(str, pretrain.validation_data)) or (() if data else own)
    further = (
        CorpusSpec(item.name, tuple(map(str, item.data)), tuple(map(str, item.validation_data)))
        for item in pretrain.corpora
    )
    return (CorpusSpec(MAIN_CORPUS, data or own, validation), *further)


def phases_of(experiment: Experiment) -> tuple[PhaseSpec, ...]:
    """Return the mixtures of the training, the first from its start."""
    pretrain, length = experiment.pretrain, None
    mixture = pretrain.mixture
    phases = [phase_spec(0, mixture)]
    for phase, last_step in zip(pretrain.phases, pretrain.targets[1:], strict=True):
        mixture, tail = phase.mixture or mixture, phase.tail
        length = phase.sequence_length or length
        ending = TailSpec(tail.learning_rate, tail.shape, last_step) if tail else None
        phases.append(phase_spec(phase.from_tokens, mixture, ending, length))
    return tuple(phases)


def phase_spec(
    from_tokens: int, mixture: Mixture, tail: TailSpec | None = None, length: int | None = None
) -> PhaseSpec:
    """Return one phase of the training."""
    weights = tuple(CorpusWeight(name, weight) for name, weight in mixture.weights.items())
    return PhaseSpec(from_tokens, mixture.by, weights, tail, length)
