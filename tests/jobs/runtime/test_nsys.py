"""Ranks that start again under Nsight Systems; a program on PATH takes its place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.runtime import nsys, profile_record
from jobs.runtime.profile_record import ProfileRequest

from ..conftest import Workbench

ROOT = Path(__file__).parents[3]
RANK = """
import os, sys
from pathlib import Path
from jobs.runtime import nsys
from jobs.runtime.context import context_from
root, stage = sys.argv[1:]
nsys.start_again(context_from(Path(root), stage, 0, os.environ), os.environ, [stage, root, "0"])
print("without nsys")
"""
FAKE = f'#!/bin/sh\necho "${nsys.VARIABLE} $*"\n'


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a folder with a program `nsys` that prints its request and its arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / nsys.PROGRAM).write_text(FAKE)
    (folder / nsys.PROGRAM).chmod(0o755)
    return folder


def start(bench: Workbench, folder: Path | str, stage: str = "pretrain", **environ: str) -> str:
    """Start rank 0 and return its output."""
    path = f"{folder}:/usr/bin:/bin"
    done = subprocess.run(
        [sys.executable, "-c", RANK, str(bench.run.root), stage],
        env={"PATH": path, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def request(bench: Workbench, **changes: object) -> None:
    values = {"steps": 2, "ranks": (0, 3), "memory": False, "nsys": True, **changes}
    profile_record.write_request(bench.run, ProfileRequest("001", **values))


def test_a_rank_that_is_named_starts_again_under_nsys(bench: Workbench, program: Path) -> None:
    bench.training()
    request(bench)

    words = start(bench, program).split()

    root = str(bench.run.root)
    assert words[:2] == ["001", "profile"]
    assert "--capture-range=cudaProfilerApi" in words
    assert f"--output={bench.run.profile('001') / 'rank-00000'}" in words
    assert words[-7:] == [sys.executable, "-u", "-m", "jobs", "pretrain", root, "0"]
    assert bench.run.profile("001").is_dir()


@pytest.mark.parametrize("changes", [{"ranks": (1,)}, {"nsys": False}])
def test_other_ranks_and_requests_start_without_it(
    bench: Workbench, program: Path, changes: dict[str, object]
) -> None:
    bench.training()
    request(bench, **changes)

    assert start(bench, program) == "without nsys"


def test_other_stages_start_without_it(bench: Workbench, program: Path, tmp_path: Path) -> None:
    bench.curate(tmp_path)
    request(bench)

    assert start(bench, program, "curate") == "without nsys"


def test_a_rank_starts_under_nsys_once_and_without_it_where_it_is_not_installed(
    bench: Workbench, program: Path
) -> None:
    bench.training()
    request(bench)

    assert start(bench, program, **{nsys.VARIABLE: "001"}) == "without nsys"
    assert start(bench, os.devnull) == "without nsys"

    bench.run.profile("001").parent.write_text("no folder")
    assert start(bench, program) == "without nsys"
