"""A copy of our packages as they are imported now, so that a run executes what it was submitted
with, whatever is edited later; and what git says of them.
"""

from __future__ import annotations

import shutil
import subprocess  # noqa: TID251 - git is asked here and nowhere else
from pathlib import Path
from typing import Any

import clusters
import jobs
import meditron_cli

PACKAGES = (jobs, meditron_cli, clusters)
PATCH = "uncommitted.patch"
TIMEOUT_SECONDS = 20


def copy_code(target: Path) -> None:
    """Copy the three packages into ``target``, without bytecode."""
    for package in PACKAGES:
        source = package_folder(package.__file__)
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, target / source.name, ignore=skip)


def package_folder(file: str | None) -> Path:
    """The folder of a package's ``__init__.py``."""
    return Path(file or "").resolve().parent


def describe_code(target: Path) -> dict[str, Any]:
    """Commit and cleanliness of the checkout our packages lie in; both None outside of one.

    Uncommitted changes to tracked files of the packages go to ``target/uncommitted.patch``.
    """
    folders = [str(package_folder(package.__file__)) for package in PACKAGES]
    root = Path(folders[0]).parent
    commit = _git(root, "rev-parse", "HEAD")
    # Installed packages may lie in a virtual environment inside somebody's checkout.
    tracked = _git(root, "ls-files", "--error-unmatch", "--", f"{folders[0]}/__init__.py")
    if commit is None or tracked is None:
        return {"commit": None, "dirty": None}
    status = _git(root, "status", "--porcelain", "--", *folders)
    patch = _git(root, "diff", "HEAD", "--binary", "--", *folders)
    if patch:
        (target / PATCH).write_text(patch)
    return {"commit": commit.strip(), "dirty": bool(status)}


def _git(folder: Path, *words: str) -> str | None:
    """What git prints, or None where there is no git or no checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
