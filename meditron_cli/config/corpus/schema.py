"""The model of the section ``curate``: the sources of a corpus, and what is dropped of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, NonNegativeInt, PositiveInt, Tag

from meditron_cli.config.field_types import (
    HUB_OR_PATH,
    OPERATIONAL,
    VARIANT,
    DataPath,
    DurationMinutes,
    Language,
    Line,
    Name,
    Share,
    listed,
)
from meditron_cli.config.section import Section

ALL = "all"
"""In place of names of benchmarks."""

FORMAT_NAMES = {
    "jats": "papers",
    "s2orc": "papers",
    "pubmed": "abstracts",
    "guidelines": "guidelines",
    "redpajama": "replay",
    "falcon": "replay",
    "starcoder": "replay",
}
"""Names of sources without one, by format."""

SUFFIXES = re.compile(
    r"(\.(jsonl|json|parquet|csv|tsv|txt|xml|nxml|tar|tgz|gz|zst|bz2|xz))+$", re.IGNORECASE
)
"""Of files of documents."""


class Source(Section):
    """One source of a corpus."""

    path: DataPath
    """A file or folder, relative to the file that names it, or ``hf://datasets/ORG/NAME/PATH``."""
    name: Name | None = None
    """What its documents have as ``source``, and the counts of sources are called; default:
    ``papers`` (jats, s2orc), ``abstracts`` (pubmed), ``guidelines``, ``replay`` (redpajama, falcon,
    starcoder), by its format; else the name of the file or folder."""
    format: Literal[
        "auto",
        "jsonl",
        "parquet",
        "csv",
        "text",
        "jats",
        "pubmed",
        "s2orc",
        "guidelines",
        "redpajama",
        "falcon",
        "starcoder",
    ] = "auto"
    """Layout of its files (docs/corpus.md); ``auto`` decides by their names."""
    text_key: str | None = None
    """Record key that holds the text; default: curate.text_key."""
    id_key: str | None = None
    """Record key of the document's id; default: curate.id_key."""
    licence: Line = ""
    """Licence of its documents, for the manifest."""
    languages: Annotated[tuple[Language, ...], BeforeValidator(listed)] = ()
    """Languages to keep, ISO 639-1 codes (``en``); [] keeps every language."""
    quality: Literal["none", "gopher", "fineweb", "abstracts"] = "none"
    """Rules of quality: those published as Gopher or FineWeb, or ours for abstracts."""
    min_chars: NonNegativeInt | None = None
    """Shorter documents are dropped; default: curate.min_chars."""
    sample: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of its documents to keep, chosen by seed and hashed id. MEDITRON's replay: 0.0004."""
    validation_fraction: Share | None = None
    """Share of its works held out; default: curate.validation_fraction."""

    @property
    def name_or_default(self) -> str:
        """Return its name, the default one where it has none."""
        return (
            self.name or FORMAT_NAMES.get(self.format) or SUFFIXES.sub("", PurePath(self.path).name)
        )


IN_SHORT, WITH_KEYS = f"{VARIANT}path", f"{VARIANT}keys"


def form_of(source: Any) -> str:
    """Return whether a source is written as its path alone, or with keys."""
    return WITH_KEYS if isinstance(source, dict | Source) else IN_SHORT


AnySource = Annotated[
    Annotated[DataPath, Tag(IN_SHORT)] | Annotated[Source, Tag(WITH_KEYS)],
    HUB_OR_PATH,
    Discriminator(form_of),
]


class NearDuplicates(Section):
    """Documents that have most of their runs of words in common (MinHash)."""

    similarity: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of runs of words in common (Jaccard) from which one of two documents is dropped, such
    as 0.8; null keeps near duplicates."""
    words: Annotated[PositiveInt, Field(le=100)] = 5
    """Words of a run."""


class Decontaminate(Section):
    """Documents that contain questions of benchmarks. The numbers are MEDITRON's for MedQA (arXiv
    2311.16079, appendix B.5)."""

    benchmarks: Annotated[tuple[Name, ...], BeforeValidator(listed)] = ()
    """Names of evaluate.benchmarks whose questions no document may contain, or ``all``; [] compares
    with none. With ``all``, a benchmark that is added later changes the corpus."""
    ngram: Annotated[PositiveInt, Field(le=100)] = 8
    """Words of the runs that a document and a question are compared by."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of a question's runs of words from which a document is dropped that contains them."""


