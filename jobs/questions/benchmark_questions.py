"""The questions that no document of a corpus may contain, as ``jobs.corpus.decontamination`` takes
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobs.contract.corpus.rules import DecontaminationSpec
from jobs.questions import exchanges, readers


def questions(spec: DecontaminationSpec) -> Iterator[tuple[str, str, str]]:
    """Yield benchmark, item and text of each test question.

    The text is what the model is asked, for PubMedQA with the abstract. A question shorter than an
    n-gram identifies little ("All of the following except"); its choices are part of it.

    Raises:
        TaskError: a benchmark cannot be read.
    """
    for benchmark in spec.benchmarks:
        if benchmark.kind == exchanges.KIND:
            for prompt in exchanges.read_exchanges(Path(benchmark.path)):
                yield benchmark.name, prompt.id, prompt.prompt
            continue
        for question in readers.read(Path(benchmark.path), benchmark.kind, benchmark.options):
            if question.split == "test":
                short = len(question.text.split()) < spec.ngram
                choices = question.choices if short else ()
                yield benchmark.name, question.id, " ".join([question.text, *choices])
