"""The folder of a judge: its files, what ends its answers, and its form of a question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.contract.errors import TaskError
from jobs.contract.files import parse_json, sha256
from jobs.data import tokenizer_file
from jobs.data.base_tokenizer import SETTINGS, TEMPLATE
from jobs.evaluation.items import digest_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer.json"
MARK = "the question of the judge"
"""Stands for a question while its frame is made."""


class Frame(NamedTuple):
    """The tokens around a question."""

    head: tuple[int, ...]
    tail: tuple[int, ...]


@dataclass(frozen=True)
class JudgeModel:
    """A model that reads answers."""

    folder: Path
    files: dict[str, str]
    """SHA-256 of each file that decides its answers."""
    context: int
    """Most tokens that it reads."""
    ends: tuple[int, ...]
    """Ids that end an answer."""
    tokenizer: Tokenizer
    frame: Frame

    @classmethod
    def read(cls, folder: Path, beat: Callable[[], None]) -> JudgeModel:
        """Read all but the weights of a folder, whose digests are computed.

        Args:
            folder: in the Hugging Face format.
            beat: called for each file.

        Raises:
            TaskError: it is no such folder.
        """
        try:
            config = parse_json((folder / CONFIG).read_bytes())
            ends = end_tokens(folder, config)
            context = int(config["max_position_embeddings"])
            files = {}
            for path in deciding_files(folder):
                beat()
                files[path.name] = sha256(path)
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise TaskError(
                f"{folder}: not the folder of a model ({error})",
                "evaluate.judge.folder is one with config.json, tokenizer.json and safetensors",
            ) from error
        tokenizer = tokenizer_file.load(str(folder / TOKENIZER))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        frame = frame_of(folder, tokenizer, ends)
        # An answer that has the name of a control token must not end the judge's question.
        tokenizer.encode_special_tokens = True
        return cls(folder, files, context, ends, tokenizer, frame)

    @property
    def digest(self) -> str:
        """Return the digest of its files."""
        return digest_of(self.files)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the tokens of each text, without those around it."""
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def deciding_files(folder: Path) -> list[Path]:
    """Return the files of a folder that decide what its model answers."""
    names = (CONFIG, GENERATION, SETTINGS, TEMPLATE, TOKENIZER)
    named = [folder / name for name in names if (folder / name).is_file()]
    return [*named, *sorted(folder.glob("*.safetensors"))]


def end_tokens(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    """Return the ids that end an answer, by both configurations: models that were taught to answer
    often have the end of a turn in the second alone.
    """
    found = [config.get("eos_token_id")]
    if (folder / GENERATION).is_file():
        found.append(parse_json((folder / GENERATION).read_bytes()).get("eos_token_id"))
    ids = [one for value in found for one in (value if isinstance(value, list) else [value])]
    return tuple(dict.fromkeys(int(one) for one in ids if one is not None))


def frame_of(folder: Path, tokenizer: Tokenizer, ends: tuple[int, ...]) -> Frame:
    """Return the tokens around a question: those of its chat template, else the beginning of a text
    and a line break.

    Raises:
        TaskError: the template cannot be used.
    """
    if not has_template(folder):
        begin = tokenizer.encode("").ids
        lines = tokenizer.encode("\n", add_special_tokens=False).ids
        return Frame(tuple(one for one in begin if one not in ends), tuple(lines))
    try:
        import transformers

        reader = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        turns = [{"role": "user", "content": MARK}]
        text = reader.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program
        message = f"{folder}: its chat template cannot be used ({error})"
        raise TaskError(message, "name another judge in evaluate.judge.folder") from error
    head, _, tail = text.partition(MARK)
    return Frame(
        *(tuple(tokenizer.encode(part, add_special_tokens=False).ids) for part in (head, tail))
    )


def has_template(folder: Path) -> bool:
    """Return whether a model has a chat template."""
    if (folder / TEMPLATE).is_file():
        return True
    if not (folder / SETTINGS).is_file():
        return False
    settings = parse_json((folder / SETTINGS).read_bytes())
    return bool(settings.get("chat_template"))
