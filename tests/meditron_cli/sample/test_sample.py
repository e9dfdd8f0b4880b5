"""The sample is right, is the same for everybody, and does not give its questions away."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from meditron_cli.sample import benchmark, corpus, facts, generate, train_tokenizer

RELATIONS = facts.load()
FACTS = [fact for relation in RELATIONS for fact in facts.facts_of(relation)]
SENTENCE_END = re.compile(r"(?<=[.?])\s+")
TIMES_TOLD = 60
"""A tiny model needs each fact some dozens of times."""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    generate.write(folder)
    return folder


@pytest.fixture(scope="module")
def documents(sample: Path) -> list[dict[str, str]]:
    return [record for path in sorted(sample.glob("corpus/*.jsonl")) for record in lines(path)]


@pytest.fixture(scope="module")
def questions(sample: Path) -> list[dict]:
    return list(lines(sample / "benchmark" / "questions.jsonl"))


@pytest.fixture(scope="module")
def tokenizer(sample: Path) -> Tokenizer:
    return Tokenizer.from_file(str(sample / "tokenizer.json"))


def lines(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def runs_of_words(text: str, length: int) -> Iterator[tuple[str, ...]]:
    found = words(text)
    return zip(*(found[start:] for start in range(length)), strict=False)


def digest_in_a_fresh_process(folder: Path, hash_seed: str) -> dict[str, bytes]:
    program = (
        "import pathlib, sys; from meditron_cli.sample.generate import write;"
        "write(pathlib.Path(sys.argv[1]));"
        "heavy = {'torch', 'tokenizers', 'numpy', 'pydantic', 'yaml'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, "-c", program, str(folder)], env=environment, check=True)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- the tables --------------------------------------------------------------------------------


def refuse_repeated_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    repeated = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
    assert not repeated
    return dict(pairs)


def test_no_entity_stands_twice_in_a_table() -> None:
    folder = Path(facts.__file__).with_name("facts")

    for path in folder.glob("*.json"):
        json.loads(path.read_text("utf-8"), object_pairs_hook=refuse_repeated_keys)


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_a_table_is_consistent(relation: facts.Relation) -> None:
    answers = set(relation.facts.values())

    assert len({entity.lower() for entity in relation.facts}) == len(relation.facts)
    assert len({answer.lower() for answer in answers}) == len(answers)
    assert set(relation.also_right) <= set(relation.facts)
    for entity, also in relation.also_right.items():
        assert set(also) <= answers - {relation.facts[entity]}


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_wordings_hold_the_places_they_need(relation: facts.Relation) -> None:
    assert all("{entity}" in text and "{answer}" in text for text in relation.statements)
    for text in (*relation.questions, *relation.stems):
        assert "{entity}" in text
        assert "{answer}" not in text
        assert text.endswith("?")


def test_names_and_headings_of_tables_are_unique() -> None:
    assert len({relation.name for relation in RELATIONS}) == len(RELATIONS)
    assert len({relation.heading for relation in RELATIONS}) == len(RELATIONS)


# --- what is written ---------------------------------------------------------------------------


def test_one_seed_gives_one_sample_without_heavy_libraries(sample: Path, tmp_path: Path) -> None:
    first = digest_in_a_fresh_process(tmp_path / "first", hash_seed="1")
    second = digest_in_a_fresh_process(tmp_path / "second", hash_seed="2")

    assert first == second == contents(sample)


def test_another_seed_gives_another_corpus_and_benchmark(sample: Path, tmp_path: Path) -> None:
    generate.write(tmp_path, seed=generate.SEED + 1)

    here, there = contents(sample), contents(tmp_path)
    changed = {name for name in here if here[name] != there[name]}
    assert changed == set(here) - {"tokenizer.json"}


def test_writing_again_replaces_what_was_there(sample: Path, tmp_path: Path) -> None:
    generate.write(tmp_path, seed=1)
    generate.write(tmp_path)

    assert contents(tmp_path) == contents(sample)


def test_the_corpus_has_some_megabytes(sample: Path) -> None:
    size = sum(path.stat().st_size for path in sample.glob("corpus/*.jsonl"))

    assert 3_000_000 < size < 6_000_000


def test_documents_have_unique_ids_and_texts(documents: list[dict[str, str]]) -> None:
    assert all(set(record) == {"id", "source", "title", "text"} for record in documents)
    assert len({record["id"] for record in documents}) == len(documents)
    assert len({record["text"] for record in documents}) == len(documents)


def test_every_fact_is_stated_dozens_of_times(documents: list[dict[str, str]]) -> None:
    sentences = Counter(
        sentence for record in documents for sentence in SENTENCE_END.split(record["text"])
    )
    counts = {fact: times_told(fact, sentences) for fact in map(key, FACTS)}

    assert min(counts.values()) >= TIMES_TOLD, min(counts, key=counts.__getitem__)


def key(fact: facts.Fact) -> tuple[str, str]:
    return fact.entity, fact.answer


def times_told(fact: tuple[str, str], sentences: Counter[str]) -> int:
    """Sentences that hold entity and answer; the entity may open the sentence with a capital."""
    entity, answer = fact
    return sum(
        times for text, times in sentences.items() if answer[1:] in text and entity[1:] in text
    )


# --- the benchmark -----------------------------------------------------------------------------


def test_every_fact_is_asked_once(questions: list[dict]) -> None:
    asked = Counter((item["question"], item["choices"][item["answer"]]) for item in questions)

    assert 300 <= len(questions) <= 400
    assert len(questions) == len(FACTS)
    assert max(asked.values()) == 1


def test_questions_have_unique_ids_and_texts_and_four_different_choices(
    questions: list[dict],
) -> None:
    fields = {"id", "question", "choices", "answer", "subject"}

    assert all(set(item) == fields for item in questions)
    assert len({item["id"] for item in questions}) == len(questions)
    assert len({item["question"] for item in questions}) == len(questions)
    assert all(len({choice.lower() for choice in item["choices"]}) == 4 for item in questions)


def test_the_right_choice_stands_equally_often_in_each_place(questions: list[dict]) -> None:
    places = Counter(item["answer"] for item in questions)

    assert set(places) == {0, 1, 2, 3}
    assert max(places.values()) - min(places.values()) <= 1


def test_no_wrong_choice_is_also_right(questions: list[dict]) -> None:
    by_stem = {fact.state(stem): fact for fact in FACTS for stem in fact.relation.stems}

    for item in questions:
        fact = by_stem[item["question"]]
        right = item["choices"].pop(item["answer"])
        assert right == fact.answer
        assert not {*item["choices"]} & {right, *fact.relation.also_right.get(fact.entity, ())}
        assert {*item["choices"]} <= set(fact.relation.facts.values())


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
@pytest.mark.parametrize("seed", [generate.SEED, 1, 2, 3])
def test_every_answer_is_wrong_three_times_as_often_as_right(
    relation: facts.Relation, seed: int
) -> None:
    asked = benchmark.questions([relation], seed)

    right = Counter(item["choices"][item["answer"]] for item in asked)
    offered = Counter(choice for item in asked for choice in item["choices"])
    assert offered == {answer: 4 * times for answer, times in right.items()}


def test_a_table_too_small_for_three_wrong_choices_is_refused() -> None:
    table = {"a": "1", "b": "2", "c": "3"}
    relation = facts.Relation("small", "none", "Small", ("",), ("",), ("",), table, {})

    with pytest.raises(ValueError, match="table small: no 3 wrong choices for every entity"):
        benchmark.questions([relation], seed=1)


def test_no_question_stands_in_the_corpus(
    documents: list[dict[str, str]], questions: list[dict]
) -> None:
    text = "\n".join(" ".join(words(record["text"])) for record in documents)

    assert not [item["id"] for item in questions if " ".join(words(item["question"])) in text]


def test_no_eight_words_of_any_stem_stand_in_the_corpus(documents: list[dict[str, str]]) -> None:
    stems = {
        run
        for fact in FACTS
        for stem in fact.relation.stems
        for run in runs_of_words(fact.state(stem), 8)
    }

    found = {
        run for record in documents for run in runs_of_words(record["text"], 8) if run in stems
    }
    assert stems
    assert not found


# --- the tokenizer -----------------------------------------------------------------------------


def test_the_tokenizer_gives_every_text_back(
    tokenizer: Tokenizer, documents: list[dict[str, str]], questions: list[dict]
) -> None:
    texts = [record["text"] for record in documents] + [item["question"] for item in questions]
    texts += ["", "  two spaces\tand a tab\r\n", "π ≈ 3.14 🧬 \x00", "naïve œdème Ω"]

    encoded = tokenizer.encode_batch(texts)
    assert tokenizer.decode_batch([item.ids for item in encoded]) == texts


def test_the_shipped_tokenizer_is_the_one_trained_on_the_corpus(
    sample: Path, documents: list[dict[str, str]]
) -> None:
    texts = [record["text"] for record in corpus.documents(RELATIONS, generate.SEED)]
    trained = train_tokenizer.train(texts)

    shipped = json.loads((sample / "tokenizer.json").read_text("utf-8"))
    assert json.loads(trained.to_str())["model"] == shipped["model"]


def test_the_tokenizer_is_small_and_has_its_special_tokens(
    sample: Path, tokenizer: Tokenizer
) -> None:
    assert tokenizer.get_vocab_size() == train_tokenizer.VOCABULARY
    assert [tokenizer.token_to_id(token) for token in train_tokenizer.SPECIAL_TOKENS] == [0, 1]
    assert (sample / "tokenizer.json").stat().st_size < 250_000


def test_questions_to_learn_from_are_worded_as_in_the_corpus(sample: Path) -> None:
    questions = list(lines(sample / "benchmark" / "questions.jsonl"))
    learnt = list(lines(sample / "benchmark" / "train.jsonl"))

    assert {record["split"] for record in learnt} == {"train"}
    assert not {record["question"] for record in learnt} & {
        record["question"] for record in questions
    }
    assert {record["id"].rpartition("-")[0] for record in learnt} == {
        record["id"] for record in questions
    }
    by_name = {record["id"]: record for record in questions}
    for record in learnt:
        asked = by_name[record["id"].rpartition("-")[0]]
        answer = record["choices"][record["answer"]]
        assert (record["choices"], record["answer"]) == (asked["choices"], asked["answer"])
        assert answer.lower() in record["explanation"].lower()
