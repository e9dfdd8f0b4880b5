"""The scores of a run, read from ``evaluations/``, and the points of each of their questions."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jobs.contract import done_markers
from jobs.contract.corpus.benchmark_files import SUBJECT_GROUPS
from jobs.contract.files import parse_json, read_lines, read_small
from jobs.contract.json_fields import from_fields
from jobs.contract.rundir import RunDir
from jobs.evaluation.safety import ANSWERS, SafetyAnswer, parsed

QUESTIONS = "questions.jsonl"
MMLU_MEDICAL = "mmlu_medical"
MODES = ("top-token", "cot", "sc-cot", "harness")


@dataclass(frozen=True)
class EvaluationFields:
    """The fields of an evaluation's result that reports show."""

    benchmark: str
    checkpoint_step: int
    n: int
    accuracy: float
    ci95: tuple[float, ...]
    chance: float
    p_value: float
    kind: str | None = None
    mode: str | None = None
    model: str | None = None
    score: str | None = None
    template: str | None = None
    shots: int | None = None
    samples: int | None = None
    prompts: int | None = None
    digests: dict[str, Any] | None = None
    permutations: dict[str, Any] | None = None
    majority: float = 0.0
    sd: float | None = None
    truncated: int | None = None
    ties: int | None = None
    unparsable: int | None = None
    cut_off: int | None = None
    valid: float | None = None
    accuracy_valid: float | None = None
    weighted_precision: float | None = None
    weighted_recall: float | None = None
    weighted_f1: float | None = None
    macro_f1: float | None = None
    calibration_error: float = 0.0

    def __post_init__(self) -> None:
        if len(self.ci95) != 2:
            raise ValueError("ci95 is not an interval")
        if self.n < 1 or not 0 <= self.accuracy <= 1:
            raise ValueError("no share of questions")
        if self.permutations is not None:
            from_fields(PermutationFields, self.permutations)


@dataclass(frozen=True)
class PermutationFields:
    """The fields of a result over orders of options."""

    accuracies: tuple[float, ...]
    mean: float
    sd: float | None
    consistency: float


class Record(NamedTuple):
    """The compared part of a question; its file has more."""

    id: str
    seed: int
    points: float
    subject: str
    options: int
    """Hash of its choices and of the right one."""

    @classmethod
    def of(cls, line: bytes) -> Record:
        """Read a line."""
        value = parse_json(line)
        asked = hash((tuple(value.get("choices", ())), value.get("answer")))
        subject = sys.intern(str(value.get("subject") or ""))
        return cls(value["id"], value.get("seed", 0), float(value["points"]), subject, asked)


@dataclass(frozen=True)
class Score:
    """One benchmark scored with one checkpoint in one mode."""

    place: str
    """Its folder behind ``evaluations/``, such as ``mmlu_medical/medmcqa-last/cot``."""
    folder: Path
    results: Mapping[str, Any]

    @property
    def benchmark(self) -> str:
        return str(self.results["benchmark"])

    @property
    def kind(self) -> str:
        """Return the layout of the benchmark's file, which also names it; empty if not recorded."""
        return str(self.results.get("kind") or "")

    @property
    def model(self) -> str:
        """Return the finetuned model, by its folder ``<model>-<checkpoint>`` where the results do
        not have it; empty for a checkpoint of pretraining.
        """
        of_folder = self.place.split("/")[1].rpartition("-")[0]
        return str(self.results.get("model") or of_folder)

    @property
    def step(self) -> int:
        return int(self.results["checkpoint_step"])

    @property
    def shots(self) -> int:
        return int(self.results.get("shots") or 0)

    @property
    def mode(self) -> str:
        """Return ``top-token``, ``cot``, ``sc-cot`` or ``harness``."""
        mode = str(self.results.get("mode") or "top-token")
        return "top-token" if mode == "loglikelihood" else mode

    @property
    def protocol(self) -> str:
        """Return the mode in words: ``3-shot``, ``cot``, ``top-token, legacy``."""
        parts = [f"{self.shots}-shot"] if self.shots else []
        if self.mode != "top-token" or not parts:
            parts.append(self.mode)
        if self.mode == "top-token" and self.results.get("score") == "generation":
            parts.append("generated")
        if self.results.get("legacy"):
            parts.append("legacy")
        return ", ".join(parts)

    @property
    def checkpoint(self) -> str:
        """Return the checkpoint in words: ``20``, ``medmcqa 480``."""
        return f"{self.model} {self.step}".strip()

    @property
    def digest(self) -> str:
        """Return the digest of the benchmark's files; empty where it is not recorded."""
        return str((self.results.get("digests") or {}).get("benchmark") or "")

    @property
    def order(self) -> tuple[object, ...]:
        """Return what scores are sorted by: a base model before what was made of it."""
        mode = MODES.index(self.mode) if self.mode in MODES else len(MODES)
        variant = bool(self.results.get("legacy")), self.protocol
        return (self.benchmark, self.model != "", self.model, self.step, mode, *variant)

    @functools.cached_property
    def records(self) -> tuple[Record, ...]:
        """Return the records of its questions by seed; none of a missing or damaged file."""
        try:
            with (self.folder / QUESTIONS).open("rb") as lines:
                return tuple(sorted(map(Record.of, lines), key=lambda record: record.seed))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds of its demonstrations, in their order."""
        return tuple(sorted({record.seed for record in self.records}))

    @functools.cached_property
    def points(self) -> dict[str, list[float]]:
        """Return the points of each question, by its id: one number per seed, in their order."""
        found: dict[str, list[float]] = {}
        for record in self.records:
            found.setdefault(record.id, []).append(record.points)
        return found

    @functools.cached_property
    def questions(self) -> dict[str, int]:
        """Return a hash of each question with its options: those of TruthfulQA depend on a seed."""
        return {record.id: record.options for record in self.records}

    @functools.cached_property
    def subjects(self) -> dict[str, str]:
        """Return the subject of each question, by its id."""
        return {record.id: record.subject for record in self.records}

    @property
    def published_name(self) -> str:
        """Return the benchmark as the published results name it: by its kind, MMLU by subjects."""
        is_medical = set(self.subjects.values()) <= set(SUBJECT_GROUPS["medical"])
        is_of_paper = self.kind == "mmlu" and self.subjects and is_medical
        return MMLU_MEDICAL if is_of_paper else self.kind


def of_run(run: RunDir) -> list[Score]:
    """Return the scores of a run by benchmark, model, checkpoint and mode, without damaged ones and
    those of other settings or files than the present ones.
    """
    paths = done_markers.current_results(run)
    return sorted(found(run.path("evaluations"), paths), key=lambda score: score.order)


def found(folder: Path, paths: Iterable[Path]) -> Iterator[Score]:
    """Yield the scores in some files under a folder."""
    for path in paths:
        results = read_small(path)
        if is_evaluation(results):
            place = path.parent.relative_to(folder).as_posix()
            del results["format"]
            yield Score(place, path.parent, results)


def is_evaluation(result: Mapping[str, Any]) -> bool:
    """Return whether a file has the fields of an evaluation's result."""
    try:
        from_fields(EvaluationFields, result)
    except ValueError:
        return False
    return True


def answers(run: RunDir, with_run: bool) -> Iterator[tuple[str, list[SafetyAnswer]]]:
    """Yield each model of a run that has answered questions without choices, and its answers.

    Args:
        run: that has answered.
        with_run: name the run too.
    """
    for path in sorted(run.path("evaluations").glob(f"*/*/*/{ANSWERS}")):
        name = path.parent.parent.name
        yield f"{run.name} {name}" if with_run else name, parsed(read_lines(path))
