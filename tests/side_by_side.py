"""The tests of `make test` and `make test-full` in two sessions: those marked ``slurm`` or
``end_to_end`` beside all others.

These tests mostly wait: for a node that counts as down, for a time limit, for a queue, for one
stage after another. The sessions take about as long as each other, so that both cores of a small
machine have work to the end. The output of the second is kept in a file and follows that of the
first.

    python -m tests.side_by_side [EXPRESSION]      # "not full": the gate
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

REPOSITORY = Path(__file__).parents[1]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(words: Sequence[str]) -> int:
    """Run both sessions and return the exit status, 0 where both passed."""
    parts = ("not (slurm or end_to_end)", "(slurm or end_to_end)")
    expressions = [" and ".join((part, *(f"({word})" for word in words))) for part in parts]
    examples = () if words else ("--hypothesis-profile=explore",)
    return run(*([sys.executable, "-m", "pytest", *examples, "-m", text] for text in expressions))


def run(first: Sequence[str], second: Sequence[str]) -> int:
    """Run two commands at once, show the output of the second after that of the first, and return
    the first exit status that is not 0.

    Each has a session of its own: an interrupt or a request to stop reaches it once, from here,
    and this process exits after both.
    """
    with tempfile.TemporaryFile() as kept:
        outputs = ((first, None), (second, kept))
        running: list[subprocess.Popen[bytes]] = []

        def forward(number: int, frame: FrameType | None) -> None:
            for process in running:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)

        for number in SIGNALS:
            signal.signal(number, forward)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until both are known to the handler
        for command, output in outputs:
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
        show(kept.fileno(), running[1])
        codes = [process.wait() for process in running]
    for command, code in zip((first, second), codes, strict=True):
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
