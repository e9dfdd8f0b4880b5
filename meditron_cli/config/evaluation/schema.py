"""The section of evaluations: checkpoints scored on benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import NonNegativeInt, PositiveInt

from meditron_cli.config.field_types import (
    OPERATIONAL,
    Checkpoint,
    DataPath,
    DurationMinutes,
    Name,
)
from meditron_cli.config.section import Section


class Benchmark(Section):
    """Multiple-choice questions in a file."""

    name: Name
    """Short name, used in paths and tables."""
    path: DataPath
    """The questions: a path, relative to the file that names it, or
    ``hf://datasets/ORG/NAME/PATH``, with ``@REVISION`` after NAME for one revision, which
    `meditron fetch` downloads to the profile's ``data_dir``."""
    kind: Literal["mcq", "pubmedqa", "mmlu", "medmcqa"] = "mcq"
    """Layout of the file."""
    model: str = ""
    """A finetuned model, by its name in ``finetune.models``, whose last checkpoint is scored;
    default: the checkpoints of pretraining that ``evaluate.checkpoints`` names."""
    shots: NonNegativeInt = 0
    """Worked examples before each question."""
    limit: NonNegativeInt = 0
    """Questions scored, a sample by ``seed`` in which each answer has its share; 0 means all."""


class Evaluate(Section):
    """Checkpoints scored on benchmarks by the log-likelihood of the options."""

    benchmarks: tuple[Benchmark, ...] = ()
    """Benchmarks to score on, each ``{name, path, kind}``; layouts by ``kind`` (docs/data.md):

    - mcq: .jsonl of {"id", "question", "choices": [texts], "answer": index from 0}
    - pubmedqa: the folder with ori_pqal.json and test_ground_truth.json
    - mmlu: the folder of *_test.csv and *_dev.csv, rows question,A,B,C,D,letter without header
    - medmcqa: .jsonl of {"id", "question", "opa" … "opd", "cop": 1 to 4}
    """
    checkpoints: tuple[Checkpoint, ...] = ("first", "last")
    """``first`` (before training), ``last`` (the target step), step numbers that are kept, or
    ``kept`` for each of ``pretrain.keep_steps``."""
    tensor: PositiveInt = 1
    """GPUs of one task (tensor parallel, one node)."""
    batch_size: PositiveInt = 16
    """Sequences per forward pass."""
    max_parallel: Annotated[PositiveInt, OPERATIONAL] = 16
    """Tasks that run at once."""
    time_minutes: Annotated[DurationMinutes, OPERATIONAL] = 240
    """Time limit of one task."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that benchmarks have different names; equal ones would write the same files."""
        names: set[str] = set()
        for index, benchmark in enumerate(self.benchmarks):
            if benchmark.name in names:
                yield (
                    f"benchmarks.{index}.name",
                    f"a benchmark before this one is named {benchmark.name!r} too",
                )
            names.add(benchmark.name)
