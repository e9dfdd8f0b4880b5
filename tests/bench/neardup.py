"""Near-duplicate documents beside datatrove's MinHash: seconds, memory, and what is found.

Both sides read the same generated documents, half of them in pairs of a known Jaccard similarity
between 0.5 and 0.95, with shingles of 5 words, in one process at a time. datatrove takes its 14
bands of 8 rows, whose threshold is 0.72; we take a similarity of 0.7, which is 18 bands of 6 rows,
and compare again what shares one.

datatrove is not among our requirements. ``MEDITRON_BENCH_DATATROVE`` names the Python of an
environment with ``datatrove[io,processing]`` and spacy, ``MEDITRON_BENCH_DATATROVE_CLUSTER`` its
third stage in Rust, ``local`` of ``src/datatrove/tools/fast_mh3`` in its repository, and
``MEDITRON_BENCH_DOCUMENTS`` the number of documents.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.contract.corpus.rules import CorpusRules, NearDuplicatesSpec
from tests.bench import Figure, environment

DOCUMENTS = 20_000
WORDS = 200
"""Of a document, as of an abstract."""
FILES = 8
VOCABULARY = 20_000
SIMILARITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SPEC = NearDuplicatesSpec(similarity=0.7, words=5)
BANDS, ROWS = 14, 8
"""Of datatrove."""
NEAR = 0.75
BATCH = 1000
"""Documents that are signed together."""

DATATROVE = """
import sys, time
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from loguru import logger

logger.remove()
folder, stage, files, bands, rows = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
config = MinhashConfig(n_grams=5, num_buckets=bands, hashes_per_bucket=rows)
started = time.perf_counter()
if stage == "sign":
    reader = JsonlReader(f"{folder}/documents")
    step = MinhashDedupSignature(f"{folder}/theirs/signed", config)
    for rank in range(files):
        step.run(reader.run(None, rank, files), rank, files)
elif stage == "buckets":
    step = MinhashDedupBuckets(f"{folder}/theirs/signed", f"{folder}/theirs/buckets", config=config,
                               lines_to_buffer=1000)
    for rank in range(bands):
        step.run(None, rank, bands)
else:
    MinhashDedupCluster(f"{folder}/theirs/buckets", f"{folder}/theirs/removed", config=config,
                        lines_to_buffer=1000).run(None, 0, 1)
