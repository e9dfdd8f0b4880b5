"""Remember, per user and current folder, a runs directory that a profile named.

``status`` and the other commands that search for runs have no profile. Without this record they
would search ``./runs`` while the last submission from the same folder made its run elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from jobs.contract.files import read_small, write_json

MOST_FOLDERS = 100


def state_file(environ: Mapping[str, str]) -> Path:
    """Return the record: ``meditron/runs_dirs.json`` in XDG_STATE_HOME or ``~/.local/state``."""
    home = environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "meditron" / "runs_dirs.json"


def remember(root: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Record that the last submission from the current folder used a runs directory; ``./runs``
    needs no record. A home that cannot be written is ignored.
    """
    path, folder = state_file(environ), str(Path.cwd())
    folders = read_small(path).get("folders", {})
    root_now = str(root) if root != Path.cwd() / "runs" else None
    if folders.get(folder) == root_now:
        return
    folders.pop(folder, None)
    if root_now:
        folders[folder] = root_now
    with suppress(OSError):
        write_json(path, {"folders": dict(list(folders.items())[-MOST_FOLDERS:])})


def remembered(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the runs directory that the current folder last used, if it exists."""
    root = read_small(state_file(environ)).get("folders", {}).get(str(Path.cwd()))
    return Path(root) if root and os.path.isdir(root) else None
