"""Reading the tokens of samples from many indexed datasets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from jobs.data.indexed_dataset import HEADER, MAGIC, VERSION, type_code

SHARDS = 2000
TOKENS = 3

READ = f"""
import os, resource, sys
from pathlib import Path
from jobs.contract.errors import TaskError
from jobs.data.sample_order import Stretch
from jobs.data.sample_reader import CorpusFiles
resource.setrlimit(resource.RLIMIT_NOFILE, (128, int(sys.argv[2])))
paths = [Path(sys.argv[1]) / str(number) for number in range({SHARDS})]
files = CorpusFiles([str(path) for path in paths], paths)
try:
    read = [int(files.tokens(Stretch(n, 1, 1))[0]) for n in range(len(files.lengths))]
except TaskError as error:
    print(error.message)
    print(error.hint)
else:
    print(read == list(range({SHARDS})), len(os.listdir("/dev/fd")))
"""
"""Reads a token of each dataset of a folder, with a hard limit of open files."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with many datasets of one document, whose tokens are the dataset's number."""
    folder = tmp_path_factory.mktemp("shards")
    index = HEADER.pack(MAGIC, VERSION, type_code("uint16"), 1, 2)
    index += numpy.array([TOKENS], "<i4").tobytes() + numpy.array([0, 0, 1], "<i8").tobytes()
    for number in range(SHARDS):
        (folder / f"{number}.idx").write_bytes(index)
        (folder / f"{number}.bin").write_bytes(numpy.full(TOKENS, number, "<u2").tobytes())
    return folder


def read(shards: Path, hard: int) -> list[str]:
    """Return what a process printed that may open at most some files."""
    words = [sys.executable, "-c", READ, str(shards), str(hard)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_dataset_holds_at_most_two_open_files_of_the_hard_limit(shards: Path) -> None:
    (line,) = read(shards, 2 * SHARDS + 100)

    is_right, held = line.split()
    assert is_right == "True"
    assert int(held) <= 2 * SHARDS + 20


def test_more_datasets_than_a_node_can_open_are_refused_before_the_first_sample(
    shards: Path,
) -> None:
    message, hint = read(shards, 2 * SHARDS)

    assert message.startswith(f"reading {SHARDS} datasets needs ")
    assert message.endswith(f" open files, and this node allows {2 * SHARDS}")
    assert "`ulimit -Hn` shows it" in hint
