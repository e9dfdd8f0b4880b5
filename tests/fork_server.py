"""Ranks without the price of imports: a process imports torch, megatron.core, the harness,
transformers and what tasks on documents use once, then forks a rank for each request.

``python -m tests.fork_server`` is the server. Its standard input is open as long as whoever started
it runs; it listens on an abstract Unix socket and prints the address. One connection is one rank: a
line of JSON comes in, then the process id goes out, and the exit code once the rank has ended. A
forked rank has arguments, environment, folder, output and session of its own, as a program that
the supervisor starts, but never shows in what order a fresh interpreter imports: the tests of
`tests/slurm` and `tests/end_to_end`, and those that start a program of their own, start real ones.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.supervision.ranks.launcher import reserved_port

REPOSITORY = Path(__file__).parents[1]


class ForkedRank:
    """A rank of the fork server, with the methods of ``subprocess.Popen`` that tests use."""

    def __init__(self, connection: socket.socket, request: Mapping[str, Any]) -> None:
        self.args = list(request["argv"])
        self.returncode: int | None = None
        self._lines = connection.makefile("rw")
        self._connection = connection
        self._outputs = (Path(request["stdout"]), Path(request["stderr"]))
        self._lines.write(json.dumps(request) + "\n")
        self._lines.flush()
        self.pid = int(self._lines.readline())

    def poll(self) -> int | None:
        """Return the exit code, or None while the rank runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, once the rank has ended.

        Raises:
            subprocess.TimeoutExpired: it still runs after ``timeout`` seconds.
        """
        if self.returncode is None:
            ready, _, _ = select.select([self._connection], [], [], timeout)
            if not ready:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = int(self._lines.readline())
            self._lines.close()
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what the rank wrote to stdout and stderr, once it has ended."""
        self.wait(timeout)
        stdout, stderr = (path.read_text() for path in self._outputs)
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        """Send a signal to the rank, unless it has ended, which may not have been reported yet."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End the rank at once."""
        self.send_signal(signal.SIGKILL)


@dataclass(frozen=True)
class ForkServer:
    """The server's process, and where it listens."""

    process: subprocess.Popen[str]
    address: str

    @classmethod
    def begin(cls) -> ForkServer:
        """Start a server and return once it has imported everything."""
        process = subprocess.Popen(
            [sys.executable, "-u", "-W", "ignore", "-m", "tests.fork_server"],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the fork server ended while it imported"
        return cls(process, address)

    def end(self) -> None:
        """Close the server's input, at which it exits."""
        self.process.communicate(timeout=300)

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdout: Path,
        stderr: Path | None = None,
        code: str = "",
        stdin: str = "",
    ) -> ForkedRank:
        """Fork ``python -m jobs ARGV``, or a process that runs ``code`` with these arguments."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect("\0" + self.address)
        request = {
            "argv": [str(word) for word in argv],
            "env": dict(env),
            "cwd": str(cwd),
            "stdout": str(stdout),
            "stderr": str(stderr or stdout),
            "code": code,
            "stdin": stdin,
        }
        return ForkedRank(connection, request)

    def run(self, code: str, folder: Path, *argv: str, stdin: str = "") -> str:
        """Run code in a forked process and return its stdout.

        Raises:
            AssertionError: it failed; the text is its stderr.
        """
        outputs = [Path(tempfile.mkstemp(dir=folder)[1]) for _ in range(2)]
        rank = self.start(
            argv,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=folder,
            stdout=outputs[0],
            stderr=outputs[1],
            code=code,
            stdin=stdin,
        )
        written, complaints = rank.communicate(timeout=300)
        assert rank.returncode == 0, complaints
        return written

    def run_ranks(self, code: str, folder: Path, ranks: int, stdin: str = "") -> list[str]:
        """Run code in one forked process per rank; return the stdout of each, by rank.

        Raises:
            AssertionError: a rank failed; the text is every rank's stderr.
        """
        shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(ranks)}
        outputs = [[Path(tempfile.mkstemp(dir=folder)[1]) for _ in range(2)] for _ in range(ranks)]
        with reserved_port() as port:
            shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            processes = [
                self.start(
                    (),
                    env={**shared, "RANK": str(rank)},
                    cwd=folder,
                    stdout=stdout,
                    stderr=stderr,
                    code=code,
                    stdin=stdin,
                )
                for rank, (stdout, stderr) in enumerate(outputs)
            ]
            texts = [process.communicate(timeout=300) for process in processes]
        complaints = "\n".join(stderr for _, stderr in texts)
        assert all(process.returncode == 0 for process in processes), complaints
        return [stdout for stdout, _ in texts]


# ---- the server


def load() -> None:
    """Import what a rank imports, in its order."""
    import torch
    import torch.utils.tensorboard

    from jobs.engine.cpu_backend import _install_stand_ins

    _install_stand_ins()
    from jobs.evaluation import harness
    from jobs.runtime.offline import work_offline
    from jobs.stages import pretrain

    work_offline()
    harness.keep_to_itself(Path(tempfile.gettempdir()))
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    from jobs.engine import checkpoint, dataset, model, optim, sharded_state, trainer
    from jobs.evaluation import likelihood_results, megatron_scorer, significance
    from jobs.questions import readers

    del torch, pretrain, readers, likelihood_results, megatron_scorer, significance
    del checkpoint, dataset, model, optim, sharded_state, trainer
    del AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM


def serve() -> None:
    """Fork a process for each connection, until standard input ends."""
    load()
    assert len(os.listdir("/proc/self/task")) == 1, "a fork of several threads would hang"
    gc.collect()
    gc.freeze()  # or each rank's collections visit, and so copy, everything imported here
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those of the connections
    listener = socket.socket(socket.AF_UNIX)
    address = f"meditron-fork-server-{os.getpid()}"
    listener.bind("\0" + address)
    listener.listen(64)
    print(address, flush=True)
    while True:
        ready, _, _ = select.select([sys.stdin.fileno(), listener], [], [])
        if listener not in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            attend(connection)
        connection.close()


def attend(connection: socket.socket) -> None:
    """Fork the rank of one request; in this process, wait for it and report its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    lines = connection.makefile("rw")
    request = json.loads(lines.readline())
    pid = os.fork()
    if pid == 0:
        connection.detach()
        become(request)  # does not return
    lines.write(f"{pid}\n")
    lines.flush()
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        lines.write(f"{os.waitstatus_to_exitcode(status)}\n")
        lines.flush()
    os._exit(0)


def become(request: Mapping[str, Any]) -> None:
    """Run the rank of a request, and exit as its interpreter would."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for number, key in ((1, "stdout"), (2, "stderr")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        os.dup2(os.open(request[key], flags, 0o644), number)
    given = os.memfd_create("stdin")
    os.write(given, request["stdin"].encode())
    os.lseek(given, 0, os.SEEK_SET)
    os.dup2(given, 0)
    os.closerange(3, 256)
    code = 1
    try:
        run(request)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(request: Mapping[str, Any]) -> None:
    """Run ``python -m jobs``, or the code of a request."""
    from jobs.__main__ import main
    from jobs.runtime.context import STOP_SIGNALS

    sys.argv = ["-", *request["argv"]]
    if request["code"]:
        exec(compile(request["code"], "<forked>", "exec"), {"__name__": "__main__"})
        return
    code = main(request["argv"])
    for number in STOP_SIGNALS:  # as the last lines of jobs.__main__
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


if __name__ == "__main__":
    serve()
