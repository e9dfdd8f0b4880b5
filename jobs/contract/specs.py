"""What a task is given: one frozen dataclass a stage, written as JSON by the login node.

Paths in a spec are relative to the run directory when the file lives in it, and absolute otherwise,
so that the same plan gives the same bytes wherever the runs directory lies. Standard library only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

FORMAT = 1

STAGES = ("curate", "tokenize", "pretrain", "evaluate")
"""Stages in pipeline order."""


@dataclass(frozen=True)
class CurateSpec:
    """Read every source, keep what is worth training on, write ``shards`` JSONL files and a
    manifest.
    """

    sources: tuple[str, ...]
    """Files or folders: .jsonl, .json, .gz and .zst of them, .parquet; absolute paths."""
    text_key: str
    id_key: str
    """Record key of the document id; a record without it is known by the digest of its text."""
    min_chars: int
    """Documents with fewer characters after normalisation are dropped."""
    on_bad_record: str
    """``fail`` stops at the first record that is not JSON or has no text; ``skip`` counts it and
    keeps it aside.
    """
    shards: int
    """Training shards to write; document digest modulo this number decides the shard."""
    validation_fraction: float
    """Share of documents, chosen by hashed id, that goes to validation."""
    output_dir: str
    """Relative: ``corpus``. Gets ``train/00000.jsonl …``, ``validation/00000.jsonl``,
    ``manifest.json``.
    """


@dataclass(frozen=True)
class TokenizeSpec:
    """Turn one JSONL shard into one Megatron indexed dataset."""

    input: str
    """Relative path of a JSONL shard written by curate."""
    output_prefix: str
    """Relative path without suffix; ``.bin`` and ``.idx`` are added."""
    tokenizer: str
    """Absolute path of a ``tokenizer.json``."""
    tokenizer_sha256: str
    text_key: str
    eod_token: str
    """Appended after each document; must be in the vocabulary."""
    model_vocab_size: int
    """Rows of the model's embedding before padding; ids must be below it."""
    special_tokens_in_text: bool
    """False: a literal special token inside a text is encoded as ordinary text."""


@dataclass(frozen=True)
class ModelSpec:
    """A Llama-architecture decoder: RMSNorm, SwiGLU, RoPE, GQA, untied embeddings, no biases."""

    layers: int
    hidden_size: int
    ffn_hidden_size: int
    attention_heads: int
    kv_heads: int
    seq_length: int
    vocab_size: int
    """Rows used by the tokenizer, before padding."""
    padded_vocab_size: int
    """A multiple of ``vocab_multiple x tensor``."""
    rope_theta: float
    norm_eps: float
    init_std: float


@dataclass(frozen=True)
class ParallelSpec:
    """3D layout. World size is ``tensor x pipeline x data``."""

    tensor: int
    pipeline: int
    data: int
    sequence_parallel: bool
    distributed_optimizer: bool
    recompute: str
    """``none``, ``selective`` or ``full`` activation recomputation."""

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline * self.data


@dataclass(frozen=True)
class PretrainSpec:
    """Continue or start pretraining until ``train_steps``."""

    model: ModelSpec
    parallel: ParallelSpec
    device: str
    """``cuda`` or ``cpu``."""
    precision: str
    """``bf16`` or ``fp32``."""
    train_prefixes: tuple[str, ...]
    """Indexed datasets without suffix. Empty ones are left out; each is weighted by its token
    count.
    """
    validation_prefixes: tuple[str, ...]
    tokenizer: str
    tokenizer_sha256: str
    eod_token: str
    micro_batch_size: int
    global_batch_size: int
    train_steps: int
    learning_rate: float
    min_learning_rate: float
    warmup_steps: int
    decay_steps: int
    """The cosine ends here; may lie beyond ``train_steps``."""
    adam_beta1: float
    adam_beta2: float
    adam_eps: float
    weight_decay: float
    clip_grad: float
    seed: int
    validation_interval: int
    """Steps between validations; 0 turns them off (a last one still runs at the end)."""
    validation_batches: int
    """Global batches per validation."""
    save_interval: int
    keep_checkpoints: int
    """Newest checkpoints kept besides step 0 and the last; ``jobs.checkpoints.retention`` says what
    stays too.
    """
    checkpoint_dir: str
    """Relative: ``checkpoints``."""
    tensorboard_dir: str
    """Relative: ``tensorboard``."""
    cache_dir: str
    """Relative: ``tokens/cache``, where GPTDataset keeps its index files."""


