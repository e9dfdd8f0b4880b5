"""The section of the judge: a model that grades answers in text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from meditron_cli.config.field_types import OPERATIONAL, DurationMinutes, Line
from meditron_cli.config.section import Section


class Pair(Section):
    """Two models whose answers are compared."""

    first: Line
    """``BENCHMARK/MODEL``, as their folders in ``evaluations``: ``health/last``,
    ``health/medqa-last``."""
    second: Line
    """The other one; of another benchmark where it has the same file."""


class Judge(Section):
    """A model that grades the answers to benchmarks of kind ``healthbench``."""

    folder: Path
    """Its folder in the Hugging Face format, with ``config.json``, ``tokenizer.json`` and
    safetensors."""
    grades: Path | None = None
    """People's grades of the same answers, whose agreement with the judge's the report prints
    (docs/evaluation.md); without them it calls the judge not validated."""
    pairs: tuple[Pair, ...] = ()
    """Models whose answers are compared with each other too, each pair in both orders."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """As in ``evaluate.generate``; the ranks' environment is ``environment.stages.judge`` of the
    profile, else that of ``generate``."""
    tasks: Annotated[int, Field(ge=1, le=1000)] = 1
    """Array tasks that share the verdicts on one model's answers."""
    tensor: PositiveInt = 1
    """GPUs of one task, on one node (vllm)."""
    batch_size: PositiveInt | None = None
    """Verdicts that are computed at once; 16 with transformers and 256 with vllm by default."""
    max_tokens: PositiveInt = 512
    """Most tokens of a verdict with its reason; more for judges that reason at length."""
    temperature: NonNegativeFloat = 0.0
    """0 is greedy."""
    max_parallel: Annotated[PositiveInt, OPERATIONAL] = 16
    """Tasks that run at once."""
    time_minutes: Annotated[DurationMinutes, OPERATIONAL] = 240
    """Time limit of one task."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that only vllm has several GPUs, and that each pair is of two models."""
        if self.backend == "transformers" and self.tensor > 1:
            yield "tensor", "transformers generates on one device; set backend to vllm"
        known: list[frozenset[str]] = []
        for index, pair in enumerate(self.pairs):
            both = frozenset((pair.first, pair.second))
            if len(both) < 2:
                yield f"pairs.{index}", f"{pair.first} is compared with itself"
            elif both in known:
                yield f"pairs.{index}", "a pair before this one has the same models"
            known.append(both)
