"""Task specs: what the login node writes is what a node reads."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract import specs
from jobs.contract.corpus.benchmark_files import BenchmarkOptions
from jobs.contract.corpus.rules import (
    BenchmarkFile,
    CorpusRules,
    DecontaminationSpec,
    NearDuplicatesSpec,
    SourceSpec,
)
from jobs.contract.files import FORMAT
from jobs.contract.stage_specs import (
    STAGE_KINDS,
    STAGES,
    TRAINING_STAGES,
    ConvertSpec,
    CorpusSpec,
    CorpusWeight,
    CurateSpec,
    ModelSpec,
    OptimizerSpec,
    ParallelSpec,
    PhaseSpec,
    PretrainSpec,
    RopeScaling,
    StartRef,
    TailSpec,
    TokenizerRef,
    VerifySpec,
    VocabularySpec,
)

from ...corpus_specs import corpus_rules
from ...model_specs import model_spec, tokenizer_ref
from ...task_specs import task_spec

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.lists(st.text()).map(tuple)
WEIGHTS = st.lists(st.builds(CorpusWeight, st.text(), FINITE)).map(tuple)
TAILS = st.builds(TailSpec, FINITE, st.text())
SOURCES = st.builds(SourceSpec, languages=TEXTS, sample=FINITE, validation_fraction=FINITE)
LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "str": st.text(),
    "int": st.integers(),
    "float": FINITE,
    "float | None": st.one_of(st.none(), FINITE),
    "bool": st.booleans(),
    "RopeScaling | None": st.one_of(
        st.none(), st.builds(RopeScaling, FINITE, FINITE, FINITE, st.integers())
    ),
    "tuple[str, ...]": TEXTS,
    "tuple[float, ...]": st.lists(FINITE).map(tuple),
    "tuple[BenchmarkFile, ...]": st.lists(st.builds(BenchmarkFile), max_size=2).map(tuple),
    "tuple[SourceSpec, ...]": st.lists(SOURCES, max_size=2).map(tuple),
    "NearDuplicatesSpec | None": st.one_of(st.none(), st.builds(NearDuplicatesSpec, FINITE)),
    "DecontaminationSpec | None": st.one_of(
        st.none(),
        st.builds(
            DecontaminationSpec,
            st.lists(st.builds(BenchmarkFile), max_size=2).map(tuple),
            share=FINITE,
        ),
    ),
    "tuple[int, ...]": st.lists(st.integers()).map(tuple),
    "tuple[CorpusSpec, ...]": st.lists(st.builds(CorpusSpec, st.text(), TEXTS, TEXTS)).map(tuple),
    "tuple[PhaseSpec, ...]": st.lists(
        st.builds(PhaseSpec, st.integers(), st.text(), WEIGHTS, st.one_of(st.none(), TAILS))
    ).map(tuple),
    "dict[str, Any]": st.dictionaries(st.text(), st.one_of(st.text(), FINITE, st.none())),
}


def any_of(kind: type[Any], **given_fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return any value of a spec dataclass, from the types its fields are declared with."""
    kinds = (
        BenchmarkOptions,
        CorpusRules,
        ModelSpec,
        OptimizerSpec,
        ParallelSpec,
        PretrainSpec,
        StartRef,
        TokenizerRef,
        VerifySpec,
        VocabularySpec,
        specs.SupervisionSpec,
        specs.SiteSpec,
    )
    nested = {kind.__name__: kind for kind in kinds}
    chosen = {
        field.name: LEAVES[field.type] if field.type in LEAVES else any_of(nested[field.type])
        for field in dataclasses.fields(kind)
        if field.name not in given_fields
    }
    return st.builds(kind, **chosen, **given_fields)


@st.composite
def any_task(draw: st.DrawFn) -> specs.TaskSpec:
    stage = draw(st.sampled_from(STAGES))
    spec = any_of(STAGE_KINDS[stage].spec)
    task: specs.TaskSpec = draw(any_of(specs.TaskSpec, stage=st.just(stage), spec=spec))
    return task


RULES = corpus_rules(
    "/data/a.jsonl",
    "/data/b.parquet",
    mask=("email",),
    drop=("preprint",),
    upsample=0.5,
    upsample_journals=("The Lancet",),
    upsample_citations=(2.0, 10.0),
    near_duplicates=NearDuplicatesSpec(0.8, 5),
    decontamination=DecontaminationSpec((BenchmarkFile("a", "/data/q.jsonl", "mcq"),), 8, 0.8),
)
CURATE = CurateSpec(RULES, 1, 3, True, "corpus")
TASK = task_spec("curate", CURATE, launcher="srun", python=("python3",), health={"gpus": 0})


