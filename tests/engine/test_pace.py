"""The time that the pace of a rank counts as waiting for others."""

from __future__ import annotations

import json
import statistics

import pytest

pytestmark = pytest.mark.engine

SLOW_TO_READ = """
import json, os, sys, time
from pathlib import Path
from jobs.__main__ import main
from jobs.engine import dataset
from jobs.runtime import heartbeat

read, add = dataset.Split.batch, heartbeat.HeartbeatWriter.add_step
rank, file = int(os.environ["RANK"]), Path(sys.argv[2]) / ("pace-" + os.environ["RANK"])

def read_slowly(self, *position):
    time.sleep(0.5 * rank)
    return read(self, *position)

def note(self, *seconds):
    with file.open("a") as opened:
        opened.write(json.dumps(seconds) + "\\n")
    add(self, *seconds)

if __name__ == "__main__":
    dataset.Split.batch, heartbeat.HeartbeatWriter.add_step = read_slowly, note
    sys.exit(main())
"""
"""Training whose second rank waits for its samples, and that keeps the times of each step."""


def test_ranks_count_the_wait_for_one_that_reads_slowly_as_communication(make_run, layout):
    run = make_run(parallel=layout(data=2))

    run.finish(code=SLOW_TO_READ)

    def own(rank: int) -> float:
        lines = (run.root / f"pace-{rank}").read_text().splitlines()
        steps = [json.loads(line) for line in lines[1:]]
        return statistics.median(seconds - waited for seconds, _, waited in steps)

    assert own(1) > 0.5
    assert own(0) < 0.8 * own(1)
