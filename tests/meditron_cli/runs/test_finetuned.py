"""Finetuned models of a run: what is refused before anything is submitted, and what is shown."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.contract import specs
from jobs.contract.errors import TaskError
from jobs.contract.files import sha256, write_json
from jobs.contract.metrics_log import counted_steps
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import EvaluateSpec, FinetuneSpec, PrepareSpec, StartRef
from meditron_cli.inputs import finetuned as inputs
from meditron_cli.inputs import problems
from meditron_cli.reporting import finetuned
from meditron_cli.reporting.goodput import BUCKETS, TimeAccount
from meditron_cli.reporting.run_times import RunTimes
from meditron_cli.reporting.scores import Score
from meditron_cli.runs.views import RunView, StageView

from ... import metric_lines
from ...conftest import Bench
from ...plans import plan_of

MODELS = "finetune.models=[{name: medqa, data: [{path: /data/medqa.jsonl, kind: medqa}]}]"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Return a run that has finetuned a model for some steps."""
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    (task,) = plan_of("test-slurm", "tiny", MODELS).stage("finetune").tasks
    write_json(run.spec("finetune", 0), specs.to_json(task))
    return run


def saved(folder: Path, step: int) -> None:
    """Leave the record of a checkpoint."""
    path = folder / f"iter_{step:07d}"
    path.mkdir(parents=True)
    (path / "meditron.json").write_text("{}")


def spec_of(*overrides: str) -> FinetuneSpec:
    (task,) = plan_of("test-slurm", "tiny", MODELS, *overrides).stage("finetune").tasks
    assert isinstance(task.spec, FinetuneSpec)
    return task.spec


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("finetune.learning_rate=1e-4", "optimizer"),
        ("finetune.epochs=1", "train_steps"),
        ("finetune.start=first", "start"),
        ("finetune.prompt_loss_weight=0.5", "prompt_loss_weight"),
    ],
)
def test_a_model_with_checkpoints_keeps_its_settings(run: RunDir, override: str, name: str) -> None:
    """It would resume from them, and be neither the one nor the other."""
    other = spec_of(override)
    inputs.require_same_finetuning(run, other)  # nothing is saved yet
    saved(run.path(other.checkpoint_dir), 100)

    inputs.require_same_finetuning(run, spec_of())
    with pytest.raises(TaskError, match=f"other settings .*{name}"):
        inputs.require_same_finetuning(run, other)


@pytest.mark.parametrize(
    ("override", "stage"),
    [
        ("finetune.holdout=0.1", "prepare"),
        ("finetune.template=paper", "prepare"),
        ("finetune.template=paper", "evaluate"),
    ],
)
def test_a_model_with_checkpoints_keeps_its_questions(
    run: RunDir, override: str, stage: str
) -> None:
    benchmark = "evaluate.benchmarks=[{name: b, path: /b, kind: medqa, model: medqa}]"

    def spec_of_stage(*overrides: str) -> PrepareSpec | EvaluateSpec:
        (task,) = plan_of("test-slurm", "tiny", MODELS, benchmark, *overrides).stage(stage).tasks
        assert isinstance(task.spec, PrepareSpec | EvaluateSpec)
        return task.spec

    (task,) = plan_of("test-slurm", "tiny", MODELS, benchmark).stage("prepare").tasks
    write_json(run.spec("prepare", 0), specs.to_json(task))
    other = spec_of_stage(override)
    inputs.require_same_questions(run, other)  # nothing is saved yet
    saved(run.path("finetune/medqa/checkpoints"), 100)

    inputs.require_same_questions(run, spec_of_stage())
    with pytest.raises(TaskError, match=re.escape(f"other settings ({override.split('=')[0]})")):
        inputs.require_same_questions(run, other)


@pytest.mark.parametrize(
    "override", ["finetune.parallel={data: 2}", "finetune.micro_batch_size=2",
                 "finetune.save_interval=7"],
)  # fmt: skip
def test_layout_and_saving_of_a_model_may_change(run: RunDir, override: str) -> None:
    other = spec_of(override)
    saved(run.path(other.checkpoint_dir), 100)

    inputs.require_same_finetuning(run, other)


