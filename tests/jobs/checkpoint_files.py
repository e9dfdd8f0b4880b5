"""Folders as a save leaves them, without any model."""

from __future__ import annotations

from pathlib import Path

from jobs.checkpoints import manifest
from jobs.contract.files import sha256, write_json


def write_checkpoint(folder: Path, step: int, content: bytes = b"weights") -> Path:
    """Write a checkpoint of a shard and megatron.core's metadata."""
    path = folder / manifest.name(step)
    path.mkdir(parents=True)
    (path / "metadata.json").write_text("{}")
    (path / "__0_0.distcp").write_bytes(content)
    files = {
        name: {"bytes": (path / name).stat().st_size, "sha256": sha256(path / name)}
        for name in ("metadata.json", "__0_0.distcp")
    }
    write_json(path / "manifest.json", {"files": files})
    record = {
        "iteration": step,
        "consumed_samples": step * 4,
        "layout": {},
        "precision": "fp32",
        "model": "m",
        "data": "d",
        "bytes": 9,
        "files": 2,
        "manifest": sha256(path / "manifest.json"),
    }
    write_json(path / "meditron.json", record)
    return path
