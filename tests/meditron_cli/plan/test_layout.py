"""3D arithmetic against published figures, and as properties."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.stage_specs import ModelSpec, ParallelSpec
from meditron_cli.plan import layout

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

models = st.builds(
    lambda layers, heads, group, width, head_dim, ffn, rows, tied: model_spec(
        layers=layers,
        hidden_size=heads * group * width,
        ffn_hidden_size=ffn,
        attention_heads=heads * group,
        kv_heads=heads,
        head_dim=head_dim,
        seq_length=128,
        vocab_size=rows,
        padded_vocab_size=layout.padded_vocabulary(rows, 128),
        tied_embeddings=tied,
    ),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([8, 16]),
    st.sampled_from([8, 16]),
    st.integers(1, 400),
    st.integers(1, 9000),
    st.booleans(),
)


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


def test_states_of_the_70b_run_take_19_4_gb_a_gpu_without_a_sharded_optimizer() -> None:
    memory = layout.memory(SEVENTY, PAPER_70B, layout.BatchLayout(2, 512, 2), "bf16")

    middle_stage = 80 // 8 * SEVENTY.layer_parameters // 8 * 18
    assert middle_stage == pytest.approx(19.4e9, rel=0.02)
    assert memory.states == pytest.approx(middle_stage, rel=0.05)


def test_the_70b_run_works_through_128_micro_batches_a_step() -> None:
    assert layout.BatchLayout(2, 512, 2).accumulation == 128


def test_training_flops_are_close_to_six_per_parameter() -> None:
    assert layout.flops_per_token(SEVENTY) == pytest.approx(6 * 70e9, rel=0.08)


def test_a_tied_embedding_is_computed_with_as_a_separate_output_layer_is() -> None:
    apart = dataclasses.replace(ONE, tied_embeddings=False)

    assert layout.flops_per_token(ONE) == layout.flops_per_token(apart)


def test_a_tied_embedding_is_on_the_first_and_on_the_last_stage() -> None:
    rows = ONE.padded_vocab_size * ONE.hidden_size

    alone, half = (
        layout.stage_parameters(ONE, ParallelSpec(1, pipeline, 1, False, False, "none"))
        for pipeline in (1, 2)
    )

    assert alone == 16 * ONE.layer_parameters + rows
    assert half == 8 * ONE.layer_parameters + rows


def test_attention_works_and_keeps_activations_by_the_width_of_its_heads() -> None:
    narrow = dataclasses.replace(QWEN_3, head_dim=64)
    one, batch = ParallelSpec(1, 1, 1, False, False, "selective"), layout.BatchLayout(1, 1, 1)

    added = layout.flops_per_token(QWEN_3) - layout.flops_per_token(narrow)
    weights = QWEN_3.parameters - narrow.parameters
    assert added == 6 * weights + 12 * 28 * 16 * 64 * 4096

    kept = layout.activations(QWEN_3, one, batch, "bf16")
    assert kept - layout.activations(narrow, one, batch, "bf16") == 8 * 28 * 4096 * 16 * 64


@given(models)
def test_parameters_are_the_sum_of_the_stages(model: ModelSpec) -> None:
    for pipeline in range(1, model.layers + 1):
        if model.layers % pipeline == 0:
            parallel = ParallelSpec(1, pipeline, 1, False, False, "none")
            embeddings = model.embedding_parameters
            layers = model.layers * model.layer_parameters

            stage = layout.stage_parameters(model, parallel)

            assert stage * pipeline >= layers + embeddings
            assert stage <= layers + embeddings


@given(models, st.integers(1, 8), st.sampled_from(["bf16", "fp32"]))
def test_more_data_parallel_ranks_never_need_more_memory(
    model: ModelSpec, data: int, precision: str
) -> None:
    one = ParallelSpec(1, 1, 1, False, True, "none")
    many = dataclasses.replace(one, data=data)

    assert (
        layout.memory(model, many, layout.BatchLayout(1, data, data), precision).total
        <= layout.memory(model, one, layout.BatchLayout(1, 1, 1), precision).total
    )


def test_fp32_doubles_what_layers_keep_and_not_the_logits() -> None:
    one, batch = ParallelSpec(1, 1, 1, False, False, "none"), layout.BatchLayout(1, 1, 1)

    half, full = (layout.activations(SEVEN, one, batch, word) for word in ("bf16", "fp32"))

    logits = 4 * SEVEN.seq_length * SEVEN.padded_vocab_size
    assert full - logits == 2 * (half - logits)


def test_no_more_micro_batches_are_in_flight_than_there_are() -> None:
    deep = ParallelSpec(1, 8, 1, False, False, "none")

    one, four, many = (
        layout.activations(SEVEN, deep, layout.BatchLayout(1, count, 1), "bf16")
        for count in (1, 4, 64)
    )

    assert one < four
    assert many == 2 * four


def test_a_save_gathers_12_bytes_a_parameter_only_with_the_distributed_optimizer() -> None:
    own = ParallelSpec(2, 2, 4, True, False, "none")
    shared = dataclasses.replace(own, distributed_optimizer=True)
    batch = layout.BatchLayout(1, 4, 4)

    assert layout.memory(SEVEN, own, batch, "bf16").save == 0
    count = layout.stage_parameters(SEVEN, shared)
    assert layout.memory(SEVEN, shared, batch, "bf16").save == 12 * count


@given(models, st.integers(1, 8))
def test_recomputing_more_keeps_fewer_activations(model: ModelSpec, micro: int) -> None:
    """With two layers at least: the one that is computed again is there as a whole."""
    two = dataclasses.replace(model, layers=2 * model.layers)
    kept = [
        layout.activations(
            two,
            ParallelSpec(1, 1, 1, False, False, recompute),
            layout.BatchLayout(micro, micro, 1),
            "bf16",
        )
        for recompute in ("none", "selective", "full")
    ]

    assert kept == sorted(kept, reverse=True)


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


def test_a_layout_that_divides_has_no_errors() -> None:
    assert layout.layout_errors(SEVENTY, PAPER_70B, 2, 512) == []