@given(any_task())
def test_a_task_read_back_is_the_task_written(task: specs.TaskSpec) -> None:
    written = json.dumps(specs.to_json(task))

    assert specs.task_from_json(json.loads(written)) == task


@given(any_task(), any_task())
def test_digests_are_equal_for_equal_tasks_only(one: specs.TaskSpec, other: specs.TaskSpec) -> None:
    again = specs.task_from_json(specs.to_json(one))

    assert specs.digest(again) == specs.digest(one)
    assert (specs.digest(one) == specs.digest(other)) == (
        specs.to_json(one) == specs.to_json(other)
    )


def test_every_stage_has_a_spec_and_every_spec_a_stage() -> None:
    assert tuple(STAGE_KINDS) == STAGES


@given(any_task())
def test_training_is_the_spec_of_a_stage_that_trains_and_else_none(task: specs.TaskSpec) -> None:
    assert task.training is (task.spec if task.stage in TRAINING_STAGES else None)


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    data = {**specs.to_json(CURATE), "format": specs.DIGEST_FORMAT}

    assert specs.digest(dict(reversed(data.items()))) == specs.digest(CURATE)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(CorpusRules)])
def test_a_change_of_any_rule_of_a_corpus_changes_the_digest(field: str) -> None:
    old = getattr(RULES, field)
    new = None if dataclasses.is_dataclass(old) else old * 2
    changed = dataclasses.replace(RULES, **{field: new})

    assert specs.digest(dataclasses.replace(CURATE, corpus=changed)) != specs.digest(CURATE)


@pytest.mark.parametrize(
    "changes", [{"part": 2}, {"parts": 4}, {"whole": False}, {"output_dir": "other"}]
)
def test_a_change_of_any_other_field_changes_the_digest(changes: dict[str, Any]) -> None:
    assert specs.digest(dataclasses.replace(CURATE, **changes)) != specs.digest(CURATE)


def test_the_place_of_a_base_model_does_not_change_the_digest() -> None:
    model = model_spec(
        layers=1, hidden_size=8, ffn_hidden_size=8, attention_heads=2, kv_heads=2, seq_length=8,
        vocab_size=8, padded_vocab_size=8,
    )  # fmt: skip
    spec = ConvertSpec(
        weights="org/base",
        folder="/hub/base",
        model=model,
        tokenizer=tokenizer_ref("/t.json"),
        checkpoint_dir="checkpoints",
        verify=VerifySpec(enabled=True, tokens=64),
    )
    moved, other = (
        dataclasses.replace(spec, folder="/models/base"),
        dataclasses.replace(spec, weights="org/other"),
    )

    assert specs.digest(moved) == specs.digest(spec) != specs.digest(other)


@pytest.mark.parametrize("found", [0, 1, "1", None])
def test_another_format_is_refused(found: object) -> None:
    with pytest.raises(ValueError, match=f"reads {FORMAT}") as refused:
        specs.task_from_json({**specs.to_json(TASK), "format": found})

    assert str(refused.value) == f"task spec has format {found!r}, this program reads {FORMAT}"


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown stage") as refused:
        specs.task_from_json({**specs.to_json(TASK), "stage": "distil"})

    assert str(refused.value) == "task spec names the unknown stage 'distil'"


def without(data: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: without(data, "ranks"), "TaskSpec: missing or unknown fields: ranks"),
        (lambda data: {**data, "gpus": 1}, "TaskSpec: missing or unknown fields: gpus"),
        (
            lambda data: {**data, "spec": {**without(data["spec"], "part"), "shard": 8}},
            "CurateSpec: missing or unknown fields: part, shard",
        ),
        (
            lambda data: without(data, "spec"),
            "CurateSpec: missing or unknown fields: corpus, output_dir, part, parts, whole",
        ),
    ],
)
def test_missing_and_unknown_fields_are_refused_by_name(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match="missing or unknown") as refused:
        specs.task_from_json(change(specs.to_json(TASK)))

    assert str(refused.value) == message


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64))
def test_world_size_is_the_product_of_the_three_dimensions(
    tensor: int, pipeline: int, data: int
) -> None:
    parallel = ParallelSpec(tensor, pipeline, data, True, True, "none")

    assert parallel.world_size == tensor * pipeline * data
