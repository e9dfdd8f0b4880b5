"""`python -m jobs`: one rank of one task, and its exit record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.contract.files import FORMAT, read_json
from jobs.contract.stage_specs import STAGE_KINDS

from .conftest import REPOSITORY, Workbench


def jobs(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_stage_has_a_module() -> None:
    for kind in STAGE_KINDS.values():
        assert REPOSITORY.joinpath(*kind.module.split(".")).with_suffix(".py").is_file()


IMPORTS_OF_A_RANK = """
import os, runpy
try:
    runpy.run_module("jobs", run_name="__main__", alter_sys=True)
except SystemExit:
    import datasets.config
    from huggingface_hub import constants
    print(constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
    print(*(name for name in os.environ if name.endswith("_OFFLINE") and os.environ[name] == "1"))
"""


def test_a_rank_keeps_the_hub_s_libraries_off_the_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_OF_A_RANK, "convert", str(tmp_path), "0"],
        cwd=REPOSITORY,
        env={**os.environ, "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )

    values, names = done.stdout.splitlines()
    assert values == "True True", done.stderr
    assert {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"} <= set(names.split())


def test_an_unknown_stage_is_a_usage_error(tmp_path: Path) -> None:
    done = jobs("mow", str(tmp_path), "0")

    assert done.returncode == 2
    assert "invalid choice: 'mow'" in done.stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        ('{"format": 1}', f"format 1, this program reads format {FORMAT}"),
        (f'{{"format": {FORMAT}, "stage": "mow"}}', "task spec names the unknown stage 'mow'"),
    ],
)
def test_a_spec_that_cannot_be_read_is_one_sentence(
    bench: Workbench, content: str | None, reason: str
) -> None:
    path = bench.run.spec("curate", 0)
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_text(content)

    done = jobs("curate", str(bench.run.root), "0")

    assert done.returncode == 2
    assert done.stderr.startswith(f"curate task 0 of {bench.run.root}: ")
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_rank_exit_is_printed_and_written_for_the_supervisor(bench: Workbench) -> None:
    missing = bench.run.root / "missing.jsonl"
    bench.curate(missing)

    done = bench.start("curate")

    words = read_json(bench.run.attempt("curate", 0) / "rank-exit-00000-00000.json")
    assert done.returncode == words["code"] == 2
    assert words["kind"] == "TaskError"
    assert str(missing) in words["message"]
    assert (words["rank"], words["node"]) == (0, os.uname().nodename)
    stderr = done.stderr.splitlines()
    assert stderr == [f"curate: {words['message']}", f"hint: {words['hint']}"]


def test_a_rank_exit_that_cannot_be_written_is_printed_whole(bench: Workbench) -> None:
    bench.curate(bench.run.root / "missing.jsonl")
    bench.run.stage("curate").joinpath("attempts").write_text("no folder")

    done = bench.start("curate")

    words = json.loads(done.stderr.splitlines()[-1])
    assert done.returncode == 2
    assert (words["code"], words["kind"]) == (2, "TaskError")
    assert "Not a directory" in words["unwritten"]
