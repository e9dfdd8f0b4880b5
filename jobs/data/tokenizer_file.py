"""The tokenizer of a run: the file it was made with, read in one way by every stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.contract import done_markers, rundir
from jobs.contract.errors import TaskError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HINT = "set tokenize.tokenizer to a tokenizer.json"


def require_unchanged(run: rundir.RunDir, name: str, sha256: str) -> dict[str, Any]:
    """The tokenizer's file as a done marker keeps it.

    Args:
        name: path of the ``tokenizer.json``, as a spec writes it.
        sha256: hex digest of the file that the run was made with.

    Raises:
        TaskError: it cannot be read, or is another than the one the run was made with.
    """
    try:
        found = done_markers.describe_file(run, name)
    except OSError as error:
        message = f"{name}: the tokenizer cannot be read ({error.strerror})"
        raise TaskError(message, HINT) from error
    if found["sha256"] != sha256:
        message = (
            f"{name}: the tokenizer has changed since the run was made "
            f"(SHA-256 {found['sha256'][:12]}, was {sha256[:12]})"
        )
        raise TaskError(message, "put the old file back, or submit with --new for another run")
    return found


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


def eod_id(tokenizer: Tokenizer, path: str, token: str) -> int:
    """The id of the token that ends a document.

    Raises:
        TaskError: the vocabulary lacks it.
    """
    eod = tokenizer.token_to_id(token)
    if eod is None:
        added = [entry.content for entry in tokenizer.get_added_tokens_decoder().values()]
        listed = ", ".join(added[:10]) or "none"
        hint = f"set tokenize.eod_token to one it has (its added tokens: {listed})"
        raise TaskError(f"{path}: no token {token!r} in the vocabulary", hint)
    return int(eod)
