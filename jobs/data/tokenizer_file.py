"""The tokenizer of a run: read, checked against the run's digest and its vocabulary registry, and
made ready to encode.

Reading and checking take the standard library alone, so that the login node can do them too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.contract import done_markers, rundir
from jobs.contract.errors import FAILED, RESUME, TaskError
from jobs.contract.files import parse_json
from jobs.contract.stage_specs import TokenizerRef, VocabularySpec
from jobs.contract.units import plural

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HINT = "set tokenize.tokenizer to a tokenizer.json"
MAX_BYTES = 256 * 2**20
"""No tokenizer.json is larger; something else was named by mistake."""


@dataclass(frozen=True)
class TokenTable:
    """The tokens of a ``tokenizer.json``."""

    ids: dict[str, int]
    """Id of every token, added ones included."""
    special: dict[str, bool]
    """Added tokens, and whether each is marked special."""

    @property
    def size(self) -> int:
        """Return the largest id plus one."""
        return 1 + max(self.ids.values(), default=-1)


def read_tokens(path: Path) -> TokenTable:
    """Read the tokens of a Hugging Face ``tokenizer.json``.

    Raises:
        ValueError: not such a file.
        OSError: it cannot be read.
    """
    return token_table(_parse(path))


def _parse(path: Path) -> Any:
    """Parse a ``tokenizer.json``; raise as ``read_tokens``."""
    if path.is_dir() or path.stat().st_size > MAX_BYTES:
        raise ValueError("a folder, or far too large")
    return parse_json(path.read_bytes())


def token_table(content: Any) -> TokenTable:
    """Return the tokens of a parsed ``tokenizer.json``.

    Models keep their vocabulary as a mapping (BPE, WordPiece, WordLevel) or as a list of pairs
    whose place is the id (Unigram).

    Raises:
        ValueError: not the content of one.
    """
    try:
        vocabulary = content["model"]["vocab"]
        if isinstance(vocabulary, list):
            vocabulary = {item[0]: number for number, item in enumerate(vocabulary)}
        ids = {str(token): int(number) for token, number in vocabulary.items()}
        entries = content.get("added_tokens") or []
        ids.update({item["content"]: int(item["id"]) for item in entries})
        special = {item["content"]: bool(item.get("special")) for item in entries}
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError("it has no model with a vocabulary") from error
    return TokenTable(ids, special)


class Mismatch(NamedTuple):
    """A difference between a tokenizer and a vocabulary registry."""

    key: str
    """Key of the experiment that holds the registry's side."""
    problem: str
    """A clause about the tokenizer."""
    hint: str


BUILD = "`meditron tokenizer build --help` shows how to make a tokenizer.json with these tokens"


def unused_rows_hint(rows: int, tokens: int, vocabulary: VocabularySpec) -> str:
    """Return the settings for a base model whose embedding has more rows than there are tokens.

    Args:
        rows: of the base model's embedding.
        tokens: of its tokenizer.
        vocabulary: with the tokens to add.
    """
    whole = max(rows, tokens + len(vocabulary.added_tokens))
    return (
        f"if the base model has {rows} rows for {tokens} tokens, set vocabulary.unused_rows to "
        f"{rows - tokens} and model.vocab_size to {whole}"
    )


def mismatches(table: TokenTable, vocabulary: VocabularySpec) -> Iterator[Mismatch]:
    """Yield the differences that keep a tokenizer from being that of a registry: at most one of
    the added tokens, and each role without a token.
    """
    if added := added_mismatch(table, vocabulary):
        first = table.ids.get(vocabulary.added_tokens[0], vocabulary.base_size)
        lower = first < vocabulary.base_size
        hint = unused_rows_hint(vocabulary.base_rows, first, vocabulary) if lower else BUILD
        yield Mismatch(*added, hint)
    listed = ", ".join(list(table.special)[:10]) or "none"
    keys = {getattr(vocabulary, name): name for name in ("eos_token", "bos_token", "eod_token")}
    for token, name in keys.items():
        if token and token not in table.ids and token not in vocabulary.added_tokens:
            key = f"vocabulary.{name}"
            hint = f"set {key} to one it has (its added tokens: {listed})"
            yield Mismatch(key, f"no token {token!r} in the vocabulary", hint)


