"""The memory of a rank, by part and by pipeline stage."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.stage_specs import ModelSpec, ParallelSpec
from meditron_cli.plan import layout, memory
from meditron_cli.plan.layout import BatchLayout

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
ALONE = ParallelSpec(1, 1, 1, False, False, "none")
PAPER_70B = ParallelSpec(8, 8, 2, True, False, "selective")
GPU_BYTES = 80 * 2**30

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


def alone(pipeline: int = 1, tied: bool = False) -> list[int]:
    model = dataclasses.replace(SEVEN, tied_embeddings=tied)
    parallel = dataclasses.replace(ALONE, pipeline=pipeline)
    return [memory.stage_parameters(model, parallel, stage) for stage in range(pipeline)]


def test_states_of_the_70b_run_take_19_4_gb_a_gpu_without_a_sharded_optimizer() -> None:
    stages = memory.stages(SEVENTY, PAPER_70B, BatchLayout(2, 512, 2), "bf16", "cuda")

    assert stages[3].states == pytest.approx(19.4e9, rel=0.02)
    assert stages[0].states == stages[7].states > stages[3].states


@pytest.mark.parametrize(
    ("model", "sizes", "fits"),
    [
        (SEVEN, (1, 1), False),
        (SEVEN, (2, 1), True),
        (SEVENTY, (8, 2), False),
        (SEVENTY, (8, 4), True),
    ],
)
def test_models_fit_from_as_many_gpus_as_published(
    model: ModelSpec, sizes: tuple[int, int], fits: bool
) -> None:
    """Two of 80 GB for 7B, 32 for 70B (github.com/epfLLM/Megatron-LLM, docs/guide/faq.md)."""
    parallel = ParallelSpec(*sizes, 1, sizes[0] > 1, False, "selective")

    need = memory.fullest(model, parallel, BatchLayout(1, 8, 1), "bf16", "cuda")

    assert (need.total <= GPU_BYTES) == fits


def test_the_first_and_the_last_stage_hold_an_embedding() -> None:
    rows, layer = SEVEN.padded_vocab_size * SEVEN.hidden_size, SEVEN.layer_parameters

    assert alone(1) == [32 * layer + 2 * rows]
    assert alone(4) == [8 * layer + rows, 8 * layer, 8 * layer, 8 * layer + rows]
    assert alone(1, tied=True) == [32 * layer + rows]
    assert alone(2, tied=True) == [16 * layer + rows, 16 * layer + rows]


@given(models)
def test_parameters_are_the_sum_of_the_stages(model: ModelSpec) -> None:
    for pipeline in range(1, model.layers + 1):
        if model.layers % pipeline == 0:
            parallel = dataclasses.replace(ALONE, pipeline=pipeline)
            copy = pipeline > 1 and model.tied_embeddings
            embeddings = model.embedding_parameters * (2 if copy else 1)

            stages = [memory.stage_parameters(model, parallel, stage) for stage in range(pipeline)]

            assert sum(stages) == model.layers * model.layer_parameters + embeddings


@given(models, st.integers(1, 8), st.sampled_from(["bf16", "fp32"]))
def test_more_data_parallel_ranks_never_need_more_memory_of_their_own(
    model: ModelSpec, data: int, precision: str
) -> None:
    one = ParallelSpec(1, 1, 1, False, True, "none")
    many = dataclasses.replace(one, data=data)

    assert (
        memory.fullest(model, many, BatchLayout(1, data, data), precision, "cpu").total
        <= memory.fullest(model, one, BatchLayout(1, 1, 1), precision, "cpu").total
    )


def activations(
    model: ModelSpec, parallel: ParallelSpec, batch: BatchLayout, stage: int = 0,
    precision: str = "bf16", device: str = "cuda",
) -> int:  # fmt: skip
    return memory.activations(model, parallel, batch, precision, device, stage)


def layer(parallel: ParallelSpec = ALONE, precision: str = "bf16", device: str = "cuda") -> int:
    return memory.layer_activations(SEVEN, parallel, 2048, precision, device)


def test_a_layer_stores_the_inputs_of_its_parts() -> None:
    """By hand, for 7B without parallelism: 8 h, 4 q + 4 k and 6 f bytes a token, twice in fp32."""
    assert layer() == 2048 * (8 * 4096 + 8 * 4096 + 6 * 11008)
    assert layer(precision="fp32") == 2 * layer()


def test_layers_without_fused_kernels_store_more() -> None:
    """As ``test_memory`` of tests/engine measures: 20 h, 6 q + 6 k, 10 f and 4 bytes a head."""
    assert layer(device="cpu") == 2048 * (20 * 4096 + 12 * 4096 + 10 * 11008 + 4 * 32)


@pytest.mark.parametrize(
    ("recompute", "layers"),
    [("none", 4 * 2), ("selective", 4 * 2), ("full", 1)],
)
def test_layers_without_transformer_engine_store_the_whole_projection(
    recompute: str, layers: int
) -> None:
    """By hand: 2 q + 2 k bytes and 4 a head more a token, of each layer in flight, over t ranks."""
    parallel = ParallelSpec(2, 8, 1, True, False, recompute)

    more = memory.without_engine(SEVEN, parallel, BatchLayout(1, 16, 1), "bf16", stage=6)

    assert more == layers * 2048 * (4 * 4096 + 4 * 32) // 2


def test_tensor_parallelism_divides_all_but_the_norms_and_sequence_parallelism_those_too() -> None:
    tensor = dataclasses.replace(ALONE, tensor=8)
    sequence = dataclasses.replace(tensor, sequence_parallel=True)

    for device, width in (("cuda", 8), ("cpu", 20)):
        norms = 2048 * width * 4096
        assert layer(sequence, device=device) == layer(device=device) // 8
        assert layer(tensor, device=device) == norms + (layer(device=device) - norms) // 8


@pytest.mark.parametrize(
    ("rows", "precision", "expected"),
    [
        (32000, "bf16", 6 * 8192 * 32000),
        (32000, "fp32", 4 * (8192 * 32000 + 8192 * 4096 + 32000 * 4096)),
        (64, "bf16", 2 * (8192 * 64 + 8192 * 4096 + 64 * 4096)),
    ],
)
def test_logits_are_softmax_and_gradient_then_the_gradients_of_the_output_layer(
    rows: int, precision: str, expected: int
) -> None:
    model = dataclasses.replace(SEVEN, vocab_size=rows, padded_vocab_size=rows)
    norm = 2 * (2 if precision == "bf16" else 4) * 8192 * 4096

    found = memory.logits(model, ALONE, BatchLayout(4, 4, 1), precision, "cuda")

    assert found == expected + norm


def test_a_stage_holds_a_micro_batch_per_stage_behind_it_and_no_more_than_there_are() -> None:
    deep = dataclasses.replace(ALONE, pipeline=8)
    message = 2 * 2048 * 4096

    held = [activations(SEVEN, deep, BatchLayout(1, 64, 1), stage) for stage in range(8)]
    few = [activations(SEVEN, deep, BatchLayout(1, 2, 1), stage) for stage in range(8)]

    one = 4 * layer() + message
    assert held == [8 * one, 7 * one, 6 * one, 5 * one, 4 * one, 3 * one, 2 * one, 4 * layer()]
    assert few == [2 * one] * 7 + [4 * layer()]


def test_interleaving_holds_as_many_pieces_as_published_on_the_first_stage() -> None:
    """1 + (p - 1) / (p v) times all layers (arXiv 2205.05198, section 4.2.3)."""
    for p, v in ((4, 2), (4, 8), (2, 4), (8, 4)):
        parallel = dataclasses.replace(ALONE, pipeline=p, virtual=v)
        held = [
            memory.pieces_in_flight(parallel, BatchLayout(1, 64, 1), stage) for stage in range(p)
        ]

        assert held[0] == p * v * (1 + (p - 1) / (p * v))
        assert held == sorted(held, reverse=True)
        assert held[-1] == p * (v - 1) + 1


def test_interleaving_holds_no_more_pieces_than_a_batch_has() -> None:
    parallel = dataclasses.replace(ALONE, pipeline=4, virtual=8)

    assert memory.pieces_in_flight(parallel, BatchLayout(1, 4, 1), 0) == 4 * 8


def test_only_the_last_stage_holds_logits() -> None:
    stages = memory.stages(SEVENTY, PAPER_70B, BatchLayout(2, 512, 2), "bf16", "cuda")

    assert [bool(stage.logits) for stage in stages] == [False] * 7 + [True]
    assert memory.fullest(SEVENTY, PAPER_70B, BatchLayout(2, 512, 2), "bf16", "cuda") == max(
        stages, key=lambda stage: stage.total
    )


def test_a_large_vocabulary_makes_the_last_stage_the_fullest() -> None:
    wide = dataclasses.replace(SEVEN, vocab_size=256000, padded_vocab_size=256000)
    parallel = ParallelSpec(1, 2, 8, False, True, "full")

    assert memory.fullest(wide, parallel, BatchLayout(4, 512, 8), "bf16", "cuda").stage == 1


def test_attention_stores_activations_by_the_width_of_its_heads() -> None:
    wide = dataclasses.replace(SEVEN, kv_heads=8, head_dim=256)
    narrow = dataclasses.replace(wide, head_dim=128)
    batch = BatchLayout(1, 1, 1)

    added = activations(wide, ALONE, batch) - activations(narrow, ALONE, batch)

    assert added == 32 * 2048 * 4 * (32 + 8) * 128


def test_full_recomputation_stores_inputs_and_computes_one_layer_again() -> None:
    batch, full = BatchLayout(1, 1, 1), dataclasses.replace(ALONE, recompute="full")

    none, again = (
        memory.backward(SEVEN, parallel, batch, "bf16", "cuda") for parallel in (ALONE, full)
    )

    assert activations(SEVEN, full, batch) == 32 * 2 * 2048 * 4096
    assert again - none == layer()
    assert none == 2 * (2048 * 4096 + 2048 * 11008 + 4096 * 11008)


def test_attention_stores_no_scores_so_that_selective_recomputation_spares_nothing() -> None:
    selective = dataclasses.replace(ALONE, recompute="selective")
    batch = BatchLayout(1, 1, 1)

    for device in ("cuda", "cpu"):
        kept = [activations(SEVEN, one, batch, device=device) for one in (ALONE, selective)]
        assert kept[0] == kept[1] == 32 * layer(device=device)


def test_activations_and_temporaries_of_the_optimizer_are_not_there_at_once() -> None:
    need = memory.fullest(SEVEN, ALONE, BatchLayout(1, 1, 1), "bf16", "cuda")

    assert need.temporaries == 4 * memory.stage_parameters(SEVEN, ALONE, 0)
    assert need.working == need.temporaries > need.passes
    assert need.passes == need.activations + max(need.backward, need.logits)
    assert need.total == need.states + need.working + need.context + need.fragmentation


def test_libraries_take_memory_for_each_group_of_ranks_on_cuda() -> None:
    batch = BatchLayout(1, 8, 1)
    parallel = ParallelSpec(2, 2, 2, True, True, "none")

    one, many = (
        memory.fullest(SEVEN, layout, batch, "bf16", "cuda").context for layout in (ALONE, parallel)
    )
    on_cpu = memory.fullest(SEVEN, parallel, batch, "fp32", "cpu")

    assert (one, many) == (memory.CUDA_CONTEXT, memory.CUDA_CONTEXT + 4 * memory.NCCL_GROUP)
    assert (on_cpu.context, on_cpu.fragmentation) == (0, 0)


def test_data_parallel_ranks_divide_what_a_save_copies() -> None:
    own = ParallelSpec(2, 2, 4, True, False, "none")
    shared = dataclasses.replace(own, distributed_optimizer=True)

    count = memory.stage_parameters(SEVEN, shared, 0)
    for parallel in (own, shared):
        need = memory.fullest(SEVEN, parallel, BatchLayout(1, 4, 4), "bf16", "cuda")
        assert need.save == 14 * count // 4


@given(models, st.integers(1, 8), st.sampled_from(["cuda", "cpu"]))
def test_recomputing_more_keeps_fewer_activations(
    model: ModelSpec, micro: int, device: str
) -> None:
    """With two layers at least: the one that is computed again is there as a whole."""
    two = dataclasses.replace(model, layers=2 * model.layers)
    kept = [
        activations(
            two, dataclasses.replace(ALONE, recompute=recompute), BatchLayout(micro, micro, 1),
            device=device,
        )
        for recompute in ("none", "selective", "full")
    ]  # fmt: skip

    assert kept == sorted(kept, reverse=True)
