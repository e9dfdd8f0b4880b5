"""Debian packages that tests need, installed once, before the first test runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from . import chromium, fake_nvml
from .slurm.cluster import ClusterError, ensure_installed, missing_programs

INSTALL = Path(__file__).with_name("slurm") / "install.sh"


def install_for(items: Sequence[pytest.Item], announce: Callable[[str], None]) -> None:
    """Install gcc, Slurm and Chromium where a collected test needs them and they are missing.

    Tests for which gcc cannot be had are skipped with the reason, and fail when ``CI`` is ``true``;
    for Slurm and Chromium the fixtures ``slurm`` and ``browser`` do the same.
    """
    compiled = [item for item in items if builds_driver(item)]
    if compiled and not shutil.which("gcc"):
        announce("installing gcc for the stand-in of the NVIDIA driver ...")
        reason = fake_nvml.install_compiler()
        if reason and os.environ.get("CI") != "true":
            for item in compiled:
                item.add_marker(pytest.mark.skip(reason=reason))
    if any(item.get_closest_marker("slurm") for item in items) and missing_programs():
        announce("installing Slurm, munge and MariaDB for the tests marked slurm ...")
        with suppress(ClusterError):
            ensure_installed()
    if any("browser" in getattr(item, "fixturenames", ()) for item in items) and not (
        shutil.which("chromium")
    ):
        announce("installing Chromium (some 200 MB) for the tests of HTML reports ...")
        chromium.install()


def require_root(purpose: str) -> None:
    """Skip a test that only root can run, with the reason; fail it when ``CI`` is ``true``."""
    if os.geteuid() != 0:
        is_ci = os.environ.get("CI") == "true"
        (pytest.fail if is_ci else pytest.skip)(f"only root can {purpose}")


def require_program(name: str) -> None:
    """Install the Debian package of a program where it is missing; skip the test where it cannot be
    had, with the reason, and fail it when ``CI`` is ``true``.
    """
    if shutil.which(name):
        return
    done = subprocess.run(["sh", str(INSTALL), name], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"{name} is missing: {done.stderr.strip()[-2000:]}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


def builds_driver(item: pytest.Item) -> bool:
    """Return whether a test's module builds the stand-in of the NVIDIA driver."""
    return getattr(getattr(item, "module", None), "build", None) is fake_nvml.build
