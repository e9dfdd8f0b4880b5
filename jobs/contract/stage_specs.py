"""The stages, and the settings of one task of each. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from jobs.contract.corpus.rules import CorpusRules

ASIDE = "aside"
"""Key in the metadata of a field that another field decides, or that only checks use: specs that
differ only there have one digest.
"""


CPU_STAGE_GIB_PER_CORE = 4
"""Memory that a stage on a CPU node requests, as far as the node has it. What a stage may do with
memory to spare, such as verifying generations, is bounded by it, also where nothing enforces it."""


@dataclass(frozen=True)
class CleanSpec:
    """Read some pieces of the sources, clean their documents, and drop what no other document
    decides.
    """

    corpus: CorpusRules
    part: int
    """Number of this task, from 0; its pieces are those with ``number % parts == part``."""
    parts: int
    output_dir: str
    """Relative: ``corpus``; pieces are in ``pieces`` below it."""


@dataclass(frozen=True)
class DeduplicateSpec:
    """Find equal documents, works that are there twice, and near duplicates in all pieces."""

    corpus: CorpusRules
    parts: int
    """Tasks that cleaned."""
    output_dir: str
    """As in ``CleanSpec``."""


@dataclass(frozen=True)
class CurateSpec:
    """Write JSONL shards of the documents that are kept."""

    corpus: CorpusRules
    part: int
    """Number of this task, from 0."""
    parts: int
    whole: bool
    """The only task, which cleans and finds duplicates too."""
    output_dir: str
    """Relative: ``corpus``. Holds ``train/00000.jsonl …``, ``validation/00000.jsonl``,
    ``manifest.json``.
    """


@dataclass(frozen=True)
class VocabularySpec:
    """The tokens added to a base vocabulary, and the tokens with a role."""

    base_size: int
    """Tokens of the base model; added tokens have the ids from here on."""
    unused_rows: int
    """Rows of the base model's embedding behind its last token; added tokens take them first."""
    added_tokens: tuple[str, ...]
    """In the order of their ids."""
    control_tokens: tuple[str, ...]
    """Those of ``added_tokens`` that no text contains: they are marked special."""
    new_rows: str
    """Initial embedding and output rows of added tokens: ``repeat-last-row`` of the base model,
    ``mean`` of its rows, or ``copy:<token>``.
    """
    eod_token: str
    """Appended after each document; must be in the vocabulary."""
    bos_token: str
    """Put before each document; empty for none."""
    eos_token: str
    """Ends a generation."""

    @property
    def base_rows(self) -> int:
        """Return the rows of the base model's embedding."""
        return self.base_size + self.unused_rows

    @property
    def size(self) -> int:
        """Return the tokens, added ones included."""
        return self.base_size + len(self.added_tokens)


@dataclass(frozen=True)
class TokenizerRef:
    """A tokenizer by the file that the run was made with."""

    path: str
    """Absolute path of a ``tokenizer.json``."""
    sha256: str
    vocabulary: VocabularySpec


@dataclass(frozen=True)
class TokenizeSpec:
    """Turn JSONL shards into Megatron indexed datasets."""

    inputs: tuple[str, ...]
    """Relative paths of JSONL shards written by curate."""
    output_prefixes: tuple[str, ...]
    """Relative path of each shard's first dataset, without suffix; others have a number behind."""
    part: int
    parts: int
    """The task takes every ``parts``-th stretch of each shard, from ``part`` on."""
    shard_tokens: int
    """Most tokens of a dataset, unless its only document has more."""
    tokenizer: TokenizerRef
    text_key: str
    model_vocab_size: int
    """Rows of the model's embedding before padding; ids must be below it."""
    special_tokens_in_text: bool
    """True: the name of an added token inside a text becomes that token. False: it is ordinary
    text, and tokens stand where the curator put them.
    """
    engine: str = field(default="auto", metadata={ASIDE: True})
    """``gigatoken``, ``tokenizers``, or ``auto``: the first where it gives the ids of the second.
    """

    @property
    def output_prefix(self) -> str:
        """Return the path of the task's first dataset, without suffix."""
        return numbered(self.output_prefixes[0], self.part)


