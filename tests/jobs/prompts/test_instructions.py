"""Files of instructions: ours, the published layout, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.errors import CONFIGURATION, TaskError
from jobs.prompts import instructions
from jobs.prompts.instructions import KEYS, Instruction


def published() -> dict[str, Any]:
    """Return the layout of epfLLM/meditron:evaluation/instructions.json, with texts of our own."""
    kinds = {key: "default" if key == "mcq_default" else "task-oriented" for key in KEYS}
    return {
        key: {"system": f"system of {key}", "user": f"user of {key}", "type": kind, "source": ""}
        for key, kind in kinds.items()
    }


def test_ours_have_the_published_layout_and_end_as_the_parser_expects() -> None:
    content = json.loads(instructions.OWN.read_text())

    assert set(content) == set(KEYS)
    assert len(KEYS) == 19
    assert {tuple(value) for value in content.values()} == {("system", "user", "type", "source")}
    ours = instructions.load()
    for kind in ("medqa", "medmcqa", "pubmedqa", "truthfulqa", "headqa"):
        assert ours.of(kind).user == "The answer is:"
        assert ours.of(kind, cot=True).user != ours.of(kind).user


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("medqa4", "medqa"),
        ("mmlu", "medmcqa"),
        ("pubmedqa", "pubmedqa"),
        ("medxpertqa", "mcq"),
        ("mcq", "mcq"),
    ],
)
def test_a_published_file_is_used_unchanged(tmp_path: Path, kind: str, key: str) -> None:
    path = tmp_path / "instructions.json"
    path.write_text(json.dumps(published()))

    found = instructions.load(path)

    assert found.of(kind) == Instruction(f"system of {key}", f"user of {key}")
    assert found.of(kind, cot=True).system == f"system of {key}_cot"


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "instructions.json"
    content = published()
    del content["medmcqa_cot"]
    path.write_text(json.dumps(content))

    with pytest.raises(TaskError) as caught:
        instructions.load(path)

    assert caught.value.message == (
        f"{path}: 18 of 19 instructions; the first that is missing is 'medmcqa_cot'"
    )
    assert caught.value.code == CONFIGURATION


BAD = [
    ('{"medqa": ', "not JSON (Expecting value: line 1 column 11 (char 10))"),
    ("[]", "not one JSON object of instructions"),
    ({"mcq": {"system": "", "user": "", "type": ""}}, "mcq: `source` is missing or not a string"),
    ({"mcq": "text"}, "mcq: `system` is missing or not a string"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_another_layout_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "instructions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(published() | content))

    with pytest.raises(TaskError) as caught:
        instructions.load(path)

    assert caught.value.message == f"{path}: {message}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="cannot be read \\(No such file or directory\\)"):
        instructions.load(tmp_path / "none.json")
