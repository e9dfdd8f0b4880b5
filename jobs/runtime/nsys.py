"""Start a rank under NVIDIA Nsight Systems where a person has requested it. Standard library only.

nsys cannot attach to a process, so the rank replaces itself by nsys, which starts it again. Nsys
records from ``cudaProfilerStart`` to ``cudaProfilerStop``, which the step profiler calls. Unproven
on hardware.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.runtime.context import Context
from jobs.runtime.log import log
from jobs.runtime.profile_record import read_request

VARIABLE = "MEDITRON_NSYS"
"""Name of the request that this process, or another rank of its attempt, was started with."""
PROGRAM = "nsys"
SUFFIX = ".nsys-rep"


def start_again(context: Context, environ: Mapping[str, str], argv: Sequence[str]) -> None:
    """Replace this process by nsys with the same program, if a request that waits names this rank.
    Return where it does not, or where nsys is not installed: the step profiler records that.

    Args:
        argv: the arguments of ``python -m jobs``.
    """
    request = read_request(context.run)
    if request is None or not request.nsys or context.task.training is None:
        return
    if VARIABLE in environ:
        return
    program = shutil.which(PROGRAM, path=environ.get("PATH"))
    if program is None or context.rank not in request.ranks:
        return
    folder = context.run.profile(request.name)
    rank = [sys.executable, "-u", "-m", "jobs", *argv]
    words = [*command(program, folder / f"rank-{context.rank:05d}"), *rank]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.execve(program, words, {**environ, VARIABLE: request.name})
    except OSError as error:
        log(f"{PROGRAM} did not start, so training starts without it: {error}")


def command(program: str, output: Path) -> list[str]:
    """Return the call of nsys up to the program that it starts.

    Args:
        output: path of the report, without suffix.
    """
    return [
        program,
        "profile",
        "--capture-range=cudaProfilerApi",
        "--capture-range-end=stop",
        "--kill=none",
        "--trace=cuda,nvtx,cublas,cudnn",
        "--sample=none",
        "--force-overwrite=true",
        f"--output={output}",
    ]
