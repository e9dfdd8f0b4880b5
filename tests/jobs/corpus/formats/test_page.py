"""The examples of docs/corpus.md are read by the formats that they stand for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from jobs.corpus import marked_text
from jobs.corpus.formats.read import FORMATS

from .specs import documents

PAGE = Path(__file__).parents[4] / "docs" / "corpus.md"
SUFFIXES = {"csv": "csv", "text": "txt", "jats": "xml", "pubmed": "xml", "parquet": "parquet"}
TEXTS = {
    "text": ["Give 5\u201310 mg twice daily.\nDo not exceed 40 mg/m\u00b2."],
    "jats": ["Dosing\n\n# Adults\n\nGive 10\u207b\u00b3 mol.", "Do not exceed 40 mg/m\u00b2."],
    "s2orc": ["## Adults\n5 mg.", "At most 40 mg/m\u00b2."],
    "guidelines": [
        "Sepsis\n# Care\nGive 5 mg.",
        "Asthma\n\n# Dose\n- 5\u201310 mg\n\n# Risk\np<0.05, OR>2 [95% CI 2.1\u20133.4]",
    ],
}
EXAMPLES = dict(
    re.findall(r"^### `(\w+)`\n(?:\n.*?)??\n```\w+\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
)


def test_every_format_has_an_example() -> None:
    assert set(EXAMPLES) == set(FORMATS) - {"auto"}


@pytest.mark.parametrize("form", EXAMPLES)
def test_an_example_is_two_documents(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"example.{SUFFIXES.get(form, 'jsonl')}"
    path.write_text(EXAMPLES[form])
    if form == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        rows = list(map(json.loads, EXAMPLES[form].splitlines()))
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    found = documents(path, form)

    texts = [marked_text.finish(document.text).text for document in found]
    assert len(texts) == (1 if form == "text" else 2)
    assert texts == TEXTS.get(form, texts)
    assert all(texts)
