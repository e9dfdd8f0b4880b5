"""Scores against log-likelihoods computed one token at a time, on a small recurrent model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from jobs.contract.errors import TaskError
from jobs.data.tokenizer_file import Encoder
from jobs.evaluation.items import ItemKey
from jobs.evaluation.likelihood_items import Asked, encode
from jobs.evaluation.likelihood_prompts import PlainPrompts, Put
from jobs.evaluation.megatron_scorer import (
    MegatronScorer,
    Scoring,
    batches,
    fit,
    is_truncated,
    rows_of,
)
from jobs.questions.question import Question

from ..model_specs import tokenizer_ref

torch.set_num_threads(1)  # of small matrices, threads mostly wait for each other
EOD = "<EOD>"
MAX_LENGTH = 24


class Recurrent(torch.nn.Module):
    """Causal and sensitive to order; counts the rows it is given and the positions it scores."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(vocabulary, 16)
        self.recur = torch.nn.GRU(16, 16, batch_first=True)
        self.head = torch.nn.Linear(16, vocabulary)
        self.rows = self.positions = 0

    @torch.inference_mode()
    def forward(self, tokens, places):
        assert tokens.size(1) <= MAX_LENGTH
        self.rows += tokens.size(0)
        self.positions += len(places)
        rows, columns = zip(*places, strict=True)
        return self.head(self.recur(self.embed(tokens))[0][list(rows), list(columns)]) * 4


def load(path: Path) -> Encoder:
    return Encoder.load(tokenizer_ref(str(path), eod_token=EOD))


@pytest.fixture(scope="module")
def encoder(tokenizer) -> Encoder:
    return load(tokenizer)


@pytest.fixture(scope="module")
def network(encoder) -> Recurrent:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Recurrent(encoder.eod + 1)


def scorer_of(encoder, network, batch_size=3) -> MegatronScorer:
    return MegatronScorer(network, encoder.eod, max_length=MAX_LENGTH, batch_size=batch_size)


def items_of(encoder, questions):
    """Return texts and their continuations, each of which begins with a space, as items."""
    question = Question("", "", (), (), 0, "test", "", "texts")
    asked = [
        Asked(ItemKey(f"{number}"), Put(question, text, tuple(one[1:] for one in options)), ())
        for number, (text, options) in enumerate(questions)
    ]
    return encode(asked, PlainPrompts(), encoder)


def ask(encoder, network, *questions, batch_size=3):
    """Return the log-likelihood of each continuation of each text."""
    items = items_of(encoder, questions)
    found = scorer_of(encoder, network, batch_size).score(
        [item.prompt for item in items], [item.options for item in items]
    )
    return [[one.value for one in values] for values in found]


def asked_directly(network, context: list[int], answer: list[int]) -> float:
    """Return a log-likelihood by one forward pass per token, without batches or padding."""
    total = 0.0
    for i, token in enumerate(answer):
        read = context + answer[:i]
        scores = network(torch.tensor([read]), [(0, len(read) - 1)])[0]
        total += float(scores.double().log_softmax(-1)[token])
    return total


TEXT = st.text(alphabet="ab c?", min_size=1, max_size=30).map(lambda text: f"{text}x")
CHOICE = st.text(alphabet="abc", min_size=1, max_size=6).map(lambda text: f" {text}")
QUESTION = st.tuples(TEXT, st.lists(CHOICE, min_size=1, max_size=4, unique=True))


@settings(max_examples=40)
@given(
    st.lists(QUESTION, min_size=1, max_size=5, unique_by=lambda question: question[0]),
    st.integers(1, 7),
)
def test_log_likelihoods_are_those_of_the_model_whatever_is_batched_and_shared(
    encoder, network, questions, batch_size
):
    found = ask(encoder, network, *questions, batch_size=batch_size)

    for values, (context, choices) in zip(found, questions, strict=True):
        room = MAX_LENGTH + 1 - max(len(choice) for choice in choices)
        known = encoder.encode(context)[-room:]
        expected = [asked_directly(network, known, encoder.encode(choice)) for choice in choices]
        assert values == pytest.approx(expected, abs=1e-4)


@settings(max_examples=25)
@given(st.text("abc ", min_size=1, max_size=8), CHOICE, CHOICE)
def test_log_likelihoods_of_the_parts_of_a_text_add_up(encoder, network, context, first, second):
    context = f"{context}x"

    (whole, start), (rest,) = ask(
        encoder, network, (context, [first + second, first]), (context + first, [second])
    )

    assert whole == pytest.approx(start + rest, abs=1e-4)


