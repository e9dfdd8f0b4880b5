"""Conversations with criteria, in HealthBench's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.errors import TaskError
from jobs.prompts import plain, templates
from jobs.questions import healthbench, readers
from jobs.questions.healthbench import KIND, Criterion

RECORD = {
    "prompt_id": "p1",
    "prompt": [
        {"role": "user", "content": "I have a fever."},
        {"role": "assistant", "content": "Since when?"},
        {"role": "user", "content": "Yesterday."},
    ],
    "rubrics": [
        {"criterion": "Asks about other symptoms", "points": 5, "tags": ["axis:accuracy"]},
        {"criterion": "Recommends antibiotics", "points": -3, "tags": []},
    ],
    "example_tags": ["theme:context_seeking", "physician_agreed_category:x"],
    "ideal_completions_data": None,
    "canary": "as published",
}


def written(folder: Path, *records: Any) -> Path:
    path = folder / "health.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_conversation_is_asked_turn_by_turn(tmp_path: Path) -> None:
    (question,) = readers.read(written(tmp_path, RECORD), KIND)

    assert (question.id, question.subject) == ("p1", "context_seeking")
    assert question.text == "I have a fever.\nSince when?\nYesterday."
    assert templates.open_turns(question) == (
        ("question", "I have a fever."),
        ("answer", "Since when?"),
        ("question", "Yesterday."),
    )
    assert plain.open_exchange(question) == (
        "### User: I have a fever.\n### Assistant: Since when?\n### User: Yesterday.\n"
        "### Assistant:"
    )


def test_its_criteria_have_points(tmp_path: Path) -> None:
    (rubric,) = healthbench.read_rubrics(written(tmp_path, RECORD))

    assert rubric.criteria == (
        Criterion("Asks about other symptoms", 5.0),
        Criterion("Recommends antibiotics", -3.0),
    )
    assert rubric.tags == ("theme:context_seeking", "physician_agreed_category:x")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"prompt_id": ""}, "`prompt_id` is missing"),
        ({"prompt": "Why?"}, "`prompt` is not a list of objects"),
        ({"prompt": RECORD["prompt"][:2]}, "`prompt` has turns of user, assistant; the last is"),
        ({"prompt": [{"role": "user"}]}, "`content` is missing"),
        ({"rubrics": []}, "`rubrics` is not a list of objects"),
        ({"rubrics": [{"criterion": "a", "points": "5"}]}, "`points` of a criterion is not a numb"),
        ({"rubrics": RECORD["rubrics"][1:]}, "no criterion of `rubrics` has points above 0"),
        ({"example_tags": "theme:a"}, "`example_tags` is not a list of strings"),
    ],
)
def test_a_bad_record_is_refused(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    path = written(tmp_path, {**RECORD, **change})

    with pytest.raises(TaskError) as caught:
        readers.read(path, KIND)

    assert caught.value.message.startswith(f"{path}:1: {problem}")
