"""Evaluations and exports of checkpoints that a training saves on its way, on a real Slurm."""

from __future__ import annotations

import pytest

from .faults import Laboratory, Trial

pytestmark = pytest.mark.slurm

SETTINGS = (
    "pretrain.keep_steps=[3, 5, 8]",
    "pretrain.keep_weights_only=true",
    "pretrain.async_save=true",  # the save of step 5 ends that of step 3, that of 8 that of 5
    "verify.enabled=false",
)


def waiting(trial: Trial, stage: str) -> int:
    """Return the number of tasks of a stage whose jobs wait for others."""
    name = f"--name={trial.run.name}.{stage}"
    return trial.laboratory.slurm.run("squeue", "-h", "-r", name, "-o", "%r").count("Dependency")


def test_an_export_and_an_evaluation_start_while_training_runs_once_their_weights_are_kept(
    laboratory: Laboratory,
) -> None:
    """Training is held before step 3 is saved, and after it; step 5 is saved when its export is
    submitted.
    """
    trial = laboratory.begin("early", *SETTINGS, hold=2)
    training = trial.reach(2)
    trial.submit(*SETTINGS, "export.step=[3, 8, last]", stage="export")
    trial.submit(*SETTINGS, "evaluate.checkpoints=[3, last]", stage="evaluate")
    evaluations = len(list(trial.run.spec("evaluate", 0).parent.iterdir()))
    benchmarks = evaluations // 2
    trial.wait_for(lambda: waiting(trial, "export") == 3, "three exports that wait")
    trial.wait_for(lambda: waiting(trial, "evaluate") == evaluations, "evaluations that wait")

    trial.reach(5)
    done = trial.run.path("export-3/meditron.json")
    trial.wait_for(done.exists, "the export of step 3")
    results = trial.run.path("evaluations")
    scored = lambda: len(list(results.glob("*/3/results.json"))) == benchmarks  # noqa: E731
    trial.wait_for(scored, "the evaluation of step 3")
    still = waiting(trial, "export"), waiting(trial, "evaluate")
    trial.reach(8)
    trial.submit(*SETTINGS, "export.step=[kept, last]", stage="export")
    trial.wait_for(trial.run.path("export-5/meditron.json").exists, "the export of step 5")
    at_last, attempt = waiting(trial, "export"), trial.current
    assert trial.job()
    trial.cancel()

    assert benchmarks > 0
    assert still == (2, benchmarks)
    assert at_last == 2
    assert attempt == training
    assert not trial.run.path("export-8").exists()
    assert not trial.run.path("export").exists()
