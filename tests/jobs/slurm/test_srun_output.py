"""The first failed task of a step, from srun's output (recorded with Slurm 22.05)."""

from __future__ import annotations

import pytest

from jobs.slurm import srun_output
from jobs.slurm.srun_output import FailedTask

THE_REST = """\
srun: launch/slurm: _step_signal: Terminating StepId=17.0
slurmstepd-gpu01: error: *** STEP 17.0 ON gpu01 CANCELLED AT 2026-11-22T13:37:34 ***
srun: error: gpu02: task 3: Terminated
srun: error: gpu01: tasks 0-1: Exited with exit code 1
srun: Force Terminated StepId=17.0
"""


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("srun: error: gpu02: task 2: Killed", -9),
        ("srun: error: gpu02: task 2: Segmentation fault (core dumped)", -11),
        ("srun: error: gpu02: task 2: Out Of Memory", -9),
        ("srun: error: gpu02: tasks 2-3: Exited with exit code 3", 3),
        ("srun: error: node-7.site: tasks 0,4-7: Bus error", -7),
        ("srun: error: gpu02: task 2: Something new", None),
    ],
)
def test_the_first_task_to_fail_is_the_cause(line: str, code: int | None) -> None:
    assert srun_output.first_failure(f"{line}\n{THE_REST}") == code


@pytest.mark.parametrize("stderr", ["", "srun: error: Node failure on gpu03\n", "rubbish\n"])
def test_other_words_name_no_task(stderr: str) -> None:
    assert srun_output.first_failure(stderr) is None


def test_who_failed_before_srun_ended_the_others_is_a_cause() -> None:
    stderr = f"srun: error: gpu02: task 2: Killed\n{THE_REST}"

    assert srun_output.failures(stderr) == [
        FailedTask(2, "gpu02", -9, is_cause=True),
        FailedTask(3, "gpu02", -15, is_cause=False),
        FailedTask(0, "gpu01", 1, is_cause=False),
        FailedTask(1, "gpu01", 1, is_cause=False),
    ]


def test_a_node_that_failed_is_named() -> None:
    stderr = f"srun: error: Node failure on gpu03\n{THE_REST}"

    assert srun_output.failed_node(stderr) == "gpu03"
    assert srun_output.failed_node(THE_REST) == ""


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("slurmstepd: error: Detected 2 oom_kill events in StepId=7.0.", 2),
        ("slurmstepd-gpu01: error: Detected 1 oom-kill event(s) in StepId=7.0 cgroup.", 1),
        ("nothing of that kind", 0),
    ],
)
def test_processes_that_found_no_memory_are_counted(line: str, number: int) -> None:
    """Words of Slurm 22.05 and of older releases."""
    assert srun_output.oom_kills(f"{line}\n{THE_REST}") == number