def numbered(prefix: str, number: int) -> str:
    """Return the path of a dataset of a shard, by the number of its stretch, from 0."""
    return f"{prefix}-{number:04d}" if number else prefix


@dataclass(frozen=True)
class RopeScaling:
    """The frequency scaling of Llama 3.1 and later (``rope_type: llama3`` of transformers)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int
    """Context length, in tokens, before the scaling."""


@dataclass(frozen=True)
class ModelSpec:
    """A decoder of the Llama family: RMSNorm, SwiGLU, RoPE, grouped-query attention."""

    layers: int
    hidden_size: int
    ffn_hidden_size: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    seq_length: int
    vocab_size: int
    """Rows before padding: a row per token, and unused rows of the base model."""
    padded_vocab_size: int
    """Rows of the embedding, whatever the layout; those from ``vocab_size`` on are never scored."""
    rope_theta: float
    rope_scaling: RopeScaling | None
    norm_eps: float
    init_std: float
    tied_embeddings: bool
    """The output layer is the embedding."""
    qkv_bias: bool
    """Query, key and value projections have biases (Qwen 2)."""
    qk_norm: bool
    """Each query and key head is normalised before RoPE (Qwen 3)."""
    post_norm: bool
    """Norms are behind attention and MLP, and one norm each spans all query and all key heads
    (OLMo 2)."""

    @property
    def architecture(self) -> dict[str, Any]:
        """Return what determines the shapes of weights and their mathematics, apart from the
        vocabulary.
        """
        settings = ("seq_length", "vocab_size", "padded_vocab_size", "init_std")
        fields = {name: value for name, value in asdict(self).items() if name not in settings}
        return {**fields, "activation": "swiglu", "norm": "rmsnorm"}

    @property
    def layer_parameters(self) -> int:
        """Return the parameters of one decoder layer: q, k, v, output, gated MLP and norms."""
        query, key = self.attention_heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden_size * (2 * query + 2 * key)
        if self.qkv_bias:
            attention += query + 2 * key
        if self.qk_norm:
            attention += 2 * self.head_dim
        if self.post_norm:
            attention += query + key
        return attention + 3 * self.hidden_size * self.ffn_hidden_size + 2 * self.hidden_size

    @property
    def embedding_parameters(self) -> int:
        """Return the parameters of the embedding and of an output layer of its own."""
        return (1 if self.tied_embeddings else 2) * self.padded_vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """Return the parameters of the whole model, padding rows of the vocabulary included.

        With 32,000 rows this gives Llama-2's published 6,738,415,616 (7B) and 68,976,648,192 (70B).
        """
        return self.layers * self.layer_parameters + self.embedding_parameters + self.hidden_size

    def flops_per_token(self, *, attention: bool = True) -> float:
        """Return the floating-point operations per training token: 6 N plus attention's 12 L h s.

        Narayanan et al. 2021 (arXiv 2104.04473). N counts the output layer but not the embedding,
        which is looked up; tied, they are one tensor, which counts. h is the width of the query
        heads. What is computed again does not count, and the causal mask halves nothing.
        """
        looked_up = 0 if self.tied_embeddings else self.padded_vocab_size * self.hidden_size
        scores = 12.0 * self.layers * self.attention_heads * self.head_dim * self.seq_length
        return 6.0 * (self.parameters - looked_up) + (scores if attention else 0.0)

    def weights_bytes(self, precision: str) -> int:
        """Return the bytes of a checkpoint with weights alone."""
        return self.parameters * (2 if precision == "bf16" else 4)

    def checkpoint_bytes(self, precision: str) -> int:
        """Return the bytes of one checkpoint: weights, fp32 master weights and two Adam moments.

        In fp32 too: the distributed optimizer keeps its own copy of the weights beside the model's.
        """
        return self.weights_bytes(precision) + self.parameters * 3 * 4


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
    virtual: int = 1
    """Pieces of each pipeline stage's layers in the interleaved schedule; 1 is plain 1F1B."""

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline * self.data


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


