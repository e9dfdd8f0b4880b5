"""The records of finished stretches, so that an attempt continues behind those of earlier ones.

A record is written last. It counts while the datasets are there, and for the same lines, tokenizer
and settings alone; neither the engine nor the number of tasks decides a byte. What gigatoken has
encoded counts for attempts that encode with it: one that found it to differ, or goes without it
for another reason, makes those stretches again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jobs.contract import specs
from jobs.contract.files import FormatError, read_json, write_json
from jobs.contract.json_fields import from_fields, to_fields
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import TokenizeSpec, numbered
from jobs.tokenization.engine import GIGATOKEN, EngineDiffers
from jobs.tokenization.stretches import Stretch, stretches

STAGE = "tokenize"
RECORDS = "stretches"
"""Folder of the records in that of the stage."""


class PlannedStretch(NamedTuple):
    """A stretch, and what its datasets are made of."""

    shard: str
    """Path in the run."""
    prefix: str
    """Of its first dataset."""
    lines: Stretch
    made_of: str
    """Digest of all that decides a byte."""

    @property
    def bytes(self) -> int:
        return self.lines.end - self.lines.begin


@dataclass(frozen=True)
class StretchRecord:
    """A finished stretch."""

    made_of: str
    engine: str
    engine_reason: str
    """Why the engine is not gigatoken, where it could be; else empty."""
    compared: int
    """Texts whose ids were compared with those of another engine."""
    counts: dict[str, Any]
    files: tuple[dict[str, Any], ...]
    """As done markers describe them: ``.bin``, ``.idx`` and ``.docs`` of each dataset."""
    seconds: float


def settings(spec: TokenizeSpec) -> dict[str, Any]:
    """Return the settings that decide the bytes of a run's tokens."""
    return {
        "tokenizer": spec.tokenizer.sha256,
        "vocabulary": specs.digest(spec.tokenizer.vocabulary),
        "text_key": spec.text_key,
        "special_tokens_in_text": spec.special_tokens_in_text,
        "shard_tokens": spec.shard_tokens,
    }


def plan(
    run: RunDir,
    spec: TokenizeSpec,
    outputs: Iterable[tuple[str, str]],
    shards: Mapping[str, Mapping[str, Any]],
    part: int = 0,
    parts: int = 1,
) -> Iterator[PlannedStretch]:
    """Yield the stretches of shards that task ``part`` of ``parts`` takes.

    Args:
        outputs: each shard, and the prefix of its first dataset.
        shards: bytes and SHA-256 by path.

    Raises:
        OSError: a shard cannot be read.
    """
    common = settings(spec)
    for name, prefix in outputs:
        shard = {key: shards[name][key] for key in ("bytes", "sha256")}
        for lines in stretches(run.path(name), spec.shard_tokens, part, parts):
            place = {"path": name, "begin": lines.begin, "end": lines.end}
            digest = specs.digest({**common, **shard, **place})
            yield PlannedStretch(name, numbered(prefix, lines.number), lines, digest)


def read(run: RunDir, planned: PlannedStretch) -> StretchRecord | None:
    """Return the record of a stretch; None while it is not finished, or not what it would be."""
    try:
        record = from_fields(StretchRecord, read_json(path_of(run, planned.prefix)))
        sizes = [run.path(item["path"]).stat().st_size for item in record.files]
    except (OSError, FormatError, ValueError):
        return None
    whole = sizes == [item["bytes"] for item in record.files]
    return record if whole and record.made_of == planned.made_of else None


def write(run: RunDir, planned: PlannedStretch, record: StretchRecord) -> None:
    write_json(path_of(run, planned.prefix), to_fields(record))


def path_of(run: RunDir, prefix: str) -> Path:
    """Return the path of the record of a stretch, by the prefix of its first dataset."""
    split, name = Path(prefix).parts[-2:]
    return run.stage(STAGE) / RECORDS / split / f"{name}.json"


def forget(run: RunDir, planned: PlannedStretch) -> None:
    """Remove the record of a stretch before its datasets are replaced."""
    path_of(run, planned.prefix).unlink(missing_ok=True)


def distrust(run: RunDir, spec: TokenizeSpec, error: EngineDiffers) -> None:
    """Record for the attempts to come that gigatoken gives other ids than ``tokenizers``."""
    write_json(_verdict(run), {"made_of": _of_gigatoken(spec), "reason": str(error)})


def require_trust(run: RunDir, spec: TokenizeSpec) -> None:
    """Refuse gigatoken where an attempt of any task of the run found it to differ.

    Raises:
        EngineDiffers: with the same version of it and the same tokenizer.
    """
    try:
        found = read_json(_verdict(run))
    except (OSError, FormatError):
        return
    if found.get("made_of") == _of_gigatoken(spec):
        raise EngineDiffers(found.get("reason", ""))


def _verdict(run: RunDir) -> Path:
    return run.stage(STAGE) / f"{GIGATOKEN}.json"


def _of_gigatoken(spec: TokenizeSpec) -> str:
    import importlib.metadata  # slow, and seldom needed

    version = importlib.metadata.version(GIGATOKEN)
    return specs.digest({**settings(spec), "version": version})
