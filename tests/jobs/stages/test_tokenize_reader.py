"""The output of tokenize, read by megatron.core itself and byte by byte."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from jobs.contract.atomic_file import AtomicFile
from jobs.data.indexed_dataset import write_index

pytestmark = pytest.mark.engine

LENGTH = 32
"""Tokens of a sample of Megatron's training set."""

TEXTS = [
    f"Case {number}: " + "sodium was low, potassium was high, <EOD> was written. " * (number % 7)
    for number in range(50)
]


@pytest.fixture(scope="module")
def megatron() -> Any:
    """Return megatron.core's own module of indexed datasets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing it warns of every optional library it misses
        from megatron.core.datasets import indexed_dataset
    return indexed_dataset


def tokenize(bench: Any, folder: Path, texts: list[str], name: str = "00000") -> Tokenizer:
    """Tokenize texts into tokens/<name> and return the tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=350,
        special_tokens=["<EOD>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    shard = bench.run.path(f"corpus/{name}.jsonl")
    shard.parent.mkdir(exist_ok=True)
    shard.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    prefix = f"tokens/{name}"
    bench.tokenize(f"corpus/{name}.jsonl", folder / "tokenizer.json", output_prefix=prefix)
    result = bench.start("tokenize")
    assert (result.returncode, result.stderr) == (0, "")
    return tokenizer


def test_header_and_sizes_are_as_in_the_format(bench: Any, tmp_path: Path) -> None:
    tokenize(bench, tmp_path, TEXTS)

    index = bench.run.path("tokens/00000.idx").read_bytes()
    data = bench.run.path("tokens/00000.bin").read_bytes()
    magic, version, code, sequences, bounds = struct.unpack("<9sQBQQ", index[:34])
    lengths = numpy.frombuffer(index, "<i4", sequences, 34)
    pointers = numpy.frombuffer(index, "<i8", sequences, 34 + 4 * sequences)
    documents = numpy.frombuffer(index, "<i8", bounds, 34 + 12 * sequences)
    assert (magic, version, code, sequences, bounds) == (b"MMIDIDX\0\0", 1, 8, 50, 51)
    assert len(index) == 34 + 12 * sequences + 8 * bounds
    assert len(data) == 2 * lengths.sum()
    assert (lengths > 0).all()
    assert pointers.tolist() == [0, *(2 * numpy.cumsum(lengths))[:-1].tolist()]
    assert documents.tolist() == list(range(51))


def test_every_document_ends_in_the_end_token_and_has_it_nowhere_else(
    bench: Any, megatron: Any, tmp_path: Path
) -> None:
    tokenizer = tokenize(bench, tmp_path, TEXTS)

    dataset = megatron.IndexedDataset(str(bench.run.path("tokens/00000")))

    eod = tokenizer.token_to_id("<EOD>")
    assert all(ids[-1] == eod and eod not in ids[:-1] for ids in dataset)
    assert max(ids.max() for ids in dataset) < tokenizer.get_vocab_size()


@pytest.mark.parametrize("mmap", [True, False])
def test_megatron_reads_every_document(
    mmap: bool, bench: Any, megatron: Any, tmp_path: Path
) -> None:
    tokenizer = tokenize(bench, tmp_path, TEXTS)

    dataset = megatron.IndexedDataset(str(bench.run.path("tokens/00000")), mmap=mmap)

    tokenizer.encode_special_tokens = True
    eod = tokenizer.token_to_id("<EOD>")
    expected = [[*tokenizer.encode(text).ids, eod] for text in TEXTS]
    assert len(dataset) == 50
    assert [dataset[number].tolist() for number in range(50)] == expected
    assert [ids.tolist() for ids in dataset[3:9]] == expected[3:9]
    assert dataset.get(20, offset=2, length=3).tolist() == expected[20][2:5]
    again = pickle.loads(pickle.dumps(dataset))
    assert again[49].tolist() == expected[49]


def test_the_files_are_those_of_megatrons_own_builder(
    bench: Any, megatron: Any, tmp_path: Path
) -> None:
    tokenizer = tokenize(bench, tmp_path, TEXTS)

    dtype = megatron.DType.optimal_dtype(tokenizer.get_vocab_size())
    tokenizer.encode_special_tokens = True
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "golden.bin"), dtype=dtype)
    for text in TEXTS:
        ids = [*tokenizer.encode(text).ids, tokenizer.token_to_id("<EOD>")]
        builder.add_document(numpy.array(ids), [len(ids)])
    builder.finalize(str(tmp_path / "golden.idx"))

    for suffix in ("bin", "idx"):
        ours = bench.run.path(f"tokens/00000.{suffix}").read_bytes()
        assert ours == (tmp_path / f"golden.{suffix}").read_bytes()