TOLERANCE = 1e-4
"""Default of the largest difference of a logit in fp32 that is accepted, as a share of the largest
logit. The tests of Megatron-LLM accept a mean difference of 1e-3
(epfLLM/Megatron-LLM:tests/test_llama_weights.py)."""


@dataclass(frozen=True)
class VerifySpec:
    """Compare the logits of imported or exported weights with those of the checkpoint."""

    enabled: bool
    tokens: int
    """Of each text."""
    tolerance: float = TOLERANCE
    """Largest difference of a logit that is accepted, as a share of the largest logit."""


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


@dataclass(frozen=True)
class PretrainSpec:
    """Start or resume pretraining until ``train_steps``."""

    model: ModelSpec
    parallel: ParallelSpec
    device: str
    """``cuda`` or ``cpu``."""
    precision: str
    """``bf16`` or ``fp32``."""
    weights: str
    """``random``, or the base model that the stage ``convert`` brought in as step 0."""
    corpora: tuple[CorpusSpec, ...]
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
    """Relative: ``checkpoints``."""
    tensorboard_dir: str
    """Relative: ``tensorboard``."""
    index_dir: str
    """Relative: ``tokens/index``, the epochs that the stage ``index`` laid out."""
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
    reset_attention_mask: bool = False
    """No attention from one document to another."""
    reset_position_ids: bool = False
    """Positions count from the start of each document."""
    eod_mask_loss: bool = False
    """The token after the end of a document is not scored."""
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
    max_epochs: float | None = None
    """How often the training may read a corpus; None for any number of times."""
    require_eod: bool = field(default=True, metadata={ASIDE: True})
    """A dataset made elsewhere is refused if none of its documents ends with the EOD token."""
    phases: tuple[PhaseSpec, ...] = (WHOLE,)
    """In their order; the first begins with the training."""
    deterministic: bool = False
    """Every library chooses algorithms whose results are bit-equal when repeated."""

    def length_of(self, phase: PhaseSpec) -> int:
        """Return the tokens of a sequence of a phase."""
        return phase.sequence_length or self.model.seq_length

    @property
    def longest(self) -> int:
        """Return the tokens of the longest sequence."""
        return max(map(self.length_of, self.phases))

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

    def start_of(self, step: int) -> PhaseStart:
        """Return where the phase of a step begins, which counts from 1."""
        return [start for start in self.starts if start.first_step < max(1, step)][-1]

    def step_tokens(self, step: int) -> int:
        """Return the tokens of the batch of a step, which counts from 1."""
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
        """Return the tokens of the batches of the first steps."""
        start = self.start_of(steps)
        batches = steps - start.first_step
        return start.tokens + batches * self.global_batch_size * start.sequence_length

    @property
    def sequences(self) -> int:
        """Return the sequences of the whole training."""
        return self.train_steps * self.global_batch_size

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
class IndexSpec:
    """Check the tokens of a training, and lay out its samples in their order."""

    order: dict[str, Any]
    """``PretrainSpec.order`` of the training."""
    training: PretrainSpec = field(metadata={ASIDE: True})
    output_dir: str
    """Relative: ``tokens/index``."""


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
    tokenizer: TokenizerRef
    shots: int
    """Worked examples before each question, from the benchmark's own ``train`` records."""
    limit: int
    """Questions scored, a seeded sample in which each answer has its share; 0 means all."""
    batch_size: int
    seed: int
    output_dir: str
    """Relative: ``evaluations/<benchmark>/<checkpoint>``."""


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
    """Relative: ``export`` for ``last``, else ``export-<checkpoint>``."""
    verify: VerifySpec


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


Spec = (
    CleanSpec
    | DeduplicateSpec
    | CurateSpec
    | TokenizeSpec
    | IndexSpec
    | ConvertSpec
    | PretrainSpec
    | EvaluateSpec
    | ExportSpec
    | SelftestSpec
)


