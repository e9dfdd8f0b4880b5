"""Checkpoints as files: names, records, manifests, validity. Standard library only.

``checkpoints/iter_0000500`` holds megatron.core's torch_dist files, then ``manifest.json`` (size
and XXH3 of each part of each file) and, written last, ``meditron.json``. A folder without a
valid ``meditron.json`` is not a checkpoint. No file names the newest one; the folders decide.
``checkpoints/kept/iter_0000500`` has the same files for weights alone, from which no training
resumes.

``problem`` is cheap: it checks records and sizes. Only comparing digests finds a changed byte:
torch loads a tensor with wrong bytes without an error (measured with 2.13). ``parts.alteration``
does so for every byte, and loading (``jobs.engine``) for each part it reads.
"""

from __future__ import annotations

import hashlib
import re
import stat
import time
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jobs.checkpoints import parts
from jobs.checkpoints.parts import Part, Parts
from jobs.contract import specs
from jobs.contract.files import FormatError, fsync_folder, parse_json, read_json, sha256, write_json
from jobs.contract.stage_specs import ModelSpec, TokenizerRef

RECORD = "meditron.json"
MANIFEST = "manifest.json"
VERIFIED = "verified.json"
"""Marker in a checkpoint whose every byte was verified."""

MEGATRON_METADATA = "metadata.json"

KEPT = "kept"
"""Subfolder of a run's checkpoints for those that are kept as weights alone."""

_NAME = re.compile(r"iter_(\d{7,})")
_ANY_NAME = re.compile(r"iter_(\d{7,})(\.bad-.*)?")

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""Errors of a missing file; any other ``OSError`` means that storage fails."""


WEIGHTS = "weights"
TRAINING = "training"
KINDS = (WEIGHTS, TRAINING)

RANDOM = "random"
"""Weights of a model that was never trained, drawn with the run's seed."""


@dataclass(frozen=True)
class CheckpointRecord:
    """Content of ``meditron.json``."""

    iteration: int
    """Optimizer steps done."""
    consumed_samples: int
    """Sequences trained on; index of the next step's first one."""
    kind: str
    """``weights`` alone, or ``training``: with optimizer and generator states."""
    architecture: str
    """Digest of ``ModelSpec.architecture``."""
    vocab_size: int
    """Rows of the embedding that the tokenizer uses, without padding."""
    vocabulary: str
    """Digest of the tokenizer's ``VocabularySpec``."""
    tokenizer: str
    """SHA-256 of ``tokenizer.json``."""
    origin: dict[str, Any]
    """Where the weights of step 0 came from: ``weights`` is ``random`` or a name or path, and
    ``sha256`` its digest.
    """
    layout: dict[str, Any]
    """``ParallelSpec`` as it was when saving."""
    precision: str
    data: dict[str, Any]
    """Order, phases, and digests and consumed samples of each corpus
    (``jobs.data.survey.DatasetSurvey.record``); empty for weights that no data belongs to.
    """
    bytes: int
    """Size of all its files; while saving, the expected size."""
    files: int = 0
    manifest: str = ""
    """SHA-256 of ``manifest.json``."""
    grown: list[str] = field(default_factory=list)
    """``TokenizerRef.grown``, of whose tokens it has rows."""

    def as_trained(self, model: ModelSpec) -> ModelSpec:
        """Return the model with the longest sequences that its weights were trained on."""
        phases = [phase.get("sequence_length", 0) for phase in self.data.get("phases", ())]
        return replace(model, seq_length=max([model.seq_length, *phases]))

    def tokens(self, seq_length: int) -> int:
        """Return the tokens of the batches of all steps.

        Args:
            seq_length: of the first phase; the record of an earlier version had no other.
        """
        corpora = self.data.get("corpora", {}).values()
        if corpora and all("tokens" in corpus for corpus in corpora):
            return sum(int(corpus["tokens"]) for corpus in corpora)
        return self.consumed_samples * seq_length


StoredCheckpoint = tuple[Path, CheckpointRecord]


def name(iteration: int) -> str:
    """Return the folder name of a checkpoint; names sort by step."""
    return f"iter_{iteration:07d}"


