"""Both versions of transformers that exports must serve, each in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "0"}


def older_transformers() -> Path:
    """Return where `make setup` puts transformers 4.57, for PYTHONPATH."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[4] / "transformers-4.57"


VERSIONS = {"4.57": str(older_transformers()), "5": ""}
"""PYTHONPATH of each version."""


def run(version: str, program: str, *arguments: str, **variables: str) -> str:
    """Run a Python program under one version, with some variables of its environment, and return
    its output.
    """
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": VERSIONS[version], **variables}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
