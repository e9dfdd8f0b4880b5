"""Settings of one task of the stage ``judge``. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JudgeSpec:
    """Let a judge grade the answers of a model by rubrics, or compare those of two models."""

    benchmark: str
    path: str
    """Absolute path of the file of conversations with their rubrics."""
    checkpoint: str
    """Name of the model that answered in ``evaluations``: ``last``, a step, ``medqa-last``."""
    answers: str
    """Relative: the file of its answers."""
    other: str
    """Name of the model whose answers they are compared with, ``<benchmark>/<checkpoint>``; empty:
    they are graded by their rubrics."""
    other_answers: str
    """Relative: the file of the other's answers; empty without another."""
    folder: str
    """Absolute path of the judge's folder, in the Hugging Face format."""
    grades: str
    """Absolute path of people's grades; empty without any."""
    backend: str
    """``transformers`` or ``vllm``."""
    device: str
    tensor: int
    """GPUs of a task, for vLLM."""
    batch_size: int
    """Verdicts that are computed at once."""
    max_tokens: int
    """Most tokens of a verdict with its reason."""
    temperature: float
    """0 is greedy."""
    seed: int
    output_dir: str
    """Relative: ``evaluations/<benchmark>/<checkpoint>/judged``; of a comparison
    ``judged-against-<benchmark>-<checkpoint>``."""
    part: int = 0
    """Number of this task, from 0, among those that share the verdicts."""
    parts: int = 1

    @property
    def samples(self) -> int:
        """Return the generations per verdict."""
        return 1
