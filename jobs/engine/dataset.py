"""Indexed files → batches; resumable position.

The order of samples is decided by the tokens, the seed, the sequence length and the number of
samples in the whole run, never by the number of ranks: with global batches of ``size`` samples,
batch ``n`` begins with sample ``n x size``.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch

from jobs.contract import rundir, specs
from jobs.contract.errors import CONFIGURATION, TaskError
from jobs.contract.files import FORMAT, FormatError, read_json, sha256, write_json
from jobs.contract.stage_specs import PretrainSpec
from jobs.data import tokenizer_file
from jobs.data.indexed_dataset import read_index
from jobs.engine import device as devices

with devices.quiet():
    from megatron.core import parallel_state
    from megatron.core.datasets.blended_megatron_dataset_builder import (
        BlendedMegatronDatasetBuilder,
    )
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

READY = "ready.json"


WORDS = struct.Struct("<2I")
"""The hash of a sample."""

SCANNED_BYTES = 64 << 20
"""Tokens looked at before training, over all files of a split, an equal share at the start of each:
a start must not take longer the more shards there are. Every batch is looked at when it is read."""


NO_TOKENS = dict.fromkeys(("tokens", "labels", "positions"))


@dataclass(frozen=True)
class IndexedSource:
    """One indexed dataset that has tokens."""

    prefix: str
    """As the spec writes it, without suffix."""
    tokens: int
    index_sha256: str


@dataclass(frozen=True)
class DatasetSurvey:
    """What there is to train and validate on."""

    train: tuple[IndexedSource, ...]
    validation: tuple[IndexedSource, ...]
    digest: str
    """Changes when tokens do, or what decides their order."""


@dataclass
class Tokenizer:
    """All that GPTDataset asks of a tokenizer."""

    eod: int
    unique_identifiers: dict[str, Any]
    vocab_size: None = None
    """None lets the header of each file say how wide its tokens are."""


def survey(run: rundir.RunDir, spec: PretrainSpec) -> DatasetSurvey:
    """Look at every indexed dataset of the spec. Call from one rank alone.

    Raises:
        TaskError: a file is missing or damaged, there is no training data, or a token is not in the
            model's vocabulary.
    """
    train = _sources(run, spec.train_prefixes, spec.model.vocab_size)
    if not train:
        raise TaskError(
            f"no training tokens in {len(spec.train_prefixes)} indexed datasets: all are empty",
            "see what the tokenize stage left out, and why, in its log",
        )
    validation = _sources(run, spec.validation_prefixes, spec.model.vocab_size)
    order = {
        "train": [asdict(source) for source in train],
        "validation": [asdict(source) for source in validation],
        "seed": spec.seed,
        "seq_length": spec.model.seq_length,
        "samples": spec.train_steps * spec.global_batch_size,
    }
    return DatasetSurvey(train, validation, specs.digest(order))


def _sources(
    run: rundir.RunDir, prefixes: tuple[str, ...], vocab_size: int
) -> tuple[IndexedSource, ...]:
    share = SCANNED_BYTES // max(1, len(prefixes))
    found = (_source(run, prefix, vocab_size, share) for prefix in prefixes)
    return tuple(source for source in found if source is not None)


def _source(run: rundir.RunDir, prefix: str, vocab_size: int, scanned: int) -> IndexedSource | None:
    path = run.path(prefix)
    binary, index = path.with_name(path.name + ".bin"), path.with_name(path.name + ".idx")
    for file in (binary, index):
        if not file.is_file():
            raise TaskError(f"{file} is missing", "submit the tokenize stage again")
    if binary.stat().st_size == 0:
        return None
    tokens, kind = read_index(index)
    size, expected = binary.stat().st_size, tokens * kind.itemsize
    if size != expected:
        raise TaskError(
            f"{binary} has {size} bytes, its index tells of {expected}",
            "submit the tokenize stage again",
        )
    _check_ids(binary, kind, vocab_size, scanned)
    return IndexedSource(prefix, tokens, sha256(index))


def _check_ids(binary: Path, kind: numpy.dtype[Any], vocab_size: int, scanned: int) -> None:
    """Look at the first token and as many more as ``scanned`` bytes hold."""
    tokens = numpy.memmap(binary, dtype=kind, mode="r")
    head = tokens[: max(1, scanned // kind.itemsize)]
    _refuse_beyond(int(head.max()), vocab_size, str(binary))


def _refuse_beyond(largest: int, vocab_size: int, where: str) -> None:
    if largest >= vocab_size:
        raise TaskError(
            f"{where} holds token {largest}, the model has a vocabulary of {vocab_size}",
            "tokenize with the tokenizer of this model, or set the model's vocabulary to its size",
            CONFIGURATION,
        )


@dataclass
class Split:
    """Global batches of one split, this rank's part of them."""

    dataset: Any
    """None on pipeline stages that see no tokens."""
    spec: PretrainSpec
    place: torch.device
    data_rank: int
    is_witness: bool = True
    """Whether this rank takes fingerprints; one of those that read the same samples is enough."""
    seen: list[int] = field(default_factory=lambda: [0, 0])
    """Fingerprint of the samples that were read of the global batch, this rank's part of them."""

    def micro_batches(self, first_sample: int) -> Iterator[dict[str, Any]]:
        """This rank's micro-batches of the global batch that begins with a sample.

        Yields:
            ``tokens``, ``labels`` and ``positions``, int64 ``[micro_batch_size, seq_length]``; None
            for each on pipeline stages that see no tokens.
        """
        size = self.spec.micro_batch_size
        stride = size * self.spec.parallel.data
        self.seen = [0, 0]
        for place in range(size * self.data_rank, self.spec.global_batch_size, stride):
            start = first_sample + place
            batch = NO_TOKENS
            if self.dataset is not None:
                batch = self._read(range(start, start + size), place)
            yield batch

    def _read(self, samples: range, place: int) -> dict[str, Any]:
        items = [self.dataset[index] for index in samples]
        tokens = torch.stack([item["tokens"] for item in items])
        labels = torch.stack([item["labels"] for item in items])
        largest = max(int(tokens.max()), int(labels.max()))
        _refuse_beyond(largest, self.spec.model.vocab_size, f"a sample from {samples.start} on")
        if self.is_witness:
            self.seen = add(self.seen, fingerprint(tokens, place))
        positions = items[0]["position_ids"].expand_as(tokens)
        batch = {"tokens": tokens, "labels": labels, "positions": positions}
        if devices.is_cpu(self.place):
            return batch
        return {
            key: value.contiguous().pin_memory().to(self.place, non_blocking=True)
            for key, value in batch.items()
        }