def identity(model: ModelSpec, tokenizer: TokenizerRef) -> dict[str, Any]:
    """Return the fields of a record that name the model and its vocabulary."""
    return {
        "architecture": specs.digest(model.architecture),
        "vocab_size": model.vocab_size,
        "vocabulary": specs.digest(tokenizer.vocabulary),
        "tokenizer": tokenizer.sha256,
        "grown": list(tokenizer.grown),
    }


def difference(
    record: CheckpointRecord, model: ModelSpec, tokenizer: TokenizerRef, *, may_grow: bool = False
) -> str:
    """Return how a checkpoint's model or vocabulary differs from the expected one, as the end of a
    sentence; empty where they agree. Sequence length, initialisation and padding rows may differ.

    Args:
        record: of the checkpoint.
        model: the expected one.
        tokenizer: the expected one.
        may_grow: a checkpoint without the tokens that the tokenizer has grown by is as expected:
            its rows are to grow.
    """
    if may_grow and not record.grown and record.vocab_size <= model.vocab_size:
        model = replace(model, vocab_size=record.vocab_size)
        tokenizer = replace(tokenizer, grown=())
    expected = identity(model, tokenizer)
    if record.architecture != expected["architecture"]:
        return "its model has another architecture than this run's"
    if record.vocab_size != expected["vocab_size"]:
        return f"its vocabulary has {record.vocab_size} tokens, this run's has {model.vocab_size}"
    if record.grown != expected["grown"]:
        ours, its = (", ".join(tokens) or "none" for tokens in (tokenizer.grown, record.grown))
        return f"its vocabulary has grown by {its}, this run's by {ours}"
    if record.tokenizer != expected["tokenizer"]:
        return "it belongs to another tokenizer.json than this run's"
    if record.vocabulary != expected["vocabulary"]:
        return "its added tokens, their roles or their first rows differ from this run's"
    return ""


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint, quarantined or not; -1 for other names."""
    match = _ANY_NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def folders(folder: Path) -> list[Path]:
    """Return the folders of checkpoints, newest first, finished or not, without symbolic links.

    Raises:
        OSError: the storage does not answer.
    """
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and is_folder(path)]
    return sorted(paths, key=step_of, reverse=True)


def kept(folder: Path) -> Path:
    """Return the folder of the weights that are kept, beside a run's checkpoints."""
    return folder / KEPT


def saved_steps(folder: Path) -> frozenset[int]:
    """Return the steps whose checkpoint or kept weights were finished; their files are not read.

    Raises:
        OSError: the storage does not answer.
    """
    paths = [*folders(folder), *folders(kept(folder))]
    return frozenset(step_of(path) for path in paths if (path / RECORD).exists())


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def find_latest(folder: Path) -> StoredCheckpoint | None:
    """Return the newest valid checkpoint, or None; change nothing.

    Raises:
        OSError: the storage does not answer.
    """
    for path in folders(folder):
        if not problem(path):
            return path, read(path)
    return None


def at_step(folder: Path, iteration: int) -> StoredCheckpoint | None:
    """Return the kept weights or the checkpoint of one step, or None when both are missing or
    damaged.

    Raises:
        OSError: the storage does not answer.
    """
    for path in (kept(folder) / name(iteration), folder / name(iteration)):
        if is_folder(path) and not problem(path):
            return path, read(path)
    return None


def read(path: Path) -> CheckpointRecord:
    """Read the record of a checkpoint.

    Raises:
        FileNotFoundError: it was never finished.
        FormatError: written by another version, or damaged.
    """
    value = read_json(path / RECORD)
    value.pop("format")
    try:
        record = CheckpointRecord(**value)
    except TypeError as error:
        raise FormatError(f"{path / RECORD}: {error}") from error
    for key, kind in typing.get_type_hints(CheckpointRecord).items():
        if not isinstance(getattr(record, key), typing.get_origin(kind) or kind):
            raise FormatError(f"{path / RECORD}: {key} is {getattr(record, key)!r}")
    if record.kind not in KINDS:
        raise FormatError(f"{path / RECORD}: kind is {record.kind!r}")
    return record


