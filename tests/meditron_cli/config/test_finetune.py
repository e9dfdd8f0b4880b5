"""The section of finetuned models: the published recipe, and what is refused."""

from __future__ import annotations

import pytest

from meditron_cli.config.identity import run_name
from meditron_cli.config.load import load
from meditron_cli.config.training.finetune import Finetune
from meditron_cli.errors import ConfigError


def finetune(*overrides: str, size: str = "tiny") -> Finetune:
    """Return the section that an experiment has with some settings."""
    return load("local", size, None, list(overrides)).experiment.finetune


def models(*names: str) -> str:
    """Return the setting of models of published preparations."""
    items = ", ".join(f"{{name: {name}, data: [{{path: a}}]}}" for name in names)
    return f"finetune.models=[{items}]"


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("medqa", 480),
        ("cotmedqa", 390),
        ("medmcqa", 7_490),
        ("cotmedmcqa", 8_570),
        ("pubmedqa", 9_380),
        ("cotpubmedqa", 9_380),
    ],
)
def test_the_steps_of_a_published_preparation_are_the_published_ones(name: str, steps: int) -> None:
    """10 x ceil(3 N / 64 / 10) (epfLLM/meditron:finetuning/sft.py:147-148)."""
    section = finetune(models(name))

    assert [section.steps_of(model) for model in section.models] == [steps]


def test_steps_follow_from_items_and_may_be_given() -> None:
    section = finetune(
        "finetune.models=[{name: a, items: 100, data: [{path: a}]}, "
        "{name: medqa, train_steps: 7, data: [{path: a}]}]"
    )

    assert [section.steps_of(model) for model in section.models] == [10, 7]


@pytest.mark.parametrize(
    ("size", "layout"), [("7b", (4, 1, 16)), ("70b", (8, 4, 1)), ("tiny", None)]
)
def test_the_published_recipe_is_the_default(size: str, layout: tuple[int, ...] | None) -> None:
    section = finetune(size=size)
    parallel = section.parallel

    assert (section.learning_rate, section.min_learning_rate, section.warmup_share) == (
        2e-5, 2e-6, 0.1,
    )  # fmt: skip
    assert (section.adam_beta1, section.adam_beta2, section.adam_eps) == (0.9, 0.95, 1e-5)
    assert (section.weight_decay, section.clip_grad) == (0.1, 1.0)
    assert (section.epochs, section.global_batch_size) == (3.0, 64)
    assert (section.save_interval, section.validation_interval) == (800, 100)
    found = parallel and (parallel.tensor, parallel.pipeline, parallel.data)
    assert found == layout
    assert section.micro_batch_size == (4 if layout else 1)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "finetune.models=[{name: own, data: [{path: a}]}]",
            "finetune.models[0].items: own is no published preparation",
        ),
        (
            "finetune.models=[{name: medqa, data: [{path: /a}, {path: /b}, {path: /a}]}]",
            "finetune.models[0].data[2].path: /a is listed twice",
        ),
        (
            "finetune.models=[{name: own, items: 700000000, data: [{path: a}]}, {name: b, items: 1,"
            " data: [{path: a}]}]",
            "finetune.models[0].items: 700000000 items and 10000 epochs are more than 100,000,000 "
            "steps",
        ),
        ("finetune.models=[{name: medqa}]", "finetune.models[0].data: names no file"),
        (
            "finetune.models=[{name: medqa, data: [{path: a}], reasoned: true}]",
            "finetune.models[0].reasoned: medqa is published and decides it",
        ),
        (
            "finetune.models=[{name: medqa, data: [{path: a, kind: mmlu}]}]",
            "finetune.models[0].data[0].kind: medqa takes no file of kind mmlu, but of medqa",
        ),
        (
            "finetune.models=[{name: mixed, data: [{path: a, kind: medqa}]}]",
            "finetune.models[0].data: mixed needs a file of kind medmcqa",
        ),
        (models("medqa", "medqa"), "finetune.models[1].name: a model before this one is named"),
        ("finetune.start=kept", "finetune.start: expected first, last or a step number"),
        ("finetune.start=-1", "finetune.start: expected first, last or a step number"),
        ("finetune.start=7", "finetune.start: no checkpoint of step 7 is kept"),
        ("finetune.prompt_loss_weight=0.005", "finetune.prompt_loss_weight: 0.005 has parts"),
        ("finetune.micro_batch_size=7", "finetune.global_batch_size: 64 is not a multiple"),
        (
            "evaluate.benchmarks=[{name: b, path: b, model: medqa}]",
            "evaluate.benchmarks[0].model: no finetuned model is called 'medqa'",
        ),
        (
            "evaluate.benchmarks=[{name: b, path: b, model: medqa, shots: 3}]",
            "evaluate.benchmarks[0].shots: a finetuned model answers without worked examples",
        ),
    ],
)
def test_a_section_that_cannot_be_is_refused(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        finetune(override, *(["finetune.epochs=10000"] if "epochs" in sentence else []))

    assert sentence in refused.value.message


@pytest.mark.parametrize(
    ("word", "average"), [("token", "tokens"), ("micro_batch", "micro-batches")]
)
def test_an_average_may_be_named_in_the_singular(word: str, average: str) -> None:
    assert finetune(f"finetune.loss_average={word}").loss_average == average


def test_a_step_of_another_run_is_not_compared_with_those_of_this_one() -> None:
    assert finetune("finetune.start=7", "finetune.run=other").start == 7


def test_one_more_finetuned_model_continues_a_run() -> None:
    one, two = (
        load("local", "tiny", None, [models(*n)]) for n in (["medqa"], ["medqa", "medmcqa"])
    )

    names = {run_name(loaded.experiment, "tiny", "local") for loaded in (one, two)}
    assert len(names) == 1