def fingerprint(tokens: torch.Tensor, place: int) -> list[int]:
    """What tells apart the samples that were read, and their order: two sums, over the samples, of
    32 bits of a hash of a sample's tokens and of its place in the global batch.

    Sums, so that those of all ranks may be added in any order, as floating-point numbers too: they
    are exact with up to two million samples. One of 8192 tokens takes some 40 microseconds.

    Args:
        tokens: of a micro-batch, a sample a row.
        place: of the first of them in the global batch.
    """
    found = [0, 0]
    for number, sample in enumerate(tokens.int().numpy(), place):
        salt = number.to_bytes(8, "little")
        found = add(found, WORDS.unpack(hashlib.blake2b(sample, digest_size=8, salt=salt).digest()))
    return found


def add(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Sum of two fingerprints."""
    return [left + right for left, right in zip(one, other, strict=True)]


def written(seen: Sequence[float]) -> str:
    """A fingerprint as metric lines hold it, 16 hexadecimal digits."""
    return "".join(f"{int(part) % (1 << 32):08x}" for part in seen)


@dataclass
class Splits:
    """What is trained and validated on."""

    train: Split
    validation: Split | None
    """None where there are no validation tokens, or no batches of them are asked for."""
    place: torch.device


def open_splits(
    run: rundir.RunDir, spec: PretrainSpec, corpus: DatasetSurvey, place: torch.device
) -> Splits:
    """Open the training and validation samples; rank 0 builds the index files that are missing.

    Documents are packed with their end-of-document tokens, without masks between them, as the
    released MEDITRON models were trained (epfLLM/Megatron-LLM, gpt_dataset.py).
    """
    eod = devices.decide_once(lambda: _end_of_document(run, spec))
    cache = run.path(spec.cache_dir)
    devices.decide_once(lambda: _clear_unfinished(cache, corpus))
    validates = bool(corpus.validation) and spec.validation_batches > 0
    train, validation, _ = BlendedMegatronDatasetBuilder(
        GPTDataset,
        [
            spec.train_steps * spec.global_batch_size,
            spec.validation_batches * spec.global_batch_size,
            0,
        ],
        _sees_tokens,
        GPTDatasetConfig(
            random_seed=spec.seed,
            sequence_length=spec.model.seq_length,
            blend_per_split=[
                _blend(run, corpus.train),
                _blend(run, corpus.validation) if validates else None,
                None,
            ],
            path_to_cache=str(cache),
            tokenizer=Tokenizer(eod, {"eod": eod}),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
        ),
    ).build()
    devices.decide_once(lambda: write_json(cache / READY, _cached(cache, corpus)))
    data_rank = parallel_state.get_data_parallel_rank()
    return Splits(
        Split(train, spec, place, data_rank, _is_witness()),
        Split(validation, spec, place, data_rank, False) if validates else None,
        place,
    )


def _end_of_document(run: rundir.RunDir, spec: PretrainSpec) -> int:
    """Id of the token that ends a document, from the tokenizer that the run was made with."""
    tokenizer_file.require_unchanged(run, spec.tokenizer, spec.tokenizer_sha256)
    path = str(run.path(spec.tokenizer))
    return tokenizer_file.eod_id(tokenizer_file.load(path), path, spec.eod_token)


def _sees_tokens() -> bool:
    return bool(parallel_state.is_pipeline_first_stage() or parallel_state.is_pipeline_last_stage())


def _is_witness() -> bool:
    first_stage = parallel_state.is_pipeline_first_stage()
    return bool(first_stage and parallel_state.get_tensor_model_parallel_rank() == 0)


def _blend(
    run: rundir.RunDir, sources: tuple[IndexedSource, ...]
) -> tuple[list[str], list[float]] | None:
    """Weights are token counts: megatron.core would otherwise stop after one epoch of the whole."""
    if not sources:
        return None
    prefixes = [str(run.path(source.prefix)) for source in sources]
    return prefixes, [float(source.tokens) for source in sources]


def _cached(cache: Path, corpus: DatasetSurvey) -> dict[str, Any]:
    """What the index files depend on; GPTDataset names them by the tokens' absolute paths too."""
    return {"data": corpus.digest, "folder": str(cache)}


def _clear_unfinished(cache: Path, corpus: DatasetSurvey) -> None:
    """Drop index files that were not finished, or are of other tokens.

    GPTDataset writes them in place and takes whatever lies there the next time, so that a kill in
    between would be met again at every start.
    """
    try:
        if read_json(cache / READY) == {"format": FORMAT, **_cached(cache, corpus)}:
            return
    except (FileNotFoundError, FormatError):
        pass
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
