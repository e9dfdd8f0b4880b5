"""Folders as a save leaves them, without any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.checkpoints import manifest, parts


def checkpoint_record(step: int, **fields: Any) -> manifest.CheckpointRecord:
    """Return the record of a training's checkpoint."""
    values: dict[str, Any] = {
        "consumed_samples": step * 4,
        "kind": manifest.TRAINING,
        "architecture": "a",
        "vocab_size": 96,
        "vocabulary": "v",
        "tokenizer": "t",
        "origin": {"weights": manifest.RANDOM},
        "layout": {},
        "precision": "fp32",
        "data": {"digest": "d"},
        "bytes": 0,
    }
    return manifest.CheckpointRecord(step, **values | fields)


def write_checkpoint(
    folder: Path, step: int, content: bytes = b"weights", name: str = "", **fields: Any
) -> Path:
    """Write a checkpoint of a shard in two parts and megatron.core's metadata."""
    path = folder / (name or manifest.name(step))
    path.mkdir(parents=True)
    (path / "metadata.json").write_text("{}")
    (path / "__0_0.distcp").write_bytes(content)
    cut = [3, len(content) - 3]
    files = {
        "metadata.json": parts.describe(path / "metadata.json"),
        "__0_0.distcp": parts.describe(path / "__0_0.distcp", cut),
    }
    manifest.commit(path, checkpoint_record(step, **fields), files)
    return path