def test_the_checkpoint_of_another_run_must_be_there(run: RunDir, tmp_path: Path) -> None:
    saved(tmp_path / "checkpoints", 20)
    spec = replace(spec_of(), start=StartRef("20", 0, str(tmp_path / "checkpoints")))
    other = replace(spec, start=replace(spec.start, checkpoint="30"))

    inputs.require_start(run, spec)
    with pytest.raises(TaskError, match="has no checkpoint of step 30"):
        inputs.require_start(run, other)

    saved(run.path(other.checkpoint_dir), 0)
    inputs.require_start(run, other)  # it continues with its own


def test_a_model_with_checkpoints_needs_the_run_it_began_with_no_more(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    other = RunDir(meditron.folder / "other")
    other.root.mkdir()
    (task,) = plan_of("local", "tiny", "pretrain.train_steps=70").stage("pretrain").tasks
    write_json(other.spec("pretrain", 0), specs.to_json(task))
    saved(other.path("checkpoints"), 70)
    write_json(other.record, {})
    name = "finetune.models=[{name: asked, items: 1, data: [{path: quiz.jsonl}]}]"
    words = ["--set", f"finetune.run={other.root}", "--set", name]
    begun = meditron.submit(*words, stage="finetune")
    assert begun.exit_code == 0, begun.stderr
    run = meditron.run()
    finish(run, "prepare", 0)
    meditron.scheduler.jobs.clear()
    shutil.rmtree(other.root)

    before = meditron.submit(*words, stage="finetune")
    saved(run.path("finetune/asked/checkpoints"), 0)
    after = meditron.submit(*words, stage="finetune")

    assert (before.exit_code, after.exit_code) == (2, 0), after.stderr
    assert f"{other.record}: no such file" in before.stderr
    assert meditron.scheduler.submitted[-1].stage == "finetune"
    assert meditron("resume", run.name).exit_code == 0


def test_training_files_and_the_template_are_checked_before_anything_is_submitted(
    tmp_path: Path,
) -> None:
    from meditron_cli.config.load import load

    good = {"id": "a", "question": "q", "choices": ["a", "b"], "answer": 1}
    (tmp_path / "good.jsonl").write_text(json.dumps(good) + "\n")
    (tmp_path / "bad.jsonl").write_text(json.dumps(good | {"answer": 7}) + "\n")

    def found(name: str, *overrides: str) -> list[str]:
        data = f"[{{name: own, items: 1, data: [{{path: {tmp_path / name}}}]}}]"
        loaded = load("local", "tiny", None, [f"finetune.models={data}", *overrides])
        return problems.unusable(loaded, ["prepare"])

    assert found("good.jsonl") == []
    (bad,) = found("bad.jsonl")
    assert bad.startswith("finetune.models[0].data: ")
    assert "bad.jsonl" in bad
    lacking = found("good.jsonl", "finetune.added_tokens=[]")
    assert [line.split(";")[0] for line in lacking] == [
        f"finetune.added_tokens: the tokenizer has no {token}, a token of the template"
        for token in ("<|im_start|>", "<|im_end|>")
    ]


def test_a_table_shows_progress_and_losses_of_each_model(run: RunDir) -> None:
    progress = {"tokens": 10.0, "target_tokens": 4_000.0, "tokens_per_s": 1.0}
    times_of = {"time": 1.0, "attempt": 1, "done": 2, "total": 480, "unit": "steps"}
    write_json(run.progress("finetune", 0), {**times_of, **progress})
    steps = counted_steps([metric_lines.step(1, loss=2.0), metric_lines.step(2, loss=1.5)])
    trainings = {("finetune", 0): steps}
    spent = TimeAccount({**dict.fromkeys(BUCKETS, 0.0), "training": 3.0, "queue": 1.0}, 1.0)
    accounts = {("finetune", 0): spent}
    times = RunTimes((), (), trainings, (), {}, accounts, {}, None, 0.0, 0.0)
    stage = StageView(
        "finetune", "running", 1, 0, 1, 2, 480, None, None, task_states={0: "running"}
    )
    view = RunView("run", "running", "local", {"finetune": stage}, None, None, "")

    found = finetuned.models(run, view, times)

    assert finetuned.rows(found) == [
        (
            *("medqa", "running, 1:06:30 left", "2/480", None, None),
            *("2.000 to 1.500", None, "75%", "the last step"),
        )
    ]
    assert times.goodput == 0.75
    (prepared,) = [{**one, "epochs": 3.0184, "prepared": COUNTS} for one in found]
    assert finetuned.rows([prepared])[0][3:5] == (9_873, "3.02")
    assert finetuned.notes([prepared]) == [
        "medqa: 10,177 items, 1 fewer than the 10,178 published",
        "medqa: 1 item left out as test questions",
    ]
    assert finetuned.models(run, replace(view, stages={}), times) == []


COUNTS = {
    "train_rows": 9_873,
    "difference": "medqa: 10,177 items, 1 fewer than the 10,178 published",
    "contained": 1,
    "too_long": 0,
}


@pytest.mark.parametrize(
    ("benchmark", "digest", "is_compared"),
    [
        ("quiz", "d1", True),
        ("quiz-again", "d1", True),  # the same file by another name
        ("quiz", "d2", False),  # edited since
        ("mmlu", "d3", True),  # a folder, whose digest is that of a list
        ("added", "d4", False),
    ],
)
def test_a_score_on_questions_that_rows_were_not_compared_with_says_so(
    run: RunDir, benchmark: str, digest: str, is_compared: bool
) -> None:
    compared = {"quiz": {"path": "/data/quiz.jsonl"}, "mmlu": {"path": "/data/mmlu"}}
    inputs = [{"path": "/data/quiz.jsonl", "sha256": "d1"}]
    rows = {"inputs": inputs, "decontamination": {"benchmarks": compared}}
    write_json(run.path("finetune/medqa/rows/manifest.json"), rows)
    results = {"benchmark": benchmark, "model": "medqa", "digests": {"benchmark": digest}}
    score = Score(f"{benchmark}/medqa-last", run.root, results)

    assert finetuned.is_compared(run, score) is is_compared
    assert bool(finetuned.uncompared(run, [score])) is not is_compared
    assert finetuned.is_compared(run, replace(score, results={**results, "model": "other"}))


def test_a_model_is_asked_with_the_instructions_that_it_was_taught(
    run: RunDir, tmp_path: Path
) -> None:
    """By their content: a file that was renamed is the same, one that was edited is not."""
    questions = "evaluate.benchmarks=[{name: quiz, path: /data/quiz.jsonl, model: medqa}]"
    plan = plan_of("test-slurm", "tiny", MODELS, questions)
    write_json(run.spec("prepare", 0), specs.to_json(plan.stage("prepare").tasks[0]))
    spec = plan.stage("evaluate").tasks[-1].spec
    assert isinstance(spec, EvaluateSpec)
    saved(run.path("finetune/medqa/checkpoints"), 100)
    rows, taught = run.path("finetune/medqa/rows/manifest.json"), tmp_path / "taught.json"
    taught.write_text("{}")
    write_json(rows, {"instructions": "", "inputs": []})
    ours, theirs = replace(spec, instructions=""), replace(spec, instructions=str(taught))

    inputs.require_same_questions(run, ours)
    with pytest.raises(TaskError, match=rf"taught with other instructions .*{taught}"):
        inputs.require_same_questions(run, theirs)

    made = {"path": "/data/moved.json", "sha256": sha256(taught)}
    write_json(rows, {"instructions": made["path"], "inputs": [made]})
    inputs.require_same_questions(run, theirs)
    with pytest.raises(TaskError, match=r"\(our own\)"):
        inputs.require_same_questions(run, ours)
    taught.write_text("{ }")
    with pytest.raises(TaskError, match=str(taught)):
        inputs.require_same_questions(run, theirs)
