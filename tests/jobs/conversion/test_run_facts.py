"""Facts for a model's card, read from the records of a run."""

from __future__ import annotations

import dataclasses

import pytest

from jobs.contract import done_markers, specs
from jobs.contract.files import write_json
from jobs.conversion import run_facts
from jobs.conversion.run_facts import Corpus, Losses, Score

from ... import metric_lines
from ...meditron_cli.task_records import TaskRecords
from ...model_specs import corpus_spec
from ...plans import plan_of

RESULTS = {
    "benchmark": "medqa",
    "checkpoint_step": 60,
    "shots": 3,
    "n": 1273,
    "accuracy": 0.29,
    "ci95": [0.27, 0.31],
    "chance": 0.2,
}

NAMES = ("train/00000", "train/00001", "validation/00000")


@pytest.fixture
def trained(bench, tmp_path):
    """Return a run directory with the records of two shards, a training and evaluations."""
    task = bench.training()
    bench.task("pretrain", dataclasses.replace(task.spec, corpora=corpus_spec(".")))
    bench.curate(tmp_path / "papers.jsonl", tmp_path / "guidelines")
    shards = [f"corpus/{name}.jsonl" for name in NAMES]
    finish(bench.run, "curate", 0, shards, train=900, validation=30)
    (tmp_path / "tokenizer.json").write_text("{}")
    tokenizer = tmp_path / "tokenizer.json"
    for index, name in enumerate(NAMES):
        spec = bench.tokenize(shards[index], tokenizer, output_prefix=f"tokens/{name}").spec
        bench.task("tokenize", spec, index)
        files = [f"tokens/{name}.bin"]
        finish(
            bench.run,
            "tokenize",
            index,
            files,
            [shards[index]],
            documents=1,
            tokens=1000 * (index + 1),
        )
    write_json(
        bench.run.record,
        {
            "size": "7b",
            "code": {"commit": "c0ffee", "dirty": False},
            "versions": {"meditron": "0.1"},
        },
    )
    return bench.run


def finish(run, stage: str, index: int, files=(), read=(), **summary: int) -> None:
    inputs, outputs = (
        [{"path": name, "bytes": 1, "mtime_ns": 1} for name in names] for names in (read, files)
    )
    facts = {"spec_digest": "", "summary": summary, "seconds": 1.0}
    done_markers.write_done(run, stage, index, inputs=inputs, outputs=outputs, **facts)


def test_the_facts_are_those_of_the_records(trained):
    facts = run_facts.gather(trained, 60)

    assert (facts.name, facts.size, facts.commit) == (trained.name, "7b", "c0ffee")
    assert facts.has_changes is False
    assert facts.versions == {"meditron": "0.1"}
    assert facts.training.train_steps == 60
    assert facts.corpus == Corpus(("papers.jsonl", "guidelines"), 900, 30, 3000)


def test_documents_of_several_tasks_are_counted_together(trained, bench, tmp_path):
    spec = dataclasses.replace(bench.curate(tmp_path / "papers.jsonl").spec, parts=2, whole=False)
    shards = [f"corpus/{name}.jsonl" for name in NAMES]
    for part, (count, held_out) in enumerate(((600, 30), (300, 0))):
        bench.task("curate", dataclasses.replace(spec, part=part), part)
        finish(trained, "curate", part, shards[part::2], train=count, validation=held_out)

    assert run_facts.gather(trained, 60).corpus == Corpus(("papers.jsonl",), 900, 30, 3000)

    trained.done("curate", 1).unlink()
    assert run_facts.gather(trained, 60).corpus.documents is None


def test_a_run_without_records_has_no_facts(bench):
    facts = run_facts.gather(bench.run, 60)

    assert (facts.size, facts.commit, facts.has_changes) == (None, None, None)
    assert (facts.training, facts.corpus, facts.scores) == (None, None, ())
    assert facts.losses == Losses(None, None, None, None, None)


def test_tokens_are_not_known_before_every_shard_has_finished(trained):
    trained.done("tokenize", 1).unlink()

    assert run_facts.gather(trained, 60).corpus == Corpus(("papers.jsonl", "guidelines"), 900, 30)


