"""Run a step of datatrove over a file of JSON lines, and print the seconds of processor time.

``python _datatrove.py STEP FILE``, by the Python of an environment with
``datatrove[io,processing]`` and spacy; nothing of ours is imported.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import CSVReader, JsonlReader, ParquetReader

READERS: dict[str, Callable[[str], Any]] = {
    "jsonl": JsonlReader,
    "parquet": ParquetReader,
    "csv": CSVReader,
}


def filters(name: str) -> Callable[[Document], Any]:
    """Return the filters of a preset as one, which ends at the first that drops a document."""
    steps: list[Any] = [GopherQualityFilter(), GopherRepetitionFilter()]
    if name == "fineweb":
        steps += [
            C4QualityFilter(filter_no_terminal_punct=False),
            FineWebQualityFilter(char_duplicates_ratio=0.1),
        ]
    return lambda document: all(step.filter(document) is True for step in steps)


def mask() -> Callable[[Document], Any]:
    """Return datatrove's masking of e-mail addresses; it knows no phone numbers."""
    formatter = PIIFormatter(remove_ips=False)
    return lambda document: formatter.format(document.text)


def main(step: str, path: Path) -> float:
    if step in READERS:
        documents: Iterator[Any] = READERS[step](str(path.parent)).run()
        apply: Callable[[Any], Any] = id
    else:
        lines = path.read_text().splitlines()
        texts = [Document(text=json.loads(line)["text"], id="") for line in lines]
        apply = mask() if step == "mask" else filters(step)
        apply(Document(text=texts[0].text, id=""))  # the tokenizer of words is loaded now
        documents = iter(texts)
    begun = time.process_time()
    for document in documents:
        apply(document)
    return time.process_time() - begun


if __name__ == "__main__":
    print(main(sys.argv[1], Path(sys.argv[2])))
