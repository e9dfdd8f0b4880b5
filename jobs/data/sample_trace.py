"""Trace the sequences of a training step to documents, and a document to the steps that used it.

It takes the run's indexes, document maps and seed, and neither torch nor a GPU. The corpus and the
tokens add ids and texts, as far as they still exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contract.errors import TaskError
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import PretrainSpec
from jobs.data import corpora, document_map, sample_order, tokenized, tokenizer_file
from jobs.data.indexed_dataset import count_tokens
from jobs.data.mixture import CorpusSize, mixture_of
from jobs.data.sample_order import CorpusOrder, Stretch, TrainingOrder
from jobs.data.sample_reader import CorpusFiles

if TYPE_CHECKING:
    import numpy

MARK = ":"
"""Between an indexed dataset and the number of a document in it: ``tokens/train/00000:17``."""


@dataclass(frozen=True)
class DocumentRef:
    """A document of the training, and what is known of it."""

    corpus: str
    """Name of its corpus."""
    dataset: str
    """Prefix of its indexed dataset, as the run has it."""
    number: int
    """In the dataset, from 0."""
    shard: str | None
    """Path of the corpus shard; None for a dataset that no run has tokenized."""
    byte: int | None
    """Where its line begins in the shard."""
    id: str | None
    """None where the shard is gone, and for a dataset that no run has tokenized."""

    @property
    def name(self) -> str:
        """Return a name that needs no corpus."""
        return f"{self.dataset}{MARK}{self.number}"


@dataclass(frozen=True)
class Part:
    """Consecutive tokens of one document in a sequence."""

    document: DocumentRef
    offset: int
    """Of the first token, in tokens of the document."""
    tokens: int
    text: str | None
    """None where the tokens or the tokenizer are gone."""


@dataclass(frozen=True)
class TracedSequence:
    """One sequence of a training step."""

    number: int
    """In the global batch, from 0, whatever the layout."""
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class DocumentUse:
    """One use of a document by the training."""

    step: int
    sequence: int
    """In the global batch, from 0."""
    offset: int
    tokens: int


@dataclass(frozen=True)
class _Dataset:
    """An indexed dataset that has tokens."""

    corpus: str
    prefix: str
    path: Path
    first: int
    """Its first document, as one of the corpus."""
    size: int
    """Its documents."""
    shard: str | None
    """The corpus shard it was made of, as shown."""
    shard_path: Path | None
    documents: numpy.ndarray | None
    """Its document map."""


@dataclass
class Trace:
    """The samples of a run's training, and the documents they are made of."""

    run: RunDir
    spec: PretrainSpec
    missing: dict[str, None] = field(default_factory=dict)
    """Sentences about what could not be read so far."""
    _known: dict[tuple[str, int], DocumentRef] = field(default_factory=dict)

    @cached_property
    def files(self) -> dict[str, CorpusFiles]:
        """Return the training datasets with tokens of each corpus.

        Raises:
            TaskError: an index is missing or damaged, or tokenize has not finished.
        """
        prefixes = {c.name: corpora.datasets(self.run, c).train for c in self.spec.corpora}
        return {name: self._with_tokens(found) for name, found in prefixes.items()}

    @cached_property
    def datasets(self) -> list[_Dataset]:
        """Return the training's datasets with tokens."""
        return [
            dataset for name, files in self.files.items() for dataset in self._read(name, files)
        ]

    @cached_property
    def order(self) -> TrainingOrder:
        """Return the order of the training's samples."""
        files = self.files
        sizes = {
            name: CorpusSize(len(found.lengths), int(found.lengths.sum(dtype="i8")))
            for name, found in files.items()
        }
        mixture = mixture_of(self.spec, sizes)
        consumed = mixture.consumed(self.spec.sequences)
        return TrainingOrder(
            mixture,
            {
                name: CorpusOrder(
                    found.lengths,
                    mixture.sections(name, consumed.get(name, 0)),
                    self.spec.seed,
                )
                for name, found in files.items()
                if sizes[name].tokens
            },
        )

    def sequences(self, step: int, numbers: Sequence[int]) -> list[TracedSequence]:
        """Return some sequences of a step, which counts from 1."""
        size = self.spec.global_batch_size
        drawn = self.order.take((step - 1) * size, size)
        found = [[(drawn[n].corpus, s) for s in self.order.stretches(drawn[n])] for n in numbers]
        stretches = [stretch for parts in found for stretch in parts]
        texts = self._texts(stretches)
        return [
            TracedSequence(
                number,
                tuple(
                    Part(self._document(corpus, s.document), s.offset, s.tokens, next(texts))
                    for corpus, s in parts
                ),
            )
            for number, parts in zip(numbers, found, strict=True)
        ]

    def fingerprint(self, step: int) -> str | None:
        """Return the fingerprint of a step's samples, as training records it; None where the tokens
        are gone.
        """
        import numpy

        size, rows = self.spec.global_batch_size, []
        for drawn in self.order.take((step - 1) * size, size):
            parts = [self._ids(drawn.corpus, s) for s in self.order.stretches(drawn)]
            if any(part is None for part in parts):
                return None
            rows.append(numpy.concatenate([p for p in parts if p is not None])[:-1])
        tokens = numpy.stack(rows).astype(numpy.int32)
        return sample_order.fingerprint_text(sample_order.fingerprint(tokens, 0))

    def find(self, name: str) -> list[DocumentRef]:
        """Return the documents with an id, or the one that ``DocumentRef.name`` names."""
        prefix, _, number = name.rpartition(MARK)
        for dataset in self.datasets:
            is_named = dataset.prefix == prefix and number.isdecimal()
            if is_named and int(number) < dataset.size:
                return [self._document(dataset.corpus, dataset.first + int(number))]
        return list(self._with_id(name))

    def uses(self, document: DocumentRef, last_step: int) -> list[DocumentUse]:
        """Return where the steps up to one used a document."""
        size = self.spec.global_batch_size
        (number,) = (
            dataset.first + document.number
            for dataset in self.datasets
            if (dataset.corpus, dataset.prefix) == (document.corpus, document.dataset)
        )
        return [
            DocumentUse(use.sample // size + 1, use.sample % size, use.offset, use.tokens)
            for use in self.order.uses(document.corpus, number, last_step * size)
        ]

    def is_held_out(self, name: str) -> bool:
        """Return whether the validation split has a document of that id."""
        wanted = document_map.hashed(name)
        for corpus in self.spec.corpora:
            files = self._with_tokens(corpora.datasets(self.run, corpus).validation)
            for dataset in self._read(corpus.name, files):
                if dataset.documents is not None and (dataset.documents["id"] == wanted).any():
                    return True
        return False

    def _with_tokens(self, prefixes: Sequence[str]) -> CorpusFiles:
        files = CorpusFiles.of(self.run, prefixes)
        kept = [n for n, index in enumerate(files.indexes) if count_tokens(index)]
        return CorpusFiles.of(self.run, [prefixes[number] for number in kept])

    def _read(self, corpus: str, files: CorpusFiles) -> Iterator[_Dataset]:
        written = tokenized.written(self.run, files.prefixes)
        for number, (prefix, path) in enumerate(zip(files.prefixes, files.paths, strict=True)):
            made = written.get(prefix)
            shard = made.run.path(made.shard) if made and made.shard else None
            documents = len(files.indexes[number].lengths)
            yield _Dataset(
                corpus=corpus,
                prefix=prefix,
                path=path,
                first=files.first(number),
                size=documents,
                shard=None if shard is None else self.run.name_of(shard),
                shard_path=shard,
                documents=document_map.read(path, documents),
            )

    def _with_id(self, name: str) -> Iterator[DocumentRef]:
        import numpy

        wanted = document_map.hashed(name)
        for dataset in self.datasets:
            if dataset.documents is None:
                self._lack(f"{document_map.path_of(dataset.path)}: no document map of this dataset")
                continue
            for number in numpy.flatnonzero(dataset.documents["id"] == wanted):
                yield self._document(dataset.corpus, dataset.first + int(number))

    def _document(self, corpus: str, number: int) -> DocumentRef:
        """Return a document by its number in a corpus."""
        if (corpus, number) not in self._known:
            place = self.files[corpus].place(number)
            datasets = [dataset for dataset in self.datasets if dataset.corpus == corpus]
            found = self._read_document(datasets[place.dataset], place.number)
            self._known[corpus, number] = found
        return self._known[corpus, number]

    def _read_document(self, dataset: _Dataset, number: int) -> DocumentRef:
        if dataset.documents is None or dataset.shard_path is None:
            self._lack(f"{document_map.path_of(dataset.path)}: no document map of this dataset")
            return DocumentRef(dataset.corpus, dataset.prefix, number, dataset.shard, None, None)
        entry = dataset.documents[number]
        byte = int(entry["byte"])
        identity = self._id_at(dataset.shard_path, byte, int(entry["id"]))
        return DocumentRef(dataset.corpus, dataset.prefix, number, dataset.shard, byte, identity)

    def _id_at(self, shard: Path, byte: int, hashed: int) -> str | None:
        """Return the id of the document on the line that begins at a byte of a corpus shard."""
        import orjson

        try:
            with shard.open("rb") as file:
                file.seek(byte)
                line = next((line for line in file if line.strip()), b"")
        except OSError as error:
            self._lack(f"{shard}: {error.strerror}; ids are not known")
            return None
        try:
            record = orjson.loads(line)
            identity = document_map.identity(record, record["text"])
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            identity = None
        if identity is None or document_map.hashed(identity) != hashed:
            self._lack(f"{shard}: it has changed since it was tokenized; ids are not known")
            return None
        return identity

    def _texts(self, stretches: Sequence[tuple[str, Stretch]]) -> Iterator[str | None]:
        """Yield the text of each stretch; None where the tokens or the tokenizer are gone."""
        found = [self._ids(corpus, stretch) for corpus, stretch in stretches]
        ids = [part.tolist() for part in found if part is not None]
        decoder = self._decoder
        texts = iter(decoder.decode_batch(ids, skip_special_tokens=False) if decoder else ())
        return (None if part is None else next(texts, None) for part in found)

    def _ids(self, corpus: str, stretch: Stretch) -> numpy.ndarray | None:
        """Return the token ids of a stretch; None where the file is gone or cut short."""
        files = self.files[corpus]
        path = files.paths[files.place(stretch.document).dataset]
        binary = path.with_name(f"{path.name}.bin")
        try:
            ids = files.tokens(stretch)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is empty"
            self._lack(f"{binary}: {reason}; texts are not known")
            return None
        if len(ids) < stretch.tokens:
            self._lack(f"{binary}: it is cut short; texts are not known")
            return None
        return ids

    @cached_property
    def _decoder(self) -> Any:
        """Return the run's tokenizer; None where it is gone or has changed."""
        ref = self.spec.tokenizer
        try:
            tokenizer_file.require_unchanged(self.run, ref)
            return tokenizer_file.load(str(self.run.path(ref.path)))
        except TaskError as error:
            self._lack(f"{error.message}; texts are not known")
            return None

    def _lack(self, sentence: str) -> None:
        self.missing[sentence] = None
