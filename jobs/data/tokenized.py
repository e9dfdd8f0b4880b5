"""The indexed datasets that tokenize has written, by the done markers of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jobs.contract import done_markers
from jobs.contract.done_markers import DoneMarker
from jobs.contract.errors import RESUME, TaskError
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import OWN_RUN

T = TypeVar("T")
R = TypeVar("R")

TRAIN, VALIDATION = "train", "validation"
"""The splits of a corpus, as its folders are named."""

THREADS = 16
"""Files read side by side: a network file system takes about a millisecond per request."""


@dataclass(frozen=True)
class TokenizedShard:
    """One indexed dataset of a run."""

    run: RunDir
    marker: DoneMarker

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """Return its files by path, as the done marker describes them."""
        return {item["path"]: item for item in self.marker.outputs}

    @property
    def shard(self) -> str:
        """Return the path of the corpus shard that it was made of; empty where not recorded."""
        return str(self.marker.inputs[0]["path"]) if self.marker.inputs else ""

    @property
    def vocabulary(self) -> str | None:
        """Return the digest of the vocabulary registry it was made with."""
        return self.marker.summary.get("vocabulary")

    @property
    def tokenizer(self) -> str | None:
        """Return the SHA-256 of the tokenizer it was made with."""
        inputs = self.marker.inputs
        return inputs[1].get("sha256") if len(inputs) > 1 else None


def written(run: RunDir, prefixes: Iterable[str]) -> dict[str, TokenizedShard]:
    """Return those datasets of a run's training that tokenize has finished, in this run or in
    another one, by prefix.
    """
    runs: dict[Path, dict[str, TokenizedShard]] = {}
    found = {}
    for prefix in prefixes:
        path = Path(prefix)
        maker = owner(path) if path.is_absolute() else run
        if maker is None:
            continue
        if maker.root not in runs:
            runs[maker.root] = shards_of(maker)
        name = str(path.relative_to(maker.root)) if path.is_absolute() else prefix
        if name in runs[maker.root]:
            found[prefix] = runs[maker.root][name]
    return found


class NotTokenized(TaskError):
    """A run has not tokenized its whole corpus."""


def prefixes(run: RunDir, data: Iterable[str], split: str) -> tuple[str, ...]:
    """Return the indexed datasets of a corpus, those of runs in the order of their shards.

    Which shards a run has is in the done markers of its curation, and where their tokens are in
    those of its tokenization.

    Args:
        data: as ``CorpusSpec.data`` lists it.
        split: ``train`` or ``validation``.

    Raises:
        NotTokenized: a run has not curated or tokenized all of the split.
    """
    found: list[str] = []
    for entry in data:
        maker = run if entry == OWN_RUN else RunDir(run.path(entry))
        if entry != OWN_RUN and not maker.done_folder("curate").is_dir():
            found.append(entry)
            continue
        made = _split_of(maker, split)
        found += made if entry == OWN_RUN else [str(maker.root / prefix) for prefix in made]
    return tuple(dict.fromkeys(found))


def _split_of(run: RunDir, split: str) -> list[str]:
    """Return the datasets of one split of a run's own corpus."""
    curated = done_markers.read(run.done("curate", 0))
    if curated is None:
        raise NotTokenized(
            f"{run.root}: curate has not finished",
            "`meditron status` shows the run; its stages curate and tokenize come first",
        )
    made = {shard.shard: prefix for prefix, shard in shards_of(run).items()}
    shards = [item["path"] for item in curated.outputs if Path(item["path"]).parent.name == split]
    if not shards:
        raise NotTokenized(f"{run.root}: curate has recorded no shards", f"{RESUME} makes them")
    if missing := [shard for shard in shards if shard not in made]:
        raise NotTokenized(
            f"{run.root}: tokenize has not finished {missing[0]}",
            "`meditron status` shows the run; its stage tokenize comes first",
        )
    return [made[shard] for shard in shards]


def shards_of(run: RunDir) -> dict[str, TokenizedShard]:
    """Return the indexed datasets that tokenize has finished in a run, by prefix."""
    paths = sorted(run.done_folder("tokenize").glob("*.json"))
    found = {}
    for marker in side_by_side(done_markers.read, paths):
        if marker is None:
            continue
        for item in marker.outputs:
            if item["path"].endswith(".bin"):
                found[item["path"].removesuffix(".bin")] = TokenizedShard(run, marker)
    return found


def owner(prefix: Path) -> RunDir | None:
    """Return the run whose tokenize stage has written a dataset, given by its absolute path; None
    for one that no run has written.
    """
    folders = prefix.parents
    if len(folders) > 2 and (run := RunDir(folders[2])).done_folder("tokenize").is_dir():
        return run
    return None


def side_by_side(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield the results of a function that reads files, in order."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(function, items)
