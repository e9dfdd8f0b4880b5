"""Megabytes per second and core of each reader, of cleaning and of each filter, beside datatrove.

``MEDITRON_BENCH_DATATROVE`` names the Python of an environment with ``datatrove[io,processing]``
and spacy; without it only our side is measured. ``MEDITRON_BENCH_TEXTS`` names a file of JSON lines
whose ``text`` is read; without it the texts are the sample's.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jobs.corpus.filtering import language, masking, quality
from jobs.corpus.formats import read
from jobs.data import cleaning
from meditron_cli.sample import corpus, facts
from tests.bench import Figure, _sources, ratio, take_turns
from tests.corpus_specs import source_spec

ROUNDS = 5
MEGABYTES = 8
BESIDE = ("jsonl", "parquet", "csv", "mask", "gopher", "fineweb")
"""Steps that datatrove has too."""


def sample(megabytes: float) -> list[str]:
    """Return texts of that size, those of the file that is named first."""
    path = os.environ.get("MEDITRON_BENCH_TEXTS")
    found: Iterable[str] = (
        (json.loads(line)["text"] for line in Path(path).read_text().splitlines())
        if path
        else (record["text"] for record in corpus.documents(facts.load(), seed=1))
    )
    texts, size = [], 0.0
    for text in found:
        texts.append(text)
        size += len(text.encode()) / 1e6
        if size >= megabytes:
            break
    return texts


def steps(folder: Path, texts: list[str]) -> dict[str, tuple[Path, Callable[[], Any]]]:
    """Return our steps by name: the file whose bytes are counted, and what is done with it."""
    files = {name: _sources.write(folder, name, texts) for name in _sources.WRITERS}
    files["parquet"] = _sources.parquet(folder, texts)
    readers = {name: (path, partial(read_all, path, name)) for name, path in sorted(files.items())}
    on_texts: Mapping[str, Callable[[str], Any]] = {
        "clean": cleaning.normalise,
        "language": partial(language.detect, wanted=("en",)),
        "mask": partial(masking.mask, kinds=("email", "phone")),
        **{name: partial(quality.first_broken, name) for name in quality.PRESETS if name != "none"},
    }
    applied = {
        name: (files["jsonl"], partial(apply_all, step, texts)) for name, step in on_texts.items()
    }
    return readers | applied


def read_all(path: Path, name: str) -> None:
    for _ in read.read(path, source_spec(path, format=name)):
        pass


def apply_all(step: Callable[[str], Any], texts: Iterable[str]) -> None:
    for text in texts:
        step(text)


def processor_seconds(work: Callable[[], Any]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def datatrove_seconds(python: str, step: str, path: Path) -> float:
    script = Path(__file__).with_name("_datatrove.py")
    # -P: the modules beside the script do not hide those of the standard library.
    command = [python, "-P", str(script), step, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return float(done.stdout.split()[-1])


def figures(rounds: int = ROUNDS, megabytes: float = MEGABYTES) -> list[Figure]:
    python = os.environ.get("MEDITRON_BENCH_DATATROVE")
    if not python:
        line = "curate: without datatrove, since MEDITRON_BENCH_DATATROVE names no Python"
        print(line, file=sys.stderr)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (path, work) in steps(Path(folder), sample(megabytes)).items():
            work()  # what is loaded once is loaded now
            sides = {"ours": partial(processor_seconds, work)}
            if python and name in BESIDE:
                sides["theirs"] = partial(datatrove_seconds, python, name, path)
            seconds = take_turns(rounds, **sides)
            size = path.stat().st_size / 1e6
            speed = {side: size / statistics.median(times) for side, times in seconds.items()}
            found.append(Figure(f"curate_{name}_mb_s", speed["ours"], note="of a core"))
            if "theirs" in seconds:
                note = f"MB/s: ours {speed['ours']:.1f}, datatrove's {speed['theirs']:.2f}"
                times_faster = ratio(seconds["theirs"], seconds["ours"])
                found.append(Figure(f"curate_{name}_over_datatrove", times_faster, "> 1", note))
    return found
