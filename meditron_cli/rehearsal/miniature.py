"""Reduce an experiment to a miniature with the same stages and kinds of parallelism. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meditron_cli.config.experiment_schema import Experiment

HEAD_DIM = 8
SEQUENCE = 64
BASE_VOCABULARY = 512
"""Tokens of the miniature's SentencePiece model: 256 bytes, three control tokens, and the rest."""
VOCAB_MULTIPLE = 128
FIRST_STEPS = 1000
"""Steps of the training in the first layout: it never ends before it is stopped."""
SECOND_STEPS = 8
"""Steps that are trained after the stop, in the second layout, before and behind phases."""
PHASE_STEPS = 2
"""Steps of each phase but the last."""
BATCH = 8
"""Sequences of a step."""
DECAY_STEPS = 48
SAVE_INTERVAL = 4
DATA = ("data", "validation_data")

EXPERIMENT = """\
name: rehearsal
curate:
  sources: [sample/corpus]
  shards: 2
tokenize:
  tokenizer: tokenizer.json
model:
  weights: ./base
evaluate:
  benchmarks:
    - {name: sample, path: sample/benchmark/questions.jsonl}
"""


ELSEWHERE = ("data", "validation_data", "corpora", "skip_steps", "keep_steps", "time_minutes")
"""Settings of training that a miniature has not: places, steps and times of the real run."""


@dataclass(frozen=True)
class Layout:
    """Tensor, pipeline and data-parallel sizes."""

    tensor: int
    pipeline: int
    data: int

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline * self.data

    def __str__(self) -> str:
        return f"tensor {self.tensor} x pipeline {self.pipeline} x data {self.data}"


def layouts(experiment: Experiment) -> tuple[Layout, Layout]:
    """Return the layout to begin with, every size above 1 reduced to 2, and another to resume in,
    with other tensor or pipeline ranks.
    """
    parallel = experiment.parallel
    sizes = (parallel.tensor, parallel.pipeline, parallel.data)
    first = Layout(*(min(2, size) for size in sizes))
    upright = first.tensor == 1 and first.pipeline == 2
    return first, Layout(2, 1, 1) if upright else Layout(1, 2, 1)


