"""Answers of tasks in one file: whole blocks, joined by item, whatever was killed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.errors import TaskError
from jobs.evaluation.items import Answer, AnswerFile, ItemKey, digest_of, join, missing, share


def answer(name: str, value: float = -1.5, seed: int = 0, sample: int = 0) -> Answer:
    return Answer(name, seed, sample, digest_of(name), {"loglikelihoods": [value, -2 / 3]})


@pytest.fixture
def stored(tmp_path) -> AnswerFile:
    return AnswerFile(tmp_path / "evaluations" / "sample", "0123456789abcdef0123")


def test_answers_are_read_as_they_were_appended(stored):
    stored.append([answer("a", 1 / 3), answer("b")], 0.25)
    stored.append([answer("a", sample=1), answer("ü", seed=1234)], 0.5)

    answers, seconds = stored.read()

    assert answers == {
        item.key: item
        for item in (answer("a", 1 / 3), answer("b"), answer("a", sample=1), answer("ü", seed=1234))
    }
    assert seconds == 0.75


def test_a_missing_file_holds_no_answer(stored):
    assert stored.read() == ({}, 0.0)


def test_a_block_cut_anywhere_is_skipped_and_the_next_one_counts(stored):
    stored.append([answer("a")], 1)
    whole = stored.path.read_bytes()
    for length in range(len(whole) - 1):
        stored.path.write_bytes(whole[:length])
        stored.append([answer("b")], 2)

        assert stored.read() == ({ItemKey("b"): answer("b")}, 2)


def test_a_changed_byte_drops_its_block(stored):
    stored.append([answer("a", -1.5)], 1)
    stored.path.write_bytes(stored.path.read_bytes().replace(b"-1.5", b"-2.5"))

    assert stored.read().answers == {}


def test_of_two_answers_to_an_item_the_first_counts_and_its_time_alone(stored):
    stored.append([answer("a", -1)], 1)
    stored.append([answer("a", -2)], 10)

    assert stored.read() == ({ItemKey("a"): answer("a", -1)}, 1)


def test_answers_of_another_key_are_in_another_file_that_can_be_removed(stored):
    other = AnswerFile(stored.path.parent, "f" * 64)
    other.append([answer("a")], 1)
    stored.append([answer("b")], 1)

    assert list(stored.read().answers) == [("b", 0, 0)]
    stored.remove_others()
    assert list(stored.path.parent.iterdir()) == [stored.path]


def test_items_are_joined_in_their_order(stored):
    answers = {item.key: item for item in (answer("b"), answer("a"), answer("c"))}
    expected = {ItemKey(name): digest_of(name) for name in "abc"}

    assert missing({**expected, ItemKey("d"): ""}, answers) == [ItemKey("d")]
    assert [item.id for item in join(expected, answers, stored.path)] == ["a", "b", "c"]


def test_an_answer_to_another_prompt_is_refused(stored):
    answers = {ItemKey("a"): answer("a")}

    with pytest.raises(TaskError) as caught:
        join({ItemKey("a"): digest_of("another")}, answers, stored.path)

    assert caught.value.message == (
        f"{stored.path}: the answer to a was given to another prompt than this one's"
    )


@given(st.lists(st.integers(), max_size=20), st.integers(1, 9))
def test_every_batch_is_of_one_task(batches, parts):
    shares = [share(batches, part, parts) for part in range(parts)]

    assert sorted(batch for own in shares for batch in own) == sorted(batches)
