"""The parts of a benchmark's files that are looked for in documents."""

from __future__ import annotations

import json
from pathlib import Path

from jobs.contract.corpus.rules import BenchmarkFile, DecontaminationSpec
from jobs.questions.benchmark_questions import questions


def test_test_questions_are_looked_for_and_short_ones_with_their_choices(tmp_path: Path) -> None:
    exam = tmp_path / "exam.jsonl"
    long = "Which vitamin, lacking on long voyages, was known to prevent scurvy?"
    records = [
        {"id": "a", "question": long, "choices": ["A", "C"], "answer": 1},
        {"id": "b", "question": "Which prevents scurvy?", "choices": ["A", "C"], "answer": 1},
        {"id": "c", "question": long, "choices": ["A", "C"], "answer": 1, "split": "train"},
    ]
    exam.write_text("".join(json.dumps(record) + "\n" for record in records))
    record = {"QUESTION": "Does it help?", "CONTEXTS": ["In mice.", "It did."]}
    pubmed = {number: {**record, "final_decision": "yes"} for number in ("1", "2")}
    (tmp_path / "ori_pqal.json").write_text(json.dumps(pubmed))
    (tmp_path / "test_ground_truth.json").write_text('{"2": "yes"}')
    spec = DecontaminationSpec(
        (
            BenchmarkFile("exam", str(exam), "mcq"),
            BenchmarkFile("pubmed", str(tmp_path), "pubmedqa"),
        ),
        ngram=7,
        share=0.8,
    )

    found = list(questions(spec))

    assert found == [
        ("exam", "a", long),
        ("exam", "b", "Which prevents scurvy? A C"),
        ("pubmed", "2", "In mice.\nIt did.\nDoes it help?"),
    ]


def test_prompts_are_looked_for_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "safety.jsonl"
    path.write_text(json.dumps({"prompt": "May I take both at once?", "gold": "No."}) + "\n")
    spec = DecontaminationSpec((BenchmarkFile("safety", str(path), "prompts"),), 8, 0.8)

    assert list(questions(spec)) == [("safety", "safety-0", "May I take both at once?")]
