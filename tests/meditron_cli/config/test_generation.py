"""Settings of answers in text, and files that they cannot be given with."""

from __future__ import annotations

from pathlib import Path

import pytest

from meditron_cli.config.load import load
from meditron_cli.errors import ConfigError
from meditron_cli.inputs import problems

EXAM = "evaluate.benchmarks=[{name: exam, path: exam.jsonl, kind: medqa4, %s}]"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            ["evaluate.benchmarks=[{name: e, path: e.jsonl, legacy: true}]"],
            "evaluate.benchmarks[0].legacy: the released rules read letters, and yes and no; kind "
            "mcq has neither",
        ),
        (
            ["evaluate.generate.tensor=2"],
            "evaluate.generate.tensor: transformers generates on one device; set backend to vllm",
        ),
        (
            [EXAM % "modes: [cot]", "export.step=[]"],
            "evaluate.benchmarks[0].modes: cot generates with exported models, and export.step "
            "names none of evaluate.checkpoints",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(folder: Path, settings, sentence) -> None:
    with pytest.raises(ConfigError) as caught:
        load("local", "tiny", None, settings)

    assert sentence in caught.value.message


def test_an_answer_leaves_room_for_a_question(folder: Path) -> None:
    long = load("local", "tiny", None, [EXAM % "modes: [cot]", "model.seq_length=512"])
    released = load("local", "tiny", None, [EXAM % "legacy: true", "model.seq_length=512"])

    assert list(problems.generation_problems(long.experiment)) == [
        "evaluate.generate.max_tokens: 1024 tokens of an answer leave no room for a question of "
        "exam in the 512 that the model reads; set it lower"
    ]
    assert list(problems.generation_problems(released.experiment)) == []


@pytest.mark.parametrize("modes", ["[top-token, cot]", "[cot]"])
def test_options_are_not_scored_where_the_model_reasons(folder: Path, modes: str) -> None:
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"")
    (base / "chat_template.jinja").write_text("{% if add_generation_prompt %}<think>\n{% endif %}")
    loaded = load("local", "tiny", None, [EXAM % f"modes: {modes}", f"model.weights={base}"])

    found = list(problems.reasoning_problems(loaded))

    sentence = (
        f"evaluate.benchmarks: the base model in {base} was taught to reason before it answers, "
        "so that the likelihood of an option right behind the question measures little (exam); "
        "set `modes` to [cot] or [sc-cot]"
    )
    assert found == ([sentence] if "top-token" in modes else [])
