"""The settings of a corpus: its sources and what is dropped of them. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.contract.corpus.benchmark_files import PUBLISHED, BenchmarkOptions


@dataclass(frozen=True)
class SourceSpec:
    """One source of a corpus."""

    path: str
    """Absolute path of a file or folder."""
    name: str
    """What its documents have as ``source``; sources of one name are counted together."""
    format: str
    """One of ``jobs.corpus.formats.read.FORMATS``; ``auto`` decides by the names of the files."""
    text_key: str
    id_key: str
    """Record key of the document id; without it the id is the digest of the text."""
    licence: str
    """As the manifest records it; empty where unknown."""
    languages: tuple[str, ...]
    """ISO 639-1 codes of the languages that are kept; none keeps every language."""
    quality: str
    """Name of a preset of quality rules; ``none`` for no rules."""
    min_chars: int
    """Documents with fewer characters after cleaning are dropped."""
    sample: float
    """Share of documents that are kept, chosen by seed and hashed id; 1 keeps all."""
    validation_fraction: float
    """Share of works, chosen by hashed id, in the validation split."""


@dataclass(frozen=True)
class NearDuplicatesSpec:
    """Find documents that have most of their shingles in common: MinHash and bands."""

    similarity: float
    """Jaccard similarity of two documents' shingles from which they are likely found."""
    words: int
    """Of a shingle."""


@dataclass(frozen=True)
class BenchmarkFile:
    """A benchmark whose questions no document may contain."""

    name: str
    path: str
    """Absolute."""
    kind: str
    """As in ``EvaluateSpec``."""
    options: BenchmarkOptions = PUBLISHED


@dataclass(frozen=True)
class DecontaminationSpec:
    """Drop documents that contain questions of benchmarks."""

    benchmarks: tuple[BenchmarkFile, ...]
    ngram: int
    """Words of an n-gram."""
    share: float
    """Share of a question's n-grams that a document must contain to be dropped."""


@dataclass(frozen=True)
class CorpusRules:
    """The rules that decide the bytes of a corpus. The number of tasks does not."""

    sources: tuple[SourceSpec, ...]
    """In the order of their rank: of equal documents, that of the first source is kept."""
    on_bad_record: str
    """``fail`` stops at the first record that is not readable or has no usable text; ``skip``
    counts it and copies it to ``rejected.jsonl``.
    """
    shards: int
    """Number of training shards; a document's shard is its digest modulo this number."""
    seed: int
    """Of samples and of copies."""
    mask: tuple[str, ...] = ()
    """What is masked in texts: ``email``, ``phone``."""
    drop: tuple[str, ...] = ()
    """Kinds of works that are dropped by their metadata: ``jobs.corpus.filtering.works.KINDS``."""
    upsample: float = 0.0
    """Copies of a work beyond the first, per point of the paper's score; 0 for none."""
    upsample_date: str = "2023-07-15"
    """Day from which the score counts the age of a work; the default is MEDITRON's."""
    upsample_journals: tuple[str, ...] = ()
    """Names of journals whose works have a point more. MEDITRON's, the 423 that UpToDate's editors
    read, are not public.
    """
    upsample_citations: tuple[float, ...] = ()
    """Citations per year that end the lowest quarter of works, and begin the highest; without them
    citations have no points.
    """
    near_duplicates: NearDuplicatesSpec | None = None
    decontamination: DecontaminationSpec | None = None