print(time.perf_counter() - started)
"""


@dataclass(frozen=True)
class Measured:
    """One stage of a side."""

    seconds: float
    megabytes: float


def figures(documents: int | None = None, words: int = WORDS) -> list[Figure]:
    count = documents or int(os.environ.get("MEDITRON_BENCH_DOCUMENTS", DOCUMENTS))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "tests.bench.neardup", name]
        # Not in this process: the peak of a child begins with the memory of its parent.
        run([*command, "write", str(count), str(words)], folder)
        ours = {stage: run([*command, stage], folder) for stage in ("sign", "find")}
        theirs = beside_datatrove(folder, ours)
        removed = set(json.loads((folder / "ours" / "removed.json").read_text()))
        speed = Figure("neardup_documents_per_second", count / total(ours), "", described(ours))
        found = [speed, recalled("neardup_recall", folder, removed), *theirs]
        if theirs:
            removed = read_removed(folder / "theirs/removed")
            found.append(recalled("neardup_recall_datatrove", folder, removed))
    return found


def beside_datatrove(folder: Path, ours: dict[str, Measured]) -> list[Figure]:
    """Return what datatrove measures on the same documents, where it is installed."""
    python = os.environ.get("MEDITRON_BENCH_DATATROVE")
    program = os.environ.get("MEDITRON_BENCH_DATATROVE_CLUSTER")
    if not python:
        line = "neardup: without datatrove, since MEDITRON_BENCH_DATATROVE names no Python"
        print(line, file=sys.stderr)
        return []
    sizes = [str(size) for size in (FILES, BANDS, ROWS)]
    theirs = {
        stage: run([python, "-c", DATATROVE, str(folder), stage, *sizes], folder)
        for stage in ("sign", "buckets", "cluster")
    }
    found = [
        Figure("neardup_over_datatrove", total(theirs) / total(ours), "≥ 3", described(theirs))
    ]
    if not program:
        line = "neardup: without its Rust, since MEDITRON_BENCH_DATATROVE_CLUSTER names no program"
        print(line, file=sys.stderr)
        return found
    command = [program, "--input-folder", str(folder / "theirs/buckets"), "--output-folder"]
    command += [str(folder / "theirs/removed-rust"), "--total-files", str(BANDS)]
    rust = {"buckets": theirs["buckets"], "rust": run(command, folder)}
    value = total(rust) / ours["find"].seconds
    note = f"all that is behind the signatures; {described(rust)}"
    return [*found, Figure("neardup_find_over_datatrove_rust", value, "≥ 1", note)]


def total(stages: dict[str, Measured]) -> float:
    return sum(stage.seconds for stage in stages.values())


def described(stages: dict[str, Measured]) -> str:
    return ", ".join(
        f"{name} {stage.seconds:.1f} s, {stage.megabytes:.0f} MB" for name, stage in stages.items()
    )


def recalled(name: str, folder: Path, removed: set[int]) -> Figure:
    """Return the share of near duplicates, pairs of at least NEAR, of which one is removed."""
    stored = json.loads((folder / "similar.json").read_text())
    similar = {int(pair): value for pair, value in stored.items()}
    pairs = {pair: bool({2 * pair, 2 * pair + 1} & removed) for pair in similar}
    note = []
    for aim in SIMILARITIES:
        near = [pair for pair, value in similar.items() if abs(value - aim) < 0.025]
        if near:
            note.append(f"{aim}: {np.mean([pairs[pair] for pair in near]):.3f}")
    others = sum(document // 2 not in similar for document in removed)
    text = f"by similarity {', '.join(note)}; of unlike documents {others} are removed"
    found = [pairs[pair] for pair, value in similar.items() if value >= NEAR]
    return Figure(name, float(np.mean(found)), "", text)


def run(command: Sequence[str], folder: Path) -> Measured:
    """Run a stage; it prints its seconds, or is measured as a whole.

    Raises:
        RuntimeError: it failed.
    """
    output = folder / "output"
    started = time.perf_counter()
    with output.open("w") as file:
        child = os.posix_spawn(
            command[0],
            list(command),
            environment(OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore"),
            file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), stream) for stream in (1, 2)],
        )
        _, status, used = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    text = output.read_text(errors="replace").strip()
    if status:
        raise RuntimeError(f"{' '.join(command)}: {text}")
    last = text.splitlines()[-1:] or [""]
    if last[0].replace(".", "").isdigit():
        seconds = float(last[0])
    return Measured(seconds, used.ru_maxrss / 1024)


# --- documents -------------------------------------------------------------------------------


def write(folder: Path, count: int, words: int) -> None:
    """Write the documents, and the exact similarity of every second pair, of which the two are
    alike; pair n is of documents 2 n and 2 n + 1.
    """
    chance = random.Random(1)
    syllables = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
    vocabulary = ["".join(chance.choices(syllables, k=4)) for _ in range(VOCABULARY)]
    (folder / "documents").mkdir()
    paths = [folder / "documents" / f"{number:05d}.jsonl" for number in range(FILES)]
    files = [path.open("w") for path in paths]
    similar = {}
    for document in range(0, count, 2):
        pair = [chance.choices(vocabulary, k=words) for _ in range(2)]
        if document % 4 == 0:
            pair[1] = edited(pair[0], SIMILARITIES[document // 4 % len(SIMILARITIES)], chance)
            similar[document // 2] = similarity(*pair)
        for number, text in enumerate(pair, document):
            record = {"id": str(number), "text": " ".join(text)}
            files[number % FILES].write(json.dumps(record) + "\n")
    for file in files:
        file.close()
    (folder / "similar.json").write_text(json.dumps(similar))


def edited(words: list[str], aim: float, chance: random.Random) -> list[str]:
    """Replace as many words, far from each other, as give the similarity."""
    shingles = len(words) - SPEC.words + 1
    edits = round(shingles * (1 - aim) / (1 + aim) / SPEC.words)
    places = chance.sample(range(len(words) // SPEC.words), edits)
    changed = list(words)
    for place in places:
        changed[place * SPEC.words + 2] = "edited" + str(chance.randrange(1000))
    return changed


def similarity(left: list[str], right: list[str]) -> float:
    size = SPEC.words
    sets = [
        {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}
        for words in (left, right)
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def read_removed(folder: Path) -> set[int]:
    """Return the documents that datatrove removes."""
    return {
        int(number) * FILES + int(path.stem)
        for path in folder.glob("*.remove")
        for number in np.fromfile(path, "<u4")
    }


# --- our side --------------------------------------------------------------------------------


def sign(folder: Path) -> None:
    from jobs.corpus.duplicates.minhash import signatures

    out = folder / "ours"
    out.mkdir()
    for number, path in enumerate(sorted((folder / "documents").iterdir())):
        keys, bands = [], []
        for texts in batches(path):
            keys += [key_of(text) for text in texts]
            bands.append(signatures([text["text"] for text in texts], SPEC))
        np.save(out / f"{number}.keys.npy", key_rows(keys))
        np.save(out / f"{number}.bands.npy", np.concatenate(bands))


def batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    import orjson

    with path.open("rb") as file:
        while lines := [line for _, line in zip(range(BATCH), file, strict=False)]:
            yield [orjson.loads(line) for line in lines]


def key_of(record: dict[str, Any]) -> tuple[int, tuple[int, int]]:
    import xxhash

    digest = xxhash.xxh3_128_intdigest(record["text"].encode())
    return xxhash.xxh3_64_intdigest(record["id"].encode()), (digest >> 64, digest % 2**64)


def key_rows(keys: list[tuple[int, tuple[int, int]]]) -> Any:
    from jobs.corpus.duplicates.keys import KEY

    rows = np.zeros(len(keys), KEY)
    rows["id"] = np.array([identity for identity, _ in keys], np.uint64)
    rows["digest"] = np.array([digest for _, digest in keys], np.uint64)
    rows["number"] = np.arange(len(keys))
    return rows


def find(folder: Path) -> None:
    from jobs.corpus.duplicates.find import find as find_duplicates
    from jobs.corpus.duplicates.keys import LINK, NAME, PieceKeys

    out = folder / "ours"
    pieces = (
        PieceKeys(
            number,
            np.load(out / f"{number}.keys.npy", mmap_mode="r"),
            np.empty(0, NAME),
            np.empty(0, LINK),
            np.load(out / f"{number}.bands.npy", mmap_mode="r"),
        )
        for number in range(FILES)
    )
    rules = CorpusRules((), "fail", 1, 0, near_duplicates=SPEC)
    dropped = find_duplicates(pieces, rules, folder / "scratch")
    removed = [
        number * FILES + piece
        for piece, rows in dropped.items()
        for number in rows["number"].tolist()
    ]
    (out / "removed.json").write_text(json.dumps(removed))


if __name__ == "__main__":
    begun = time.perf_counter()
    place, stage, *sizes = sys.argv[1:]
    {"write": write, "sign": sign, "find": find}[stage](Path(place), *map(int, sizes))
    print(time.perf_counter() - begun)
