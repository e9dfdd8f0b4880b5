"""The epochs of a training's corpora as files: laid out once by the stage `index`, read by ranks.

The folder holds, for each corpus to train on and each to validate on, the shuffled documents of its
epochs one behind the other (``sample_order.Epoch``), and of each section, with a sequence length of
its own, the shuffled windows and what was unread before. Which corpus a sample is of is computed
(``mixture``). ``index.json`` has the sizes and what the files depend on. The folder gets
its name once it is complete. No torch.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contract.errors import TaskError
from jobs.contract.files import FormatError, fsync, fsync_folder, make_folder, read_json, write_json
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import PretrainSpec
from jobs.data import survey
from jobs.data.mixture import Mixture, Section, undivided
from jobs.data.sample_order import CorpusOrder, Epoch, TrainingOrder, Unread, Windows
from jobs.data.sample_reader import CorpusFiles, OrderedFiles, SampleReader
from jobs.data.survey import DatasetSurvey, IndexedSource
from jobs.data.tokenized import TRAIN, VALIDATION

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray

RECORD = "index.json"

KINDS = {"documents": "<i4", "ends": "<i8"}
"""Files of a corpus, and the type of a value; those of its sections have 64 bits too."""

BUILD = "{meditron submit index --run} builds it"


def build(
    run: RunDir,
    spec: PretrainSpec,
    report: Callable[[], None] = lambda: None,
    scanned: Callable[[int, int], None] = lambda done, total: None,
) -> DatasetSurvey:
    """Check the tokens of a training, and lay out its samples unless the run has them already.

    Args:
        report: called after each dataset and each epoch.
        scanned: called while the ids of datasets are checked that meditron has not tokenized, with
            bytes done and in all. Those of which the run has an index are not read again.

    Raises:
        TaskError: as ``survey.survey`` and ``survey.scan`` raise it.
        OSError: a file cannot be written.
    """
    datasets = survey.survey(run, spec, report)
    folder, found = run.path(spec.index_dir), layouts(spec, datasets)
    if _problem(folder, key(spec, found)):
        known = _scanned(folder)
        unknown = [source for source in made_elsewhere(found) if source.binary not in known]
        survey.scan(run, unknown, spec.model.vocab_size, scanned)
        write(run, spec, found, report)
    return datasets


def made_elsewhere(found: Iterable[Layout]) -> list[IndexedSource]:
    """Return the datasets that meditron has not tokenized, each once."""
    sources = {source.prefix: source for layout in found for source in layout.sources}
    return [source for source in sources.values() if not source.tokenized]


def _scanned(folder: Path) -> Sequence[str]:
    """Return the ``.bin`` files whose ids were all checked when the index in a folder was made."""
    try:
        found: Sequence[str] = read_json(folder / RECORD)["made_from"]["scanned"]
    except (FileNotFoundError, FormatError, KeyError):
        return ()
    return found


def require(run: RunDir, spec: PretrainSpec, datasets: DatasetSurvey) -> None:
    """Refuse to train without the samples that the stage ``index`` lays out. Call it on one rank.

    Raises:
        TaskError: they are missing, incomplete, or of other tokens or settings.
    """
    folder = run.path(spec.index_dir)
    if problem := _problem(folder, key(spec, layouts(spec, datasets))):
        raise TaskError(f"{folder}: {problem}", BUILD)


@dataclass(frozen=True)
class Layout:
    """The epochs of a corpus that a training or its validation reads."""

    split: str
    """``train`` or ``validation``."""
    corpus: str
    sources: tuple[IndexedSource, ...]
    samples: int
    sections: tuple[Section, ...]

    @property
    def folder(self) -> str:
        """Return its folder in the index. Validation has one of each sequence length."""
        length = f"-{self.sections[0].sequence_length}" if self.split == VALIDATION else ""
        return f"{self.split}-{self.corpus}{length}"

    def files(self, run: RunDir) -> CorpusFiles:
        """Return its indexed datasets."""
        return CorpusFiles.of(run, [source.prefix for source in self.sources])

    @property
    def epochs(self) -> int:
        """Return how many epochs its samples are of, at most."""
        ends = [*(section.first for section in self.sections[1:]), self.samples]
        tokens = sum(
            (end - section.first) * section.sequence_length
            for section, end in zip(self.sections, ends, strict=True)
        )
        return tokens // sum(source.tokens for source in self.sources) + 1


def layouts(spec: PretrainSpec, datasets: DatasetSurvey) -> list[Layout]:
    """Return what a training reads: of each corpus its samples, and those to validate on."""
    consumed = datasets.mixture.consumed(spec.sequences)
    held_out = spec.validation_batches * spec.global_batch_size
    found = []
    for name, corpus in datasets.corpora.items():
        if samples := consumed.get(name, 0):
            sections = tuple(datasets.mixture.sections(name, samples))
            found.append(Layout(TRAIN, name, corpus.train, samples, sections))
        if corpus.validation and held_out:
            found += [
                Layout(VALIDATION, name, corpus.validation, held_out, (Section(0, length),))
                for length in dict.fromkeys(map(spec.length_of, spec.phases))
            ]
    return found


def key(spec: PretrainSpec, found: Sequence[Layout]) -> dict[str, Any]:
    """Return what the files depend on, and the ``.bin`` files whose ids are all checked."""
    return {
        "seed": spec.seed,
        "scanned": [source.binary for source in made_elsewhere(found)],
        "corpora": {
            layout.folder: {
                "indexes": [source.index for source in layout.sources],
                "epochs": layout.epochs,
                "sections": [section._asdict() for section in layout.sections],
                "samples": layout.samples if len(layout.sections) > 1 else None,
            }
            for layout in found
        },
    }


def write(
    run: RunDir,
    spec: PretrainSpec,
    found: Iterable[Layout],
    report: Callable[[], None] = lambda: None,
) -> None:
    """Write the epochs of some corpora; replace what the folder held.

    Args:
        report: called after each epoch.

    Raises:
        OSError: a file cannot be written.
    """
    folder, listed = run.path(spec.index_dir), list(found)
    make_folder(folder.parent)
    for left in folder.parent.glob(f".{folder.name}.*"):  # by a writer that was killed
        shutil.rmtree(left, ignore_errors=True)
    made = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    made.mkdir()
    try:
        for layout in listed:
            _write_layout(made / layout.folder, run, spec, layout, report)
        paths = sorted(made.glob("*/*"))
        for path in paths:
            fsync(path)
        sizes = {str(path.relative_to(made)): path.stat().st_size for path in paths}
        write_json(made / RECORD, {"made_from": key(spec, listed), "files": sizes})
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
        fsync_folder(folder.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write_layout(
    folder: Path, run: RunDir, spec: PretrainSpec, layout: Layout, report: Callable[[], None]
) -> None:
    import numpy

    order = CorpusOrder(layout.files(run).lengths, layout.sections, spec.seed)
    folder.mkdir()
    with ExitStack() as opened:
        out = {name: opened.enter_context((folder / name).open("wb")) for name in KINDS}
        for number in range(layout.epochs):
            epoch = order.epoch(number)._asdict()
            for name, kind in KINDS.items():
                out[name].write(epoch[name].astype(kind, copy=False).tobytes())
            report()
    for section in range(len(layout.sections)):
        unread = order.section(section).unread
        runs = numpy.stack([unread.starts, unread.ends])
        (folder / f"unread-{section}").write_bytes(
            numpy.append([unread.position, unread.epoch], runs).astype("<i8").tobytes()
        )
        with (folder / f"windows-{section}").open("wb") as windows:
            for number in range(order.epochs_in(section, layout.samples)):
                windows.write(order.windows(section, number).astype("<i8", copy=False).tobytes())
                report()


def files(folder: Path) -> list[Path]:
    """Return the files of a complete folder, the record first."""
    return [folder / RECORD, *(folder / name for name in read_json(folder / RECORD)["files"])]


def _problem(folder: Path, made_from: Mapping[str, Any]) -> str:
    try:
        record = read_json(folder / RECORD)
        sizes = {name: (folder / name).stat().st_size for name in record["files"]}
    except (FileNotFoundError, FormatError, KeyError):
        return "the index of samples is missing or incomplete"
    if sizes != record["files"]:
        return "the index of samples is missing or incomplete"
    if record.get("made_from") != dict(made_from):
        return "the index of samples is of other tokens or settings than this training's"
    return ""


def read(run: RunDir, spec: PretrainSpec, datasets: DatasetSurvey) -> list[SampleReader]:
    """Return the splits of a training whose index is complete: its own, then one per corpus and
    sequence length to validate on. Files stay open while others replace them.
    """
    found = layouts(spec, datasets)

    def split(mixture: Mixture, some: Sequence[Layout]) -> OrderedFiles:
        files = {layout.corpus: layout.files(run) for layout in some}
        folder = run.path(spec.index_dir)
        orders = {
            layout.corpus: CorpusOrder(
                files[layout.corpus].lengths,
                layout.sections,
                spec.seed,
                _StoredOrder(files[layout.corpus], layout, _mapped(folder, layout)),
            )
            for layout in some
        }
        return OrderedFiles(TrainingOrder(mixture, orders), files)

    train = [layout for layout in found if layout.split == TRAIN]
    held_out = [
        (layout, undivided(layout.corpus, layout.sections[0].sequence_length))
        for layout in found
        if layout.split == VALIDATION
    ]
    mixture = datasets.mixture
    return [
        SampleReader("", spec.sequences, mixture.length_of, partial(split, mixture, train)),
        *(
            SampleReader(one.corpus, one.samples, alone.length_of, partial(split, alone, [one]))
            for one, alone in held_out
        ),
    ]


def _mapped(folder: Path, layout: Layout) -> dict[str, Array]:
    """Map all files of a layout at once, so that none is of an index that replaces this one."""
    import numpy

    sections = range(len(layout.sections))
    names = [*KINDS, *(f"{kind}-{n}" for kind in ("unread", "windows") for n in sections)]
    paths = {name: folder / layout.folder / name for name in names}
    return {
        name: numpy.memmap(path, KINDS.get(name, "<i8"), "r")
        for name, path in paths.items()
        if path.stat().st_size
    }


@dataclass(frozen=True)
class _StoredOrder:
    """The layout of a corpus's samples in a folder."""

    datasets: CorpusFiles
    layout: Layout
    files: Mapping[str, Array]
    """By name, those that are not empty."""

    def epoch(self, number: int) -> Epoch:
        documents = len(self.datasets.lengths)
        rows = slice(number * documents, (number + 1) * documents)
        return Epoch(*(self.files[name][rows] for name in KINDS))

    def windows(self, section: int, epoch: int) -> Array:
        length = self.layout.sections[section].sequence_length
        tokens = sum(source.tokens for source in self.layout.sources)
        found = Windows(tokens, length, self.unread(section))
        return self.files[f"windows-{section}"][found.first(epoch) : found.first(epoch + 1)]

    def unread(self, section: int) -> Unread:
        stored = self.files[f"unread-{section}"]
        starts, ends = stored[2:].reshape(2, -1)
        return Unread(starts, ends, int(stored[0]), int(stored[1]))