def added_mismatch(table: TokenTable, vocabulary: VocabularySpec) -> tuple[str, str] | None:
    """Return the key and the problem of the first added token that differs; None without one."""
    key, added = "vocabulary.added_tokens", vocabulary.added_tokens
    if missing := [token for token in added if token not in table.ids]:
        return key, (
            f"{len(added) - len(missing)} of {plural(len(added), 'added token')} in the "
            f"vocabulary of {table.size}; the first that it lacks is {missing[0]!r}"
        )
    for wanted, token in enumerate(added, vocabulary.base_size):
        if table.ids[token] != wanted:
            return key, f"{token!r} has the id {table.ids[token]}, not {wanted}"
        if token not in table.special:
            return key, f"{token!r} is an entry of its model, not an added token"
        if table.special[token] != (token in vocabulary.control_tokens):
            marked = "special" if table.special[token] else "plain"
            return "vocabulary.control_tokens", f"{token!r} is marked {marked}"
    return None


def require_tokens(ref: TokenizerRef, path: Path | None = None) -> TokenTable:
    """Return the tokens of a run's tokenizer, which must be that of the run's registry.

    Args:
        ref: the tokenizer and the registry.
        path: where the file is; by default the one that ``ref`` names.

    Raises:
        TaskError: the file is no tokenizer.json, or differs from the registry.
    """
    return require_content(ref, path)[0]


def eod_id(ref: TokenizerRef, path: Path) -> int:
    """Return the id of the token that ends a document.

    Args:
        ref: the tokenizer and the registry.
        path: where the file is. It is read where the base model's tokens have the id.

    Raises:
        TaskError: as ``require_tokens`` raises it.
    """
    vocabulary = ref.vocabulary
    if vocabulary.eod_token in vocabulary.added_tokens:
        return vocabulary.base_size + vocabulary.added_tokens.index(vocabulary.eod_token)
    return require_tokens(ref, path).ids[vocabulary.eod_token]


def require_content(
    ref: TokenizerRef, path: Path | None = None
) -> tuple[TokenTable, dict[str, Any]]:
    """Return the tokens of a run's tokenizer and the parsed file, as ``require_tokens`` does; both
    with the tokens that it has grown by.
    """
    place = path or Path(ref.path)
    try:
        content = _parse(place)
        table = token_table(content)
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"{place}: not a tokenizer.json of Hugging Face tokenizers ({reason})"
        raise TaskError(message, HINT) from error
    for mismatch in mismatches(table, ref.vocabulary):
        raise TaskError(f"{place}: {mismatch.problem}", mismatch.hint)
    if not ref.grown:
        return table, content
    for token in ref.grown:
        if token in table.ids:
            hint = "leave it out of finetune.added_tokens"
            raise TaskError(f"{place}: the vocabulary has the token {token!r} already", hint)
    entries = [_entry(token, number) for number, token in enumerate(ref.grown, table.size)]
    content = {**content, "added_tokens": [*(content.get("added_tokens") or []), *entries]}
    return token_table(content), content


