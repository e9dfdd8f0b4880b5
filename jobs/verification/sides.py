"""The two sides of a verification: a Hugging Face folder, and a checkpoint of ours."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.checkpoints import manifest
from jobs.checkpoints.manifest import CheckpointRecord
from jobs.contract.errors import TaskError
from jobs.contract.files import parse_json
from jobs.contract.stage_specs import ModelSpec, TokenizerRef, VocabularySpec
from jobs.conversion import hf_config, hf_reader, weight_map
from jobs.conversion.hf_reader import Folder
from jobs.conversion.sharded_reader import ShardedReader
from jobs.data import base_tokenizer, exported_tokenizer

if TYPE_CHECKING:
    import torch

EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"

HINT_OTHER = "verify a checkpoint beside its own base model, or beside its own export"


@dataclass(frozen=True)
class Weights:
    """A Hugging Face folder whose model is that of a checkpoint."""

    folder: Folder
    rows: int
    """Of the embedding."""
    known: int
    """Rows from the first on that are those of the checkpoint's tokens; the base model's unused
    rows are not."""
    dtype: torch.dtype
    """Of its tensors."""

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor as it is stored.

        Raises:
            TaskError: the file became shorter.
            OSError: the storage does not respond.
        """
        ((_, values),) = self.parts(name, self.folder.tensors[name].shape[0])
        return values

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """Yield all rows of a tensor, about a MiB at a time.

        Raises:
            TaskError: the file became shorter.
            OSError: the storage does not respond.
        """
        stored = self.folder.tensors[name]
        step = max(1, hf_reader.BLOCK * stored.shape[0] // max(1, stored.bytes))
        yield from (values for _, values in self.parts(name, step))

    def parts(self, name: str, step: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield all rows of a tensor, ``step`` at a time, each with the number of its first.

        Raises:
            TaskError: the file became shorter.
            OSError: the storage does not respond.
        """
        stored = self.folder.tensors[name]
        rows = stored.shape[0]
        try:
            with hf_reader.TensorReader(stored) as reader:
                for start in range(0, rows, step):
                    yield start, reader.read(min(step, rows - start))
        except EOFError as error:
            raise TaskError(str(error), hf_reader.DOWNLOAD) from error

    def replaced_part(self) -> str:
        """Return the part of the folder's tokenizer that ``AutoTokenizer`` of transformers 5
        replaces; empty without one.
        """
        path = self.folder.path / base_tokenizer.JSON
        try:
            content = parse_json(path.read_bytes()) if path.is_file() else None
        except (OSError, ValueError):
            content = None
        kind = str(self.folder.config.get("model_type"))
        return exported_tokenizer.replaced_part(content, kind) if isinstance(content, dict) else ""

    def wrong_ids(self, expected: Mapping[str, int | None]) -> list[str]:
        """Return how ids of tokens with a role differ from those of a run's vocabulary, as clauses.

        Args:
            expected: by role, as in ``generation_config.json``. The padding token of
                ``config.json`` is that or null.
        """
        found = []
        files = {
            "config.json": self.folder.config,
            "generation_config.json": self._generation_config(),
        }
        for file, content in files.items():
            for role, wanted in expected.items():
                value = content.get(role)
                accepted = [wanted, [wanted]]
                if file == "config.json" and role == "pad_token_id":
                    accepted.append(None)
                if value not in accepted:
                    found.append(
                        f"{role} in {file} is {json.dumps(value)} instead of {json.dumps(wanted)}"
                    )
        return found

    def stop_tokens(self) -> set[int]:
        """Return the ids that end a generation, from ``generation_config.json`` and
        ``config.json``.
        """
        found: set[int] = set()
        for content in (self.folder.config, self._generation_config()):
            value = content.get("eos_token_id")
            found.update(value if isinstance(value, list) else [] if value is None else [value])
        return found

    def _generation_config(self) -> dict[str, Any]:
        try:
            content = parse_json((self.folder.path / "generation_config.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint and its model."""

    path: Path
    record: CheckpointRecord
    model: ModelSpec
    """With the padding rows that the checkpoint has."""
    reader: ShardedReader

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of its tensors."""
        dtype: torch.dtype = self.reader.tensors[EMBEDDING].dtype
        return dtype

    def vocabularies(self) -> list[str]:
        """Return the keys of the tensors with a row per token."""
        return [EMBEDDING] if self.model.tied_embeddings else [EMBEDDING, OUTPUT]


def open_checkpoint(path: Path, model: ModelSpec, tokenizer: TokenizerRef) -> Checkpoint:
    """Return a checkpoint whose model and vocabulary are those of a run.

    Raises:
        TaskError: it is damaged, or belongs to another model.
        OSError: the storage does not respond.
    """
    if problem := manifest.problem(path):
        raise TaskError(f"{path}: {problem}", "name a checkpoint that {meditron checkpoints} lists")
    record = manifest.read(path)
    if other := manifest.difference(record, model, tokenizer):
        raise TaskError(f"{path}: {other}", HINT_OTHER)
    reader = ShardedReader(path)
    rows = reader.tensors[EMBEDDING].shape[0]
    return Checkpoint(path, record, dataclasses.replace(model, padded_vocab_size=rows), reader)


def open_weights(path: Path, model: ModelSpec, vocabulary: VocabularySpec) -> Weights:
    """Return a folder whose model is ``model``, with its vocabulary or that of its base.

    Raises:
        TaskError: it is no folder of safetensors, or one of another model.
    """
    import torch

    folder = hf_reader.open_folder(path)
    described = hf_reader.describe(folder)
    rows = int(described.architecture["vocab_size"])
    expected = rows if rows == model.vocab_size else vocabulary.base_rows
    for difference in hf_config.differences(described, model, expected):
        raise TaskError(f"{path}: {difference}", HINT_OTHER)
    shapes = weight_map.folder_shapes(model, rows)
    if problem := hf_reader.account(folder, shapes, tied=model.tied_embeddings):
        raise TaskError(problem, hf_reader.DOWNLOAD)
    kind = folder.tensors[next(iter(shapes))].dtype
    known = model.vocab_size if knows_added(path, rows, model, vocabulary) else vocabulary.base_size
    return Weights(folder, rows, known, getattr(torch, hf_reader.TORCH_TYPES[kind]))


def knows_added(path: Path, rows: int, model: ModelSpec, vocabulary: VocabularySpec) -> bool:
    """Return whether a folder has the added tokens: by its rows, or where the base model's unused
    rows hold them, by its tokenizer.
    """
    if rows != model.vocab_size or rows != vocabulary.base_rows or not vocabulary.added_tokens:
        return rows == model.vocab_size
    try:
        table = base_tokenizer.base_tokens(path)
    except (ValueError, OSError):
        return False
    return table is not None and vocabulary.added_tokens[0] in table.ids


Rounded = Callable[["torch.Tensor"], "torch.Tensor"]


def rounding(dtypes: Collection[torch.dtype]) -> Rounded:
    """Return a function that rounds a tensor to each of these types.

    A float32 checkpoint and its bf16 export differ by the rounding of the export, which is not what
    is verified; both are therefore computed with values that both types can hold.
    """

    def rounded(values: torch.Tensor) -> torch.Tensor:
        for dtype in dtypes:
            values = values.to(dtype)
        return values

    return rounded
