"""Read the record that ``meditron fetch`` writes beside downloaded files. Standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

RECORD = "fetched.json"
"""Its name in the folder of a model."""
SNAPSHOTS = "snapshots"
"""Folder of the hub's cache with a folder per commit (huggingface_hub, file_download.py)."""


@dataclass(frozen=True)
class Fetched:
    """A download from the Hugging Face hub."""

    repository: str
    revision: str
    """The branch, tag or commit that was requested."""
    commit: str
    sha256: dict[str, str]
    """Digest of each file, compared with the hub's when it was downloaded."""


def read_fetched(folder: Path) -> Fetched | None:
    """Return the record in a folder; None where there is none that can be read."""
    try:
        value = json.loads((folder / RECORD).read_bytes())
        digests = {str(file["path"]): str(file["sha256"]) for file in value["files"]}
        return Fetched(
            str(value["repository"]), str(value["revision"]), str(value["commit"]), digests
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def commit_of(folder: Path) -> str:
    """Return the commit of the hub that a model's folder holds: the recorded one, or that of a
    snapshot in the hub's cache; empty where nothing states it.
    """
    record = read_fetched(folder)
    if record is not None:
        return record.commit
    return folder.name if folder.parent.name == SNAPSHOTS else ""
