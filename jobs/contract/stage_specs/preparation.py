"""The stage that makes rows of tokens of questions. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.contract.corpus.rules import BenchmarkFile, DecontaminationSpec
from jobs.contract.stage_specs.model import TokenizerRef


@dataclass(frozen=True)
class PrepareSpec:
    """Make the rows that a model is finetuned on from files of questions with answers."""

    name: str
    """Of the model."""
    preparation: str
    """A name of ``jobs.contract.preparations``; any other takes every train record of ``data``."""
    items: int
    """Questions that are expected, the published number or the user's; 0 where it is not known."""
    data: tuple[BenchmarkFile, ...]
    """Files with train records, by the kind of each."""
    template: str
    """``code`` or ``paper``."""
    instructions: str
    """Absolute path of a file of instructions; empty for our own."""
    tokenizer: TokenizerRef
    sequence_length: int
    """Most tokens of a row."""
    holdout: float
    """Share of the questions that is validated on."""
    seed: int
    """Of the questions that are held out."""
    decontamination: DecontaminationSpec | None
    """Test questions with which the questions are compared; None for no comparison."""
    output_dir: str
    """Relative: ``finetune/<name>/rows``."""
    strict: bool = False
    """Another number of items than the expected one is an error."""
    reasoned: bool = False
    """Answers of a preparation that is not published are the explanation, then the choice."""
