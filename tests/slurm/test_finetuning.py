"""Rows, an array of finetunings and their evaluations, on a real Slurm."""

from __future__ import annotations

import pytest

from jobs.checkpoints import manifest
from jobs.contract.files import read_json
from jobs.contract.metrics_log import MetricsLog, StepLine, counted_steps
from jobs.contract.rundir import RunDir

from .desk import exit_of, kill_rank, rank_processes
from .faults import Laboratory

pytestmark = [pytest.mark.slurm, pytest.mark.full]

MODEL = "{name: %s, preparation: own, items: 40, train_steps: 8, data: [{path: train.jsonl}]}"
BENCHMARK = "{name: quiz-%s, path: quiz.jsonl, limit: 4, model: %s}"
HIT, TWIN = 0, 1
"""Tasks of the array: the one that is hit, and the same finetuning undisturbed."""
SETTINGS = (
    "pretrain.train_steps=2",
    "pretrain.warmup_steps=1",
    f"finetune.models=[{MODEL % 'hit'}, {MODEL % 'twin'}]",
    "finetune.sequence_length=192",
    "finetune.global_batch_size=4",
    "finetune.save_interval=2",
    "finetune.validation_batches=1",
    f"evaluate.benchmarks=[{BENCHMARK % ('hit', 'hit')}, {BENCHMARK % ('twin', 'twin')}]",
    "verify.enabled=false",
)


def trained(run: RunDir, index: int) -> list[StepLine]:
    """Return the metric lines of all steps of a finetuning, repeated ones too."""
    lines = MetricsLog(run, "finetune", index).read_new()
    return [line for line in lines if isinstance(line, StepLine)]


def losses(run: RunDir, index: int) -> list[tuple[int, float, str]]:
    """Return step, loss and samples of the steps that count."""
    lines = counted_steps(MetricsLog(run, "finetune", index).read_new()).trained
    return [(line.step, line.loss, line.samples) for line in lines]


def test_a_finetuning_that_is_killed_and_then_requeued_equals_its_undisturbed_twin(
    laboratory: Laboratory,
) -> None:
    """Both are held at steps 3 and 5, behind the checkpoints of steps 2 and 4."""
    questions = laboratory.desk.folder / "sample/benchmark/train.jsonl"
    lines = questions.read_text().splitlines()[:40]
    (laboratory.desk.folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    trial = laboratory.begin("tuned", *SETTINGS, hold=3, stage="pipeline")
    run, attempt_of = trial.run, lambda: trained(run, HIT)[-1].attempt

    def reach(step: int, after: int) -> None:
        trial.hold(step)
        trial.wait_for(
            lambda: any(line.step == step and line.attempt > after for line in trained(run, HIT)),
            f"step {step} of an attempt after {after}",
        )

    reach(3, 0)
    first = attempt_of()
    trial.wait_for(lambda: len(rank_processes(run, "finetune", HIT)) == 2, "two ranks")
    kill_rank(run, 1, "finetune", HIT)
    killed = exit_of(run, "finetune", first, HIT)
    reach(5, first)
    second = attempt_of()
    squeue = ("squeue", "-h", "-r", "-t", "R", f"--name={run.name}.finetune", "-o", "%i")
    (job,) = (each for each in laboratory.slurm.run(*squeue).split() if each.endswith(f"_{HIT}"))
    laboratory.slurm.run("scontrol", "requeue", job)
    requeued = exit_of(run, "finetune", second, HIT)
    trial.hold()
    trial.wait_end()

    assert trial.status()["state"] == "succeeded", trial.describe()
    assert (killed["cause"], killed["action"]) == ("crash", "restart")
    assert (requeued["cause"], requeued["action"]) == ("preempted", "requeue")
    attempts: dict[int, list[int]] = {}
    for line in trained(run, HIT):
        attempts.setdefault(line.attempt, []).append(line.step)
    one, two, three = attempts.values()
    assert (one, two[0], three[-1]) == ([1, 2, 3], 3, 8)
    assert three[0] == two[-1] + 1  # it saved before it was queued again
    assert {line.attempt for line in trained(run, TWIN)} == {1}
    assert losses(run, HIT) == losses(run, TWIN)
    assert [step for step, *_ in losses(run, HIT)] == list(range(1, 9))
    for name in ("hit", "twin"):
        assert max(manifest.saved_steps(run.path(f"finetune/{name}/checkpoints"))) == 8
    scores = [
        read_json(run.path(f"evaluations/quiz-{name}/{name}-last/results.json"))
        for name in ("hit", "twin")
    ]
    assert scores[0]["accuracy"] == scores[1]["accuracy"]
    assert [score["n"] for score in scores] == [4, 4]
