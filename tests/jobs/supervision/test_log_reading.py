"""The bytes of a run's logs that a supervisor reads, by the kernel's count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from jobs.contract import specs
from jobs.contract.files import write_json

from ...exits import exit_of
from ...metric_lines import append, save, step
from ...ranks import FINISH, PATIENCE, rank_program
from ..conftest import Workbench

REPOSITORY = Path(__file__).parents[3]

SUPERVISE = """
import json, os, sys
from pathlib import Path
from jobs.contract import rundir
from jobs.supervision import attempt_runner, supervisor
run, limits = rundir.RunDir(Path(sys.argv[1])), attempt_runner.Limits(peers_seconds=0.5)
counters = os.open("/proc/self/io", os.O_RDONLY)
reads = {}
opened, at_open = "", 0

def bytes_read():
    text = os.pread(counters, 1000, 0)
    return int(text.split()[1]), len(text)

def count(event, arguments):
    global opened, at_open
    if event == "open":
        now, own = bytes_read()
        reads[opened] = reads.get(opened, 0) + now - at_open
        opened, at_open = str(arguments[0]), now + own

sys.addaudithook(count)
code = supervisor.supervise(run, "pretrain", 0, 1, limits)
print(json.dumps({str(path): reads.get(str(path), 0) for path in (run.events,
                  run.metrics("pretrain"))}))
sys.exit(code)
"""
"""Counts the bytes that the process reads from one open to the next, by the name opened."""


def test_a_supervisor_of_three_attempts_reads_metrics_and_events_once(bench: Workbench) -> None:
    run, program = bench.run, ("die(signal.SIGKILL) if context.attempt < 3 else None", FINISH)
    task = replace(
        bench.training(),
        python=rank_program(run.root, *program),
        supervision=specs.SupervisionSpec(retry_delay_seconds=0),
    )
    write_json(run.spec("pretrain", 0), specs.to_json(task))
    (run.root / "code").symlink_to(REPOSITORY)
    append(run, save(0), *(step(number) for number in range(1, 401)))

    done = subprocess.run(
        [sys.executable, "-c", SUPERVISE, str(run.root)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    causes = [exit_of(run, "pretrain", number)["cause"] for number in (1, 2, 3)]
    assert causes == ["crash", "crash", "completed"]
    read = json.loads(done.stdout.splitlines()[-1])
    appends = 6  # of three starts and three exits, each of which looks at the last byte
    assert read[str(run.metrics("pretrain"))] == run.metrics("pretrain").stat().st_size
    assert 0 < read[str(run.events)] <= run.events.stat().st_size + appends