@dataclass(frozen=True)
class EvaluateSpec:
    """Score one checkpoint on one benchmark."""

    benchmark: str
    path: str
    """Absolute path of the benchmark's questions (a file, or a folder for pubmedqa)."""
    kind: str
    """``mcq``, ``pubmedqa``, ``mmlu`` or ``medmcqa``: the layout of the file."""
    checkpoint: str
    """``first`` (step 0), ``last`` (the target step) or a step number."""
    target_step: int
    """Training target; ``last`` is refused while the newest checkpoint is below it."""
    checkpoint_dir: str
    model: ModelSpec
    parallel: ParallelSpec
    """Layout of the evaluation itself: ``tensor`` ranks on one node; pipeline and data are 1."""
    device: str
    precision: str
    tokenizer: str
    tokenizer_sha256: str
    eod_token: str
    shots: int
    """Worked examples before each question; only from the benchmark's own ``train`` records."""
    limit: int
    """Questions scored, from the start; 0 means all."""
    batch_size: int
    seed: int
    output_dir: str
    """Relative: ``evaluations/<benchmark>/<checkpoint>``."""


Spec = CurateSpec | TokenizeSpec | PretrainSpec | EvaluateSpec

SPEC_TYPES: dict[str, type[Any]] = {
    "curate": CurateSpec,
    "tokenize": TokenizeSpec,
    "pretrain": PretrainSpec,
    "evaluate": EvaluateSpec,
}


@dataclass(frozen=True)
class SupervisionSpec:
    """How patiently a task is watched, and how often it is started again."""

    attempts_without_progress: int = 3
    """Attempts in a row without a newer checkpoint after which the run stops."""
    restarts_in_allocation: int = 2
    """Starts of the ranks after the first in one allocation."""
    startup_limit_seconds: int = 1200
    """From the start of the ranks to the first step."""
    step_limit_seconds: int = 120
    """Least time that may pass without a step; five times the slowest of a hundred if longer."""
    retry_delay_seconds: int = 30
    """Before the second start after a failure; doubled each time, 15 minutes at most."""
    storage_delay_seconds: int = 600
    """The same after a full or failing disk; an hour at most."""


@dataclass(frozen=True)
class SiteSpec:
    """What a task's supervisor must know of the cluster."""

    cluster: str = ""
    """Name of its profile, and of its node ledger; empty for no ledger."""
    requeue: bool = True
    """Slurm may queue a job again."""
    submit_from_jobs: bool = True
    """Compute nodes may call sbatch."""


@dataclass(frozen=True)
class TaskSpec:
    """The content of ``stages/<stage>/spec/<task>.json``."""

    stage: str
    index: int
    spec: Spec
    ranks: int
    """Processes in all; 1 for everything but pretraining and large evaluations."""
    ranks_per_node: int
    nodes: int
    gpus_per_node: int
    """0 on a CPU partition."""
    cpus_per_rank: int
    launcher: str
    """``srun`` or ``local``."""
    python: tuple[str, ...]
    """Command that starts Python for a rank: an interpreter, or a container call that ends in
    one.
    """
    srun_args: tuple[str, ...]
    """Extra srun arguments (container image, CPU binding); empty with the local launcher."""
    secrets_file: str
    """Absolute path of a 0600 file of NAME=value lines, read by the rank's parent; empty for
    none.
    """
    health: dict[str, Any]
    """What preflight expects: ``gpus``, ``gpu_kind``, ``min_shm_gb_per_gpu``, ``memory_gb``,
    ``min_free_gb``, ``skip``.
    """
    scratch_dir: str = ""
    """Absolute path where each start of the task gets a temporary folder on its nodes; empty for
    none.
    """
    leave_seconds: int = 0
    """How long its ranks may take to save and leave, where the supervisor would grant less."""
    supervision: SupervisionSpec = SupervisionSpec()
    site: SiteSpec = SiteSpec()


T = TypeVar("T")


def to_json(value: Any) -> dict[str, Any]:
    """A spec as plain JSON values, with ``format`` and the stage beside it."""
    return {"format": FORMAT, **json.loads(json.dumps(dataclasses.asdict(value)))}


def task_from_json(data: dict[str, Any]) -> TaskSpec:
    """Read what ``to_json`` wrote.

    Raises:
        ValueError: another format, an unknown stage, or a field missing or left over.
    """
    if data.get("format") != FORMAT:
        raise ValueError(
            f"task spec has format {data.get('format')!r}, this program reads {FORMAT}"
        )
    if data.get("stage") not in SPEC_TYPES:
        raise ValueError(f"task spec names the unknown stage {data.get('stage')!r}")
    body = {key: value for key, value in data.items() if key != "format"}
    spec = _build(SPEC_TYPES[data["stage"]], body.pop("spec", {}))
    return _build(TaskSpec, {**body, "spec": spec})


def digest(value: Any) -> str:
    """SHA-256 (hex) of a spec's canonical JSON; two equal specs have equal digests."""
    data = to_json(value) if dataclasses.is_dataclass(value) else value
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _build(kind: type[T], data: dict[str, Any]) -> T:
    hints = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if set(data) != names:
        odd = ", ".join(sorted(set(data) ^ names))
        raise ValueError(f"{kind.__name__}: missing or unknown fields: {odd}")
    return kind(**{name: _convert(hints[name], data[name]) for name in names})


def _convert(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _build(typing.cast(type[Any], hint), value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    if isinstance(hint, types.UnionType):
        return value
    return value
