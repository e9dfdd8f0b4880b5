"""Copy our packages as they are imported now into a run, so that it executes what it was submitted
with, whatever is edited later; record their git state; restore the copy where it is damaged.
"""

from __future__ import annotations

import hashlib
import os
import subprocess  # noqa: TID251 - git is called here and nowhere else
from pathlib import Path
from typing import Any

import clusters
import jobs
import meditron_cli
from jobs.contract.code_check import (
    CodeFile,
    damage_sentence,
    damaged_files,
    is_intact,
    recorded_files,
)
from jobs.contract.errors import RESUME
from jobs.contract.files import write_bytes, write_json
from jobs.contract.json_fields import to_fields
from jobs.contract.rundir import RunDir
from meditron_cli.errors import ConfigError

PACKAGES = (jobs, meditron_cli, clusters)
LEFT_OUT = ("__pycache__", "vendor")
"""Folders that no job reads: bytecode, and the libraries of pages for a browser."""
PATCH = "uncommitted.patch"
TIMEOUT_SECONDS = 20


def copy_code(run: RunDir) -> None:
    """Copy the three packages into the run, without what no job reads, and record them in
    ``code.json``.

    Permissions follow the umask. The caller makes the files durable.
    """
    files = []
    for package in PACKAGES:
        source = package_folder(package.__file__)
        for folder, folders, names in os.walk(source):
            folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
            inside = os.path.relpath(folder, source.parent)
            if names:
                os.makedirs(run.code / inside, exist_ok=True)
            for name in sorted(names):
                path = f"{inside}/{name}"
                with open(f"{folder}/{name}", "rb") as original:
                    content = original.read()
                with open(f"{run.code}/{path}", "wb") as copy:
                    copy.write(content)
                digest = hashlib.sha256(content).hexdigest()
                files.append(to_fields(CodeFile(path, len(content), digest)))
    write_json(run.code_record, {"files": files})


def restore_code(run: RunDir) -> list[str]:
    """Write damaged files of the run's code again, from the installed packages where these have the
    recorded content; return the names of the files.

    Raises:
        ConfigError: the installed packages are of another version.
    """
    damaged = damaged_files(run)
    if not damaged:
        return []
    recorded = recorded_files(run)
    root = package_folder(jobs.__file__).parent
    if not all(is_intact(root / name, recorded[name]) for name in damaged):
        raise ConfigError(
            f"{damage_sentence(run, damaged)}; the installed meditron is another version",
            hint=run.hint(
                f"install the version of {run.record} (code and versions), then {RESUME}"
            ),
        )
    for name in damaged:
        write_bytes(run.code / name, (root / name).read_bytes())
    return damaged


def package_folder(file: str | None) -> Path:
    """Return the folder of a package's ``__init__.py``."""
    return Path(file or "").resolve().parent


def describe_code(target: Path) -> dict[str, Any]:
    """Return commit and cleanliness of the checkout of our packages; both None outside of one.

    Uncommitted changes to tracked files of the packages go to ``target/uncommitted.patch``.
    """
    folders = [str(package_folder(package.__file__)) for package in PACKAGES]
    root = Path(folders[0]).parent
    commit = _git(root, "rev-parse", "HEAD")
    # Installed packages may lie in a virtual environment inside a checkout.
    tracked = _git(root, "ls-files", "--error-unmatch", "--", f"{folders[0]}/__init__.py")
    if commit is None or tracked is None:
        return {"commit": None, "dirty": None}
    status = _git(root, "status", "--porcelain", "--", *folders)
    patch = _git(root, "diff", "HEAD", "--binary", "--", *folders)
    if patch:
        write_bytes(target / PATCH, patch.encode())
    return {"commit": commit.strip(), "dirty": bool(status)}


def _git(folder: Path, *words: str) -> str | None:
    """Return git's output; None without git or outside of a checkout."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout
