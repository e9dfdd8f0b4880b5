"""3D arithmetic against published figures, and as properties."""

from __future__ import annotations

import dataclasses
import json

import pytest

from jobs.contract.stage_specs import ModelSpec, ParallelSpec
from meditron_cli.config.load import load
from meditron_cli.plan import layout, spec_parts

from ...model_specs import model_spec

SEVEN = model_spec(
    layers=32,
    hidden_size=4096,
    ffn_hidden_size=11008,
    attention_heads=32,
    kv_heads=32,
    seq_length=2048,
    vocab_size=32000,
    padded_vocab_size=32000,
)
SEVENTY = model_spec(
    layers=80,
    hidden_size=8192,
    ffn_hidden_size=28672,
    attention_heads=64,
    kv_heads=8,
    seq_length=4096,
    vocab_size=32000,
    padded_vocab_size=32000,
)
EIGHT = model_spec(  # config.json of meta-llama/Llama-3.1-8B
    layers=32,
    hidden_size=4096,
    ffn_hidden_size=14336,
    attention_heads=32,
    kv_heads=8,
    seq_length=8192,
    vocab_size=128256,
    padded_vocab_size=128256,
)
ONE = model_spec(  # config.json of meta-llama/Llama-3.2-1B
    layers=16,
    hidden_size=2048,
    ffn_hidden_size=8192,
    attention_heads=32,
    kv_heads=8,
    seq_length=8192,
    vocab_size=128256,
    padded_vocab_size=128256,
    tied_embeddings=True,
)
QWEN_3 = model_spec(  # config.json of Qwen/Qwen3-0.6B, whose heads are wider than 1,024 / 16
    layers=28,
    hidden_size=1024,
    ffn_hidden_size=3072,
    attention_heads=16,
    kv_heads=8,
    head_dim=128,
    seq_length=4096,
    vocab_size=151936,
    padded_vocab_size=151936,
    tied_embeddings=True,
    qk_norm=True,
)
QWEN_2 = model_spec(  # config.json of Qwen/Qwen2.5-7B
    layers=28,
    hidden_size=3584,
    ffn_hidden_size=18944,
    attention_heads=28,
    kv_heads=4,
    seq_length=4096,
    vocab_size=152064,
    padded_vocab_size=152064,
    qkv_bias=True,
)
OLMO_2 = model_spec(  # config.json of allenai/OLMo-2-1124-7B
    layers=32,
    hidden_size=4096,
    ffn_hidden_size=11008,
    attention_heads=32,
    kv_heads=32,
    seq_length=4096,
    vocab_size=100352,
    padded_vocab_size=100352,
    post_norm=True,
)
PAPER_70B = ParallelSpec(8, 8, 2, True, False, "selective")

QWEN = 151_936


@pytest.mark.parametrize(
    ("rows", "unused", "added", "first", "base_rows"),
    [
        (32_017, 0, 17, 32_000, 32_000),
        (QWEN, 271, 17, 151_665, QWEN),
        (QWEN, 271, 271, 151_665, QWEN),
        (QWEN + 29, 271, 300, 151_665, QWEN),
        (QWEN, 0, 0, QWEN, QWEN),
    ],
)
def test_added_tokens_take_unused_rows_of_the_base_model_first(
    rows: int, unused: int, added: int, first: int, base_rows: int
) -> None:
    tokens = json.dumps([f"[{number}]" for number in range(added)])
    experiment = load(
        "local", "7b", None,
        [f"model.vocab_size={rows}", f"vocabulary.unused_rows={unused}",
         f"vocabulary.added_tokens={tokens}", "vocabulary.control_tokens=[]",
         "vocabulary.eod_token=</s>"],
    ).experiment  # fmt: skip

    vocabulary = spec_parts.vocabulary_spec(experiment)

    assert (vocabulary.base_size, vocabulary.base_rows) == (first, base_rows)
    assert vocabulary.size == first + added
    assert rows == max(vocabulary.base_rows, vocabulary.size)


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (SEVEN, 6_738_415_616),
        (SEVENTY, 68_976_648_192),
        (EIGHT, 8_030_261_248),
        (ONE, 1_235_814_400),
        (QWEN_3, 596_049_920),
        (QWEN_2, 7_615_616_512),
        (OLMO_2, 7_298_617_344),
    ],
)
def test_the_parameter_count_is_the_published_one(model: ModelSpec, published: int) -> None:
    assert model.parameters == published