QUARTERS = 2
"""Limits of citations: the end of the lowest quarter of works, the begin of the highest."""


class Upsample(Section):
    """Copies of works by MEDITRON's score, so that good evidence is read more often (arXiv
    2311.16079, table 10 and appendix B.4)."""

    factor: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Copies of a work beyond the first, per point of its score; 0 for none."""
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")] = "2023-07-15"
    """Day from which the ages of works count."""
    journals: Annotated[tuple[Line, ...], BeforeValidator(listed)] = ()
    """Journals whose works have a point more. MEDITRON's list of 423 is not public."""
    citations: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Citations per year that end the lowest quarter of works, and begin the highest: two numbers;
    [] gives citations no points."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that the day exists, and that the two limits of citations ascend."""
        try:
            date.fromisoformat(self.date)
        except ValueError:
            yield "date", f"there is no day {self.date}"
        if self.citations and (
            len(self.citations) != QUARTERS or list(self.citations) != sorted(self.citations)
        ):
            yield "citations", "name two numbers, the smaller one first, or none"


class Curate(Section):
    """Raw documents to clean JSONL shards."""

    sources: tuple[AnySource, ...] = ()
    """Files or folders, relative to the file that names them, or ``hf://datasets/ORG/NAME/PATH``
    (as ``path`` of a benchmark); each alone, or with settings of its own as ``{path, format, name,
    …}``. Of equal documents, that of the first source is kept. Layouts (docs/data.md):

    - .jsonl, .jsonl.gz, .jsonl.zst: an object per line, {"id", "text"}
    - .json, .json.gz, .json.zst: an array of such objects, or an object per line
    - .parquet: a row per document, columns id and text
    - .nxml, .xml, .tar.gz: articles in JATS, alone or in bundles; .xml too: PubMed's citations
    """
    text_key: str = "text"
    """Record key that holds the text."""
    id_key: str = "id"
    """Record key of the document's id; without an id, the text's digest is used."""
    min_chars: NonNegativeInt = 100
    """Shorter documents are dropped (characters, after normalisation)."""
    on_bad_record: Literal["fail", "skip"] = "fail"
    """Effect of a record that is not JSON or has no text: stop, or count and set it aside."""
    shards: Annotated[int, Field(gt=0, le=10000)] = 8
    """Training shards, each tokenized by its own task."""
    validation_fraction: Share = 0.03
    """Share of documents held out, chosen by hashed id. MEDITRON: 0.03 (arXiv 2311.16079, T1)."""
    mask: Annotated[tuple[Literal["email", "phone"], ...], BeforeValidator(listed)] = ()
    """What is masked in texts: ``email`` addresses, ``phone`` numbers."""
    drop: Annotated[
        tuple[Literal["retracted", "preprint", "animals", "veterinary"], ...],
        BeforeValidator(listed),
    ] = ()
    """Kinds of works that are dropped, where a source's metadata tell."""
    upsample: Upsample = Upsample()
    """Works that are written more than once, by MEDITRON's score; by default none is."""
    near_duplicates: NearDuplicates = NearDuplicates()
    """Documents that have most of their runs of words in common; by default they are kept."""
    decontaminate: Decontaminate = Decontaminate()
    """Documents that contain questions of benchmarks; by default they are kept."""
    tasks: Annotated[PositiveInt, OPERATIONAL, Field(le=10000)] = 1
    """Tasks that read and clean; the corpus is the same with any number. One task makes the whole
    corpus; several are an array of the stage ``clean``, before ``deduplicate`` and ``curate``."""
    task_mb: Annotated[NonNegativeInt | None, OPERATIONAL] = None
    """MB of files per task at least: fewer ``tasks`` are planned for small sources, since a task of
    less than a minute costs more than it saves; 0 plans all of them. Default: what a task cleans in
    a minute, as measured in earlier runs of the experiment, else 200."""
    max_parallel: Annotated[PositiveInt, OPERATIONAL] = 64
    """Tasks that run at once."""
    cpus: Annotated[PositiveInt, OPERATIONAL] = 2
    """Cores of one task."""
    time_minutes: Annotated[DurationMinutes, OPERATIONAL] = 240
    """Time limit of one task; another one continues at the files that this one finished."""

    @property
    def named(self) -> tuple[Source, ...]:
        """Return the sources, those without keys too."""
        return tuple(
            Source(path=source) if isinstance(source, str) else source for source in self.sources
        )
