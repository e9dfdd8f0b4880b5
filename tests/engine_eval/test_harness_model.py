"""The adapter against log-likelihoods computed one token at a time, on a small recurrent model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer

from jobs.contract.errors import TaskError
from jobs.data.tokenizer_file import Encoder
from jobs.evaluation.harness_model import MegatronLM, Scoring, batches

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


@pytest.fixture(scope="module")
def lm(encoder, network):
    return adapter(encoder, network)


def adapter(encoder, network, batch_size=3, after_batch=lambda done, total: None):
    return MegatronLM(
        network, encoder, max_length=MAX_LENGTH, batch_size=batch_size, after_batch=after_batch
    )


def ask(lm, *pairs):
    return lm.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs])


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
@given(st.lists(QUESTION, min_size=1, max_size=5, unique_by=lambda question: question[0]))
def test_log_likelihoods_are_those_of_the_model_whatever_is_batched_and_shared(
    encoder, network, questions
):
    pairs = [(context, choice) for context, choices in questions for choice in choices]

    found = ask(adapter(encoder, network), *pairs)

    expected = []
    for context, choices in questions:
        room = MAX_LENGTH + 1 - max(len(choice) for choice in choices)
        known = encoder.encode(context)[-room:]
        expected += [asked_directly(network, known, encoder.encode(choice)) for choice in choices]
    assert [value for value, _ in found] == pytest.approx(expected, abs=1e-4)


@settings(max_examples=25)
@given(st.text("abc ", min_size=1, max_size=8), CHOICE, CHOICE)
def test_log_likelihoods_of_the_parts_of_a_text_add_up(lm, context, first, second):
    context = f"{context}x"

    (whole, _), (start, _), (rest, _) = ask(
        lm, (context, first + second), (context, first), (context + first, second)
    )

    assert whole == pytest.approx(start + rest, abs=1e-4)


def test_the_order_and_the_batches_of_requests_do_not_matter(encoder, network):
    pairs = [(f"question {i % 3}", f" {'yes' * (i + 1)}") for i in range(7)]

    alone = ask(adapter(encoder, network, batch_size=1), *pairs)
    together = ask(adapter(encoder, network, batch_size=7), *reversed(pairs))

    for one, other in zip(alone, reversed(together), strict=True):
        assert one[0] == pytest.approx(other[0], abs=1e-4)
        assert one[1] == other[1]


@pytest.mark.parametrize("context", ["", "  "])
def test_an_empty_context_is_the_start_of_a_document(lm, network, encoder, context):
    ((found, _),) = ask(lm, (context, "heart"))

    expected = asked_directly(network, [encoder.eod], encoder.encode(f"{context}heart"))
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("context", ["", "  ", "fever"])
def test_bos_stands_before_a_text_where_documents_began_so(network, encoder, context):
    bos = encoder.encode("b")[0]
    lm = adapter(dataclasses.replace(encoder, bos=bos), network)

    ((found, _),) = ask(lm, (context, " heart"))

    known, answer = (context, " heart") if context.strip() else ("", f"{context} heart")
    expected = asked_directly(network, [bos, *encoder.encode(known)], encoder.encode(answer))
    assert found == pytest.approx(expected, abs=1e-4)


def test_choices_of_one_token_cost_one_row_a_question(encoder, network):
    lm = adapter(encoder, network)
    before = network.rows, network.positions

    ask(lm, *[(f"{i}. A or B or C?", letter) for i in range(5) for letter in "ABC"])

    assert (network.rows - before[0], network.positions - before[1]) == (5, 5)


def test_scores_are_computed_where_a_token_is_scored_and_nowhere_else(encoder, network):
    """Two positions of each of two choices, of which the first is that of both."""
    lm = adapter(encoder, network)
    before = network.positions

    ask(lm, ("a long context, 2:", "ab"), ("a long context, 2:", "cd"))

    assert network.positions - before == 4


def test_cut_contexts_are_counted_once_a_question(lm):
    ask(lm, ("short", " a"), ("long" * 9, " a"), ("long" * 9, " b"))

    assert lm.truncated == 1


def test_progress_counts_up_to_all_requests(encoder, network):
    calls = []
    lm = adapter(encoder, network, 2, lambda done, total: calls.append((done, total)))

    ask(lm, *[(f"question {i}", f" {'ab' * (i % 3 + 1)}") for i in range(6)])

    assert calls[-1] == (6, 6)
    assert calls == sorted(calls)


@pytest.mark.parametrize("kind", ["loglikelihood_rolling", "generate_until"])
def test_requests_without_choices_are_refused(lm, kind):
    with pytest.raises(TaskError, match=f"the benchmark requests {kind}, this model answers"):
        getattr(lm, kind)([Instance(kind, {}, ("a text",), 0)])


@pytest.mark.parametrize(("choice", "tokens"), [("x" * 25, 25), ("", 0)])
def test_a_choice_the_model_can_not_read_is_refused(lm, choice, tokens):
    with pytest.raises(TaskError) as caught:
        ask(lm, ("context", choice))

    assert caught.value.message == (
        f"the choice {choice!r} has {tokens} tokens, the model reads 1 to {MAX_LENGTH}"
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


@given(ROWS, st.integers(1, 5))
def test_every_request_is_in_one_row_and_every_row_is_needed(reads, size):
    wanted = [Scoring(read, read[:1]) for read in reads]

    made = list(batches(wanted, size))

    rows = [row for batch in made for row in batch]
    assert sorted(index for row in rows for index in row) == list(range(len(reads)))
    assert all(1 <= len(batch) <= size for batch in made)
    carriers = [reads[row[0]] for row in rows]
    for row in rows:
        assert all(reads[row[0]][: len(reads[index])] == reads[index] for index in row)
    for i, carrier in enumerate(carriers):
        others = carriers[:i] + carriers[i + 1 :]
        assert not any(other[: len(carrier)] == carrier for other in others)
    lengths = [len(carrier) for carrier in carriers]
    assert lengths == sorted(lengths, reverse=True)
