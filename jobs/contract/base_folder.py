"""A folder of base weights: the record that ``meditron fetch`` writes there, and pickles, which are
never read. Standard library only.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from jobs.contract.files import parse_json

RECORD = "fetched.json"
"""Its name in the folder of a model."""
PROGRAM = (
    "import sys; from transformers import AutoModelForCausalLM as M; "
    "M.from_pretrained(sys.argv[1], dtype='auto').save_pretrained(sys.argv[2])"
)
"""Writes the model of one folder into another, as safetensors."""
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
        value = parse_json((folder / RECORD).read_bytes())
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


def pickles(folder: Path) -> list[str]:
    """Return the names of the pickles in a folder."""
    return sorted(file.name for file in folder.glob("*.bin"))


def copy_command(folder: Path) -> tuple[str, str]:
    """Return the command that writes a copy of a folder as safetensors, and the copy's path."""
    target = f"{folder}-safetensors"
    return shlex.join(["python", "-c", PROGRAM, str(folder), target]), target
