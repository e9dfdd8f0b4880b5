"""Faults of a drill hit the drill's own job, and no other with the same id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.contract.rundir import RunDir
from meditron_cli.errors import SchedulerError
from meditron_cli.scheduler.fault_injection import SlurmFaultInjector

from ...fake_slurm import FakeSlurm

Inject = Callable[[SlurmFaultInjector, RunDir, str], object]
FAULTS: dict[str, Inject] = {
    "preempt": SlurmFaultInjector.preempt,
    "time limit": SlurmFaultInjector.lower_limit,
    "rank": lambda injector, run, job: injector.signal_rank(run, job, "kill", 0),
}
OWN = "med-tiny-0.pretrain|7|run=med-tiny-0,attempt=1"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "runs" / "med-tiny-0")
    run.root.mkdir(parents=True)
    run.events.touch()
    return run


@pytest.mark.parametrize("inject", FAULTS.values(), ids=FAULTS)
def test_a_job_of_another_run_with_the_same_id_is_not_touched(
    slurm_programs: FakeSlurm, run: RunDir, inject: Inject
) -> None:
    slurm_programs.queue("7|RUNNING|None|other|7|run=other-tiny-0,attempt=1")

    with pytest.raises(SchedulerError, match=r"^no job 7 of run med-tiny-0 is in the queue$"):
        inject(SlurmFaultInjector("python", slurm_programs.environ), run, "7")

    assert [call.split()[0] for call in slurm_programs.calls()] == ["squeue"]


@pytest.mark.parametrize("inject", FAULTS.values(), ids=FAULTS)
def test_no_fault_is_injected_while_squeue_does_not_answer(
    slurm_programs: FakeSlurm, run: RunDir, inject: Inject
) -> None:
    slurm_programs.tell("down", "Unable to contact slurm controller")

    with pytest.raises(SchedulerError, match="squeue does not report whether job 7 is of run"):
        inject(SlurmFaultInjector("python", slurm_programs.environ), run, "7")


def test_preemption_requeues_the_job_of_the_run(slurm_programs: FakeSlurm, run: RunDir) -> None:
    slurm_programs.queue(f"7|RUNNING|None|{OWN}")
    slurm_programs.tell("requeue")

    SlurmFaultInjector("python", slurm_programs.environ).preempt(run, "7")

    assert slurm_programs.calls("scontrol") == ["scontrol requeue 7"]