def test_shards_merged_by_megatron_are_the_whole_tokenized_at_once(
    bench: Any, megatron: Any, tmp_path: Path
) -> None:
    tokenize(bench, tmp_path, TEXTS)
    tokenize(bench, tmp_path, TEXTS[:20], "00001")
    tokenize(bench, tmp_path, TEXTS[20:], "00002")

    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "merged.bin"), dtype=numpy.uint16)
    builder.add_index(str(bench.run.path("tokens/00001")))
    builder.add_index(str(bench.run.path("tokens/00002")))
    builder.finalize(str(tmp_path / "merged.idx"))

    for suffix in ("bin", "idx"):
        merged = (tmp_path / f"merged.{suffix}").read_bytes()
        assert merged == bench.run.path(f"tokens/00000.{suffix}").read_bytes()


@pytest.fixture
def gpt_dataset(tmp_path: Path) -> Any:
    """Return a function that builds Megatron's training set of some datasets; no compiler."""
    from megatron.core.datasets.blended_megatron_dataset_builder import (
        BlendedMegatronDatasetBuilder,
    )
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from torch import distributed

    def build(prefixes: list[str], weights: list[float] | None, samples: int) -> Any:
        config = GPTDatasetConfig(
            random_seed=1,
            sequence_length=LENGTH,
            blend_per_split=[(prefixes, weights), None, None],
            path_to_cache=str(tmp_path / "cache"),
            tokenizer=SimpleNamespace(eod=0, pad=-1, unique_identifiers={}, vocab_size=None),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
        )
        sizes = [samples, 0, 0]
        return BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()[0]

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield build
    distributed.destroy_process_group()


def test_megatrons_training_set_reads_the_shards(
    bench: Any, gpt_dataset: Any, megatron: Any, tmp_path: Path
) -> None:
    tokenize(bench, tmp_path, TEXTS[:20], "00001")
    tokenize(bench, tmp_path, TEXTS[20:], "00002")
    first, second = (str(bench.run.path(f"tokens/{name}")) for name in ("00001", "00002"))
    documents = megatron.IndexedDataset(first)

    whole = gpt_dataset([first], None, 10)
    stream = numpy.concatenate([documents[number] for number in whole.document_index])
    for sample in range(len(whole)):
        place = int(whole.shuffle_index[sample]) * LENGTH
        tokens = [*whole[sample]["tokens"].tolist(), int(whole[sample]["labels"][-1])]
        assert tokens == stream[place : place + LENGTH + 1].tolist()

    mixed = gpt_dataset([first, second], [0.75, 0.25], 40)
    assert numpy.bincount(mixed.dataset_index).tolist() == [30, 10]
    once = gpt_dataset([first, second], None, 10**6)
    both = [documents, megatron.IndexedDataset(second)]
    windows = [(int(one.sequence_lengths.sum()) - 1) // LENGTH for one in both]
    assert numpy.bincount(once.dataset_index).tolist() == windows


def test_offsets_beyond_four_gigabytes_are_right(megatron: Any, tmp_path: Path) -> None:

    lengths = numpy.array([2**30, 2**30, 2**31 - 1, 5], dtype=numpy.int32)
    starts = [0, 2**30, 2**31, 2**31 + 2**31 - 1]
    index = AtomicFile(tmp_path / "big.idx")
    write_index(index, lengths, "int32")
    index.seal()
    index.publish()
    with (tmp_path / "big.bin").open("wb") as data:  # 16 GB of holes, and the last document
        data.seek(4 * starts[3])
        data.write(numpy.arange(5, dtype="<i4").tobytes())

    dataset = megatron.IndexedDataset(str(tmp_path / "big"))

    assert dataset.index.sequence_pointers.tolist() == [4 * start for start in starts]
    assert dataset[3].tolist() == [0, 1, 2, 3, 4]
    assert dataset.get(2, offset=2**31 - 3).tolist() == [0, 0]


def test_many_documents_are_indexed_alike_across_blocks(tmp_path: Path) -> None:
    count = (1 << 20) * 2 + 3
    lengths = numpy.random.default_rng(1).integers(1, 5000, count, dtype=numpy.int32)
    index = AtomicFile(tmp_path / "many.idx")

    write_index(index, lengths, "uint16")
    index.seal()
    index.publish()

    content = (tmp_path / "many.idx").read_bytes()
    pointers = numpy.frombuffer(content, "<i8", count, 34 + 4 * count)
    documents = numpy.frombuffer(content, "<i8", count + 1, 34 + 12 * count)
    ends = numpy.cumsum(lengths, dtype=numpy.int64) * 2
    assert ends[-1] > 2**32
    assert numpy.array_equal(pointers, numpy.concatenate([[0], ends[:-1]]))
    assert numpy.array_equal(documents, numpy.arange(count + 1))
    assert len(content) == 34 + 20 * count + 8
