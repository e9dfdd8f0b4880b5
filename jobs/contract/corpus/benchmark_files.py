"""The files of a benchmark in its published layout. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SUBJECT_GROUPS: dict[str, tuple[str, ...]] = {
    "medical": (
        "anatomy",
        "clinical_knowledge",
        "college_biology",
        "college_medicine",
        "high_school_biology",
        "medical_genetics",
        "nutrition",
        "professional_medicine",
        "virology",
    ),
    "general": (
        "college_computer_science",
        "college_mathematics",
        "elementary_mathematics",
        "global_facts",
        "high_school_computer_science",
        "high_school_mathematics",
        "high_school_statistics",
        "machine_learning",
    ),
}
"""Subjects of MMLU under one name: MMLU-Medical of the paper (arXiv 2311.16079, table 3), and the
general ones of the released evaluation (epfLLM/meditron:evaluation/benchmarks.py)."""


HARNESS_KINDS = ("pubmedqa", "medmcqa", "medqa4", "mmlu", "headqa", "med_concepts_qa")
"""Kinds of benchmarks that ``jobs.evaluation.harness`` puts as lm-eval's task does."""
_OTHER_TASKS = {
    "mmlu_pro": "lm-eval's mmlu_pro writes a chain of thought; modes cot and sc-cot do that",
    "truthfulqa": "lm-eval's truthfulqa_mc1 has every wrong answer of a question for an option, "
    "truthfulqa here has three of them as MEDITRON's evaluation",
    "medqa": "lm-eval's medqa_4options has four options, which kind medqa4 has too",
}


def why_not_harness(kind: str) -> str:
    """Return why a kind of benchmark cannot be put as lm-eval puts it; empty where it can."""
    if kind in HARNESS_KINDS:
        return ""
    return _OTHER_TASKS.get(kind, f"lm-eval has no task for benchmarks of kind {kind}")


@dataclass(frozen=True)
class BenchmarkOptions:
    """Settings that decide the questions of a benchmark beside its files."""

    train: str = ""
    """Absolute path of its train records, where they are not in ``path``."""
    subjects: tuple[str, ...] = ()
    """The subjects that are read, or names of groups of them; empty for all, for ``truthfulqa`` for
    the medical ones."""
    first_answer: int = 1
    """Number of the first option in ``cop`` of MedMCQA: 1 as published, 0 in mirrors."""
    skip_first_rows: bool = False
    """Leave out the first row of each file of MMLU, as the mirror that was evaluated does."""
    seed: int = 1234
    """Of the options drawn for ``truthfulqa``."""

    @property
    def subject_names(self) -> tuple[str, ...]:
        """Return the subjects, with those of groups."""
        names = (name for key in self.subjects for name in SUBJECT_GROUPS.get(key, (key,)))
        return tuple(dict.fromkeys(names))


PUBLISHED = BenchmarkOptions()


def files(path: Path, kind: str, options: BenchmarkOptions = PUBLISHED) -> list[Path]:
    """Return the files that are read of a benchmark.

    Args:
        path: a file; for ``pubmedqa`` and ``mmlu`` also the folder of their files.
        kind: as in ``EvaluateSpec``.
        options: that decide them too.
    """
    train = train_files(Path(options.train), kind, options) if options.train else []
    if kind == "pubmedqa":
        source = path / "ori_pqal.json" if path.is_dir() else path
        return [source, source.with_name("test_ground_truth.json"), *train]
    if kind == "mmlu" and path.is_dir():
        alone = train or not any(path.glob("*_dev.csv"))  # of some subjects, all are needed
        dev = [] if alone else _tables(path, "dev", options)
        return [*_tables(path, "test", options), *dev, *train]
    return [path, *train]


def train_files(path: Path, kind: str, options: BenchmarkOptions = PUBLISHED) -> list[Path]:
    """Return the files of which only train records are read."""
    if kind == "pubmedqa":
        source = path / "ori_pqal.json" if path.is_dir() else path
        truth = source.with_name("test_ground_truth.json")
        return [source, truth] if truth.is_file() else [source]
    return _tables(path, "dev", options) if kind == "mmlu" and path.is_dir() else [path]


def _tables(folder: Path, split: str, options: BenchmarkOptions) -> list[Path]:
    if names := options.subject_names:
        return sorted(folder / f"{name}_{split}.csv" for name in names)
    return sorted(folder.glob(f"*_{split}.csv"))