def _entry(token: str, number: int) -> dict[str, Any]:
    """Return a special token as a ``tokenizer.json`` has it."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **plain, "special": True}


@dataclass(frozen=True)
class Encoder:
    """A tokenizer ready for prompts: nothing is added to a text, cut off it or filled up.

    A prompt has no spans, so that the name of a markup token in it is that token, as in an export;
    in documents of a corpus it is text (``jobs.tokenization.documents``).
    """

    tokenizer: Tokenizer
    eod: int
    """Id of the token that ends a document."""
    bos: int | None
    """Id of the token before each document; None where documents have none."""

    @property
    def prefix(self) -> int:
        """Return the id that stands before the first token of a text: BOS, else the end of the
        document before.
        """
        return self.eod if self.bos is None else self.bos

    @classmethod
    def load(cls, ref: TokenizerRef, *, special_tokens_in_text: bool = False) -> Encoder:
        """Read a ``tokenizer.json`` and make it ready.

        Truncation, padding and tokens to put around a text that the file configures are not used.
        An added token that is not special becomes its id wherever a text contains it, such as
        ``[fig]``: MEDITRON's corpus marks citations, figures and formulas so (arXiv 2311.16079,
        appendix B.2.1).

        Args:
            special_tokens_in_text: the name of a special token inside a text becomes that token;
                otherwise it is ordinary text.

        Raises:
            TaskError: the file is missing, is no tokenizer, or is not that of the registry.
        """
        tokenizer = load(ref.path)
        table = require_tokens(ref)
        _grow(tokenizer, table, ref)
        return cls.prepare(tokenizer, table, ref.vocabulary, special_tokens_in_text)

    @classmethod
    def prepare(
        cls,
        tokenizer: Tokenizer,
        table: TokenTable,
        vocabulary: VocabularySpec,
        special_tokens_in_text: bool = False,
    ) -> Encoder:
        """Make a tokenizer ready, with the tokens of its file, which have those of the registry."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = not special_tokens_in_text
        if not special_tokens_in_text:
            shield_roles(tokenizer, table, vocabulary)
        bos = vocabulary.bos_token
        return cls(tokenizer, table.ids[vocabulary.eod_token], table.ids[bos] if bos else None)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without BOS and end."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without BOS and ends.

        Raises:
            TaskError: the library returned another number of encodings than there are texts.
        """
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        if len(encodings) != len(texts):
            message = f"the tokenizer encoded {len(encodings)} of {len(texts)} documents"
            hint = "upgrade the library: `pip install --upgrade tokenizers`"
            raise TaskError(message, hint, FAILED)
        return [encoding.ids for encoding in encodings]


def _grow(tokenizer: Tokenizer, table: TokenTable, ref: TokenizerRef) -> None:
    """Add the tokens that a tokenizer has grown by.

    Raises:
        TaskError: the library gives one another id, as where the ids of the file have a gap.
    """
    from tokenizers import AddedToken

    if ref.grown:
        tokens = [AddedToken(token, special=True, normalized=False) for token in ref.grown]
        tokenizer.add_special_tokens(tokens)
    for token in ref.grown:
        if (number := tokenizer.token_to_id(token)) != table.ids[token]:
            message = f"{ref.path}: {token!r} gets the id {number}, not {table.ids[token]}"
            raise TaskError(message, BUILD)


def shield_roles(tokenizer: Tokenizer, table: TokenTable, vocabulary: VocabularySpec) -> None:
    """Mark the tokens with a role special where the file does not: an added token that is not
    special would be recognised inside a text.
    """
    from tokenizers import AddedToken

    roles = (vocabulary.eod_token, vocabulary.bos_token, vocabulary.eos_token)
    plain = [token for token in dict.fromkeys(roles) if table.special.get(token) is False]
    if plain:
        tokenizer.add_special_tokens([AddedToken(token, special=True) for token in plain])


def require_unchanged(run: rundir.RunDir, ref: TokenizerRef) -> dict[str, Any]:
    """Return the tokenizer's file as a done marker records it.

    Raises:
        TaskError: the file cannot be read, or is not the one that the run was made with.
    """
    try:
        entry = done_markers.describe_file(run, ref.path)
    except OSError as error:
        message = f"{ref.path}: the tokenizer cannot be read ({error.strerror})"
        raise TaskError(message, HINT) from error
    if entry["sha256"] != ref.sha256:
        message = (
            f"{ref.path}: the tokenizer has changed since the run was made "
            f"(SHA-256 {entry['sha256'][:12]}, was {ref.sha256[:12]})"
        )
        raise TaskError(message, f"put the old file back, then {RESUME}")
    return entry


def set_threads(count: int) -> None:
    """Give the encoder one thread per core of the task; call it before the first encoding."""
    os.environ["RAYON_NUM_THREADS"] = str(count)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if count > 1 else "false"


def load(path: str) -> Tokenizer:
    """Read a ``tokenizer.json`` of any kind of model.

    Raises:
        TaskError: the file is missing, or is not one.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(path)
    except Exception as error:  # the library raises nothing more specific
        message = f"{path}: not a tokenizer.json of Hugging Face tokenizers ({error})"
        raise TaskError(message, HINT) from error
