"""A run whose tokenizer or vocabulary registry changes after it has begun: nothing is submitted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import specs
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import TOKENIZER_STAGES, ConvertSpec

from ...conftest import WORDS, Bench
from ...gate import full
from .test_base_model import PROFILE, TARGET, write_model

ADDED = ("[fig]", "[/fig]")
GROWN = (
    *TARGET,
    "--set", f"vocabulary.added_tokens={json.dumps(ADDED)}",
    "--set", f"model.vocab_size={len(WORDS) + len(ADDED)}",
    "--set", "export.step=last",
    "--set", "finetune.models=[{name: tuned, items: 1, data: [{path: quiz.jsonl}]}]",
    "--set", "evaluate.benchmarks=[{name: quiz, path: quiz.jsonl, modes: [top-token, cot]}]",
    "--set", "evaluate.generate.max_tokens=16",
)  # fmt: skip


def write_tokenizer(folder: Path, added: tuple[str, ...] = ADDED, **fields: Any) -> None:
    """Write a tokenizer.json of the project's words and these tokens."""
    entries = [
        {"id": number, "content": token, "special": False}
        for number, token in enumerate(added, len(WORDS))
    ]
    words = {word: number for number, word in enumerate(WORDS)}
    content = {"model": {"type": "WordLevel", "vocab": words}, "added_tokens": entries}
    (folder / "tokenizer.json").write_text(json.dumps(content | fields))


@pytest.fixture
def begun(meditron: Bench, finish: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a project whose run has made tokens and converted its base model."""
    monkeypatch.setenv("HF_HUB_CACHE", str(meditron.folder / "cache"))
    (meditron.folder / "mine.yaml").write_text(PROFILE)
    write_model(meditron.folder / "models/org/base")
    write_tokenizer(meditron.folder)
    result = meditron("submit", "pipeline", *GROWN)
    assert result.exit_code == 0, result.stderr
    finish(meditron.run(), "curate", 0)
    finish(meditron.run(), "tokenize", 0, 1, 2)
    finish(meditron.run(), "index", 0)
    finish(meditron.run(), "convert", 0)
    meditron.scheduler.jobs.clear()
    meditron.scheduler.submitted.clear()
    return meditron


FILES: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "text": (("[fig]", "[other]"), {}, "the first that it lacks is '[/fig]'"),
    "order": (("[/fig]", "[fig]"), {}, "'[fig]' has the id 5, not 4"),
    "rest of the file": (ADDED, {"version": "2"}, "the tokenizer is not the one with which "),
}
"""Another tokenizer.json in the place of the run's, and what is named."""


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        *((change, False) for change in FILES),
        ("rest of the file", True),
        *(full(change, True) for change in FILES if change != "rest of the file"),
    ],
)
def test_no_stage_is_submitted_with_another_tokenizer(
    begun: Bench, finish: Callable[..., None], change: str, trained: bool
) -> None:
    added, fields, sentence = FILES[change]
    run = begun.run()
    if trained:
        finish(run, "pretrain", 0)
    write_tokenizer(begun.folder, added, **fields)

    for words in (
        *(("submit", stage, "--run", run.name) for stage in TOKENIZER_STAGES),
        *(("submit", stage, *GROWN) for stage in TOKENIZER_STAGES),
        ("submit", "pipeline", *GROWN),
    ):
        result = begun(*words)
        assert result.exit_code == 2, words
        anew = "the settings or tokenizer of tokenize have changed since run"
        assert sentence in result.stderr or (trained and anew in result.stderr), words
        assert "hint: " in result.stderr
    assert begun.scheduler.submitted == []
    if change == "rest of the file":
        assert begun("resume", run.name).exit_code == 2
    write_tokenizer(begun.folder)
    assert begun("submit", "pretrain", "--run", run.name).exit_code == 0


SETTINGS = {
    "text": ('vocabulary.added_tokens=["[fig]", "[other]"]', "lacks is '[other]'"),
    "order": ('vocabulary.added_tokens=["[/fig]", "[fig]"]', "'[/fig]' has the id 5, not 4"),
    "new_rows": ("vocabulary.new_rows=mean", ""),
    "eod_token": ("vocabulary.eod_token=fever", ""),
}
"""Another registry, and what is named of one that the tokenizer does not have."""


@pytest.mark.parametrize("change", SETTINGS)
def test_another_registry_never_continues_a_run(
    begun: Bench, finish: Callable[..., None], change: str
) -> None:
    setting, sentence = SETTINGS[change]
    run = begun.run()
    finish(run, "pretrain", 0)

    for stage in TOKENIZER_STAGES:
        if stage not in ("convert", "prepare") or sentence:  # another run may begin with these
            result = begun("submit", stage, *GROWN, "--set", setting)
            assert result.exit_code == 2, stage
            assert sentence in result.stderr
    assert begun.scheduler.submitted == []
    assert [path.name for path in begun.runs.iterdir() if path.name[0] != "."] == [run.name]


def test_weights_with_another_rule_for_new_rows_are_those_of_another_run(begun: Bench) -> None:
    first = begun.run()

    result = begun("submit", "convert", *GROWN, "--set", "vocabulary.new_rows=mean")

    assert result.exit_code == 0, result.stderr
    (other,) = (path for path in begun.runs.iterdir() if path.name[0] != "." and path != first.root)
    assert (
        f"{other.name} is a new run: {first.name} differs in vocabulary.new_rows" in result.stderr
    )
    for run, rule in ((first, "repeat-last-row"), (RunDir(other), "mean")):
        spec = specs.load_task(run, "convert", 0).spec
        assert isinstance(spec, ConvertSpec)
        assert spec.tokenizer.vocabulary.new_rows == rule
