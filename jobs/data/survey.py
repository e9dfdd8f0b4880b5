"""Check the indexed datasets of a training, and record which tokens they hold.

A run's own datasets are compared with the done markers of tokenize. Those made elsewhere have no
record, so their identity is their size, modification time and sampled blocks. No torch.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contract import done_markers, specs
from jobs.contract.errors import CONFIGURATION, RESUME, TaskError
from jobs.contract.files import sha256
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import PretrainSpec
from jobs.contract.units import plural
from jobs.data.indexed_dataset import read_index

if TYPE_CHECKING:
    import numpy

SCANNED_BYTES = 64 << 20
"""Bytes of tokens checked before training over all files of a split, an equal share at the start of
each, so that more shards do not slow a start. Every batch is checked when it is read."""

SAMPLED_BLOCKS = 64
SAMPLED_BYTES = 4096
"""Blocks that are read of a file of any size, and bytes of each. A changed stretch longer than the
distance of two blocks, a 63rd of the file, is certainly found."""

THREADS = 16
"""Files read side by side: a network file system takes about a millisecond per request."""

DIGITS = 16
"""Hexadecimal digits of a file's digest in a checkpoint's record, which only names the file that
has changed."""


@dataclass(frozen=True)
class IndexedSource:
    """One indexed dataset that has tokens."""

    prefix: str
    """As the spec has it, without suffix."""
    tokens: int
    binary: str
    """SHA-256 of the ``.bin``; of a dataset made elsewhere, that of size and sampled blocks, and
    its modification time in nanoseconds."""
    index: str
    """SHA-256 of the ``.idx``."""


@dataclass(frozen=True)
class DatasetSurvey:
    """The datasets to train and validate on, and what determines the order of their samples."""

    train: tuple[IndexedSource, ...]
    validation: tuple[IndexedSource, ...]
    seed: int
    seq_length: int
    samples: int
    """Sequences of the whole run."""

    @property
    def digest(self) -> str:
        """Return the digest of the tokens and of their order. It does not depend on file names."""
        splits = {"train": self.train, "validation": self.validation}
        contents = {
            split: [(source.tokens, source.binary, source.index) for source in sources]
            for split, sources in splits.items()
        }
        order = {"seed": self.seed, "seq_length": self.seq_length, "samples": self.samples}
        return specs.digest(contents | order)

    @property
    def record(self) -> dict[str, Any]:
        """Return the digest, and digests of all files by name, as checkpoints record them."""
        files = {
            name: _shortened(content)
            for source in (*self.train, *self.validation)
            for name, content in (
                (f"{source.prefix}.bin", source.binary),
                (f"{source.prefix}.idx", source.index),
            )
        }
        return {"digest": self.digest, "files": files}

    def require_same(self, run: RunDir, recorded: Mapping[str, Any], checkpoint: str) -> None:
        """Refuse other tokens than a checkpoint was trained on.

        Args:
            recorded: ``record`` when the checkpoint was saved.
            checkpoint: its name, for messages.

        Raises:
            TaskError: a file, the set of files, or the order of samples has changed.
        """
        if recorded["digest"] == self.digest:
            return
        before, now = recorded["files"], self.record["files"]
        lost = f"{checkpoint} was saved, so the position in the tokens is lost"
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
            raise TaskError(
                f"{path} has changed since {lost}", f"restore the old file, then {RESUME}"
            )
        for name in sorted(before.keys() - now.keys()):
            raise TaskError(
                f"{run.path(name)} is no longer among the tokens; it was when {lost}",
                f"restore the old files, then {RESUME}",
            )
        for name in sorted(now.keys() - before.keys()):
            raise TaskError(
                f"{run.path(name)} has been added to the tokens since {lost}",
                f"train on the old files alone, then {RESUME}",
            )
        raise TaskError(
            f"the order of samples (seed, sequence length, number of samples or order of files) "
            f"has changed since {lost}",
            f"restore the old settings, then {RESUME}",
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
        TaskError: a file is missing, damaged or not what tokenize wrote; there is no training data;
            or a token is not in the model's vocabulary.
    """
    registry = specs.digest(spec.tokenizer.vocabulary)
    surveyor = _Surveyor(run, spec.model.vocab_size, registry, _written(run), report)
    train = surveyor.sources(spec.train_prefixes)
    if not train:
        raise TaskError(
            f"no training tokens in {plural(len(spec.train_prefixes), 'indexed dataset')}",
            "see the counts of skipped documents in the tokenize stage's done markers",
        )
    return DatasetSurvey(
        train,
        surveyor.sources(spec.validation_prefixes),
        seed=spec.seed,
        seq_length=spec.model.seq_length,
        samples=spec.train_steps * spec.global_batch_size,
    )


