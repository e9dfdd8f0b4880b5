"""What people write: experiment files, recipes and cluster profiles, as frozen, strict models.

One field, one meaning, one unit in its name. The docstring under a field is its documentation: it feeds
``meditron explain``, ``meditron schema`` and ``clusters/README.md``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

NAME = r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$"
PLACEHOLDER = re.compile(r"^<.*>$")


def parse_duration(value: Any) -> Any:
    """Minutes from ``24:00:00``, ``2-00:00:00``, ``30:00`` (minutes:seconds) or a number of minutes.

    The forms are sbatch's for ``--time``. Seconds are rounded up, since submitit and Slurm count minutes.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d{1,2}))?(?::(\d{1,2}))?", value.strip())
    if match is None:
        raise ValueError("not a duration; write 24:00:00, 2-00:00:00 or minutes")
    days, *rest = match.groups()
    numbers = [int(part) for part in rest if part is not None]
    if days is not None:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, minutes, seconds = 0, *(*numbers, 0)[:2]
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    return -(-total // 60)


def shell_safe(value: str) -> str:
    """A word that is safe in a batch script and on a command line."""
    if not re.fullmatch(r"[A-Za-z0-9_./:@%+,=-]+", value) and not PLACEHOLDER.match(value):
        raise ValueError("letters, digits and _./:@%+,=- only")
    return value


DurationMinutes = Annotated[int, BeforeValidator(parse_duration), Field(gt=0)]
Word = Annotated[str, AfterValidator(shell_safe)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A mapping of the YAML: unknown keys refused, values never coerced, never changed after."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Curate(Section):
    """Raw documents to clean JSONL shards."""

    sources: tuple[Path, ...] = ()
    """Files or folders of .jsonl, .json (.gz, .zst) and .parquet; relative to the file that names them."""
    text_key: str = "text"
    """Record key that holds the text."""
    id_key: str = "id"
    """Record key of the document's id; without one the text's digest serves."""
    min_chars: NonNegativeInt = 100
    """Shorter documents are dropped (characters, after normalisation)."""
    on_bad_record: Literal["fail", "skip"] = "fail"
    """What a line that is not JSON or lacks the text does: stop, or be counted and kept aside."""
    shards: Annotated[int, Field(gt=0, le=10000)] = 8
    """Training shards, each tokenized by its own task."""
    validation_fraction: Share = 0.03
    """Share of documents held out, chosen by hashed id. MEDITRON: 0.03 (arXiv 2311.16079, T1)."""
    time_minutes: DurationMinutes = 240
    """Time limit."""


class Tokenize(Section):
    """Shards to Megatron indexed datasets."""

    tokenizer: Path | None = None
    """A Hugging Face tokenizer.json; relative to the file that names it."""
    eod_token: str = "<EOD>"
    """Token appended after each document; must be in the vocabulary."""
    special_tokens_in_text: bool = False
    """Whether a literal special token inside a text becomes that token (default: ordinary text)."""
    cpus: PositiveInt = 4
    """Cores of one task."""
    max_parallel: PositiveInt = 64
    """Tasks running at once."""
    time_minutes: DurationMinutes = 240
    """Time limit of one task."""


class Model(Section):
    """A Llama-architecture decoder: RMSNorm, SwiGLU, RoPE, grouped-query attention, untied embeddings."""

    layers: PositiveInt
    """Transformer layers."""
    hidden_size: PositiveInt
    """Width of the residual stream."""
    ffn_hidden_size: PositiveInt
    """Width of the gated feed-forward layer."""
    attention_heads: PositiveInt
    """Query heads."""
    kv_heads: PositiveInt
    """Key-value heads (groups); equal to attention_heads for plain multi-head attention."""
    seq_length: PositiveInt
    """Tokens in one training sequence."""
    vocab_size: PositiveInt
    """Tokens the model knows, before padding; at least the tokenizer's."""
    vocab_multiple: PositiveInt = 128
    """The embedding is padded to a multiple of this times the tensor-parallel size."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the rotary position embedding."""
    norm_eps: PositiveFloat = 1e-5
    """Epsilon of RMSNorm."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of initial weights."""


class Parallel(Section):
    """3D layout. GPUs in all: tensor x pipeline x data."""

    tensor: PositiveInt = 1
    """Tensor-parallel size (TP); keep it within a node."""
    pipeline: PositiveInt = 1
    """Pipeline-parallel size (PP); divides the layers."""
    data: PositiveInt = 1
    """Data-parallel size (DP)."""
    sequence_parallel: bool | None = None
    """Split activations of norms along the sequence; default: on when tensor > 1."""
    distributed_optimizer: bool = True
    """Shard optimizer state over data-parallel ranks."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations computed again in the backward pass instead of kept."""


class Pretrain(Section):
    """Continued pretraining."""

    data: tuple[Path, ...] = ()
    """Indexed datasets (without .bin/.idx) to train on instead of this run's own tokens."""
    validation_data: tuple[Path, ...] = ()
    """Likewise for validation."""
    micro_batch_size: PositiveInt
    """Sequences per rank and forward pass."""
    global_batch_size: PositiveInt
    """Sequences per optimizer step."""
    train_steps: PositiveInt
    """Optimizer steps in the whole run."""
    learning_rate: PositiveFloat
    """Peak, reached at the end of warm-up."""
    min_learning_rate: NonNegativeFloat
    """Where the cosine ends."""
    warmup_steps: NonNegativeInt
    """Steps of linear warm-up."""
    decay_steps: PositiveInt | None = None
    """Steps until the cosine ends; default: train_steps. MEDITRON stopped halfway (App. D.1)."""
    adam_beta1: Share = 0.9
    """AdamW beta 1."""
    adam_beta2: Share = 0.95
    """AdamW beta 2."""
    adam_eps: PositiveFloat = 1e-5
    """AdamW epsilon."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay; one-dimensional parameters have none."""
    clip_grad: NonNegativeFloat = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of weights and activations; gradients are summed in fp32 either way."""
    validation_interval: NonNegativeInt = 500
    """Steps between validations; 0 validates at start and end only."""
    validation_batches: PositiveInt = 10
    """Global batches per validation."""
    save_interval: PositiveInt = 500
    """Steps between checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 3
    """Newest checkpoints kept, besides step 0 and the last."""
    time_minutes: DurationMinutes = 1440
    """Time limit of one job; a run may need several."""
    signal_lead_seconds: PositiveInt = 600
    """Seconds before the time limit at which Slurm asks the job to save."""


class Benchmark(Section):
    """Multiple-choice questions in a local file."""

    name: Annotated[str, Field(pattern=NAME)]
    """Short name, used in paths and tables."""
    path: Path
    """The questions; relative to the file that names them."""
    kind: Literal["mcq", "pubmedqa", "mmlu", "medmcqa"] = "mcq"
    """Layout of the file."""
    shots: NonNegativeInt = 0
    """Worked examples before each question."""
    limit: NonNegativeInt = 0
    """Questions scored; 0 means all."""


class Evaluate(Section):
    """Checkpoints scored on benchmarks by the log-likelihood of the options."""

    benchmarks: tuple[Benchmark, ...] = ()
    """What to score on."""
    checkpoints: tuple[Literal["first", "last"] | NonNegativeInt, ...] = ("first", "last")
    """``first`` (before training), ``last`` (the target step), or step numbers that are kept."""
    tensor: PositiveInt = 1
    """GPUs of one task (tensor parallel, one node)."""
    batch_size: PositiveInt = 16
    """Sequences per forward pass."""
    max_parallel: PositiveInt = 16
    """Tasks running at once."""
    time_minutes: DurationMinutes = 240
    """Time limit of one task."""

    @model_validator(mode="after")
    def names_are_unique(self) -> Evaluate:
        """Two benchmarks of one name would write the same files."""
        names = [benchmark.name for benchmark in self.benchmarks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two benchmarks are named {twice[0]!r}")
        return self


class Experiment(Section):
    """One experiment: defaults, recipe, cluster defaults, experiment file and ``--set``, merged."""

    name: Annotated[str, Field(pattern=NAME)] = "med"
    """First part of the run's name: lower-case letters, digits and hyphens."""
    seed: NonNegativeInt = 1234
    """Seed of weights and data order."""
    curate: Curate = Curate()
    """Raw documents to clean JSONL shards."""
    tokenize: Tokenize = Tokenize()
    """Shards to Megatron indexed datasets."""
    model: Model
    """The architecture; recipes fill it in."""
    parallel: Parallel = Parallel()
    """3D layout of pretraining."""
    pretrain: Pretrain
    """Continued pretraining; recipes fill it in."""
    evaluate: Evaluate = Evaluate()
    """Checkpoints scored on benchmarks."""


class Node(Section):
    """What one node of a partition has."""

    gpus: NonNegativeInt = 0
    """GPUs per node."""
    gpu_kind: str = ""
    """As NVML names it, or part of that name: ``A100-SXM4-80GB``; checked before ranks start."""
    gpu_type: Word | Literal[""] = ""
    """Typed gres name for sbatch, when the site wants one: ``a100``."""
    gpu_memory_gb: NonNegativeInt = 0
    """Memory of one GPU."""
    peak_bf16_tflops: NonNegativeFloat = 0
    """Dense bf16 peak of one GPU, for MFU and time estimates."""
    cpus: PositiveInt
    """Cores of a node that jobs may use."""
    memory_gb: PositiveInt
    """RAM of a node that jobs may use."""
    interconnect: str = ""
    """For people: ``Slingshot-11, 4 x 200 Gb/s``."""


class Partition(Section):
    """A Slurm partition; for the local scheduler, this machine."""

    name: Word
    """As sbatch wants it; ``<…>`` marks a placeholder that submit refuses."""
    nodes: PositiveInt
    """Nodes a job may use."""
    node: Node
    """Shape of its nodes."""
    max_time_minutes: DurationMinutes | None = None
    """Longest job; none when unlimited or not known."""
    account: Word | Literal[""] = ""
    """Account for jobs in this partition; overrides the cluster's."""
    qos: Word | Literal[""] = ""
    """QOS; overrides the cluster's."""
    request_memory: bool = True
    """Ask for memory explicitly (``--mem``); off where the site forbids it."""


class Container(Section):
    """The container ranks run in; the batch step stays outside."""

    kind: Literal["pyxis", "apptainer"]
    """pyxis (``srun --container-image``) or apptainer (``apptainer exec --nv``)."""
    image: Word
    """Path of the .sqsh or .sif file on shared storage."""
    mounts: tuple[Word, ...] = ()
    """``host:container`` pairs."""
    python: Word = "python"
    """Interpreter inside the image."""


class Environment(Section):
    """What a job's processes see."""

    modules: tuple[Word, ...] = ()
    """Loaded in order (``module load``)."""
    python: Word | Literal[""] = ""
    """Absolute interpreter on shared storage; default: the one that submits."""
    container: Container | None = None
    """Container for the ranks."""
    pass_through: tuple[VariableName, ...] = ()
    """Variables taken over from the submitting shell; all others stay behind."""
    set: dict[VariableName, str] = {}
    """Variables set in every job. Nothing secret: they stand in the batch script."""
    secrets_file: Path | None = None
    """A 0600 file of NAME=value lines, read on the node by the process that needs it."""


class Slurm(Section):
    """Slurm settings of the site."""

    max_array_size: PositiveInt = 1001
    """MaxArraySize of ``scontrol show config``; the highest index is one less."""
    sbatch: dict[Word, str | int] = {}
    """More sbatch options by long name: ``constraint``, ``reservation`` …"""
    srun: tuple[Word, ...] = ()
    """More srun arguments for the ranks: ``--cpu-bind=none`` …"""


class Cluster(Section):
    """A cluster profile: facts about a site, and defaults for experiments run on it."""

    name: Annotated[str, Field(pattern=NAME)]
    """What ``--cluster`` calls it."""
    description: str = ""
    """One line for ``meditron clusters``."""
    scheduler: Literal["slurm", "local"]
    """Slurm, or processes on this machine."""
    device: Literal["cuda", "cpu"]
    """What ranks compute on."""
    account: Word | Literal[""] = ""
    """Default account."""
    qos: Word | Literal[""] = ""
    """Default QOS."""
    gpu_partition: Partition
    """Where pretraining and evaluation run."""
    cpu_partition: Partition | None = None
    """Where curation and tokenization run; default: the GPU partition."""
    environment: Environment = Environment()
    """What a job's processes see."""
    runs_dir: Path | None = None
    """Default runs directory, on storage all nodes see."""
    slurm: Slurm = Slurm()
    """Slurm settings of the site."""
    health_skip: tuple[str, ...] = ()
    """Codes of health checks this site does not want."""
    defaults: dict[str, Any] = {}
    """Experiment keys that this cluster presets, below the experiment file and ``--set``."""