def test_a_greedy_option_is_told(encoder, network):
    prompt = encoder.encode("fever")
    best = int(network(torch.tensor([prompt]), [(0, len(prompt) - 1)]).argmax())

    ((first, second),) = scorer_of(encoder, network).score([prompt], [[[best], [best - 1]]])

    assert (first.greedy, second.greedy) == (True, False)
    assert first.value > second.value


@pytest.mark.parametrize("context", ["", "  "])
def test_an_empty_context_is_the_start_of_a_document(network, encoder, context):
    ((found,),) = ask(encoder, network, (context, [" heart"]))

    expected = asked_directly(network, [encoder.eod], encoder.encode(f"{context} heart"))
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("context", ["", "  ", "fever", "fever \n"])
def test_bos_stands_before_a_text_where_documents_began_so(network, encoder, context):
    bos = encoder.encode("b")[0]

    ((found,),) = ask(dataclasses.replace(encoder, bos=bos), network, (context, [" heart"]))

    known = context.rstrip()
    answer = encoder.encode(f"{context[len(known) :]} heart")
    expected = asked_directly(network, [bos, *encoder.encode(known)], answer)
    assert found == pytest.approx(expected, abs=1e-4)


def test_choices_of_one_token_cost_one_row_a_question(encoder, network):
    before = network.rows, network.positions
    prompts = [encoder.encode(f"{i}. A or B or C?") for i in range(5)]

    scorer_of(encoder, network).score(prompts, [[[1], [2], [3]]] * 5)

    assert (network.rows - before[0], network.positions - before[1]) == (5, 5)


def test_scores_are_computed_where_a_token_is_scored_and_nowhere_else(encoder, network):
    """Three tokens of each of two choices."""
    before = network.positions

    ask(encoder, network, ("a long context, 2:", [" ab", " cd"]))

    assert network.positions - before == 6


def test_a_prompt_that_fits_with_its_longest_option_is_not_truncated():
    assert not is_truncated([1] * (MAX_LENGTH - 1), [[2], [2, 2]], MAX_LENGTH)
    assert is_truncated([1] * MAX_LENGTH, [[2], [2, 2]], MAX_LENGTH)


@pytest.mark.parametrize(("choice", "tokens"), [("x" * 25, 25), ("", 0)])
def test_a_choice_the_model_can_not_read_is_refused(encoder, network, choice, tokens):
    with pytest.raises(TaskError) as caught:
        scorer_of(encoder, network).score([[1, 2]], [[encoder.encode(choice)]])

    assert caught.value.message == (
        f"an option has {tokens} tokens, the model reads 1 to {MAX_LENGTH}"
    )


def test_the_name_of_a_special_token_in_a_text_is_ordinary_text(encoder):
    ids = encoder.encode(f"a{EOD}b")

    assert encoder.eod not in ids
    assert encoder.tokenizer.decode(ids) == f"a{EOD}b"


def test_truncation_and_padding_of_the_file_are_not_used(tokenizer, tmp_path, encoder):
    other = Tokenizer.from_file(str(tokenizer))
    other.enable_truncation(4)
    other.enable_padding(length=64)
    other.save(str(tmp_path / "tokenizer.json"))

    ids = load(tmp_path / "tokenizer.json").encode("The heart pumps blood.")

    assert len(ids) > 4
    assert ids == encoder.encode("The heart pumps blood.")


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")

    for path in (tmp_path / "tokenizer.json", tmp_path / "missing.json"):
        with pytest.raises(TaskError, match="not a tokenizer"):
            load(path)


ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple), max_size=30)


@given(ROWS)
def test_every_option_is_in_one_row_and_every_row_is_needed(reads):
    rows = rows_of([Scoring(read, read[:1]) for read in reads])

    assert sorted(index for row in rows for index in row) == list(range(len(reads)))
    carriers = [reads[row[0]] for row in rows]
    for row in rows:
        assert all(reads[row[0]][: len(reads[index])] == reads[index] for index in row)
    for i, carrier in enumerate(carriers):
        others = carriers[:i] + carriers[i + 1 :]
        assert not any(other[: len(carrier)] == carrier for other in others)
    lengths = [len(carrier) for carrier in carriers]
    assert lengths == sorted(lengths, reverse=True)


PROMPTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2), max_size=8),
        st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=5),
    ),
    max_size=12,
)


@given(PROMPTS, st.integers(1, 6))
def test_every_prompt_is_in_one_batch_with_all_its_options(asked, size):
    prompts, options = [prompt for prompt, _ in asked], [own for _, own in asked]

    made = batches(prompts, options, max_length=6, batch_size=size)

    assert sorted(index for batch in made for index in batch) == list(range(len(asked)))
    for batch in made:
        assert len(batch) == 1 or sum(rows_alone(asked[index]) for index in batch) <= size


def rows_alone(asked):
    prompt, options = asked
    return len(rows_of(fit(prompt or [0], options, 6)))
