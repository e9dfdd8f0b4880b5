"""The library that encodes texts: ``tokenizers``, or gigatoken, which gives the same ids ten times
as fast. Whether it does is compared before and while it encodes.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from jobs.contract.errors import CONFIGURATION, FAILED, TaskError
from jobs.contract.stage_specs import VocabularySpec
from jobs.data.difficult_texts import difficult_texts
from jobs.data.tokenizer_file import HINT

if TYPE_CHECKING:
    import numpy

AUTO, GIGATOKEN, TOKENIZERS = "auto", "gigatoken", "tokenizers"
"""The values of ``tokenize.engine``."""

HINT_AUTO = "set tokenize.engine to auto, which takes tokenizers then"

FIRST_CHARACTERS = 1 << 17
"""Of the first texts, which are all compared."""
COMPARED_EVERY = 1000
"""After them, one text in so many is compared."""
COMPARED_CHARACTERS = 1 << 14
"""Longer texts are compared up to here: ``tokenizers`` takes 150 bytes of memory per character."""

CACHE_BYTES = 160 << 20
"""Growth of the process after which gigatoken is made anew: it keeps every word that it has met."""


class Encoded(NamedTuple):
    """The ids of some texts."""

    ids: numpy.ndarray
    """Of all texts back to back, uint32 ``[tokens]``."""
    lengths: numpy.ndarray
    """Tokens of each text, int64 ``[texts]``."""


class Engine(Protocol):
    """A library with a tokenizer. Nothing is added to a text, cut off it or filled up."""

    name: str
    characters: int
    """Of the texts to encode at a time, about."""

    def encode(self, texts: list[str]) -> Encoded:
        """Return the ids of texts.

        Raises:
            TaskError: the library has lost a text.
        """


@dataclass(frozen=True)
class EngineData:
    """The ``tokenizer.json`` of a corpus, as each library takes it."""

    tokenizers: bytes
    """With every added token: the library numbers them by their place."""
    gigatoken: bytes
    """Without those that no text contains."""
    special_tokens_in_text: bool

    @classmethod
    def of(
        cls, content: dict[str, Any], vocabulary: VocabularySpec, special_tokens_in_text: bool
    ) -> EngineData:
        """Return what texts of a corpus are encoded with.

        No name in a text becomes one of the registry's tokens or another special token: they stand
        where the curator put them. Added tokens that are neither, such as runs of spaces in some
        vocabularies, belong to the base tokenizer and stay.

        Args:
            content: the parsed ``tokenizer.json`` of the run.
            vocabulary: the registry.
            special_tokens_in_text: every name of an added token in a text becomes that token.
        """
        import orjson

        unused = {"truncation": None, "padding": None, "post_processor": None}
        whole = left = content.get("added_tokens") or []
        if not special_tokens_in_text:
            ours = set(reserved(content, vocabulary))
            whole = [item | {"special": item["content"] in ours} for item in whole]
            left = [item for item in whole if not item["special"]]
        base = {**content, **unused}
        return cls(
            orjson.dumps({**base, "added_tokens": whole}),
            orjson.dumps({**base, "added_tokens": left}),
            special_tokens_in_text,
        )


def reserved(content: dict[str, Any], vocabulary: VocabularySpec) -> list[str]:
    """Return the tokens that no text contains: those of the registry, and special ones."""
    added = content.get("added_tokens") or []
    special = (entry["content"] for entry in added if entry.get("special"))
    roles = (vocabulary.eod_token, vocabulary.bos_token, vocabulary.eos_token)
    return list(dict.fromkeys(filter(None, (*vocabulary.added_tokens, *roles, *special))))


@dataclass
class TokenizersEngine:
    """The library ``tokenizers``, whose ids are the right ones."""

    data: EngineData
    name: str = TOKENIZERS
    characters: int = 1 << 20

    def __post_init__(self) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_buffer(self.data.tokenizers)
        self._tokenizer.encode_special_tokens = not self.data.special_tokens_in_text

    def encode(self, texts: list[str]) -> Encoded:
        import numpy

        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        require_all(self.name, len(encodings), texts)
        ids, lengths = array("I"), array("q")
        for encoding in encodings:  # fromlist is four times as fast as numpy.array
            ids.fromlist(found := encoding.ids)
            lengths.append(len(found))
        return Encoded(numpy.asarray(ids), numpy.asarray(lengths))


def resident() -> int:
    """Return the bytes that this process has in memory; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass
class GigatokenEngine:
    """The library gigatoken, in one thread: tasks share the work out. It is made anew before its
    cache exceeds a limit.
    """

    data: EngineData
    cache_bytes: int = CACHE_BYTES
    memory: Callable[[], int] = resident
    name: str = GIGATOKEN
    characters: int = 1 << 21
    made: int = 0
    """How often it was made."""

    def __post_init__(self) -> None:
        self._make()

    def _make(self) -> None:
        import gigatoken

        self._tokenizer: Any = None  # free the old cache first
        self._tokenizer = gigatoken.Tokenizer.from_json(self.data.gigatoken)
        self._tokenizer.encode_batch(["warm up"], parallel=False)
        self._before = self.memory()
        self.made += 1

    def encode(self, texts: list[str]) -> Encoded:
        import numpy

        if self.memory() - self._before > self.cache_bytes:
            self._make()
        # One call per batch: after one per text, this thread would wait for the others each time.
        rows = self._tokenizer.encode_batch(texts, parallel=False).layout
        require_all(self.name, len(rows), texts)
        ends = numpy.asarray(rows.offsets.data)
        ids = numpy.asarray(rows.content.data)[ends[0] : ends[-1]]
        return Encoded(ids, numpy.diff(ends).astype("i8"))


