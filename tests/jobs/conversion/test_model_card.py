"""The card of an exported model, as people and the hub read it."""

from __future__ import annotations

import dataclasses
import re

import pytest
import yaml
from huggingface_hub import ModelCard

from jobs.contract.stage_specs import OptimizerSpec, ParallelSpec, PretrainSpec
from jobs.contract.units import Footprint
from jobs.conversion import model_card
from jobs.conversion.model_card import UNKNOWN, CardInput
from jobs.conversion.run_facts import Corpus, Cost, Losses, RunFacts, Score

from ...model_specs import model_spec, tokenizer_ref, vocabulary_spec

MODEL = model_spec(
    layers=2,
    hidden_size=64,
    ffn_hidden_size=128,
    attention_heads=4,
    kv_heads=2,
    seq_length=64,
    vocab_size=32_017,
    padded_vocab_size=32_256,
)
TRAINING = PretrainSpec(
    model=MODEL,
    parallel=ParallelSpec(2, 4, 8, True, True, "none"),
    device="cuda",
    precision="bf16",
    weights="meta-llama/Llama-2-7b-hf",
    corpora=(),
    tokenizer=tokenizer_ref(""),
    micro_batch_size=1,
    global_batch_size=1600,
    train_steps=14_252,
    optimizer=OptimizerSpec(3e-4, 1e-6, 2000, 28_504, 0.9, 0.95, 1e-5, 0.1, 1.0),
    seed=1234,
    validation_interval=500,
    validation_batches=10,
    save_interval=500,
    keep_checkpoints=3,
    checkpoint_dir="checkpoints",
    tensorboard_dir="tensorboard",
    index_dir="tokens/index",
)
FACTS = RunFacts(
    name="med-7b-0123abcd",
    size="7b",
    commit="f" * 40,
    has_changes=True,
    versions={"torch": "2.9.1", "meditron": "0.1"},
    training=TRAINING,
    corpus=Corpus(("papers.jsonl", "a|b.jsonl"), 21_100_000, 631_000, 46_700_000_000),
    losses=Losses(1.2468, 1.2471, 14_000, 1.3326, 0),
    scores=(
        Score("medqa", 0, 3, 1273, 0.291, (0.267, 0.316), 0.2),
        Score("medqa", 14_252, 3, 1273, 0.287, (0.263, 0.312), 0.2),
        Score("pubmedqa", 14_252, 3, 500, 0.693, (0.651, 0.732), 0.3333),
    ),
)
CARD = CardInput(
    facts=FACTS,
    model=MODEL,
    vocabulary=vocabulary_spec(32_016, added_tokens=("<EOD>",)),
    step=14_252,
    tokens=46_700_953_600,
    parameters=6_738_554_880,
    dtype="bfloat16",
    origin={"weights": "meta-llama/Llama-2-7b-hf@01c7f73d", "sha256": "ab" * 32},
    license="llama2",
    languages=("en",),
    digests={"tokenizer": "cd" * 32, "training data": ""},
    verify_command="meditron verify ./ med-7b-0123abcd:14252 --runs-dir ../..",
)
EMPTY = dataclasses.replace(
    CARD,
    facts=RunFacts("med", None, None, None, {}, None, None, Losses(*[None] * 5), ()),
    origin={},
    license="",
    languages=(),
    digests={"tokenizer": ""},
)


def header(text: str) -> dict:
    return yaml.safe_load(text.split("---")[1])


def rows(text: str) -> dict[str, str]:
    """Return the first and the second cell of every row of every table."""
    return dict(re.findall(r"^\| ([^|]+) \| ((?:\\\||[^|])+) \|", text, re.MULTILINE))


def test_the_header_has_what_the_hub_reads():
    text = model_card.render(CARD)

    data = ModelCard(text).data
    assert (data.license, data.base_model) == ("llama2", "meta-llama/Llama-2-7b-hf")
    assert (data.language, data.library_name) == (["en"], "transformers")
    assert data.pipeline_tag == "text-generation"
    assert data.tags == ["medical", "meditron"]


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ("/models/Llama 'x': #7b", "Llama 'x': #7b"),
        ("./base", "base"),
        ("random", "random weights"),
        (None, "weights of unrecorded origin"),
    ],
)
def test_a_base_model_without_a_name_on_the_hub_is_not_in_the_header(weights, name):
    text = model_card.render(dataclasses.replace(CARD, origin={"weights": weights}))

    assert "base_model" not in header(text)
    assert f"It was trained from {name} for 14,252 steps" in text
    assert "/models" not in text


