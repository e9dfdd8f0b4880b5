"""Which task of a step failed first, in srun's words (recorded with Slurm 22.05)."""

from __future__ import annotations

import pytest

from jobs import launchers

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
    assert launchers.first_failure(f"{line}\n{THE_REST}") == code


@pytest.mark.parametrize("said", ["", "srun: error: Node failure on gpu03\n", "rubbish\n"])
def test_other_words_name_no_task(said: str) -> None:
    assert launchers.first_failure(said) is None
