"""Run programs as a user to whom file modes apply; root is not one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent

WITHOUT_ROOTS_EYES = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--") if os.geteuid() == 0 else ()
)
"""File modes count for root too."""


def run_plainly(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `meditron WORDS` in the current folder as somebody to whom file modes apply."""
    return subprocess.run(
        [*WITHOUT_ROOTS_EYES, sys.executable, "-m", "meditron_cli", *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
