"""`meditron report`: figures out of a run's own files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from jobs.contract.done_markers import write_done
from jobs.contract.files import write_json
from jobs.contract.rundir import RunDir
from jobs.tokenization.counts import Counts

from ...conftest import Bench
from ...metric_lines import append, skip, step, validation
from ..task_records import TaskRecords, interrupt_once

START = 1_700_000_000.0

RESULT = {
    "benchmark": "quiz",
    "checkpoint_step": 600,
    "mode": "loglikelihood",
    "accuracy": 0.75,
    "ci95": [0.7, 0.8],
    "chance": 0.25,
    "majority": 0.355,
    "n": 200,
    "p_value": 1e-9,
    "ties": 1,
    "truncated": 200,
    "constant": "A",
    "permutations": {"accuracies": [0.3, 0.3], "mean": 0.3, "sd": 0.02, "consistency": 0.25},
}


@pytest.fixture
def trained(meditron: Bench, finish: Callable[..., None]) -> Bench:
    """Return a finished run: step 2 was done twice, validation before and after."""
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0, documents=12)
    for index, tokens in enumerate((300, 400, 20)):
        finish(run, "tokenize", index, tokens=tokens)
    finish(run, "pretrain", 0)
    finish(run, "evaluate", 0, 1)
    append(
        run,
        validation(0, loss=8.5),
        step(1, loss=8.0, tokens=100, seconds=2.0, tokens_per_s=50.0, time=START),
        step(2, loss=9.9, tokens=200, seconds=9.0, tokens_per_s=11.0, time=START),
        step(2, loss=6.0, tokens=200, seconds=2.0, tokens_per_s=50.0, time=START),
        validation(2, loss=6.5),
    )
    for name, number, accuracy in (("first", 0, 0.25), ("last", 600, 0.75)):
        result = {**RESULT, "checkpoint_step": number, "accuracy": accuracy}
        write_json(run.path(f"evaluations/quiz/{name}/results.json"), result)
    return meditron


@pytest.fixture
def interrupted(meditron: Bench, finish: Callable[..., None]) -> TaskRecords:
    """Return a finished run that lost two steps to a preemption."""
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    records = interrupt_once(run)
    records.exit(2, 300, "completed", "finish", code=0)
    finish(run, "pretrain", 0)
    return records


def test_the_epochs_so_far_of_each_corpus_are_shown(trained: Bench) -> None:
    run = trained.run()
    facts: dict[str, Any] = {"spec_digest": "", "seconds": 1.0}
    shards = [
        {"path": f"corpus/train/{index:05d}.jsonl", "bytes": 1, "mtime_ns": 1} for index in (0, 1)
    ]
    write_done(run, "curate", 0, inputs=[], outputs=shards, summary={}, **facts)
    for index, tokens in enumerate((300, 400)):
        file = {"path": f"tokens/train/{index:05d}.bin", "bytes": 1, "mtime_ns": 1}
        written = {"inputs": [shards[index]], "outputs": [file]}
        summary = {"documents": 1, "tokens": tokens}
        write_done(run, "tokenize", index, **written, summary=summary, **facts)

    (corpus,) = report(trained)["pretrain"]["corpora"]

    assert (corpus["name"], corpus["tokens"]) == ("corpus", 700)
    assert corpus["epochs"] == 2 * 16 * 128 / 700
    rows = [" ".join(row.split()) for row in trained("report", run.name).stdout.splitlines()]
    assert "epochs of corpus - 5.85" in rows


def test_tokens_are_counted_per_shard_and_in_all(trained: Bench) -> None:
    """Two tasks share the first shard; gigatoken gave other ids in one of them."""
    run, differs = trained.run(), "gigatoken differs from tokenizers: 'x' gives [1], not [2]"
    parts = [
        ("corpus/train/00000.jsonl", Counts(3, 1, 1300, 1297, 5200, 800, 700, 2), "gigatoken", ""),
        ("corpus/train/00000.jsonl", Counts(2, 0, 700, 698, 2800, 500, 650), "tokenizers", differs),
        ("corpus/validation/00000.jsonl", Counts(1, 0, 10, 9, 40), "gigatoken", ""),
    ]
    for index, (name, counts, engine, reason) in enumerate(parts):
        summary = {"tokens": counts.tokens, "shards": {name: counts.to_json()}}
        summary |= {"engine": engine, "engine_reason": reason}
        facts = {"spec_digest": "", "seconds": 1.0, "inputs": [], "outputs": []}
        write_done(run, "tokenize", index, summary=summary, **facts)

    found = report(trained)["corpus"]["tokenization"]

    shard = found["shards"]["corpus/train/00000.jsonl"]
    assert (shard["documents"], shard["tokens"], shard["longest"]) == (5, 2000, 700)
    assert (shard["fertility"], shard["engines"]) == (1995 / 1300, ["gigatoken", "tokenizers"])
    assert found["all"]["tokens"] == 2010
    assert found["all"]["reasons"] == [differs]
    rows = [" ".join(row.split()) for row in trained("report", run.name).stdout.splitlines()]
    assert "train 5 1 2,000 700 2 0 1.53 4.01 gigatoken, tokenizers" in rows
    (whole,) = (row for row in rows if row.startswith("all 6 1 2,010"))
    assert whole.endswith(f"gigatoken, tokenizers; {differs}")
    assert "validation 1 0 10 0 0 0 - 4.44 gigatoken" in rows


def test_skipped_steps_are_shown_with_their_reasons(trained: Bench) -> None:
    append(trained.run(), *(skip(step) for step in (3, 4, 6)), skip(7, reason="a spike"))

    found = report(trained)["pretrain"]

    assert found["steps"] == 7
    assert found["tokens"] == 200
    assert found["skipped"][0] == {"step": 3, "reason": "pretrain.skip_steps"}
    text = trained("report", trained.run().name).stdout
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "steps skipped - 3-4, 6 (pretrain.skip_steps); 7 (a spike)" in rows


def test_validation_of_each_corpus_is_shown_first_and_last(trained: Bench) -> None:
    both = {"med": {"loss": 3.0, "perplexity": 20.1}, "replay": {"loss": 2.0, "perplexity": 7.4}}
    append(trained.run(), validation(2, corpora=both))

    found = report(trained)["pretrain"]["validation_corpora"]
    text = trained("report", trained.run().name).stdout
    shown = trained("status", trained.run().name).stdout

    assert found[1] == {"name": "replay", "first": None, "last": both["replay"]}
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "validation loss of replay - 2.0000" in rows
    assert "validation perplexity of med - 20.1" in rows
    assert (
        "\nvalidation: after step 2: 3.0000 (perplexity 20.1) on med, "
        "2.0000 (perplexity 7.4) on replay\n"
    ) in shown


def report(meditron: Bench) -> dict[str, Any]:
    result = meditron("report", meditron.run().name, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_promised_keys_are_there(trained: Bench) -> None:
    found = report(trained)

    assert found["format"] == 1
    assert (found["corpus"]["documents"], found["corpus"]["tokens"]) == (12, 720)
    assert found["pretrain"] == {
        "weights": "random",
        "origin": None,
        "corpora": [],
        "steps": 2,
        "skipped": [],
        "tokens": 200,
        "loss_first": 8.0,
        "loss_last": 6.0,
        "validation_first": 8.5,
        "validation_last": 6.5,
        "validation_corpora": [],
        "tokens_per_s": 50.0,
        "step_seconds": 4.0,
        "speed": None,
    }
    added = {"checkpoint_name": "600", "protocol": "top-token", "compared": True}
    assert found["evaluations"][1] == {**RESULT, **added}
    assert {"total_s", "queued_s"} <= set(found["time"])
    assert "goodput" in found


def test_the_weights_are_named_with_the_commit_that_was_converted(trained: Bench) -> None:
    origin = {"weights": "org/base", "commit": "c0ffee" * 7, "sha256": "0" * 64}
    write_done(
        trained.run(), "convert", 0, spec_digest="", inputs=(), outputs=(),
        summary={"origin": origin}, seconds=1.0,
    )  # fmt: skip

    assert report(trained)["pretrain"]["origin"] == origin
    text = trained("report", trained.run().name).stdout
    assert "weights random, commit c0ffeec0ffee" in " ".join(text.split())


def test_published_results_are_of_no_run(trained: Bench) -> None:
    refused = trained("report", trained.run().name, "--published")

    assert refused.exit_code == 2
    assert "--published is of no run; leave RUN out" in refused.stderr


def test_the_text_shows_accuracy_before_and_after(trained: Bench) -> None:
    result = trained("report", trained.run().name)
    scores = trained("report", trained.run().name, "--scores").stdout

    titles = [part.splitlines()[0].split(" (")[0] for part in scores.split("\n\n")[1:]]
    assert titles[0] == "evaluation"
    assert not {"pretraining", "time", "where"} & set(titles)
    lines = [line.split("  ") for line in result.stdout.splitlines()]
    rows = [[cell.strip() for cell in line if cell] for line in lines if line[0] == "quiz"]
    remarks = (
        "always 'A'; 30.0% ±2.0% in 2 more orders of options, 25% the same answers; 200 prompts "
        "truncated; 1 tie"
    )
    same = ["70.0% to 80.0%", "25.0%", "35.5%", "200", "1e-09", remarks]
    assert rows == [
        ["quiz", "0", "top-token", "25.0%", *same],
        ["quiz", "600", "top-token", "75.0%", *same],
    ]


def score(run: RunDir, place: str, right: int, **fields: Any) -> None:
    """Write a score of 40 questions of PubMedQA."""
    folder = run.path(f"evaluations/{place}")
    folder.mkdir(parents=True, exist_ok=True)
    records = [{"id": f"q{item}", "points": float(item < right)} for item in range(40)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    known = {"kind": "pubmedqa", "digests": {"benchmark": "d"}, "n": 40, "accuracy": right / 40}
    write_json(folder / "results.json", {**RESULT, "benchmark": "pm", **known, **fields})


def rows_of(text: str, title: str) -> list[list[str]]:
    """Return the rows of a table that `report` printed."""
    table = text.partition(f"\n{title}")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.split("  ") if cell] for line in table[2:]]


def test_scores_stand_beside_published_ones_and_beside_each_other(trained: Bench) -> None:
    run = trained.run()
    score(run, "pm/first", 10, checkpoint_step=0)
    score(run, "pm/last", 28, checkpoint_step=600)

    text = trained("report", run.name).stdout

    beside = rows_of(text, "beside published")
    assert ["pm", "600 top-token", "70.0", "69.3±15.1", "Meditron-7B, Table 4", "+0.7", "no"] in (
        beside
    )
    assert len(beside) == 6
    trained.submit("--set", "evaluate.published=[PMC-Llama]")
    ((_, step, *_, theirs, _, _), *_) = rows_of(trained("report", run.name).stdout, "beside")
    assert (step, theirs) == ("0 top-token", "PMC-Llama-7B, Table 4")
    ((*start, interval, split, p_value),) = rows_of(text, "paired tests")
    assert (start, split, p_value) == (
        ["pm", "0 top-token", "600 top-token", "+45.0"],
        "18/0",
        "7.6e-06",
    )
    assert interval.startswith("+")


def test_two_runs_are_compared_with_each_other(trained: Bench) -> None:
    first = trained.run()
    trained.submit("--set", "seed=5")
    (second,) = (run for run in (trained.run(0), trained.run(1)) if run.root != first.root)
    for run, right in ((first, 10), (second, 28)):
        score(run, "pm/last", right)

    found = json.loads(trained("report", first.name, second.name, "--json").stdout)

    assert [(one["gained"], one["lost"]) for one in found["paired"]] == [(18, 0)]


def test_published_results_are_printed_without_a_run(meditron: Bench) -> None:
    text = meditron("report", "--published").stdout
    value = json.loads(meditron("report", "--published", "--json").stdout)

    row = "Meditron-70B         sc-cot     77.6          81.6      66.0     64.4   70.2     72.0"
    assert row in text.splitlines()
    assert value["tables"][0]["table"] == "Table 4"


VERIFICATION = {
    "step": 0,
    "logits": {"positions": 9, "mean": 1e-7, "max": 2e-6, "agreement": 1.0},
    "tolerance": 1e-4,
    "generation": {
        "rates": {"weights": {"repetition": 0.125, "prompt_echo": 0.0, "early_eos": 1 / 3}}
    },
    "problems": [],
}


def test_comparisons_of_weights_with_checkpoints_are_shown(trained: Bench) -> None:
    run = trained.run()
    other = {"step": 600, "generation": None, "problems": ["logits differ by up to 0.5"]}
    write_json(run.path("verification/convert-0.json"), VERIFICATION)
    write_json(run.path("verification/export-600.json"), {**VERIFICATION, **other})
    run.path("verification/export-0.json").write_text("{")
    write_json(run.path("verification/export-1.json"), {"step": 1})

    found = report(trained)["verifications"]
    shown = trained("report", run.name).stdout

    assert [(item["stage"], item["step"], item["max"]) for item in found] == [
        ("convert", 0, 2e-6),
        ("export", 600, 2e-6),
    ]
    rows = [
        " ".join(line.split())
        for line in shown.splitlines()
        if line.startswith(("convert", "export"))
    ]
    assert rows == [
        "convert 0 2e-06 1e-07 100.0% both compute the same",
        "export 600 2e-06 1e-07 100.0% logits differ by up to 0.5",
        "convert 0 weights 12.5% 0.0% 33.3%",
    ]


def test_report_without_a_name_is_of_the_run_last_worked_on(trained: Bench) -> None:
    first = trained.run()
    trained.submit("--new", stage="curate")
    second = trained.run(1)
    os.utime(first.events, ns=(0, second.events.stat().st_mtime_ns + 10**9))

    assert trained("report").stdout == trained("report", first.name).stdout

    os.utime(first.events, ns=(0, second.events.stat().st_mtime_ns - 10**9))
    assert trained("report").stdout == trained("report", second.name).stdout


def test_a_run_that_has_only_begun_is_reported_as_far_as_it_is(meditron: Bench) -> None:
    meditron.submit()

    found = report(meditron)

    assert found["state"] == "pending"
    assert found["pretrain"]["loss_last"] is None
    assert found["evaluations"] == []
    assert found["goodput"] is None
    assert meditron("report", meditron.run().name).exit_code == 0


def test_no_run_at_all_is_reported(meditron: Bench) -> None:
    result = meditron("report")

    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: there are no runs in {meditron.runs}\n")


def test_time_in_the_queue_omits_waiting_for_earlier_stages(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    meditron.submit(stage="tokenize")
    run = meditron.run()
    submitted = [float(str(event["time"])) for event in meditron.events("submit")]
    first = TaskRecords(run, submitted[1] + 100, stage="curate", job="101_0")
    first.start(1, -60)
    first.exit(1, 0, "completed", "finish", code=0)
    second = TaskRecords(run, submitted[1] + 107, stage="tokenize", job="102_0")
    second.start(1, 0)
    second.exit(1, 60, "completed", "finish", code=0)

    spent = report(meditron)["time"]["stages"]["tokenize"]

    assert spent == pytest.approx({"wall_s": 60.0, "busy_s": 60.0, "queued_s": 7.0})


def test_the_ledger_of_time_is_in_the_report(interrupted: TaskRecords, meditron: Bench) -> None:
    found = report(meditron)

    training = found["time"]["training"]
    assert {name: value for name, value in training.items() if value} == pytest.approx(
        {
            "wall_s": 300.0, "queue_s": 60.0, "startup_s": 40.0, "training_s": 120.0,
            "redone_s": 20.0, "checkpoint_s": 5.0, "validation_s": 5.0, "stall_s": 50.0,
            "goodput": 0.4, "goodput_without_queue": 0.5, "ettr": 120 / 280,
        }
    )  # fmt: skip
    assert found["goodput"] == training["goodput"]
    assert found["time"]["node_hours"] == pytest.approx(240 / 3600)
    assert found["time"]["gpu_hours"] == 0.0
    assert [item["steps_redone"] for item in found["interruptions"]] == [2]
    assert [item["attempt"] for item in found["attempts"]] == [1, 2]


def test_the_text_shows_where_the_time_went(interrupted: TaskRecords, meditron: Bench) -> None:
    lines = meditron("report", meditron.run().name).stdout.splitlines()

    rows = [line.split() for line in lines]
    assert ["training", "0:02:00", "40.0%", "steps", "that", "count"] in rows
    assert ["pretrain", "1", "preempted", "10", "2", "-", "0:01:30"] in rows
    assert ["node-hours", "0.07", "-", "-"] in rows


def test_answers_to_safety_questions_are_shown_side_by_side(meditron: Bench) -> None:
    meditron.submit()
    run = meditron.run()
    none = meditron("report", run.name, "--answers")
    for name in ("last", "m-last"):
        path = run.path(f"evaluations/safety/{name}/answers/answers.jsonl")
        path.parent.mkdir(parents=True)
        answer = {"id": "a", "theme": "bias", "prompt": "Why?", "text": name, "finish": "stop"}
        path.write_text(json.dumps(answer) + "\n")

    shown = meditron("report", run.name, "--answers")

    assert none.exit_code == 2
    assert "no model has answered questions of kind safety" in none.stderr
    assert "| last | m-last |\n| --- | --- |\n| last | m-last |\n" in shown.stdout
