"""The folder of an exported model that answers a benchmark. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.contract.errors import TaskError
from jobs.contract.files import FormatError, parse_json, read_json, sha256
from jobs.data import tokenizer_file
from jobs.data.tokenizer_file import Encoder

RECORD = "meditron.json"
"""Written last by an export."""
PAD = "<PAD>"


@dataclass(frozen=True)
class ExportedModel:
    """The record and the configuration of an exported folder."""

    folder: Path
    record: dict[str, Any]
    digest: str
    """Of its record, which has the digest of each file."""
    rows: int
    """Of its embedding."""
    context: int
    """Most tokens that it reads."""
    ends: tuple[int, ...]
    """Ids that end a text."""

    @classmethod
    def read(cls, folder: Path) -> ExportedModel:
        """Read the record and the configuration of a folder.

        Raises:
            TaskError: it is not the folder of an export.
        """
        try:
            record = read_json(folder / RECORD)
            config = parse_json((folder / "config.json").read_bytes())
            ends = config["eos_token_id"]
            return cls(
                folder,
                record,
                sha256(folder / RECORD),
                int(config["vocab_size"]),
                int(config["max_position_embeddings"]),
                tuple(ends) if isinstance(ends, list) else (int(ends),),
            )
        except OSError as error:
            message = f"{folder}: no exported model ({error.strerror})"
            raise TaskError(message, "export the checkpoint first") from error
        except (FormatError, KeyError, TypeError, ValueError) as error:
            message = f"{folder}: not the folder of an export ({error})"
            raise TaskError(message, "export the checkpoint again") from error

    @property
    def step(self) -> int:
        """Return the step of its checkpoint."""
        return int(self.record["step"])

    @property
    def checkpoint(self) -> str:
        """Return the digest of its checkpoint's manifest."""
        return str(self.record["digests"]["manifest of the checkpoint"])

    def tokens(self) -> dict[str, int]:
        """Return the ids of its tokens.

        Raises:
            TaskError: it has no tokenizer, or one with an id that has no row.
        """
        path = self.folder / "tokenizer.json"
        try:
            ids = tokenizer_file.read_tokens(path).ids
        except (OSError, ValueError) as error:
            message = f"{path}: not a tokenizer.json ({error})"
            raise TaskError(message, "export the checkpoint again") from error
        size = 1 + max(ids.values())
        if size > self.rows:
            raise TaskError(
                f"{self.folder}: its largest token id is {size - 1}, its embedding has "
                f"{self.rows} rows",
                "export the checkpoint again, with a vocabulary that has a row for each token",
            )
        return ids

    def require_tokens(self, encoder: Encoder) -> None:
        """Refuse a folder in which a token of the run has another id, or none, or no row.

        Raises:
            TaskError: it is one.
        """
        path, exported = self.folder / "tokenizer.json", self.tokens()
        wanted = encoder.tokenizer.get_vocab(with_added_tokens=True)
        for token, number in sorted(wanted.items(), key=lambda item: item[1]):
            if exported.get(token) != number:
                raise TaskError(
                    f"{path}: {token!r} has the id {exported.get(token)}, in the run's tokenizer "
                    f"{number}",
                    "export the checkpoint again",
                )

    def stop_tokens(self, encoder: Encoder) -> tuple[int, ...]:
        """Return the ids that end an answer: of the end of a text, and of padding."""
        padding = encoder.tokenizer.token_to_id(PAD)
        ends = (*self.ends, encoder.eod, *([] if padding is None else [int(padding)]))
        return tuple(dict.fromkeys(ends))