def _written(run: RunDir) -> dict[str, dict[str, Any]]:
    """Return the outputs of tokenize by path, as its done markers describe them, each with the
    digest of the vocabulary registry it was made with.
    """
    paths = sorted(run.done_folder("tokenize").glob("*.json"))
    markers = _side_by_side(done_markers.read, paths)
    return {
        item["path"]: {**item, "vocabulary": marker.summary.get("vocabulary")}
        for marker in markers
        if marker
        for item in marker.outputs
    }


def _side_by_side(function: Callable[[Any], Any], items: Any) -> Iterator[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(function, items)


@dataclass(frozen=True)
class _Surveyor:
    """The inputs of a survey."""

    run: RunDir
    vocab_size: int
    registry: str
    """Digest of the vocabulary registry."""
    written: Mapping[str, Mapping[str, Any]]
    """The outputs of tokenize by path."""
    report: Callable[[], None]

    def sources(self, prefixes: tuple[str, ...]) -> tuple[IndexedSource, ...]:
        """Return those of the datasets that have tokens."""
        share = SCANNED_BYTES // max(1, len(prefixes))
        found = []
        for source in _side_by_side(lambda prefix: self.source(prefix, share), prefixes):
            self.report()
            if source is not None:
                found.append(source)
        return tuple(found)

    def source(self, prefix: str, scanned: int) -> IndexedSource | None:
        """Check a dataset; return None for one without tokens."""
        path = self.run.path(prefix)
        binary, index = path.with_name(f"{path.name}.bin"), path.with_name(f"{path.name}.idx")
        own = not Path(prefix).is_absolute()
        again = f"{RESUME} makes it again" if own else "make the dataset again"
        for file in (binary, index):
            if not file.is_file():
                raise TaskError(f"{file} is missing", again)
        tokens, kind = read_index(index)
        size, expected = binary.stat().st_size, tokens * kind.itemsize
        if size != expected:
            raise TaskError(
                f"{binary} has {size} bytes, by its index it has {expected}",
                again,
            )
        index_digest = sha256(index)
        if own:
            content = self.require_written(prefix, binary, index_digest)
        else:
            content = f"{sampled_sha256(binary)} {binary.stat().st_mtime_ns}"
        if not tokens:
            return None
        _check_ids(binary, kind, self.vocab_size, scanned)
        return IndexedSource(prefix, tokens, content, index_digest)

    def require_written(self, prefix: str, binary: Path, index_digest: str) -> str:
        """Compare a dataset of this run with its done marker; return the SHA-256 of its .bin.

        A file with the recorded modification time is compared by its sampled blocks, any other by
        all of its bytes.
        """
        recorded = self.written.get(f"{prefix}.bin")
        recorded_index = self.written.get(f"{prefix}.idx", {}).get("sha256")
        if recorded is None or recorded_index is None:
            raise TaskError(f"{binary} has no done marker of tokenize", f"{RESUME} makes it again")
        if recorded["vocabulary"] != self.registry:
            message = f"{binary} was tokenized with another vocabulary registry than this run's"
            raise TaskError(message, f"{RESUME} makes it again")
        stored = str(recorded["sha256"])
        if index_digest != recorded_index:
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


def sampled_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's size and of blocks spread evenly over it, the first and
    the last included; of all its bytes where it is no larger than the blocks.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    handle = os.open(path, os.O_RDONLY)
    try:
        for offset, length in sampled_blocks(size):
            digest.update(os.pread(handle, length, offset))
    finally:
        os.close(handle)
    return digest.hexdigest()


def sampled_blocks(size: int) -> list[tuple[int, int]]:
    """Return offset and length of the blocks to read of a file of ``size`` bytes."""
    if size <= SAMPLED_BLOCKS * SAMPLED_BYTES:
        return [(0, size)]
    last = size - SAMPLED_BYTES
    steps = SAMPLED_BLOCKS - 1
    return [(number * last // steps, SAMPLED_BYTES) for number in range(SAMPLED_BLOCKS)]


def _check_ids(binary: Path, kind: numpy.dtype[Any], vocab_size: int, scanned: int) -> None:
    """Check the first token and as many more as ``scanned`` bytes hold."""
    import numpy

    tokens = numpy.memmap(binary, dtype=kind, mode="r")
    head = tokens[: max(1, scanned // kind.itemsize)]
    refuse_beyond(int(head.max()), vocab_size, str(binary))


def refuse_beyond(largest: int, vocab_size: int, where: str) -> None:
    """Refuse a token that the model's vocabulary does not have.

    Raises:
        TaskError: the largest token is not below the vocabulary's size.
    """
    if largest >= vocab_size:
        raise TaskError(
            f"{where} holds token {largest}, the model has a vocabulary of {vocab_size}",
            "tokenize with the tokenizer of this model, or set the model's vocabulary to its size",
            CONFIGURATION,
        )
