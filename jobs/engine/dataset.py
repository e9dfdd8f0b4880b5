"""Read training batches from indexed datasets, from any position.

The order of samples depends on the tokens, the seed, the sequence length and the number of samples
in the whole run, never on the number of ranks: with global batches of ``size`` samples, batch ``n``
begins with sample ``n x size``.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from jobs.contract import rundir
from jobs.contract.files import FORMAT, FormatError, read_json, write_json
from jobs.contract.stage_specs import PretrainSpec
from jobs.data import tokenizer_file
from jobs.data.survey import DatasetSurvey, IndexedSource, refuse_beyond
from jobs.engine import device as devices

with devices.quiet():
    from megatron.core import parallel_state
    from megatron.core.datasets.blended_megatron_dataset_builder import (
        BlendedMegatronDatasetBuilder,
    )
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

READY = "ready.json"
"""The file in the cache folder that records finished index files."""

SAMPLE_HASH = struct.Struct("<2I")
"""Two words of 32 bits."""

NO_TOKENS = dict.fromkeys(("tokens", "labels", "positions"))


@dataclass
class Tokenizer:
    """The part of a tokenizer that GPTDataset uses."""

    eod: int
    unique_identifiers: dict[str, Any]
    vocab_size: None = None
    """None: the header of each file defines the width of its tokens."""


@dataclass
class Split:
    """This rank's part of the global batches of one split."""

    dataset: Any
    """None on pipeline stages that read no tokens."""
    spec: PretrainSpec
    device: torch.device
    data_rank: int
    takes_fingerprint: bool = True
    """True on one of the ranks that read the same samples."""
    fingerprint: list[int] = field(default_factory=lambda: [0, 0])
    """Of this rank's samples of the global batch that were read so far."""

    def micro_batches(self, first_sample: int) -> Iterator[dict[str, Any]]:
        """Yield this rank's micro-batches of the global batch that begins with a sample.

        Yields:
            ``tokens``, ``labels`` and ``positions``, int64 ``[micro_batch_size, seq_length]``; None
            for each on pipeline stages that read no tokens.
        """
        size = self.spec.micro_batch_size
        stride = size * self.spec.parallel.data
        self.fingerprint = [0, 0]
        for position in range(size * self.data_rank, self.spec.global_batch_size, stride):
            start = first_sample + position
            batch = NO_TOKENS
            if self.dataset is not None:
                batch = self._read(range(start, start + size), position)
            yield batch

    def _read(self, samples: range, position: int) -> dict[str, Any]:
        items = [self.dataset[index] for index in samples]
        tokens = torch.stack([item["tokens"] for item in items])
        labels = torch.stack([item["labels"] for item in items])
        largest = max(int(tokens.max()), int(labels.max()))
        refuse_beyond(largest, self.spec.model.vocab_size, f"a sample from {samples.start} on")
        if self.takes_fingerprint:
            self.fingerprint = add_fingerprints(self.fingerprint, fingerprint(tokens, position))
        positions = items[0]["position_ids"].expand_as(tokens)
        batch = {"tokens": tokens, "labels": labels, "positions": positions}
        if devices.is_cpu(self.device):
            return batch
        return {
            key: value.contiguous().pin_memory().to(self.device, non_blocking=True)
            for key, value in batch.items()
        }


def fingerprint(tokens: torch.Tensor, position: int) -> list[int]:
    """Return a fingerprint of samples and their order, by which two readings are compared.

    It is two sums, over the samples, of 32 bits of a hash of a sample's tokens, salted with its
    position in the global batch. Sums of all ranks can be added in any order, also as float64: they
    are exact up to two million samples. A sample of 8192 tokens takes about 40 microseconds.

    Args:
        tokens: of a micro-batch, one sample per row.
        position: of the first sample in the global batch.
    """
    sums = [0, 0]
    for number, sample in enumerate(tokens.int().numpy(), position):
        salt = number.to_bytes(8, "little")
        digest = hashlib.blake2b(sample, digest_size=8, salt=salt).digest()
        sums = add_fingerprints(sums, SAMPLE_HASH.unpack(digest))
    return sums


