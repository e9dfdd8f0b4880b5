"""Generation by transformers, on a folder with random weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from jobs.contract.errors import TaskError
from jobs.generation import backend
from jobs.generation.backend import LENGTH, STOPPED, Sampling
from jobs.generation.transformers_backend import TransformersBackend

from ..conversion.models import MODELS, save_folder

torch.set_num_threads(1)  # of small matrices, threads mostly wait for each other

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [40], [9, 8, 30, 31]]
GREEDY = Sampling(max_tokens=12)
DRAWN = Sampling(samples=3, temperature=0.8, max_tokens=12)
SEEDS = [backend.seed_of(1234, name) for name in ("a", "b", "c")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("export") / "folder", MODELS["grouped"])


@pytest.fixture(scope="module")
def model(folder: Path) -> TransformersBackend:
    return TransformersBackend(folder, device="cpu", alive=lambda: None)


def uncached(folder: Path, prompt: list[int], steps: int) -> tuple[list[int], float]:
    """Return the greedy continuation without a cache, and its log-probability."""
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    tokens, logprob = torch.tensor([prompt]), 0.0
    for _ in range(steps):
        with torch.inference_mode():
            scores = network(tokens, use_cache=False).logits[:, -1].float().log_softmax(-1)
        best = scores.argmax(-1, keepdim=True)
        logprob += float(scores[0, best[0, 0]])
        tokens = torch.cat([tokens, best], 1)
    return tokens[0, len(prompt) :].tolist(), logprob


def test_greedy_tokens_are_those_of_transformers_and_of_a_loop_without_a_cache(folder, model):
    found = model.generate(PROMPTS, GREEDY, SEEDS)

    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    for prompt, (generation,) in zip(PROMPTS, found, strict=True):
        tokens, logprob = uncached(folder, prompt, 12)
        own = network.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
        assert list(generation.tokens) == own[0, len(prompt) :].tolist() == tokens
        assert generation.logprob == pytest.approx(logprob, abs=1e-4)
        assert generation.finish == LENGTH
        assert generation.text == " ".join(f"w{token}" for token in tokens)


def test_neither_the_batch_nor_the_other_items_change_what_is_drawn(model):
    together = model.generate(PROMPTS, DRAWN, SEEDS)

    alone = [
        model.generate([prompt], DRAWN, [seed])[0]
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    tokens = [[sample.tokens for sample in item] for item in together]
    assert tokens == [[sample.tokens for sample in item] for item in alone]
    assert len({sample for item in tokens for sample in item}) == 9
    assert together == model.generate(PROMPTS, DRAWN, SEEDS)


def test_the_questions_of_a_benchmark_have_seeds_of_their_own():
    seeds = {backend.seed_of(1234, f"{number}:0") for number in range(4183)}

    assert len(seeds) > 4180
    assert {seed % 256 for seed in seeds} == {0}


def test_tokens_are_drawn_with_their_probabilities(folder, model):
    """Compare 4,000 draws at temperature 0.8 with the softmax, over the commonest tokens."""
    rounds, samples = 8, 500
    sampling = replace(DRAWN, samples=samples, max_tokens=1)
    counts: dict[int, int] = {}
    for number in range(rounds):
        seed = backend.seed_of(7, str(number))
        for sample in model.generate([PROMPTS[0]], sampling, [seed])[0]:
            counts[sample.tokens[0]] = counts.get(sample.tokens[0], 0) + 1

    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    with torch.inference_mode():
        shares = (network(torch.tensor([PROMPTS[0]])).logits[0, -1] / 0.8).softmax(-1).tolist()
    common = [token for token, share in enumerate(shares) if share > 0.01]
    squares = [
        (counts.get(token, 0) - share * rounds * samples) ** 2 / (share * rounds * samples)
        for token in common
        for share in [shares[token]]
    ]
    assert len(common) > 5
    assert sum(squares) < len(common) + 5 * math.sqrt(2 * len(common))


def test_a_stop_string_or_token_ends_a_generation(model):
    (free,) = model.generate(PROMPTS[:1], GREEDY, SEEDS[:1])[0]
    word = f"w{free.tokens[3]}"

    stops = replace(GREEDY, stops=(word, "###"))
    by_text, beside = (item[0] for item in model.generate(PROMPTS[:2], stops, SEEDS[:2]))
    by_token = model.generate(PROMPTS[:1], replace(GREEDY, stop_tokens=(free.tokens[3],)), [0])

    # A stop inside of a longer word ends it too, such as w1 in w12.
    end = next(n for n, token in enumerate(free.tokens) if word in f"w{token}")
    assert by_text.tokens == free.tokens[: end + 1]
    assert by_text.text == free.text[: free.text.index(word)]
    assert by_text.finish == STOPPED
    assert word not in beside.text
    assert by_token[0][0].tokens == free.tokens[: free.tokens.index(free.tokens[3]) + 1]


def test_a_frequency_penalty_counts_generated_tokens_alone(folder, model):
    penalised = model.generate(PROMPTS, replace(GREEDY, frequency_penalty=100.0), SEEDS)

    for (generation,) in penalised:
        assert len(set(generation.tokens)) == len(generation.tokens)
    free = model.generate(PROMPTS, replace(GREEDY, max_tokens=1), SEEDS)
    assert [item[0].tokens[0] for item in penalised] == [item[0].tokens[0] for item in free]


def test_a_stop_request_ends_a_batch_between_two_tokens(folder):
    calls = []

    def alive():
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    model = TransformersBackend(folder, device="cpu", alive=alive)

    with pytest.raises(InterruptedError):
        model.generate(PROMPTS, GREEDY, SEEDS)
    assert len(calls) == 3


def test_a_folder_that_transformers_does_not_load_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')

    with pytest.raises(TaskError, match=f"^{tmp_path}: transformers does not load it"):
        TransformersBackend(tmp_path, device="cpu", alive=lambda: None)
