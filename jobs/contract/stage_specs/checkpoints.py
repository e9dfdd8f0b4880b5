"""The stages that read or write checkpoints beside training: settings of one task of each. Standard
library only."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.contract.corpus.benchmark_files import PUBLISHED, BenchmarkOptions
from jobs.contract.stage_specs.model import ASIDE, ModelSpec, ParallelSpec, TokenizerRef, VerifySpec
from jobs.contract.stage_specs.training import PretrainSpec


@dataclass(frozen=True)
class ConvertSpec:
    """Bring the weights of a Hugging Face folder in as the checkpoint of step 0."""

    weights: str
    """As ``model.weights`` names them: a name on the hub, or a path."""
    folder: str = field(metadata={ASIDE: True})
    """Absolute path of the folder with ``config.json`` and safetensors."""
    model: ModelSpec
    tokenizer: TokenizerRef
    checkpoint_dir: str
    """Relative: ``checkpoints``."""
    verify: VerifySpec


@dataclass(frozen=True)
class EvaluateSpec:
    """Score one checkpoint on one benchmark."""

    benchmark: str
    path: str
    """Absolute path of the benchmark's questions (a file, or a folder for pubmedqa)."""
    kind: str
    """The layout of the file, one of ``jobs.questions.readers``."""
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
    tokenizer: TokenizerRef
    shots: int
    """Worked examples before each question, from the benchmark's own ``train`` records."""
    limit: int
    """Questions scored, a seeded sample in which each answer has its share; 0 means all."""
    batch_size: int
    seed: int
    """Of the sample, and of the permutations."""
    output_dir: str
    """Relative: ``evaluations/<benchmark>/<checkpoint>``."""
    mode: str = "top-token"
    """``top-token``: the most likely option; ``harness``: the same with lm-eval's prompts."""
    seeds: tuple[int, ...] = ()
    """Of the demonstrations, where there are shots: the questions are scored once per seed."""
    demonstrations: str = "pooled"
    """``pooled``: drawn from all train records; ``per-subject``: from those of the question's."""
    permute: int = 0
    """Permutations of the options under which each question is scored beside the order of its
    file."""
    finetuned: str = ""
    """Name of the finetuned model whose checkpoint it is; empty for one of pretraining."""
    template: str = ""
    """``code`` or ``paper``: of the conversation in which questions are put; empty for plain
    texts."""
    instructions: str = ""
    """Absolute path of a file of instructions for the conversation; empty for ours."""
    seq_length: int = 0
    """Most tokens of a prompt with an option; 0 for those of the longest trained sequences."""
    part: int = 0
    """Number of this task, from 0, among those that share the items."""
    parts: int = 1
    options: BenchmarkOptions = PUBLISHED


@dataclass(frozen=True)
class ExportSpec:
    """Write one checkpoint as a folder that transformers, vLLM and lm-eval load."""

    checkpoint: str
    """``first`` (step 0), ``last`` (the target step) or a step number."""
    target_step: int
    """Training target; ``last`` is refused while the newest checkpoint is below it."""
    checkpoint_dir: str
    model: ModelSpec
    tokenizer: TokenizerRef
    special_tokens_in_text: bool
    """As in ``TokenizeSpec``; the exported tokenizer does the same."""
    dtype: str
    """``bf16``, ``fp32``, or ``source``: as the checkpoint holds the weights."""
    shard_bytes: int
    """Of the tensors in one file."""
    license: str
    """Identifier on the hub, for the card; empty for that of the base weights, if recorded."""
    languages: tuple[str, ...]
    """ISO 639 codes, for the card."""
    output_dir: str
    """Relative: ``export`` for ``last``, else ``export-<checkpoint>``; ``export-<name>`` of a
    finetuned model."""
    verify: VerifySpec
    finetuned: str = ""
    """Name of the finetuned model whose checkpoint it is; empty for one of pretraining."""


@dataclass(frozen=True)
class GenerateSpec:
    """Let an exported model answer a benchmark in text, and score the answers."""

    benchmark: str
    path: str
    """As in ``EvaluateSpec``, and so ``kind``, ``shots``, ``limit``, ``part`` and ``parts``."""
    kind: str
    folder: str
    """Relative: the exported folder."""
    checkpoint: str
    """Name of the folder's model in ``evaluations``: ``last``, a step, ``medqa-last``."""
    model: str
    """Name of the finetuned model; empty for a pretrained one."""
    tokenizer: TokenizerRef
    mode: str
    """``top-token``, ``cot`` or ``sc-cot``."""
    legacy: bool
    """Settings and parser of the released evaluation."""
    template: str
    """``code`` or ``paper``; empty for a prompt without turns."""
    instructions: str
    """Absolute path of a file of instructions; empty for ours."""
    shots: int
    seeds: tuple[int, ...]
    """Of the demonstrations, where there are shots: the questions are answered once per seed."""
    demonstrations: str
    """``pooled`` or ``per-subject``."""
    limit: int
    seed: int
    """Of the sample of questions, and of the tokens that are drawn."""
    backend: str
    """``transformers`` or ``vllm``."""
    device: str
    tensor: int
    """GPUs of a task, for vLLM."""
    batch_size: int
    """Generations that are computed at once."""
    max_tokens: int
    samples: int
    """Generations of each question."""
    temperature: float
    """0 is greedy."""
    frequency_penalty: float
    output_dir: str
    """Relative: ``evaluations/<benchmark>/<checkpoint>/<mode>``."""
    part: int = 0
    parts: int = 1
    options: BenchmarkOptions = PUBLISHED


@dataclass(frozen=True)
class SelftestSpec:
    """Measure on a cluster's nodes what a plan and the documentation claim of training."""

    training: PretrainSpec
    """The training whose memory and step time are measured; all trials have its device, precision
    and ranks.
    """
    steps: int
    """Of each small training that is compared with another; half of them precede a resume."""
    output_dir: str
    """Relative: ``selftest``. Holds ``results.json``."""
