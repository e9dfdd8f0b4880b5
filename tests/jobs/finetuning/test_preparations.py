"""The published training sets: sizes, files, and the choice from PQA-A."""

from __future__ import annotations

import pytest

from jobs.contract.corpus.rules import BenchmarkFile
from jobs.contract.errors import TaskError
from jobs.contract.preparations import ITEMS, PARTS
from jobs.finetuning.preparations import assigned, difference, omitted, train_places


def named(*kinds: str) -> list[BenchmarkFile]:
    return [BenchmarkFile(kind, f"/data/{kind}", kind) for kind in kinds]


@pytest.mark.parametrize("name", ITEMS)
def test_the_parts_add_up_to_the_published_number(name: str) -> None:
    unexplained = 182_822 - 159_669 if name == "cotmedmcqa" else 0

    assert sum(part.published for part in PARTS[name]) + unexplained == ITEMS[name]


def test_a_mixture_takes_a_file_of_each_kind() -> None:
    found = assigned("mixedmed", named("pubmedqa", "medqa", "medmcqa"))

    assert [(part.published, [file.kind for file in files]) for part, files in found] == [
        (159_669, ["medmcqa"]),
        (10_178, ["medqa"]),
        (200_000, ["pubmedqa"]),
    ]


def test_the_unpublished_explanations_of_medqa_may_be_missing_from_the_mixture() -> None:
    without = assigned("cotmixedmed", named("medmcqa", "pubmedqa"))
    beside = assigned("cotmixedmed", named("medmcqa", "pubmedqa", "medqa"))

    assert [part.kind for part, _ in without] == ["medmcqa", "pubmedqa"]
    assert [part.kind for part, _ in beside] == ["medmcqa", "pubmedqa", "medqa"]
    assert all(part.reasoned and part.explained for part, _ in beside)
    assert omitted("cotmixedmed", named("medmcqa", "pubmedqa", "medqa")) == []
    assert omitted("cotmixedmed", named("medmcqa", "pubmedqa")) == [
        "cotmixedmed: without a file of kind medqa, whose published items are not public"
    ]


def test_a_preparation_of_another_name_takes_every_file() -> None:
    found = assigned("ours", named("prompts", "medqa4"))

    assert [(part.kind, part.published) for part, _ in found] == [("prompts", 0), ("medqa4", 0)]


@pytest.mark.parametrize("reasoned", [False, True])
def test_answers_of_another_name_are_reasoned_where_it_is_set(reasoned: bool) -> None:
    [(part, _)] = assigned("ours", named("mcq"), reasoned)

    assert (part.reasoned, part.explained) == (reasoned, reasoned)


@pytest.mark.parametrize(
    ("name", "kinds", "message"),
    [
        ("mixedmed", ["medmcqa", "medqa"], "mixedmed needs a file of kind pubmedqa"),
        ("cotmedqa", [], "cotmedqa needs a file of kind medqa"),
        (
            "medqa",
            ["medqa", "mmlu"],
            "/data/mmlu: medqa takes no file of kind mmlu, but of medqa; a preparation of another "
            "name takes every file",
        ),
    ],
)
def test_files_that_are_not_those_of_a_preparation_are_refused(
    name: str, kinds: list[str], message: str
) -> None:
    with pytest.raises(TaskError) as caught:
        assigned(name, named(*kinds))

    assert caught.value.message == message


def test_another_number_of_items_is_a_sentence() -> None:
    assert difference("medqa", 10_178, 10_178) == ""
    assert difference("ours", 12, 0) == ""
    assert difference("medqa", 10_170, 10_178) == (
        "medqa: 10,170 items, 8 fewer than the 10,178 published"
    )
    assert difference("ours", 12, 10) == "ours: 12 items, 2 more than the 10 expected"


def test_of_pqa_a_those_are_taken_that_its_authors_train_on() -> None:
    places = train_places(211_269)

    assert places is not None
    assert len(places) == 200_000
    # The shuffle of pubmedqa/pubmedqa:preprocess/split_dataset.py begins and ends with these.
    assert {163_421, 141_805, 202_520} <= places
    assert not {110_250, 198_693, 100_989} & places
    assert train_places(200_000) is None
