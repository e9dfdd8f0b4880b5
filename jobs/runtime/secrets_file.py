"""Read a run's secrets from a file of NAME=value lines. Standard library only."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from jobs.contract.errors import TaskError

LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*=([^\0]*)")


def read(name: str) -> dict[str, str]:
    """Return the NAME=value lines of a file that only its owner can read.

    Blank lines and # comments are skipped.

    Raises:
        TaskError: the file is missing, others may read it, or a line has another form; a message
            never contains text of the file.
    """
    if not name:
        return {}
    path = Path(name)
    try:
        mode = path.stat().st_mode
        lines = path.read_bytes().decode("utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise TaskError(f"{path}: {error.strerror}", "set environment.secrets_file") from error
    if stat.S_IMODE(mode) & 0o077:
        raise TaskError(f"{path}: others may read this secret", f"`chmod 600 {path}`")
    secrets = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise TaskError(f"{path}:{number}: no NAME=value", "a # begins a comment")
        secrets[match[1]] = match[2].strip()
    return secrets
