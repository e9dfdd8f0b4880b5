"""Tasks that clean a corpus: start-up, megabytes per second of one, and what a second one adds.

``MEDITRON_BENCH_TEXTS`` names a file of JSON lines whose ``text`` is read; without it the texts are
the sample's, repeated. A task is a process, as a node starts it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs.contract import specs
from jobs.contract.files import write_json
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import CleanSpec
from tests.bench import REPOSITORY, Figure, ratio, take_turns
from tests.bench.curate import sample
from tests.corpus_specs import corpus_rules
from tests.task_specs import task_spec

ROUNDS = 5
MEGABYTES = 64.0
IDLE = 1_000_000
"""Number of a task that has no piece."""


def write_source(path: Path, megabytes: float) -> None:
    """Write that many megabytes of texts, each begun with a number of its own."""
    texts = sample(megabytes)
    with path.open("w") as file:
        number = 0
        while file.tell() < megabytes * 1e6:
            for text in texts:
                number += 1
                file.write(json.dumps({"id": str(number), "text": f"{number} {text}"}) + "\n")


def clean_seconds(folder: Path, source: Path, tasks: int, number: int | None = None) -> float:
    """Return the wall time of some tasks side by side over a source, in a run of their own."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        run = RunDir(Path(name))
        rules = corpus_rules(source, shards=8)
        words: list[list[str]] = []
        for part in range(tasks) if number is None else (number,):
            spec = CleanSpec(rules, part, max(tasks, part + 1), "corpus")
            write_json(run.spec("clean", part), specs.to_json(task_spec("clean", spec, part)))
            words.append([sys.executable, "-m", "jobs", "clean", name, str(part)])
        begun = time.perf_counter()
        processes = [subprocess.Popen(command, cwd=REPOSITORY) for command in words]
        codes = [process.wait() for process in processes]
        if any(codes):
            raise RuntimeError("a task failed")
        return time.perf_counter() - begun


def figures(rounds: int = ROUNDS, megabytes: float = MEGABYTES) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "texts.jsonl"
        write_source(source, megabytes)
        seconds = take_turns(
            rounds,
            start=lambda: clean_seconds(folder, source, 1, IDLE),
            one=lambda: clean_seconds(folder, source, 1),
            two=lambda: clean_seconds(folder, source, 2),
        )
        size = source.stat().st_size / 1e6
    start, one = (statistics.median(seconds[side]) for side in ("start", "one"))
    speeds = f"{size / one:.1f} MB/s by one task of one core, start-up included"
    return [
        Figure("corpus_task_start_s", start, note="of a task without a piece"),
        Figure("corpus_task_mb_s", size / one, note=speeds),
        Figure("corpus_two_tasks_over_one", ratio(seconds["one"], seconds["two"]), ">= 1.8"),
    ]