def test_every_fact_of_the_records_is_shown():
    found = rows(model_card.render(CARD))

    assert found["base weights"] == "meta-llama/Llama-2-7b-hf"
    assert found["revision of the base weights"] == "01c7f73d"
    assert found["licence of the base weights"] == "llama2"
    assert found["parameters"] == "6,738,554,880"
    assert found["vocabulary"] == "32,017 tokens, 1 added"
    unused = dataclasses.replace(
        CARD, vocabulary=vocabulary_spec(32_000, added_tokens=("<EOD>",), unused_rows=17)
    )
    assert rows(model_card.render(unused))["vocabulary"] == (
        "32,001 tokens, 1 added; 16 rows behind them are unused"
    )
    assert found["sources"] == "`papers.jsonl`, `a\\|b.jsonl`"
    assert found["training tokens"] == "46,700,000,000"
    assert found["tokens trained on"] == "46,700,953,600"
    assert found["learning rate"] == (
        "0.0003 after 2,000 steps of warm-up, then a cosine to 1e-06 at step 28,504"
    )
    assert found["tensor x pipeline x data"] == "2 x 4 x 8"
    assert found["validation loss at step 0"] == "1.3326"
    assert found["validation loss at step 14,000"] == "1.2471"
    assert found["tokenizer, SHA-256"] == f"`{'cd' * 32}`"
    assert found["training data, SHA-256"] == UNKNOWN
    assert found["commit of meditron"] == f"`{'f' * 40}` with uncommitted changes"
    assert found["versions at submission"] == "meditron 0.1, torch 2.9.1"


def test_scores_stand_beside_those_before_training():
    text = model_card.render(CARD)

    assert "| medqa | 3 | 1,273 | 28.7 % | 26.3 % to 31.2 % | 20.0 % | 29.1 % |" in text
    assert f"| pubmedqa | 3 | 500 | 69.3 % | 65.1 % to 73.2 % | 33.3 % | {UNKNOWN} |" in text


def test_the_cost_of_a_training_is_shown():
    accounting = {"pue": 1.1, "kg_co2_per_kwh": 0.016, "price_per_gpu_hour": 1.5}
    cost = Cost(Footprint.of(42_496, 27_622, accounting), "counter", 1.1, "CHF", 2)
    facts = dataclasses.replace(CARD.facts, cost=cost)

    found = rows(model_card.render(dataclasses.replace(CARD, facts=facts)))

    assert found["GPU-hours, interrupted attempts included"] == "42,496.0"
    assert found["price of the GPU-hours"] == "63,744.00 CHF"
    energy = "30,384.2 kWh (the GPUs' counters, a PUE of 1.1; 2 attempts not measured)"
    assert found["energy"] == energy
    assert found["emissions"] == "486.1 kg CO2 equivalent"

    unknown = dataclasses.replace(CARD.facts, cost=Cost(Footprint.of(8, None, {}), "", None))
    found = rows(model_card.render(dataclasses.replace(CARD, facts=unknown)))
    assert (found["energy"], "emissions" in found) == (UNKNOWN, False)
    assert "energy" not in rows(model_card.render(CARD))


def test_what_has_no_record_is_shown_as_not_recorded():
    text = model_card.render(EMPTY)

    assert header(text)["license"] == "unknown"
    assert not {"base_model", "language"} & header(text).keys()
    assert f"The recipe is {UNKNOWN}." in text
    assert f"Scores are {UNKNOWN}" in text
    assert "None" not in text
    found = rows(text)
    for name in (
        *(
            "base weights",
            "revision of the base weights",
            "licence of the base weights",
            "sources",
            "training documents",
        ),
        *("training tokens", "languages", "validation loss", "tokenizer, SHA-256"),
        *("commit of meditron", "versions at submission"),
    ):
        assert found[name] == UNKNOWN, name


def test_weights_before_the_first_step_have_no_training():
    text = model_card.render(dataclasses.replace(CARD, step=0, tokens=0))

    assert "It is meta-llama/Llama-2-7b-hf, not trained further." in text
    assert "learning rate" not in text
    assert "| medqa | 3 | 1,273 | 29.1 % | 26.7 % to 31.6 % | 20.0 % |\n" in text


def test_the_card_is_no_medical_device_and_cites_the_paper():
    text = model_card.render(EMPTY)

    assert "**This is not a medical device.**" in text
    assert "eprint={2311.16079}" in text
    assert "`<EOD>`" in text


def test_a_verification_replaces_its_part_alone():
    text = model_card.render(CARD)
    command = "meditron verify ./ med-7b-0123abcd:14252 --runs-dir ../.."
    assert f"Not verified yet. In this folder: `{command}`" in text

    once = model_card.with_verification(text, "Largest difference: 1e-6")
    twice = model_card.with_verification(once, "Largest difference: 2e-6")

    assert "Not verified yet" not in once
    assert once.replace("1e-6", "2e-6") == twice
    before, after = text.split("Not verified yet")[0], text.rpartition("--runs-dir ../..`")[2]
    assert twice.startswith(before)
    assert twice.endswith(after)
    with pytest.raises(ValueError, match="no line '<!-- verification -->'"):
        model_card.with_verification("# Title", "figures")


def test_a_tokenizer_that_transformers_replaces_is_loaded_by_its_class():
    plain = model_card.render(CARD)
    text = model_card.render(dataclasses.replace(CARD, replaced="pre_tokenizer"))

    assert "PreTrainedTokenizerFast" not in plain
    assert "tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)" in text
    assert "AutoTokenizer.from_pretrained" not in text
    assert "replaces the tokenizer's `pre_tokenizer` for this type of model" in text