def test_datasets_made_elsewhere_are_named_without_their_folder(bench):
    spec = dataclasses.replace(bench.training().spec, corpora=corpus_spec("/data/gap/train"))
    bench.task("pretrain", spec)

    assert run_facts.gather(bench.run, 60).corpus == Corpus(("train",))


def test_losses_are_those_up_to_the_step_without_steps_that_were_redone(trained):
    steps = [metric_lines.step(number, loss=float(number)) for number in range(1, 121)]
    metric_lines.append(
        trained,
        metric_lines.validation(0, loss=9.0),
        *steps[:110],
        metric_lines.validation(110, loss=5.0),
        *(dataclasses.replace(line, loss=2.0, attempt=2) for line in steps[100:]),
        metric_lines.validation(110, loss=4.0, attempt=2),
        metric_lines.validation(120, loss=3.0, attempt=2),
    )

    found = run_facts.losses(trained, "pretrain", 0, 110)

    assert found == Losses(pytest.approx((sum(range(11, 101)) + 10 * 2.0) / 100), 4.0, 110, 9.0, 0)


def test_scores_are_those_of_the_step_and_of_step_0(trained):
    for name, changes in {
        "medqa/last": {},
        "medqa/60": {},  # the same checkpoint by its step
        "medqa/first": {"checkpoint_step": 0, "accuracy": 0.25},
        "medqa/40": {"checkpoint_step": 40},
        "broken/last": {"ci95": None},
    }.items():
        write_json(trained.path(f"evaluations/{name}/results.json"), RESULTS | changes)

    found = run_facts.gather(trained, 60).scores

    assert found == (
        Score("medqa", 0, 3, 1273, 0.25, (0.27, 0.31), 0.2),
        Score("medqa", 60, 3, 1273, 0.29, (0.27, 0.31), 0.2),
    )


def test_a_finetuned_model_is_described_by_its_own_training(trained):
    """Its rows, its losses and its scores, and not those of the pretraining it began with."""
    settings = "finetune.models=[{name: medqa, data: [{path: /data/medqa.jsonl, kind: medqa}]}]"
    plan = plan_of("test-slurm", "tiny", settings)
    for stage in ("prepare", "finetune"):
        (task,) = plan.stage(stage).tasks
        write_json(trained.spec(stage, 0), specs.to_json(task))
    metric_lines.append(trained, metric_lines.step(1, loss=0.5), stage="finetune")
    own, other = (run_facts.gather(trained, 480, model) for model in ("medqa", ""))

    assert own.training
    assert (own.training.train_steps, own.losses.training) == (480, 0.5)
    assert own.corpus == Corpus(("medqa.jsonl",))
    assert own.scores == ()
    assert other.training != own.training
    assert other.losses.training != 0.5


def test_the_cost_is_that_of_all_attempts_on_gpus(trained):
    assert run_facts.gather(trained, 60).cost is None

    task = dataclasses.replace(specs.load_task(trained, "pretrain", 0), gpus_per_node=8, nodes=2)
    write_json(trained.spec("pretrain", 0), specs.to_json(task))
    records = TaskRecords(trained, 1_700_000_000.0)
    for attempt, source in ((1, "power"), (2, "counter")):
        records.start(attempt, 100.0, restarts=attempt)
        records.exit(attempt, 3600, "crash", "requeue", energy_j=3.6e6, energy_source=source)

    cost = run_facts.gather(trained, 60).cost

    assert (cost.footprint.gpu_hours, cost.footprint.kwh, cost.source) == (32.0, 2.0, "power")
    records.start(3, 200.0, restarts=3)
    records.exit(3, 3600, "crash", "requeue")
    more = run_facts.gather(trained, 60).cost
    assert (more.footprint.kwh, more.source, more.unmeasured) == (2.0, "power", 1)


def test_gpus_are_held_between_two_attempts_in_one_allocation(trained):
    task = dataclasses.replace(specs.load_task(trained, "pretrain", 0), gpus_per_node=8, nodes=2)
    write_json(trained.spec("pretrain", 0), specs.to_json(task))
    records = TaskRecords(trained, 1_700_000_000.0)
    for attempt, begun, ended in ((1, 0, 3600), (2, 5400, 7200)):
        records.start(attempt, begun)
        began = records.zero + begun
        records.exit(attempt, ended, "crash", "restart", started=began)

    assert run_facts.gather(trained, 60).cost.footprint.gpu_hours == 32.0