def require_all(name: str, found: int, texts: Sequence[str]) -> None:
    """Refuse the result of a library that has lost a text.

    Raises:
        TaskError: there are fewer results than texts, or more.
    """
    if found != len(texts):
        message = f"{name} encoded {found} of {len(texts)} texts"
        raise TaskError(message, f"upgrade the library: `pip install --upgrade {name}`", FAILED)


class EngineDiffers(Exception):
    """Gigatoken gave other ids than ``tokenizers``, or failed."""


@dataclass
class CheckedEngine:
    """An engine whose ids are compared with those of ``tokenizers`` on the first texts, and on one
    in ``COMPARED_EVERY`` after them.
    """

    fast: Engine
    reference: Engine
    compared: int = 0
    """Texts that were compared."""

    def __post_init__(self) -> None:
        self.name, self.characters = self.fast.name, self.fast.characters
        self._first = FIRST_CHARACTERS
        self._until_next = 0

    def encode(self, texts: list[str]) -> Encoded:
        """Return the ids of texts.

        Raises:
            EngineDiffers: the ids of a text differ, or the library failed.
        """
        import numpy

        try:
            found = self.fast.encode(texts)
        except BaseException as error:  # a panic of the library is no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            raise EngineDiffers(f"it failed: {error}") from error
        if places := self._due(texts):
            chosen = [texts[place][:COMPARED_CHARACTERS] for place in places]
            ends = numpy.cumsum(found.lengths)
            parts = [found.ids[ends[p] - found.lengths[p] : ends[p]] for p in places]
            cut = [n for n, place in enumerate(places) if len(texts[place]) > len(chosen[n])]
            for number in cut:
                parts[number] = self.fast.encode([chosen[number]]).ids
            self.compare(chosen, parts)
        return found

    def _due(self, texts: list[str]) -> list[int]:
        """Return the places of the texts to compare."""
        places, place = [], 0
        while self._first > 0 and place < len(texts):
            places.append(place)
            self._first -= len(texts[place][:COMPARED_CHARACTERS])
            place += 1
        after = range(place + self._until_next, len(texts), COMPARED_EVERY)
        self._until_next += len(after) * COMPARED_EVERY - (len(texts) - place)
        return [*places, *after]

    def compare(self, texts: list[str], found: Sequence[numpy.ndarray]) -> None:
        """Compare the ids of some texts; raise as ``encode``."""
        expected = self.reference.encode(texts)
        start = 0
        for text, ids, length in zip(texts, found, expected.lengths.tolist(), strict=True):
            if ids.tolist() != (right := expected.ids[start : start + length].tolist()):
                raise EngineDiffers(difference(text, ids.tolist(), right))
            start += length
        self.compared += len(texts)


def difference(text: str, ids: list[int], expected: list[int]) -> str:
    """Return where the ids of a text differ, short enough for a record."""
    place = next(
        (n for n, pair in enumerate(zip(ids, expected, strict=False)) if pair[0] != pair[1]),
        min(len(ids), len(expected)),
    )
    return (
        f"{text[:60]!r} gives {ids[place : place + 4]} at token {place}, "
        f"not {expected[place : place + 4]}"
    )


class Choice(NamedTuple):
    """An engine, and why it is not the fast one."""

    engine: Engine
    reason: str
    """Empty where nothing was given up."""


def choose(wanted: str, data: EngineData, names: Sequence[str]) -> Choice:
    """Return the engine for a ``tokenizer.json``.

    Args:
        wanted: ``tokenize.engine``.
        data: its file.
        names: of tokens, to be compared in texts.

    Raises:
        TaskError: the file is no tokenizer; gigatoken is wanted and cannot be used.
    """
    try:
        reference = TokenizersEngine(data)
    except Exception as error:  # the library raises nothing more specific
        message = f"not a tokenizer.json of Hugging Face tokenizers ({error})"
        raise TaskError(message, HINT) from error
    if wanted == TOKENIZERS:
        return Choice(reference, "")
    try:
        engine = CheckedEngine(GigatokenEngine(data), reference)
        texts = difficult_texts(tuple(names))
        engine.compare(texts, [engine.fast.encode([text]).ids for text in texts])
    except BaseException as error:  # a panic of the library is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        reason = unusable(error)
    else:
        return Choice(engine, "")
    if wanted == GIGATOKEN:
        raise TaskError(reason, HINT_AUTO, CONFIGURATION)
    return Choice(reference, reason)


def unusable(error: BaseException) -> str:
    """Return why gigatoken is not used."""
    if isinstance(error, ImportError):
        return f"gigatoken cannot be imported ({error})"
    if isinstance(error, EngineDiffers):
        return f"gigatoken differs from tokenizers: {error}"
    return f"gigatoken cannot use this tokenizer ({error})"
