"""The indexed datasets that tokenize has written, by the done markers of a run.

Training reads the done markers, which also record when each file was written. The manifest of the
tokens lists finished ones for people and other programs; no stage reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jobs.contract import done_markers, specs
from jobs.contract.done_markers import DoneMarker
from jobs.contract.errors import RESUME, TaskError
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import OWN_RUN

T = TypeVar("T")
R = TypeVar("R")

TRAIN, VALIDATION = "train", "validation"
"""The splits of a corpus, as its folders are named."""

MANIFEST_PATH = "tokens/manifest.json"

THREADS = 16
"""Files read side by side: a network file system takes about a millisecond per request."""


@dataclass(frozen=True)
class TokenizedShard:
    """One indexed dataset of a run: a corpus shard, or a stretch of one."""

    run: RunDir
    marker: DoneMarker
    """Of the task that made it, maybe with others."""
    binary: Mapping[str, Any]
    """Its ``.bin`` in the marker."""

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """Return the files of its task by path, as the done marker describes them."""
        return {item["path"]: item for item in self.marker.outputs}

    @property
    def prefix(self) -> str:
        """Return its path in the run, without suffix."""
        return str(self.binary["path"]).removesuffix(".bin")

    @property
    def shard(self) -> str:
        """Return the path of the corpus shard that it was made of; empty where not recorded."""
        first = str(self.marker.inputs[0]["path"]) if self.marker.inputs else ""
        return str(self.binary.get("shard", first))

    @property
    def begin(self) -> int:
        """Return where its lines begin in the shard, in bytes."""
        return int(self.binary.get("begin", 0))

    @property
    def end(self) -> int | None:
        """Return where its lines end; None in the record of an older program: with the shard."""
        return self.binary.get("end")

    @property
    def documents(self) -> int:
        """Return the number of its documents."""
        return int(self.binary.get("documents", self.marker.summary["documents"]))

    @property
    def tokens(self) -> int:
        """Return the number of its tokens."""
        return int(self.binary.get("tokens", self.marker.summary["tokens"]))

    @property
    def vocabulary(self) -> str | None:
        """Return the digest of the vocabulary registry it was made with."""
        return self.marker.summary.get("vocabulary")

    @property
    def tokenizer(self) -> str | None:
        """Return the SHA-256 of the tokenizer it was made with."""
        inputs = self.marker.inputs
        return inputs[-1].get("sha256") if len(inputs) > 1 else None


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


def curated(run: RunDir) -> list[dict[str, Any]]:
    """Return the files of the tasks of curate that have finished, sorted by path."""
    markers = side_by_side(done_markers.read, run.done_folder("curate").glob("*.json"))
    found = {item["path"]: item for marker in markers if marker for item in marker.outputs}
    return [found[path] for path in sorted(found)]


def _split_of(run: RunDir, split: str) -> list[str]:
    """Return the datasets of one split of a run's own corpus."""
    task = specs.read_task(run, "curate", 0)
    tasks = getattr(task.spec, "parts", 1) if task else 1
    if not all(run.done("curate", index).is_file() for index in range(tasks)):
        raise NotTokenized(
            f"{run.root}: curate has not finished",
            "`meditron status` shows the run; its stages curate and tokenize come first",
        )
    made: dict[str, list[TokenizedShard]] = {}
    for dataset in sorted(shards_of(run).values(), key=lambda item: (item.begin, item.prefix)):
        made.setdefault(dataset.shard, []).append(dataset)
    shards = [item for item in curated(run) if Path(item["path"]).parent.name == split]
    if not shards:
        raise NotTokenized(f"{run.root}: curate has recorded no shards", f"{RESUME} makes them")
    for shard in shards:
        if not _is_whole(made.get(shard["path"], []), shard["bytes"]):
            raise NotTokenized(
                f"{run.root}: tokenize has not finished {shard['path']}",
                "`meditron status` shows the run; its stage tokenize comes first",
            )
    return [dataset.prefix for shard in shards for dataset in made[shard["path"]]]


def _is_whole(datasets: Sequence[TokenizedShard], size: int) -> bool:
    """Return whether datasets, in order, were made of every line of a shard, each once."""
    end: int | None = 0
    for dataset in datasets:
        if dataset.begin != end:
            return False
        end = dataset.end
    return bool(datasets) and end in (None, size)


def shards_of(run: RunDir) -> dict[str, TokenizedShard]:
    """Return the indexed datasets that tokenize has finished in a run, by prefix."""
    paths = sorted(run.done_folder("tokenize").glob("*.json"))
    found = {}
    for marker in side_by_side(done_markers.read, paths):
        if marker is None:
            continue
        for item in marker.outputs:
            if item["path"].endswith(".bin"):
                dataset = TokenizedShard(run, marker, item)
                found[dataset.prefix] = dataset
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
