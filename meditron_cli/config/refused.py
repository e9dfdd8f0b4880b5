"""Name what other training programs have and this one refuses, with the reason. Pure."""

from __future__ import annotations

from collections.abc import Sequence

CONTEXT = (
    "context parallelism is refused until a GPU can prove it: its attention over the ranks of a "
    "sequence exists as CUDA kernels alone, so no test could compare it with one rank; for long "
    "sequences raise parallel.tensor, which divides the sequence too, and set parallel.recompute"
)
FP8 = (
    "FP8 is refused until a GPU can prove it: its products and scaling factors exist as CUDA "
    "kernels alone, so no test could bound its error; bf16 is the lowest precision"
)
CONTEXT_KEYS = ("context", "context_parallel", "context_parallel_size", "context_size", "cp")


def reason_of_key(where: Sequence[int | str]) -> str:
    """Return why the key at a location is refused; empty where it is merely unknown."""
    section, key = ("", *map(str, where))[-2:]
    if section == "parallel" and key in CONTEXT_KEYS:
        return CONTEXT
    return FP8 if key.startswith("fp8") else ""


def reason_of_value(where: Sequence[int | str], text: str) -> str:
    """Return why a value is refused; empty where it is merely none of its key's values."""
    word = text.lower()
    is_fp8 = where[-1] == "precision" and ("fp8" in word or "float8" in word)
    return FP8 if is_fp8 else ""
