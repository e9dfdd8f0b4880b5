"""Check the indexed datasets of a training, and record which tokens they hold.

A run's own datasets are compared with the done markers of tokenize. Those made elsewhere have no
record, so their identity is their size, modification time and sampled blocks. No torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contract import specs
from jobs.contract.errors import CONFIGURATION, RESUME, TaskError
from jobs.contract.files import sampled_sha256, sha256
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import OWN_RUN, PretrainSpec
from jobs.contract.units import plural
from jobs.data import corpora, tokenized, tokenizer_file
from jobs.data.indexed_dataset import Index, count_tokens, read_index
from jobs.data.mixture import CorpusSize, Mixture, mixture_of, require_same_phases
from jobs.data.tokenized import TRAIN, VALIDATION, TokenizedShard, side_by_side, written

if TYPE_CHECKING:
    import numpy

SCANNED_BYTES = 64 << 20
"""Bytes of tokens checked at submission and by ranks over all files of a split, an equal share at
the start of each, so that more shards do not slow a start. The stage ``index`` checks all of those
that meditron has not tokenized (``scan``), and ranks every batch when they read it."""

ENDS = 16
"""Documents of a dataset, at least, of which one is to end with the EOD token."""

SCANNED_BLOCK = 16 << 20
"""Bytes that a thread holds."""

DIGITS = 16
"""Hexadecimal digits of a file's digest in a checkpoint's record, which only names the file that
has changed."""


@dataclass(frozen=True)
class IndexedSource:
    """One indexed dataset that has tokens."""

    prefix: str
    """As the spec has it, without suffix."""
    documents: int
    tokens: int
    binary: str
    """SHA-256 of the ``.bin``; of a dataset made elsewhere, that of size and sampled blocks, and
    its modification time in nanoseconds."""
    index: str
    """SHA-256 of the ``.idx``."""
    tokenized: bool
    """Whether tokenize wrote it, in this run or another, with the tokenizer of the training."""


@dataclass(frozen=True)
class SurveyedCorpus:
    """The datasets of one corpus that have tokens."""

    train: tuple[IndexedSource, ...]
    validation: tuple[IndexedSource, ...]

    @property
    def size(self) -> CorpusSize:
        """Return documents and tokens to train on."""
        return CorpusSize(
            sum(source.documents for source in self.train),
            sum(source.tokens for source in self.train),
        )

    @property
    def digest(self) -> str:
        """Return the digest of the tokens. It does not depend on file names."""
        splits = {"train": self.train, "validation": self.validation}
        return specs.digest(
            {
                split: [(source.tokens, source.binary, source.index) for source in sources]
                for split, sources in splits.items()
            }
        )

    @property
    def files(self) -> dict[str, str]:
        """Return digests of all files by name, as checkpoints record them."""
        return {
            name: _shortened(content)
            for source in (*self.train, *self.validation)
            for name, content in (
                (f"{source.prefix}.bin", source.binary),
                (f"{source.prefix}.idx", source.index),
            )
        }


@dataclass(frozen=True)
class DatasetSurvey:
    """The corpora to train and validate on, and what determines the order of their samples."""

    corpora: Mapping[str, SurveyedCorpus]
    spec: PretrainSpec

    @property
    def train(self) -> tuple[IndexedSource, ...]:
        return tuple(source for corpus in self.corpora.values() for source in corpus.train)

    @property
    def validation(self) -> tuple[IndexedSource, ...]:
        return tuple(source for corpus in self.corpora.values() for source in corpus.validation)

    @cached_property
    def mixture(self) -> Mixture:
        """Return which corpus each sample is of."""
        sizes = {name: corpus.size for name, corpus in self.corpora.items()}
        return mixture_of(self.spec, sizes)

    def record(self, step: int) -> dict[str, Any]:
        """Return what determines the samples of a training up to a step, and how many of each
        corpus it has consumed, as the checkpoint of the step records it.
        """
        samples = step * self.spec.global_batch_size
        consumed, tokens = self.mixture.consumed(samples), self.mixture.tokens(samples)
        order = {
            "seed": self.spec.seed,
            "seq_length": self.spec.model.seq_length,
            "global_batch_size": self.spec.global_batch_size,
        }
        phases = self.mixture.started(step)
        digests = {name: corpus.digest for name, corpus in self.corpora.items()}
        return {
            "digest": specs.digest({"order": order, "phases": phases, "corpora": digests}),
            "order": order,
            "phases": phases,
            "corpora": {
                name: {
                    "digest": digests[name],
                    "samples": consumed.get(name, 0),
                    "tokens": tokens.get(name, 0),
                    "files": corpus.files,
                }
                for name, corpus in self.corpora.items()
            },
        }

    def require_same(
        self, run: RunDir, recorded: Mapping[str, Any], step: int, checkpoint: str
    ) -> None:
        """Refuse other samples than those that a checkpoint was trained on. Corpora may be added,
        and phases from its step on.

        Args:
            recorded: ``record`` when it was saved.
            step: its step.
            checkpoint: its name, for messages.

        Raises:
            TaskError: a file, a corpus, the order of samples or a phase that has started is
                another.
        """
        lost = f"{checkpoint} was saved, so the position in the tokens is lost"
        used = {
            name: corpus
            for name, corpus in recorded["corpora"].items()
            if corpus["samples"] or name in self.corpora
        }
        for name, corpus in used.items():
            mine = self.corpora.get(name)
            if mine is None or mine.digest != corpus["digest"]:
                files = mine.files if mine else {}
                _require_same_files(run, corpus["files"], files, checkpoint, lost)
        now = self.record(step)
        if now["order"] != recorded["order"]:
            raise TaskError(
                f"the order of samples (seed, sequence length or sequences per step) has changed "
                f"since {lost}",
                f"restore the old settings, then {RESUME}",
            )
        require_same_phases(self.spec, self.mixture, recorded["phases"], step, checkpoint)
        for name, corpus in used.items():
            if now["corpora"][name]["samples"] != corpus["samples"]:
                raise TaskError(
                    f"{checkpoint}: it has consumed {corpus['samples']:,} samples of the corpus "
                    f"{name!r}, by this order {now['corpora'][name]['samples']:,}",
                    f"use the code that saved it, then {RESUME}",
                )


def _require_same_files(
    run: RunDir, before: Mapping[str, str], now: Mapping[str, str], checkpoint: str, lost: str
) -> None:
    """Refuse other files of a corpus than a checkpoint was trained on.

    Raises:
        TaskError: a file, the set of files, or their order has changed.
    """
    for name in sorted(before.keys() & now.keys()):
        if before[name] == now[name]:
            continue
        path = run.path(name)
        content, _, moment = before[name].partition(" ")
        if moment and content == now[name].partition(" ")[0]:
            raise TaskError(
                f"{path} was written again since {checkpoint} was saved; only samples of its "
                "content were recorded, which have not changed",
                f"if it holds the same tokens, `{_touch(path, int(moment))}`, then {RESUME}",
            )
        raise TaskError(f"{path} has changed since {lost}", f"restore the old file, then {RESUME}")
    for name in sorted(before.keys() - now.keys()):
        raise TaskError(
            f"{run.path(name)} is no longer among the tokens; it was when {lost}",
            f"restore the old files, then {RESUME}",
        )
    for name in sorted(now.keys() - before.keys()):
        raise TaskError(
            f"{run.path(name)} has been added to the tokens since {lost}",
            f"name it as a corpus of its own in pretrain.corpora, then {RESUME}",
        )
    raise TaskError(
        f"the order of the files of a corpus has changed since {lost}",
        f"restore the old order, then {RESUME}",
    )


def _shortened(content: str) -> str:
    digest, space, moment = content.partition(" ")
    return digest[:DIGITS] + space + moment


def _touch(path: Path, moment: int) -> str:
    """Return the command that gives a file a modification time, in nanoseconds since 1970."""
    seconds, fraction = divmod(moment, 10**9)
    return shlex.join(["touch", f"--date=@{seconds}.{fraction:09d}", str(path)])


def survey(
    run: RunDir, spec: PretrainSpec, report: Callable[[], None] = lambda: None
) -> DatasetSurvey:
    """Check every indexed dataset of a spec and return those with tokens. Call it on one rank.

    Args:
        report: called after each dataset.

    Raises:
        TaskError: a file is missing, damaged or not what tokenize wrote; there is no training data,
            or too little for one batch or for ``max_epochs``; the tokens were made with another
            tokenizer, or look so, or are not in the model's vocabulary.
    """
    prefixes = {corpus.name: corpora.datasets(run, corpus) for corpus in spec.corpora}
    named = [prefix for found in prefixes.values() for prefix in found.all]
    surveyor = _Surveyor.of(run, spec, named, report)
    train = surveyor.sources([prefix for found in prefixes.values() for prefix in found.train])
    validation = surveyor.sources(
        [prefix for found in prefixes.values() for prefix in found.validation]
    )
    surveyed = {
        name: SurveyedCorpus(
            tuple(train[prefix] for prefix in found.train if prefix in train),
            tuple(validation[prefix] for prefix in found.validation if prefix in validation),
        )
        for name, found in prefixes.items()
    }
    if not train:
        datasets = sum(len(found.train) for found in prefixes.values())
        raise TaskError(
            f"no training tokens in {plural(datasets, 'indexed dataset')}",
            "see the counts of skipped documents in the tokenize stage's done markers",
        )
    corpora.require_enough(spec, {name: corpus.size for name, corpus in surveyed.items()})
    return DatasetSurvey(surveyed, spec)


def check_elsewhere(run: RunDir, spec: PretrainSpec, partly: bool = False) -> None:
    """Check the datasets of a spec that the run does not make itself, as far as that takes little
    time; raises like ``survey``.

    Args:
        partly: leave out what this machine does not have; without the tokenizer, everything.
    """
    if partly and not run.path(spec.tokenizer.path).is_file():
        return
    elsewhere: list[str] = []
    for corpus in spec.corpora:
        for data, split in ((corpus.data, TRAIN), (corpus.validation_data, VALIDATION)):
            named = [name for name in data if name != OWN_RUN]
            if partly:
                named = [name for name in named if _is_here(Path(name))]
            elsewhere += tokenized.prefixes(run, named, split)
    surveyor = _Surveyor.of(run, spec, elsewhere)

    def check(prefix: str) -> None:
        binary, _, entries = surveyor.open(prefix)
        surveyor.check_tokens(prefix, binary, entries, SCANNED_BYTES // len(elsewhere))

    for _ in side_by_side(check, elsewhere):
        pass


def _is_here(path: Path) -> bool:
    """Return whether this machine has a run, or both files of a dataset."""
    files = [path.with_name(f"{path.name}{end}") for end in (".bin", ".idx")]
    return path.is_dir() or all(file.is_file() for file in files)


@dataclass(frozen=True)
class _Surveyor:
    """The inputs of a survey."""

    run: RunDir
    spec: PretrainSpec
    written: Mapping[str, TokenizedShard]
    """The datasets that tokenize has written, in this run or another, by prefix."""
    eod: int | None
    """The token that ends documents of datasets made elsewhere; None: none has to."""
    report: Callable[[], None] = lambda: None

    @classmethod
    def of(
        cls,
        run: RunDir,
        spec: PretrainSpec,
        prefixes: Sequence[str],
        report: Callable[[], None] = lambda: None,
    ) -> _Surveyor:
        """Return the surveyor of some datasets."""
        made, eod = written(run, prefixes), None
        if spec.require_eod and any(
            Path(prefix).is_absolute() and prefix not in made for prefix in prefixes
        ):
            eod = tokenizer_file.eod_id(spec.tokenizer, run.path(spec.tokenizer.path))
        return cls(run, spec, made, eod, report)

    @cached_property
    def registry(self) -> str:
        """Return the digest of the training's vocabulary registry."""
        return specs.digest(self.spec.tokenizer.vocabulary)

    def sources(self, prefixes: Sequence[str]) -> dict[str, IndexedSource]:
        """Return those of the datasets that have tokens, by prefix."""
        share = SCANNED_BYTES // max(1, len(prefixes))
        found = {}
        for source in side_by_side(lambda prefix: self.source(prefix, share), prefixes):
            self.report()
            if source is not None:
                found[source.prefix] = source
        return found

    def source(self, prefix: str, scanned: int) -> IndexedSource | None:
        """Check a dataset; return None for one without tokens."""
        binary, index, entries = self.open(prefix)
        tokens = count_tokens(entries)
        index_digest = sha256(index)
        if Path(prefix).is_absolute():
            content = f"{sampled_sha256(binary)} {binary.stat().st_mtime_ns}"
        else:
            content = self.require_written(prefix, binary, index_digest)
        self.check_tokens(prefix, binary, entries, scanned)
        documents = len(entries.lengths)
        if not tokens:
            return None
        known = prefix in self.written
        return IndexedSource(prefix, documents, tokens, content, index_digest, known)

    def open(self, prefix: str) -> tuple[Path, Path, Index]:
        """Check the sizes of a dataset and with which tokenizer it was made; return ``.bin``,
        ``.idx`` and its content.
        """
        path = self.run.path(prefix)
        binary, index = path.with_name(f"{path.name}.bin"), path.with_name(f"{path.name}.idx")
        own = not Path(prefix).is_absolute()
        again = f"{RESUME} makes it again" if own else "make the dataset again"
        for file in (binary, index):
            if not file.is_file():
                raise TaskError(f"{file} is missing", again)
        try:
            entries = read_index(index)
        except TaskError as error:
            raise TaskError(error.message, again) from error
        size, expected = binary.stat().st_size, count_tokens(entries) * entries.kind.itemsize
        if size != expected:
            raise TaskError(
                f"{binary} has {size} bytes, by its index it has {expected}",
                again,
            )
        self.require_same_tokenizer(prefix, binary)
        return binary, index, entries

    def check_tokens(self, prefix: str, binary: Path, entries: Index, scanned: int) -> None:
        """Check the first token, if there is one, and as many more as ``scanned`` bytes hold; and
        the ends of the documents that begin in them.
        """
        import numpy

        if not binary.stat().st_size:
            return
        tokens = numpy.memmap(binary, dtype=entries.kind, mode="r")
        head = tokens[: max(1, scanned // entries.kind.itemsize)]
        refuse_outside(int(head.min()), int(head.max()), self.spec.model.vocab_size, str(binary))
        if self.eod is not None and prefix not in self.written:
            self.require_end(binary, tokens[last_places(entries, head.nbytes)])

    def require_end(self, binary: Path, ends: numpy.ndarray) -> None:
        """Refuse a dataset whose documents do not end as those of the training's tokenizer.

        Args:
            ends: the last tokens of some documents.

        Raises:
            NotAllowed: none is the EOD token.
        """
        import numpy

        if not len(ends) or (ends == self.eod).any():
            return
        values, counts = numpy.unique(ends, return_counts=True)
        most, end = int(counts.argmax()), self.spec.tokenizer.vocabulary.eod_token
        raise corpora.NotAllowed(
            f"{binary}: of its documents none ends with {end!r}, token {self.eod} of this "
            f"tokenizer; {len(ends)} were read, most end with token {values[most]}",
            "pretrain.require_eod=false",
            "it looks tokenized with another tokenizer, or without ends (`--append-eod` of "
            "Megatron-LM): tokenize it with this one, or set vocabulary.eod_token to the token "
            "that ends its documents; ",
        )

    def require_same_tokenizer(self, prefix: str, binary: Path) -> None:
        """Compare the tokenizer that a dataset of a run was made with, this one or another, with
        that of the training; refuse a dataset in the tokens of a run that no done marker names.
        """
        made, again = self.written.get(prefix), f"{RESUME} makes it again"
        if made is None:
            maker = tokenized.owner(Path(prefix)) if Path(prefix).is_absolute() else None
            if maker is not None and maker.path("tokens") in binary.parents:
                raise TaskError(
                    f"{binary} has no done marker of tokenize",
                    f"name the run in its place: {maker.root}",
                )
            return
        if Path(prefix).is_absolute():
            again = "name datasets that were made with it, or curate and tokenize in this run"
        if made.vocabulary != self.registry:
            message = f"{binary} was tokenized with another vocabulary registry than this run's"
            raise TaskError(message, again)
        ours = self.spec.tokenizer.sha256
        if made.tokenizer is not None and made.tokenizer != ours:
            raise TaskError(
                f"{binary} was tokenized with another tokenizer than this run's (SHA-256 "
                f"{made.tokenizer[:12]}, not {ours[:12]})",
                again,
            )

    def require_written(self, prefix: str, binary: Path, index_digest: str) -> str:
        """Compare a dataset of this run with its done marker; return the SHA-256 of its .bin.

        A file with the recorded modification time is compared by its sampled blocks, any other by
        all of its bytes.
        """
        made = self.written.get(prefix)
        if made is None:
            raise TaskError(f"{binary} has no done marker of tokenize", f"{RESUME} makes it again")
        recorded, recorded_index = made.outputs[f"{prefix}.bin"], made.outputs[f"{prefix}.idx"]
        stored = str(recorded["sha256"])
        if index_digest != recorded_index["sha256"]:
            raise _altered(binary.with_suffix(".idx"))
        stat = binary.stat()
        if stat.st_size != recorded["bytes"]:
            same = False
        elif stat.st_mtime_ns == recorded["mtime_ns"]:
            same = sampled_sha256(binary) == recorded.get("sampled_sha256")
        else:
            same = sha256(binary) == stored
        if not same:
            raise _altered(binary)
        return stored


def _altered(path: Path) -> TaskError:
    remove = shlex.join(["rm", str(path)])
    return TaskError(
        f"{path} is not what tokenize wrote: its content has changed since",
        f"`{remove}`, then {RESUME} makes it again",
    )


def last_places(entries: Index, scanned: int) -> numpy.ndarray:
    """Return the places of the last tokens of the documents that begin in the first bytes of a
    dataset, but of ``ENDS`` at least, where there are as many. Empty ones are left out.
    """
    import numpy

    begun = max(ENDS, int(numpy.searchsorted(entries.offsets, scanned)))
    lengths = entries.lengths[:begun]
    places: numpy.ndarray = lengths.cumsum(dtype="i8")[lengths > 0] - 1
    return places


def refuse_outside(smallest: int, largest: int, vocab_size: int, where: str) -> None:
    """Refuse a token that the model's vocabulary does not have.

    Raises:
        TaskError: the smallest token is negative, or the largest not below the vocabulary's size.
    """
    if smallest < 0 or largest >= vocab_size:
        token = smallest if smallest < 0 else largest
        raise TaskError(
            f"{where} holds token {token}, the model has a vocabulary of {vocab_size}",
            "tokenize with the tokenizer of this model, or set the model's vocabulary to its size",
            CONFIGURATION,
        )


@dataclass(frozen=True)
class _Block:
    """A stretch of a dataset's tokens."""

    prefix: Path
    entries: Index
    begin: int
    tokens: int

    @property
    def bytes(self) -> int:
        """Return its size."""
        return int(self.tokens * self.entries.kind.itemsize)


def scan(
    run: RunDir,
    sources: Iterable[IndexedSource],
    vocab_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    block_bytes: int = SCANNED_BLOCK,
) -> None:
    """Refuse a dataset with an id that is negative or not in a vocabulary.

    Args:
        progress: called after each block with the bytes that were read and those to read in all.

    Raises:
        TaskError: the first such id of a dataset, with its document and its position there.
    """
    blocks = [block for source in sources for block in _blocks(run, source, block_bytes)]
    done, total = 0, sum(block.bytes for block in blocks)
    for size in side_by_side(partial(_check_block, vocab_size), blocks):
        done += size
        progress(done, total)


def _blocks(run: RunDir, source: IndexedSource, block_bytes: int) -> list[_Block]:
    prefix = run.path(source.prefix)
    entries = read_index(prefix.with_name(f"{prefix.name}.idx"))
    step = block_bytes // entries.kind.itemsize
    return [
        _Block(prefix, entries, begin, min(step, source.tokens - begin))
        for begin in range(0, source.tokens, step)
    ]


def _check_block(vocab_size: int, block: _Block) -> int:
    """Refuse an id of a block that is outside of the vocabulary; return the block's bytes."""
    import numpy

    binary = block.prefix.with_name(f"{block.prefix.name}.bin")
    kind, offsets = block.entries.kind, block.entries.offsets
    with binary.open("rb") as file:
        file.seek(block.begin * kind.itemsize)
        ids = numpy.fromfile(file, kind, block.tokens)
    if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
        first = int(numpy.flatnonzero((ids < 0) | (ids >= vocab_size))[0])
        place = (block.begin + first) * kind.itemsize
        document = int(numpy.searchsorted(offsets, place, "right")) - 1
        position = (place - int(offsets[document])) // kind.itemsize
        token = int(ids[first])
        where = f"{binary}: document {document} at position {position}, both counted from 0,"
        refuse_outside(token, token, vocab_size, where)
    return block.bytes