def add_fingerprints(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Return the sum of two fingerprints."""
    return [left + right for left, right in zip(one, other, strict=True)]


def fingerprint_text(sums: Sequence[float]) -> str:
    """Return a fingerprint as metric lines have it, 16 hexadecimal digits."""
    return "".join(f"{int(part) % (1 << 32):08x}" for part in sums)


@dataclass
class Splits:
    """The samples to train and to validate on."""

    train: Split
    validation: Split | None
    """None without validation tokens, or with ``validation_batches`` of 0."""
    device: torch.device


def open_splits(
    run: rundir.RunDir, spec: PretrainSpec, datasets: DatasetSurvey, device: torch.device
) -> Splits:
    """Open the training and validation samples; rank 0 builds the index files that are missing.

    Documents are packed with their end-of-document tokens, without masks between them, as the
    released MEDITRON models were trained (epfLLM/Megatron-LLM, gpt_dataset.py).
    """
    eod = devices.decide_once(lambda: _end_of_document(run, spec))
    cache = run.path(spec.cache_dir)
    devices.decide_once(lambda: _clear_unfinished(cache, datasets))
    validates = bool(datasets.validation) and spec.validation_batches > 0
    train, validation, _ = BlendedMegatronDatasetBuilder(
        GPTDataset,
        [
            spec.train_steps * spec.global_batch_size,
            spec.validation_batches * spec.global_batch_size,
            0,
        ],
        _reads_tokens,
        GPTDatasetConfig(
            random_seed=spec.seed,
            sequence_length=spec.model.seq_length,
            blend_per_split=[
                _blend(run, datasets.train),
                _blend(run, datasets.validation) if validates else None,
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
    devices.decide_once(lambda: write_json(cache / READY, _cached(cache, datasets)))
    data_rank = parallel_state.get_data_parallel_rank()
    return Splits(
        Split(train, spec, device, data_rank, _takes_fingerprint()),
        Split(validation, spec, device, data_rank, False) if validates else None,
        device,
    )


def _end_of_document(run: rundir.RunDir, spec: PretrainSpec) -> int:
    """Return the id of the token that ends a document, from the run's tokenizer."""
    tokenizer_file.require_unchanged(run, spec.tokenizer)
    table = tokenizer_file.require_tokens(spec.tokenizer, run.path(spec.tokenizer.path))
    return table.ids[spec.tokenizer.vocabulary.eod_token]


def _reads_tokens() -> bool:
    return bool(parallel_state.is_pipeline_first_stage() or parallel_state.is_pipeline_last_stage())


def _takes_fingerprint() -> bool:
    first_stage = parallel_state.is_pipeline_first_stage()
    return bool(first_stage and parallel_state.get_tensor_model_parallel_rank() == 0)


def _blend(
    run: rundir.RunDir, sources: tuple[IndexedSource, ...]
) -> tuple[list[str], list[float]] | None:
    """Return prefixes with token counts as weights; megatron.core else stops after one epoch."""
    if not sources:
        return None
    prefixes = [str(run.path(source.prefix)) for source in sources]
    return prefixes, [float(source.tokens) for source in sources]


def _cached(cache: Path, datasets: DatasetSurvey) -> dict[str, Any]:
    """Return what the index files depend on; GPTDataset also names them by absolute paths."""
    return {"data": datasets.digest, "folder": str(cache)}


def _clear_unfinished(cache: Path, datasets: DatasetSurvey) -> None:
    """Remove index files that are unfinished or of other tokens.

    GPTDataset writes them in place and reuses whatever exists, so that a kill during the write
    would fail every later start.
    """
    try:
        if read_json(cache / READY) == {"format": FORMAT, **_cached(cache, datasets)}:
            return
    except (FileNotFoundError, FormatError):
        pass
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
