"""Ranks of this machine, started by a program that records them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jobs.supervision.ranks.local_ranks import LeaveTimeouts, LocalRanks

from ....ranks import wait_until

PROFILER = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
RANK = f"""
import os, signal, sys
from pathlib import Path

folder = Path(sys.argv[1])
if "UNDER_PROFILER" not in os.environ:
    words = [sys.executable, "-c", {PROFILER!r}, sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, words, {{**os.environ, "UNDER_PROFILER": "1"}})
signal.signal(signal.SIGTERM, lambda *_: sys.exit((folder / "saved").write_text("")))
(folder / "ready").touch()
while True:
    signal.pause()
"""
"""Replaces itself by a program that starts it again, as ``jobs.runtime.nsys`` does."""


def test_a_stop_reaches_a_rank_under_a_profiler(tmp_path: Path) -> None:
    program = tmp_path / "rank.py"
    program.write_text(RANK)
    command = [sys.executable, "-u", str(program), str(tmp_path)]
    log = tmp_path / "log"
    ranks = LocalRanks(command, [dict(os.environ)], log, LeaveTimeouts(leave_seconds=600.0))
    try:
        wait_until((tmp_path / "ready").exists)

        ranks.stop()

        wait_until(lambda: ranks.poll() is not None)
        assert (ranks.poll(), ranks.failures()) == (0, []), log.read_text()
        assert (tmp_path / "saved").exists()
    finally:
        ranks.end()
