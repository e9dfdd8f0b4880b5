"""People's grades of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.errors import TaskError
from jobs.questions.human_grades import Grade, read_grades

ONE = {"prompt_id": "a", "criterion": 0, "grade": True, "sha256": "1f"}
PAIR = {"prompt_id": "a", "pair": ["1f", "2e"], "grade": 2}


def test_grades_are_of_a_criterion_or_of_a_pair(tmp_path: Path) -> None:
    path = tmp_path / "grades.jsonl"
    path.write_text(f"{json.dumps(ONE)}\n\n{json.dumps(PAIR)}\n")

    assert read_grades(path) == [Grade("a", ("1f",), 0, 1), Grade("a", ("1f", "2e"), -1, 2)]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({**ONE, "prompt_id": ""}, "`prompt_id` is missing"),
        ({**ONE, "criterion": -1}, "`criterion` is not the place of a criterion, from 0"),
        ({**ONE, "criterion": True}, "`criterion` is not the place of a criterion, from 0"),
        ({**ONE, "grade": 1}, "`grade` of a criterion is not true or false"),
        ({**ONE, "sha256": None}, "`sha256` is missing"),
        ({**PAIR, "pair": ["1f"]}, "`pair` is not a list of the SHA-256 of two answers"),
        ({**PAIR, "grade": True}, "`grade` of a pair is not 1 or 2 for the better answer, or 0"),
    ],
)
def test_a_bad_grade_is_refused(tmp_path: Path, record: dict[str, Any], problem: str) -> None:
    path = tmp_path / "grades.jsonl"
    path.write_text(json.dumps(record))

    with pytest.raises(TaskError) as caught:
        read_grades(path)

    assert caught.value.message.startswith(f"{path}:1: {problem}")


def test_grades_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "grades.jsonl"
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(TaskError, match="not UTF-8"):
        read_grades(path)
