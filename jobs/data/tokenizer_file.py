"""The tokenizer of a run: read, checked against the run's digest, and made ready to encode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.contract import done_markers, rundir
from jobs.contract.errors import FAILED, RESUME, TaskError
from jobs.contract.stage_specs import TokenizerRef

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HINT = "set tokenize.tokenizer to a tokenizer.json"


@dataclass(frozen=True)
class Encoder:
    """A tokenizer ready for texts: nothing is added to a text, cut off it or filled up."""

    tokenizer: Tokenizer
    eod: int
    """Id of the token that ends a document; it is also the empty context."""

    @classmethod
    def load(cls, ref: TokenizerRef, *, special_tokens_in_text: bool = False) -> Encoder:
        """Read a ``tokenizer.json`` and make it ready.

        Truncation, padding and tokens to put around a text that the file configures are not used.

        Args:
            special_tokens_in_text: the name of a special token inside a text becomes that token;
                otherwise it is ordinary text.

        Raises:
            TaskError: the file is missing, is no tokenizer, or has no end-of-document token.
        """
        from tokenizers import AddedToken

        tokenizer = load(ref.path)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = not special_tokens_in_text
        eod = eod_id(tokenizer, ref)
        added = tokenizer.get_added_tokens_decoder().get(eod)
        if added is not None and not added.special and not special_tokens_in_text:
            # An added token that is not marked special would still be recognised inside a text.
            tokenizer.add_special_tokens([AddedToken(ref.vocabulary.eod_token, special=True)])
        return cls(tokenizer, eod)

    @property
    def vocabulary_size(self) -> int:
        """Return the largest token id plus one."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without an end."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without ends.

        Raises:
            TaskError: the library returned another number of encodings than there are texts.
        """
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        if len(encodings) != len(texts):
            message = f"the tokenizer encoded {len(encodings)} of {len(texts)} documents"
            raise TaskError(message, "report this with the tokenizer's version", FAILED)
        return [encoding.ids for encoding in encodings]


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


def eod_id(tokenizer: Tokenizer, ref: TokenizerRef) -> int:
    """Return the id of the token that ends a document.

    Raises:
        TaskError: the vocabulary lacks it.
    """
    eod = tokenizer.token_to_id(ref.vocabulary.eod_token)
    if eod is None:
        added = [entry.content for entry in tokenizer.get_added_tokens_decoder().values()]
        listed = ", ".join(added[:10]) or "none"
        hint = f"set vocabulary.eod_token to one it has (its added tokens: {listed})"
        raise TaskError(
            f"{ref.path}: no token {ref.vocabulary.eod_token!r} in the vocabulary", hint
        )
    return int(eod)
