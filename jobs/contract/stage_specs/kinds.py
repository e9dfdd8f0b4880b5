"""The table of stages. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jobs.contract.stage_specs.checkpoints import (
    ConvertSpec,
    EvaluateSpec,
    ExportSpec,
    GenerateSpec,
    SelftestSpec,
)
from jobs.contract.stage_specs.corpus import CleanSpec, CurateSpec, DeduplicateSpec, TokenizeSpec
from jobs.contract.stage_specs.judging import JudgeSpec
from jobs.contract.stage_specs.preparation import PrepareSpec
from jobs.contract.stage_specs.training import FinetuneSpec, IndexSpec, PretrainSpec

Spec = (
    CleanSpec
    | DeduplicateSpec
    | CurateSpec
    | TokenizeSpec
    | IndexSpec
    | ConvertSpec
    | PretrainSpec
    | PrepareSpec
    | FinetuneSpec
    | EvaluateSpec
    | ExportSpec
    | GenerateSpec
    | JudgeSpec
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
PRETRAIN = "pretrain"
"""The stage that makes a run's checkpoints, with one task."""
PREPARE, FINETUNE = "prepare", "finetune"
"""The stages that make a run's finetuned models, with one task per model."""
JUDGE = "judge"
"""The stage that grades answers in text."""

STAGE_KINDS: dict[str, StageKind] = {
    "clean": StageKind(CleanSpec, "jobs.stages.clean", ()),
    "deduplicate": StageKind(DeduplicateSpec, "jobs.stages.deduplicate", ("clean",)),
    "curate": StageKind(CurateSpec, "jobs.stages.curate", ("deduplicate",)),
    "tokenize": StageKind(
        TokenizeSpec, "jobs.stages.tokenize_corpus", ("curate",), reads_tokenizer=True
    ),
    "index": StageKind(IndexSpec, "jobs.stages.index", ("tokenize",)),
    "convert": StageKind(ConvertSpec, "jobs.stages.convert", (), reads_tokenizer=True),
    PRETRAIN: StageKind(
        PretrainSpec,
        "jobs.stages.pretrain",
        ("tokenize", "index", "convert"),
        trains=True,
        reads_tokenizer=True,
        polls_stop=True,
        computes=True,
    ),
    PREPARE: StageKind(PrepareSpec, "jobs.stages.prepare", (), reads_tokenizer=True),
    FINETUNE: StageKind(
        FinetuneSpec,
        "jobs.stages.finetune",
        (PRETRAIN, "convert", PREPARE),
        trains=True,
        reads_tokenizer=True,
        polls_stop=True,
        computes=True,
    ),
    "evaluate": StageKind(
        EvaluateSpec,
        "jobs.stages.evaluate",
        (PRETRAIN, FINETUNE),
        reads_tokenizer=True,
        polls_stop=True,
        computes=True,
    ),
    "export": StageKind(
        ExportSpec,
        "jobs.stages.export",
        (PRETRAIN, FINETUNE),
        after_if_planned=("evaluate",),
        reads_tokenizer=True,
    ),
    "generate": StageKind(
        GenerateSpec,
        "jobs.stages.generate",
        ("export",),
        reads_tokenizer=True,
        polls_stop=True,
        computes=True,
    ),
    JUDGE: StageKind(JudgeSpec, "jobs.stages.judge", ("generate",), polls_stop=True, computes=True),
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
