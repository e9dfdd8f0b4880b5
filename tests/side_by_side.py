"""The tests of `make test` and `make test-full` in three sessions at once: those marked ``slurm``,
those marked ``engine`` or ``end_to_end``, and all others.

Tests on Slurm mostly wait: for a node that counts as down, for a time limit, for a queue; ranks
wait for each other. Three sessions of about the same length keep both cores of a small machine
at work to the end. The first shows its output as it comes; those of the others are kept in files
and follow in turn. The first also keeps its temporary files in memory, where there is room: its
thousands of small run directories, each synced file by file, would keep it waiting for the disk,
and the others with it. Those remain on the disk.

    python -m tests.side_by_side [EXPRESSION]      # "not full": the gate
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import psutil

REPOSITORY = Path(__file__).parents[1]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ROOM = 4 << 30
"""Free bytes that a session in memory needs."""
PARTS = ("not (slurm or engine or end_to_end)", "(engine or end_to_end) and not slurm", "slurm")


def main(words: Sequence[str]) -> int:
    """Run the sessions and return the exit status, 0 where all passed."""
    expressions = [" and ".join((f"({part})", *(f"({word})" for word in words))) for part in PARTS]
    examples = () if words else ("--hypothesis-profile=explore",)
    commands = [[sys.executable, "-m", "pytest", *examples, "-m", text] for text in expressions]
    fast = in_memory(Path("/dev/shm"), psutil.virtual_memory().available)
    return run([*fast, *commands[0]], *commands[1:])


def in_memory(folder: Path, free: int) -> list[str]:
    """Return the words before a pytest command that make its temporary folders in a file system in
    memory; none where that or the memory is short of room, or takes no programs.

    Args:
        free: bytes of memory that are free.
    """
    if not folder.is_dir() or os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return []
    room = min(shutil.disk_usage(folder).free, free // 2)
    return ["env", f"TMPDIR={folder}"] if room >= ROOM else []


def run(*commands: Sequence[str]) -> int:
    """Run commands at once, show the output of the first, then of each other in turn, and return
    the first exit status that is not 0.

    Each has a session of its own: an interrupt or a request to stop reaches it once, from here,
    and this process exits after all of them.
    """
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(tempfile.TemporaryFile()) for _ in commands[1:]]
        running: list[subprocess.Popen[bytes]] = []

        def forward(number: int, frame: FrameType | None) -> None:
            for process in running:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)

        for number in SIGNALS:
            signal.signal(number, forward)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until all are known to the handler
        for command, output in zip(commands, (None, *kept), strict=True):
            running.append(
                subprocess.Popen(
                    command,
                    cwd=REPOSITORY,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=None if output is None else subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS),
                )
            )
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        running[0].wait()
        for output, process in zip(kept, running[1:], strict=True):
            show(output.fileno(), process)
        codes = [process.wait() for process in running]
    for command, code in zip(commands, codes, strict=True):
        print(f"{command[-1]}: {'passed' if code == 0 else f'exit status {code}'}", flush=True)
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


def show(file: int, writer: subprocess.Popen[bytes]) -> None:
    """Copy a file to standard output until its writer has exited."""
    place, ended = 0, False
    while not ended:
        ended = writer.poll() is not None
        while text := os.pread(file, 1 << 16, place):
            place += len(text)
            sys.stdout.buffer.write(text)
        sys.stdout.flush()
        if not ended:
            time.sleep(0.2)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
