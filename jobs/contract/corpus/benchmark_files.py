"""The files of a benchmark in its published layout. Standard library only."""

from __future__ import annotations

from pathlib import Path


def files(path: Path, kind: str) -> list[Path]:
    """Return the files that are read of a benchmark.

    Args:
        path: a file; for ``pubmedqa`` and ``mmlu`` also the folder of their files.
        kind: as in ``EvaluateSpec``.
    """
    if kind == "pubmedqa":
        source = path / "ori_pqal.json" if path.is_dir() else path
        return [source, source.with_name("test_ground_truth.json")]
    if kind == "mmlu" and path.is_dir():
        return [*sorted(path.glob("*_test.csv")), *sorted(path.glob("*_dev.csv"))]
    return [path]
