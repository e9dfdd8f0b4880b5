"""Small programs that stand in for Slurm's on PATH, so that submitit runs against them unmodified.

They keep everything in one folder beside their own: ``log`` has a line a call, ``queue`` a line a
job, ``<id>.sh`` and ``<id>.env`` are what sbatch was given.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "srun")


@dataclass(frozen=True)
class FakeSlurm:
    """The programs, linked into ``bin``, and what they keep."""

    bin: Path
    state: Path

    @property
    def environ(self) -> Mapping[str, str]:
        """Return this process's environment with these programs, and no other Slurm's."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        return {**kept, "PATH": f"{self.bin}:{os.environ['PATH']}"}

    @property
    def alone(self) -> Mapping[str, str]:
        """Return the same without any other program on PATH."""
        return {**self.environ, "PATH": str(self.bin)}

    def remove(self, program: str) -> None:
        """Take a program off PATH; use it with ``alone``, since this machine may have its own."""
        (self.bin / program).unlink()

    def replace(self, program: str, script: str) -> None:
        """Put another program in the place of one."""
        (self.bin / program).unlink()
        (self.bin / program).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / program).chmod(0o755)

    def tell(self, name: str, text: str = "") -> None:
        """Write one of the files that change what the programs do."""
        (self.state / name).write_text(text)

    def queue(self, *rows: str) -> None:
        """Set the queue, one job per row: ``ID|STATE|REASON``, and ``NAME|ARRAY|COMMENT|FOLDER|
        WAITS FOR|START`` where that matters.
        """
        self.tell("queue", "".join(f"{row}\n" for row in rows))

    def name_jobs(self, name: str, comment: str = "") -> None:
        """Set the name and comment of rows in the queue and the accounting that have none."""
        self.tell("marks", f"{name}|{comment}")

    def queued(self) -> list[str]:
        """Ids in the queue, an element a line."""
        return [line.split("|")[0] for line in (self.state / "queue").read_text().splitlines()]

    def waits_for(self) -> dict[str, str]:
        """Return what each job in the queue waits for, where it does."""
        rows = [line.split("|") for line in (self.state / "queue").read_text().splitlines()]
        return {row[0]: row[7] for row in rows if row[7:] and row[7]}

    def calls(self, program: str = "") -> list[str]:
        """Command lines so far, of one program or of all."""
        lines = (self.state / "log").read_text().splitlines()
        return [line for line in lines if line.startswith(program)]

    def script(self, job_id: str) -> str:
        """Return what sbatch was given."""
        return (self.state / f"{job_id.split('_')[0]}.sh").read_text()

    def job_environment(self, job_id: str) -> dict[str, str]:
        """Return the environment in which sbatch was called."""
        lines = (self.state / f"{job_id.split('_')[0]}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def ended(self) -> dict[str, int]:
        """Exit codes of the scripts that have run, by job id."""
        path = self.state / "ended"
        rows = path.read_text().splitlines() if path.exists() else []
        return {job: int(code) for job, code in (row.split("|") for row in rows)}


def install(folder: Path) -> FakeSlurm:
    """Put the programs and an empty state below a folder."""
    fake = FakeSlurm(folder / "bin", folder / "state")
    fake.bin.mkdir(parents=True)
    fake.state.mkdir()
    for name in PROGRAMS:
        (fake.bin / name).symlink_to(Path(__file__).with_name(name))
    for name in ("log", "queue", "accounting", "nodes", "marks"):
        fake.tell(name)
    return fake