def early_step(spec: Spec) -> int | None:
    """Return the step of a checkpoint that a task needs and that training saves before its end; no
    step for a task that waits for whole stages.

    An evaluation of step 0 waits with that of the last step, beside which its score is read.
    """
    if not isinstance(spec, EvaluateSpec | ExportSpec) or spec.checkpoint == "last":
        return None
    step = 0 if spec.checkpoint == "first" else int(spec.checkpoint)
    if isinstance(spec, EvaluateSpec) and not step:
        return None
    return step if step < spec.target_step else None


@dataclass(frozen=True)
class StageKind:
    """A stage as the rest of the program sees it."""

    spec: type[Any]
    """Settings of one task."""
    module: str
    """Has ``run(context)``; imported on the node."""
    after: tuple[str, ...]
    """Stages whose results it reads, where a run has them."""
    after_if_planned: tuple[str, ...] = ()
    """Stages whose results it reads too, where the same plan makes them."""
    trains: bool = False
    """Has steps and checkpoints."""
    reads_tokenizer: bool = False
    polls_stop: bool = False
    """Its ranks poll the file STOP."""
    computes: bool = False
    """Runs on GPUs where the cluster has them."""
    piped: bool = True
    """Part of the pipeline; another one has a command of its own."""


SELFTEST = "selftest"

STAGE_KINDS: dict[str, StageKind] = {
    "clean": StageKind(CleanSpec, "jobs.stages.clean", ()),
    "deduplicate": StageKind(DeduplicateSpec, "jobs.stages.deduplicate", ("clean",)),
    "curate": StageKind(CurateSpec, "jobs.stages.curate", ("deduplicate",)),
    "tokenize": StageKind(
        TokenizeSpec, "jobs.stages.tokenize_corpus", ("curate",), reads_tokenizer=True
    ),
    "index": StageKind(IndexSpec, "jobs.stages.index", ("tokenize",)),
    "convert": StageKind(ConvertSpec, "jobs.stages.convert", (), reads_tokenizer=True),
    "pretrain": StageKind(
        PretrainSpec,
        "jobs.stages.pretrain",
        ("tokenize", "index", "convert"),
        trains=True,
        reads_tokenizer=True,
        polls_stop=True,
        computes=True,
    ),
    "evaluate": StageKind(
        EvaluateSpec,
        "jobs.stages.evaluate",
        ("pretrain",),
        reads_tokenizer=True,
        polls_stop=True,
        computes=True,
    ),
    "export": StageKind(
        ExportSpec,
        "jobs.stages.export",
        ("pretrain",),
        after_if_planned=("evaluate",),
        reads_tokenizer=True,
    ),
    SELFTEST: StageKind(SelftestSpec, "jobs.stages.selftest", (), computes=True, piped=False),
}
"""Every stage, in pipeline order. A new stage is a row here and a builder in
``meditron_cli.plan.stages``.
"""

STAGES = tuple(STAGE_KINDS)
PIPELINE_STAGES = tuple(name for name, kind in STAGE_KINDS.items() if kind.piped)
TRAINING_STAGES = tuple(name for name, kind in STAGE_KINDS.items() if kind.trains)
TOKENIZER_STAGES = tuple(name for name, kind in STAGE_KINDS.items() if kind.reads_tokenizer)
SAVING_STAGES = tuple(name for name, kind in STAGE_KINDS.items() if kind.polls_stop)
COMPUTING_STAGES = tuple(name for name, kind in STAGE_KINDS.items() if kind.computes)

READING_SOURCES = ("clean", "curate")
"""Stages that read the sources of a corpus; ``curate`` does where its task is the only one."""
CORPUS_STAGES = ("clean", "deduplicate", "curate")
"""Stages of which each makes a step of a corpus; where one task makes all, ``curate`` alone."""

READING_STAGES = tuple(
    name for name, kind in STAGE_KINDS.items() if kind.spec in (EvaluateSpec, ExportSpec)
)
"""Each of their tasks reads one checkpoint."""


def training_stage(stages: Iterable[str]) -> str | None:
    """Return the stage among these that trains; None without one."""
    return next((stage for stage in stages if stage in TRAINING_STAGES), None)
