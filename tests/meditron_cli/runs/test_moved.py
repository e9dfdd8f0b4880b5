"""Files that were moved, by the specs that name them."""

from __future__ import annotations

import pytest

from meditron_cli.runs import moved

from ...plans import plan_of

FILES = (
    "evaluate.benchmarks=[{name: quiz, path: /old/quiz.jsonl, train: /old/train.jsonl, shots: 1}]",
    "curate.decontaminate.benchmarks=all",
    "finetune.models=[{name: asked, items: 1, data: [{path: /old/asked.jsonl}]}]",
    "finetune.instructions=/old/instructions.json",
)


@pytest.mark.parametrize(
    ("stage", "files"),
    [
        ("curate", ("/old/quiz.jsonl",)),
        ("prepare", ("/old/asked.jsonl", "/old/instructions.json", "/old/quiz.jsonl")),
        ("evaluate", ("/old/quiz.jsonl", "/old/train.jsonl")),
    ],
)
def test_a_spec_may_name_its_files_where_they_are_now(stage: str, files: tuple[str, ...]) -> None:
    new = tuple(override.replace("/old/", "/new/") for override in FILES)
    old_task, new_task = (
        plan_of("local", "tiny", *overrides).stage(stage).tasks[0] for overrides in (FILES, new)
    )

    found = moved.spec_moves(old_task.spec, new_task.spec)

    assert found == {name: name.replace("/old/", "/new/") for name in files}
