"""The manifest of a run's tokens: what they were made of, their counts, the digest of each file.

The task that finishes the last stretch writes it from the records of all, so that the number of
tasks does not show; it is removed before a stretch is made again. Training reads the done markers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jobs.contract import specs
from jobs.contract.files import remove_partial, write_json
from jobs.contract.locks import locked_within
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import TokenizeSpec
from jobs.data.tokenized import MANIFEST_PATH
from jobs.tokenization import stretch_records
from jobs.tokenization.counts import merged
from jobs.tokenization.stretch_records import STAGE, PlannedStretch, StretchRecord

LOCK_SECONDS = 600.0

FILE_FIELDS = ("path", "bytes", "sha256", "sampled_sha256")
"""What the manifest has of a file."""


class Finished(NamedTuple):
    """A stretch and its record."""

    planned: PlannedStretch
    record: StretchRecord


def forget(run: RunDir) -> None:
    """Remove the manifest before a stretch is made."""
    with locked_within(_lock(run), LOCK_SECONDS):
        run.path(MANIFEST_PATH).unlink(missing_ok=True)


def finish(
    run: RunDir, spec: TokenizeSpec, shards: Mapping[str, Mapping[str, Any]], dtype: str
) -> None:
    """Write the manifest and remove what earlier settings have left, unless stretches are missing.

    Args:
        spec: of a task that has finished its own.
        shards: bytes and SHA-256 of the corpus's, by path.
        dtype: of a stored token.
    """
    outputs = outputs_of(run)
    with locked_within(_lock(run), LOCK_SECONDS):
        finished = all_finished(run, spec, outputs, shards)
        if finished:
            remove_others(run, outputs, finished)
            remove_partial(run.path(MANIFEST_PATH))
            write_json(run.path(MANIFEST_PATH), content(spec, finished, shards, dtype))


def outputs_of(run: RunDir) -> dict[str, str]:
    """Return the shards of all tasks, each with the prefix of its first dataset."""
    tasks = (specs.read_task(run, STAGE, index) for index in specs.indices(run, STAGE))
    found = [task.spec for task in tasks if task and isinstance(task.spec, TokenizeSpec)]
    pairs = (zip(spec.inputs, spec.output_prefixes, strict=True) for spec in found)
    return dict(sorted(pair for several in pairs for pair in several))


def all_finished(
    run: RunDir,
    spec: TokenizeSpec,
    outputs: Mapping[str, str],
    shards: Mapping[str, Mapping[str, Any]],
) -> list[Finished]:
    """Return all stretches of all shards; none where one is missing."""
    found = []
    try:
        for planned in stretch_records.plan(run, spec, outputs.items(), shards):
            record = stretch_records.read(run, planned)
            if record is None:
                return []
            found.append(Finished(planned, record))
    except (KeyError, OSError):  # a shard that is not there, or not recorded
        return []
    return found


def remove_others(run: RunDir, outputs: Mapping[str, str], finished: Iterable[Finished]) -> None:
    """Remove datasets and records of stretches that do not exist with these settings, and partial
    files: their names are those of a shard and numbers.
    """
    kept = {run.path(item["path"]) for _, record in finished for item in record.files}
    kept |= {stretch_records.path_of(run, planned.prefix) for planned, _ in finished}
    names: dict[Path, list[str]] = {}
    for prefix in outputs.values():
        for path in (run.path(prefix), stretch_records.path_of(run, prefix)):
            names.setdefault(path.parent, []).append(re.escape(path.stem))
    for folder, known in names.items():
        pattern = rf"\.?({'|'.join(known)})(-\d{{4,}}){{0,2}}\.(bin|idx|docs|json)(\.[0-9a-f]+)?"
        for path in {*folder.iterdir()} - kept:
            if re.fullmatch(pattern, path.name):
                path.unlink(missing_ok=True)


def content(
    spec: TokenizeSpec,
    finished: Iterable[Finished],
    shards: Mapping[str, Mapping[str, Any]],
    dtype: str,
) -> dict[str, Any]:
    """Return the manifest."""
    of_shards: dict[str, list[StretchRecord]] = {}
    for planned, record in finished:
        of_shards.setdefault(planned.shard, []).append(record)
    everything = (record.counts for records in of_shards.values() for record in records)
    return {
        **stretch_records.settings(spec),
        "dtype": dtype,
        "counts": merged(everything).to_json(),
        "shards": [
            {
                "path": name,
                "bytes": shards[name]["bytes"],
                "sha256": shards[name]["sha256"],
                "counts": merged(record.counts for record in records).to_json(),
                "datasets": [item for record in records for item in datasets(record)],
            }
            for name, records in of_shards.items()
        ],
    }


def datasets(record: StretchRecord) -> list[dict[str, Any]]:
    """Return the datasets of a stretch, with the lines of the shard that they hold."""
    files = (record.files[kind::3] for kind in range(3))
    return [
        {
            "prefix": str(binary["path"]).removesuffix(".bin"),
            **{name: binary[name] for name in ("begin", "end", "documents", "tokens")},
            "engine": record.engine,
            "engine_reason": record.engine_reason,
            "files": [
                {name: item[name] for name in FILE_FIELDS if name in item}
                for item in (binary, index, lines)
            ],
        }
        for binary, index, lines in zip(*files, strict=True)
    ]


def _lock(run: RunDir) -> Path:
    return run.stage(STAGE) / "manifest.lock"
