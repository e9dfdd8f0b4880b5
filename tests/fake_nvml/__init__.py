"""A stand-in for ``libnvidia-ml.so.1``, built with gcc, and a process whose health checks load it.

The library is found by name, so it must be on LD_LIBRARY_PATH before a process starts:
``Examiner`` keeps one such process and passes it one file of readings after the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("fake_nvml.c")
INSTALL = Path(__file__).parents[1] / "slurm" / "install.sh"
COMPILER = ("gcc", "libc6-dev")
"""Debian's packages of the compiler and what it links with."""
NAME = "libnvidia-ml.so.1"

_SERVE = """
import json, os, sys
from pathlib import Path
from jobs.health import node_checks
for line in sys.stdin:
    question = json.loads(line)
    os.environ["FAKE_NVML"] = question["readings"]
    expected = node_checks.expectation(question["health"], question["environ"])
    runs, environ = Path(question["runs"]), question["environ"]
    sample = node_checks.read_sample(runs, environ, expected.gpus or None)
    findings = node_checks.check(sample, expected)
    print(json.dumps([finding.to_json() for finding in findings]), flush=True)
"""


def install_compiler() -> str:
    """Install gcc from Debian; return why that failed, or nothing."""
    done = subprocess.run(
        ["sh", str(INSTALL), *COMPILER], capture_output=True, text=True, check=False
    )
    return f"gcc is missing: {done.stderr.strip()[-2000:]}" if done.returncode else ""


def build(folder: Path, without: Iterable[str] = ()) -> Path:
    """Compile the library into ``folder``, leaving out some symbols as an older driver does."""
    folder.mkdir(parents=True, exist_ok=True)
    renamed = [f"-D{symbol}=absent_{symbol}" for symbol in without]
    options = [
        "-std=c11",
        "-D_GNU_SOURCE",
        "-shared",
        "-fPIC",
        "-pthread",
        f"-Wl,-soname,{NAME}",
        *renamed,
    ]
    subprocess.run(["gcc", *options, "-o", str(folder / NAME), str(SOURCE)], check=True)
    return folder


def environment(library: Path, readings: Path | None = None) -> dict[str, str]:
    """Return this process's environment with the stand-in first in line, and nothing of a job's."""
    hidden = ("CUDA_VISIBLE_DEVICES", "SLURM_GPUS_ON_NODE", "SLURMD_NODENAME")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    named = {} if readings is None else {"FAKE_NVML": str(readings)}
    return {**kept, "LD_LIBRARY_PATH": str(library), **named}


def write_readings(path: Path, readings: Mapping[str, object]) -> Path:
    """Write readings in the form the library reads, at once: it may read them at any moment."""
    part = path.with_name(f"{path.name}.part")
    part.write_text("".join(f"{key} = {value}\n" for key, value in readings.items()))
    return part.replace(path)


class Examiner:
    """A process that sees the stand-in and answers with findings."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(library),
        )

    def ask(
        self,
        readings: Mapping[str, object],
        health: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> list[dict[str, Any]]:
        """Findings, as JSON values, on a node with these readings."""
        question = {
            "readings": str(write_readings(self.folder / "readings", readings)),
            "runs": str(self.folder),
            "health": dict(health or {}),
            "environ": {"SLURMD_NODENAME": "node01", **(environ or {})},
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        findings: list[dict[str, Any]] = json.loads(self.process.stdout.readline())
        return findings

    def close(self) -> None:
        self.process.communicate()
