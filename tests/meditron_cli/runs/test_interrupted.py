"""A real supervisor over ranks that are killed and started again, seen from the login node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import specs
from jobs.contract.events import read_events
from jobs.contract.files import read_json, write_json
from meditron_cli.scheduler.base import JobState

from ...conftest import Bench
from ...ranks import FINISH, rank_program

REPOSITORY = Path(__file__).parents[3]

SUPERVISE = """
import sys
from pathlib import Path
from jobs.contract import rundir
from jobs.supervision import attempt_runner, supervisor
run, limits = rundir.RunDir(Path(sys.argv[1])), attempt_runner.Limits(peers_seconds=0.5)
sys.exit(supervisor.supervise(run, "pretrain", 0, 1, limits))
"""

TRAIN = (
    "sys.stdout.write(f'rank {rank} of attempt {context.attempt}\\n')",
    "import json",
    "from jobs.contract.metrics_log import StepLine, to_json",
    "path = context.run.metrics('pretrain')",
    "path.parent.mkdir(parents=True, exist_ok=True)",
    "def step(number):",
    "    time.sleep(0.2)",
    "    line = StepLine(number, 1.0, 1e-4, 1.0, number, '', number, 0.2, 5.0, time.time(),",
    "                    context.attempt)",
    "    with path.open('a') as file:",
    "        file.write(json.dumps(to_json(line)) + '\\n')",
    "first = {1: 1, 2: 3}[context.attempt]",
    "for number in range(first, first + 4):",
    "    if rank == 0: step(number)",
    "if context.attempt == 1:",
    "    if rank == 0: die(signal.SIGKILL)",
    "    time.sleep(600)",
    f"if rank == 0: {FINISH}",
)
"""Four steps, a death, and four steps more from the third on.

A line is one write: `print` without buffering writes each of its arguments alone, and those of
two ranks that share a log mix.
"""


@pytest.fixture
def survivor(meditron: Bench, finish: Callable[..., None]) -> Bench:
    """Return a run whose training was killed after step 4 and resumed from step 3 to step 6."""
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    task = specs.task_from_json(read_json(run.spec("pretrain", 0)))
    changed = replace(
        task,
        ranks=2,
        ranks_per_node=2,
        python=rank_program(meditron.folder, *TRAIN),
        health={},
        scratch_dir="",
        supervision=specs.SupervisionSpec(retry_delay_seconds=0),
    )
    write_json(run.spec("pretrain", 0), specs.to_json(changed))
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISE, str(run.root)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    meditron.scheduler.put_stage("pretrain", JobState.ENDED, "COMPLETED")
    return meditron


def status(meditron: Bench) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(meditron("status", meditron.run().name, "--json").stdout)[
        "runs"
    ][0]
    return found


def test_a_rank_that_was_killed_and_started_again_is_in_status_logs_and_report(
    survivor: Bench,
) -> None:
    found = status(survivor)
    shown = survivor("logs", survivor.run().name, "--stage", "pretrain").stdout.splitlines()

    pretrain = found["stages"]["pretrain"]
    assert (pretrain["state"], pretrain["attempts"]) == ("succeeded", 2)
    assert [(item["attempt"], item["cause"]) for item in found["attempts"]] == [
        (1, "crash"), (2, "completed"),
    ]  # fmt: skip
    (interruption,) = found["interruptions"]
    assert (interruption["step"], interruption["steps_redone"]) == (4, 2)
    assert interruption["action"] == "restart"
    assert 0.4 < interruption["resume_s"] < 240
    heads = [line for line in shown if line.startswith("===")]
    assert heads[0].endswith(": crash, restart ===")
    assert heads[1].endswith(": completed ===")
    assert shown.index("rank 0 of attempt 1") < shown.index(heads[1])
    assert shown.index("rank 0 of attempt 2") > shown.index(heads[1])


def test_its_time_is_accounted_for_to_the_last_second(survivor: Bench) -> None:
    spent = status(survivor)["time"]["training"]

    exits = read_events(survivor.run(), ("exit",))
    began = next(
        event["time"] for event in survivor.events("submit") if event["stage"] == "pretrain"
    )
    assert spent["wall_s"] == pytest.approx(exits[-1]["ended"] - began, abs=1e-3)
    assert spent["training_s"] == pytest.approx(6 * 0.2)
    assert spent["redone_s"] == pytest.approx(2 * 0.2)
    assert spent["startup_s"] > 0
    assert spent["down_s"] > 0