@pytest.mark.parametrize(("multiple", "rows"), [(128, 32128), (512, 32256), (1024, 32768)])
def test_the_vocabulary_is_padded_to_its_multiple(multiple: int, rows: int) -> None:
    assert layout.padded_vocabulary(32017, multiple) == rows


def test_the_70b_run_works_through_128_micro_batches_a_step() -> None:
    assert layout.BatchLayout(2, 512, 2).accumulation == 128


def test_training_flops_are_close_to_six_per_parameter() -> None:
    assert SEVENTY.flops_per_token() == pytest.approx(6 * 70e9, rel=0.08)


def test_a_tied_embedding_is_computed_with_as_a_separate_output_layer_is() -> None:
    apart = dataclasses.replace(ONE, tied_embeddings=False)

    assert ONE.flops_per_token() == apart.flops_per_token()


@pytest.mark.parametrize(
    ("changes", "parallel", "batch", "sentence"),
    [
        (
            {},
            {"tensor": 3},
            (1, 1),
            "model.attention_heads = 32 is not divisible by parallel.tensor = 3; 30 or 33 would be",
        ),
        (
            {"kv_heads": 2},
            {"tensor": 4},
            (1, 1),
            "model.kv_heads = 2 is not divisible by parallel.tensor = 4; 4 would be",
        ),
        (
            {},
            {"pipeline": 5},
            (1, 1),
            "model.layers = 32 is not divisible by parallel.pipeline = 5; 30 or 35 would be",
        ),
        (
            {},
            {"data": 2},
            (3, 16),
            "pretrain.global_batch_size = 16 is not divisible by pretrain.micro_batch_size x "
            "parallel.data = 6; 12 or 18 would be",
        ),
        (
            {"padded_vocab_size": 32032},
            {"tensor": 64},
            (1, 1),
            "the embedding's rows, 32032, are not divisible by parallel.tensor = 64; "
            "set model.vocab_multiple to a multiple of 64",
        ),
        (
            {},
            {"pipeline": 4, "virtual": 3},
            (1, 8),
            "model.layers = 32 is not divisible by parallel.pipeline x parallel.virtual = 12; "
            "24 or 36 would be",
        ),
        (
            {},
            {"pipeline": 4, "virtual": 2, "data": 2},
            (1, 12),
            "pretrain.global_batch_size = 12 is not divisible by pretrain.micro_batch_size x "
            "parallel.data x parallel.pipeline = 8; 8 or 16 would be",
        ),
        (
            {},
            {"virtual": 2},
            (1, 8),
            "parallel.virtual = 2 divides the layers of pipeline stages, and parallel.pipeline "
            "is 1; set parallel.virtual to 1, or raise parallel.pipeline",
        ),
        (
            {"seq_length": 2047},
            {"tensor": 2, "sequence_parallel": True},
            (1, 1),
            "model.seq_length = 2047 is not divisible by parallel.tensor = 2; "
            "2046 or 2048 would be",
        ),
    ],
)
def test_a_layout_that_does_not_divide_names_the_keys(
    changes: dict[str, int], parallel: dict[str, int], batch: tuple[int, int], sentence: str
) -> None:
    model = dataclasses.replace(SEVEN, **changes)
    base = ParallelSpec(1, 1, 1, False, True, "none")

    errors = layout.layout_errors(model, dataclasses.replace(base, **parallel), *batch)

    assert sentence in errors


def test_attention_works_by_the_width_of_its_heads() -> None:
    narrow = dataclasses.replace(QWEN_3, head_dim=64)

    added = QWEN_3.flops_per_token() - narrow.flops_per_token()

    weights = QWEN_3.parameters - narrow.parameters
    assert added == 6 * weights + 12 * 28 * 16 * 64 * 4096
    assert QWEN_3.flops_per_token(attention=False) == 6 * QWEN_3.parameters


def test_a_layout_that_divides_has_no_errors() -> None:
    assert layout.layout_errors(SEVENTY, PAPER_70B, 2, 512) == []