def model(experiment: Experiment) -> dict[str, Any]:
    """Return the miniature's sizes: the same ratio of query heads to key-value heads and of the
    feed-forward width, and two layers per pipeline stage.
    """
    real, vocabulary = experiment.model, experiment.vocabulary
    group = real.attention_heads // real.kv_heads
    kv_heads = 4 if group == 1 else 2
    heads = kv_heads * group
    width = heads * HEAD_DIM
    return {
        "layers": 4,
        "hidden_size": width,
        "ffn_hidden_size": -(-width * real.ffn_hidden_size // real.hidden_size // 8) * 8,
        "attention_heads": heads,
        "kv_heads": kv_heads,
        "head_dim": HEAD_DIM,
        "seq_length": SEQUENCE,
        "vocab_size": BASE_VOCABULARY + max(len(vocabulary.added_tokens), vocabulary.unused_rows),
        "vocab_multiple": VOCAB_MULTIPLE,
    }


def corpora(experiment: Experiment) -> tuple[dict[str, Any], ...]:
    """Return the further corpora, with indexed datasets below the folder of the miniature."""
    return tuple(
        {
            "name": corpus.name,
            **{key: [f"corpora/{corpus.name}-{key}"] for key in DATA if getattr(corpus, key)},
        }
        for corpus in experiment.pretrain.corpora
    )


def document(experiment: Experiment) -> str:
    """Return the miniature's ``experiment.yaml``; the rest are ``settings``."""
    return EXPERIMENT + f"pretrain: {json.dumps({'corpora': corpora(experiment)})}\n"


def phases(experiment: Experiment, trained: int) -> list[dict[str, Any]]:
    """Return the phases of an experiment in the order of the real ones, some steps after those that
    are trained; lengths have the ratio of the real ones, and targets are left out.
    """
    found: list[dict[str, Any]] = []
    tokens, length, steps = trained * BATCH * SEQUENCE, SEQUENCE, SECOND_STEPS // 2
    for phase in experiment.pretrain.phases:
        settings = phase.model_dump(include={"mixture", "tail"}, exclude_none=True)
        if phase.sequence_length:
            ratio = phase.sequence_length / experiment.model.seq_length
            settings["sequence_length"] = max(1, round(SEQUENCE * ratio / HEAD_DIM)) * HEAD_DIM
        if not settings:
            continue
        tokens += steps * BATCH * length
        length, steps = settings.get("sequence_length", length), PHASE_STEPS
        found.append({"from_tokens": tokens, **settings})
    return found


def settings(experiment: Experiment, layout: Layout, trained: int = 0) -> tuple[str, ...]:
    """Return the ``--set`` values of the miniature in a layout.

    Args:
        trained: steps of the first layout, which the phases follow in the second; 0 for the first.
    """
    parallel, pretrain = experiment.parallel, experiment.pretrain
    kept = (
        "rope_theta",
        "rope_scaling",
        "norm_eps",
        "tied_embeddings",
        "qkv_bias",
        "qk_norm",
        "post_norm",
    )
    later = phases(experiment, trained) if trained else []
    second = trained + SECOND_STEPS + PHASE_STEPS * len(later)
    values: dict[str, Any] = {
        **{f"model.{key}": value for key, value in model(experiment).items()},
        **{f"model.{key}": experiment.model.model_dump()[key] for key in kept},
        **{f"vocabulary.{key}": value for key, value in experiment.vocabulary.model_dump().items()},
        "parallel.tensor": layout.tensor,
        "parallel.pipeline": layout.pipeline,
        "parallel.virtual": min(2, parallel.virtual) if layout.pipeline > 1 else 1,
        "parallel.data": layout.data,
        "parallel.sequence_parallel": parallel.sequence_parallel,
        "parallel.distributed_optimizer": parallel.distributed_optimizer,
        "parallel.recompute": parallel.recompute,
        **{
            f"pretrain.{key}": value
            for key, value in pretrain.model_dump(mode="json", exclude=set(ELSEWHERE)).items()
        },
        "pretrain.phases": later,
        "pretrain.micro_batch_size": 1,
        "pretrain.global_batch_size": BATCH,
        "pretrain.train_steps": second if trained else FIRST_STEPS,
        "pretrain.max_epochs": None,
        "pretrain.require_eod": False,
        "pretrain.warmup_steps": 2,
        "pretrain.decay_steps": DECAY_STEPS,
        "pretrain.save_interval": SAVE_INTERVAL,
        "pretrain.keep_checkpoints": 3,
        "pretrain.validation_interval": 8,
        "pretrain.validation_batches": 1,
        "evaluate.tensor": min(2, experiment.evaluate.tensor),
        "supervision.retry_delay_seconds": 0,
    }
    return tuple(f"{key}={json.dumps(plain(value))}" for key, value in values.items())


def plain(value: Any) -> Any:
    """Return a value without the types of the schema."""
    return list(value) if isinstance(value, tuple) else value


def unchecked(experiment: Experiment, cluster: str, device: str) -> tuple[str, ...]:
    """Return what the rehearsal of an experiment cannot check."""
    weights = experiment.model.weights or "none named"
    sentences = [
        f"the real weights ({weights}): the miniature's are random, of the same tensors",
        f"the real tokenizer ({experiment.tokenize.tokenizer or 'none named'}): the miniature's is "
        f"a SentencePiece model of {BASE_VOCABULARY} tokens with the same tokens added",
        "your documents and benchmarks: the sample's were used, and random tokens for each of "
        "pretrain.corpora",
        "the length of the training, and the steps at which its phases begin: the miniature's are "
        f"appended behind the first layout, {PHASE_STEPS} steps each, and none has a target",
        "settings of curate, tokenize, evaluate, export and supervision: defaults were used",
        *(["finetuned models: the miniature has none"] if experiment.finetune.models else []),
        f"memory, speed and storage at full width; `meditron plan` computes them for {cluster}",
        f"cluster {cluster} itself: `meditron doctor` asks it, and `meditron drill` trains on it",
    ]
    if device == "cuda":
        sentences.append(
            "GPU kernels, NCCL and transformer-engine layers: ranks were CPU processes"
        )
    return tuple(sentences)
