"""The tokenizer of a base model, in a folder, against that of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jobs.contract.stage_specs import VocabularySpec
from jobs.data.base_tokenizer import base_difference, base_tokens, reasons_first
from jobs.data.tokenizer_file import TokenTable, read_tokens

from ...model_specs import vocabulary_spec
from .conftest import PIECES

BASE = TokenTable({"<s>": 0, "a": 1, "b": 2}, {})
REGISTRY = vocabulary_spec(3, added_tokens=("[fig]",))


@pytest.mark.parametrize(
    ("ids", "difference"),
    [
        ({"<s>": 0, "a": 1, "b": 2, "[fig]": 3}, None),
        ({"<s>": 0, "a": 2, "b": 1, "[fig]": 3}, "'a' has the id 2, in the base model it has 1"),
        ({"<s>": 0, "a": 1, "[fig]": 3}, "'b' is missing, in the base model it has 2"),
        (
            {"<s>": 0, "a": 1, "b": 2, "[fig]": 3, "c": 4},
            "the base model has no 'c', which has the id 4",
        ),
    ],
)
def test_the_first_difference_is_named(ids: dict[str, int], difference: str | None) -> None:
    assert base_difference(TokenTable(ids, {}), BASE, REGISTRY) == difference


def test_a_folder_with_a_sentencepiece_file_or_its_tokenizer_json(
    spm: Path, llama: Path, vocabulary: VocabularySpec, tmp_path: Path
) -> None:
    assert base_tokens(tmp_path) is None
    shutil.copy(spm, tmp_path)
    table = read_tokens(llama)

    base = base_tokens(tmp_path)

    assert base is not None
    assert base.size == PIECES
    assert base_difference(table, base, vocabulary) is None
    shutil.copy(llama, tmp_path / "tokenizer.json")
    assert base_tokens(tmp_path) == table


def test_a_file_of_another_library_is_no_tokenizer_to_compare(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("IQ== 0\n")

    assert base_tokens(tmp_path) is None
    (tmp_path / "tokenizer.model").write_text("<!DOCTYPE html>")
    with pytest.raises(ValueError, match="neither SentencePiece's nor tiktoken's"):
        base_tokens(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="too deep"):
        base_tokens(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="no model with a vocabulary"):
        base_tokens(tmp_path)


OPEN = "{%- if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{%- endif %}"
CLOSED = "{%- if add_generation_prompt %}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
EARLIER = "{{ '<think>' }}{%- if add_generation_prompt %}{{ '<|assistant|>' }}{%- endif %}"


@pytest.mark.parametrize(
    ("template", "expected"), [(OPEN, True), (CLOSED, False), (EARLIER, False), ("", False)]
)
def test_a_model_reasons_first_where_its_template_opens_a_block_of_thoughts(
    tmp_path: Path, template: str, expected: bool
) -> None:
    assert not reasons_first(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    several = tmp_path / "several"
    several.mkdir()
    named = {"chat_template": [{"name": "default", "template": template}]}
    (several / "tokenizer_config.json").write_text(json.dumps(named))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "chat_template.jinja").write_text(template)

    found = [reasons_first(each) for each in (tmp_path, several, tmp_path / "own")]

    assert found == [expected] * 3