def was_finished(path: Path) -> bool:
    """Return whether a checkpoint was once complete, damaged since or not: its record is written
    last. A save that was killed just before may have all other files.
    """
    return (path / RECORD).exists()


def problem(path: Path) -> str:
    """Return the damage of a checkpoint by its records and file sizes; empty without any.

    Every file is checked with lstat(2); only three small ones are read.

    Raises:
        OSError: the storage does not answer; the checkpoint may be valid.
    """
    try:
        record = read(path)
        content = (path / MANIFEST).read_bytes()
        parse_json((path / MEGATRON_METADATA).read_bytes())
    except FormatError as error:
        return str(error)
    except _ABSENT as error:
        return _absence(error)
    except ValueError as error:
        return f"{MEGATRON_METADATA} is not JSON: {error}"
    if hashlib.sha256(content).hexdigest() != record.manifest:
        return f"{MANIFEST} differs from the digest in {RECORD}"
    if record.iteration != step_of(path):
        return f"{RECORD} belongs to step {record.iteration}"
    try:
        return _wrong_size(path, manifest(path))
    except FormatError as error:
        return str(error)


def _absence(error: OSError) -> str:
    file = Path(error.filename).name
    return f"{file} is missing" + (": it was never finished" if file == RECORD else "")


def _wrong_size(path: Path, files: Mapping[str, Parts]) -> str:
    for file, its_parts in files.items():
        if Path(file).name != file:
            return f"{MANIFEST} names {file!r}, which is outside the checkpoint"
        try:
            status = (path / file).lstat()
        except _ABSENT:
            return f"{file} is missing"
        except ValueError:  # a zero, or half of a surrogate pair
            return f"{MANIFEST} names {file!r}, which no file can be called"
        if not stat.S_ISREG(status.st_mode):
            return f"{file} is not a regular file"
        if status.st_size != parts.size(its_parts):
            return f"{file} has {status.st_size} bytes instead of {parts.size(its_parts)}"
    return ""


def manifest(path: Path) -> dict[str, Parts]:
    """Read the parts of every file of a checkpoint without a ``problem``.

    Raises:
        OSError, FormatError: they cannot be read.
    """
    return _parsed(read_json(path / MANIFEST))


def _parsed(value: Mapping[str, Any]) -> dict[str, Parts]:
    try:
        return {name: tuple(_part(part) for part in file) for name, file in value["files"].items()}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{MANIFEST} does not list files as this version of meditron does"
        ) from error


def _part(value: Mapping[str, Any]) -> Part:
    size, digest = value["bytes"], value["xxh3"]
    if type(size) is not int or size < 0 or not isinstance(digest, str):
        raise ValueError("neither a size nor a digest")
    return Part(size, digest)


def commit(path: Path, record: CheckpointRecord, files: Mapping[str, Parts]) -> CheckpointRecord:
    """Turn a folder whose files are written into a checkpoint: write its manifest, then its record.

    Args:
        record: its ``bytes``, ``files`` and ``manifest`` are replaced.
        files: every file of the folder, fsynced.

    Returns:
        The record as it was written.

    Raises:
        OSError: the storage cannot be written.
        FormatError: the folder is no valid checkpoint even so, with the reason.
    """
    listed = {name: [asdict(part) for part in its_parts] for name, its_parts in files.items()}
    write_json(path / MANIFEST, {"files": listed})
    record = replace(
        record,
        manifest=sha256(path / MANIFEST),
        bytes=sum(parts.size(its_parts) for its_parts in files.values()),
        files=len(files),
    )
    write_json(path / RECORD, asdict(record))
    fsync_folder(path.parent)
    if wrong := problem(path):
        raise FormatError(wrong)
    return record


def note_verified(path: Path) -> None:
    """Record in a checkpoint that every byte was verified.

    Raises:
        OSError: the storage cannot be written.
    """
    write_json(path / VERIFIED, {"manifest": read(path).manifest, "time": time.time()})


def verified_at(path: Path) -> float | None:
    """Return when every byte was last verified, in seconds since 1970; None if never."""
    try:
        marker = read_json(path / VERIFIED)
        return float(marker["time"]) if marker["manifest"] == read(path).manifest else None
    except (OSError, FormatError, LookupError, TypeError, ValueError):
        return None
