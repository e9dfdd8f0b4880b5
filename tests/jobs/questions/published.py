"""Look-alikes of published benchmark files, of a few records each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MEDQA: dict[str, Any] = {
    "question": "A 5-year-old boy has a barking cough. What is the cause?",
    "answer": "Parainfluenza virus",
    "options": {
        "A": "Measles virus",
        "B": "Parainfluenza virus",
        "C": "Rhinovirus",
        "D": "Adenovirus",
        "E": "Influenza virus",
    },
    "meta_info": "step1",
    "answer_idx": "B",
}
MEDQA4: dict[str, Any] = {
    **MEDQA,
    "options": {letter: MEDQA["options"][letter] for letter in "ABCD"},
    "metamap_phrases": ["boy", "barking cough"],
}
MEDXPERTQA: dict[str, Any] = {
    "id": "Text-3",
    "question": "What is the most probable diagnosis?\nAnswer Choices: (A) Gout (B) Lupus",
    "options": {"A": "Gout", "B": "Lupus"},
    "label": "B",
    "medical_task": "Diagnosis",
    "body_system": "Skeletal",
    "question_type": "Reasoning",
}
MMLU_PRO: dict[str, Any] = {
    "question_id": 70,
    "question": "Which organ makes insulin?",
    "options": ["liver", "pancreas", "spleen"],
    "answer": "B",
    "answer_index": 1,
    "cot_content": "",
    "category": "health",
    "src": "ori_mmlu-nutrition",
}
HEADQA: dict[str, Any] = {
    "qid": 4,
    "qtext": "Excitatory postsynaptic potentials:",
    "ra": 3,
    "answers": [
        {"aid": 1, "atext": "They are all or none."},
        {"aid": 2, "atext": "They are hyperpolarizing."},
        {"aid": 3, "atext": "They can be added."},
    ],
    "image": "",
}
MED_CONCEPTS_QA: dict[str, Any] = {
    "question_id": 7,
    "question": (
        "Question: What is the description of the medical code I10 in ICD10CM?\n"
        "A. Gout\nB. Hypertension\nC. Cough\nD. Fever"
    ),
    "option1": "Gout",
    "option2": "Hypertension",
    "option3": "Cough",
    "option4": "Fever",
    "answer": "Hypertension",
    "answer_id": "B",
    "vocab": "ICD10CM",
    "level": "easy",
}
TRUTHFULQA_HEADER = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"


def truthfulqa(sizes: dict[str, int]) -> str:
    """Return the CSV with as many questions of each category, with five wrong answers each."""
    rows = [
        f'Adversarial,{category},"Is it so, {category} {number}?",No,No; Never,'
        "Yes; Always; Often; Sometimes; On Sundays,https://example.org\n"
        for category, size in sizes.items()
        for number in range(size)
    ]
    return TRUTHFULQA_HEADER + "".join(rows)


def abstract(number: int, answer: str = "yes") -> dict[str, Any]:
    """Return a record of PubMedQA."""
    return {
        "QUESTION": f"Does drug {number} help?",
        "CONTEXTS": [f"Drug {number} was given to mice.", "They lived longer."],
        "LABELS": ["METHODS", "RESULTS"],
        "LONG_ANSWER": f"Drug {number} helped",
        "MESHES": [],
        "final_decision": answer,
    }


def medmcqa(number: int, exp: str | None = "It is known", first: int = 1) -> dict[str, Any]:
    """Return a record of MedMCQA."""
    return {
        "id": f"id-{number}",
        "question": f"The nerve number {number} that lifts the eyelid is",
        "opa": "optic",
        "opb": "facial",
        "opc": "oculomotor",
        "opd": "vagus",
        "cop": 2 + first,
        "choice_type": "single",
        "exp": exp,
        "subject_name": "Anatomy",
        "topic_name": None,
    }


def write_lines(path: Path, *records: dict[str, Any]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
