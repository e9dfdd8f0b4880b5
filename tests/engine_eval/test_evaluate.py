"""``python -m jobs evaluate``: real checkpoints of the engine, scored by likelihood."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from jobs.checkpoints import manifest, retention
from jobs.contract import done_markers, specs
from jobs.contract.files import read_json, sha256
from jobs.conversion import run_facts
from jobs.runtime import processes
from meditron_cli.reporting import scores

from ..ranks import wait_until

pytestmark = pytest.mark.engine


@pytest.fixture(scope="session")
def finished(evaluation):
    done = evaluation()
    done.folder.mkdir(parents=True)
    (done.folder / f".questions.jsonl.{'0' * 32}").write_text("of a killed attempt")
    outcome = done.start()
    assert outcome.returncode == 0, outcome.stderr
    return done


def test_choices_get_the_log_likelihoods_of_direct_calls_of_the_model(finished, made):
    found = {item["id"]: item["loglikelihoods"] for item in finished.questions()}

    assert found.keys() == made.answers.keys() | {"q7"}
    for name, expected in made.answers.items():
        assert found[name] == pytest.approx(expected, abs=1e-3)


def test_results_follow_from_the_records_of_the_questions(finished):
    results, records = finished.results(), finished.questions()

    for record in records:
        best = max(record["loglikelihoods"])
        assert record["predicted"] == record["loglikelihoods"].index(best)
        assert record["tied"] == record["loglikelihoods"].count(best)
        if record["tied"] == 1:
            assert record["points"] == (record["predicted"] == record["answer"])
    assert results["n"] == len(records) == 6
    assert results["correct"] == sum(record["points"] for record in records)
    assert results["accuracy"] == results["correct"] / 6
    assert results["ci95"][0] <= results["accuracy"] <= results["ci95"][1]
    assert results["chance"] == pytest.approx((1 / 4 + 1 / 3 + 1 / 4 + 1 / 2 + 1 / 4 + 1 / 2) / 6)
    assert results["majority"] == 2 / 6
    assert results["checkpoint_step"] == 4
    assert (results["mode"], results["score"], results["bos"]) == ("top-token", "likelihood", False)
    assert results["truncated"] == 1
    assert results["ties"] == sum(record["tied"] > 1 for record in records)
    assert 0 < results["p_value"] <= 1


def test_a_finished_task_is_done_until_its_benchmark_changes(evaluation, benchmark, tmp_path):
    copy = shutil.copy(benchmark, tmp_path / "copy.jsonl")
    done = evaluation(path=str(copy), limit=2, checkpoint="4")
    digest = specs.digest(done.task.spec)

    assert done.start().returncode == 0
    assert (done.results()["n"], done.results()["checkpoint_step"]) == (2, 4)
    assert done_markers.is_done(done.run, "evaluate", 0, digest)
    assert shown(done) == ["sample"]

    (tmp_path / "copy.jsonl").write_text(Path(benchmark).read_text().replace("aspirin", "Aspirin"))
    assert not done_markers.is_done(done.run, "evaluate", 0, digest)
    assert shown(done) == []

    assert done.start().returncode == 0
    assert shown(done) == ["sample"]


def shown(evaluation):
    """Return the benchmarks of the scores that the report and the card of an export show."""
    found = [score.benchmark for score in scores.of_run(evaluation.run)]
    assert [score.benchmark for score in run_facts.scores(evaluation.run)] == found
    return found


def test_results_of_another_file_are_not_shown_under_a_reused_name(
    evaluation, finished, benchmark, tmp_path
):
    other = evaluation(path=str(shutil.copy(benchmark, tmp_path / "other.jsonl")))
    shutil.copytree(finished.folder, other.folder)
    shutil.copytree(finished.run.done_folder("evaluate"), other.run.done_folder("evaluate"))

    assert shown(finished) == ["sample"]
    assert shown(other) == []


def test_results_identify_the_files_the_prompts_and_the_checkpoint(finished, benchmark, made):
    digests = finished.results()["digests"]

    assert digests["benchmark"] == sha256(benchmark)
    assert digests["checkpoint"] == sha256(made.folder / "iter_0000004/manifest.json")
    assert len(digests["prompts"]) == 64
    assert finished.results()["first_prompt"].endswith("?\nThe answer is:")


def test_progress_ends_with_all_questions(finished):
    progress = read_json(finished.run.progress("evaluate", 0))

    assert (progress["done"], progress["total"], progress["unit"]) == (6, 6, "questions")


def test_results_and_answers_are_all_that_is_left_after_a_killed_attempt(finished):
    answers, *names = sorted(path.name for path in finished.folder.iterdir())

    assert answers.startswith("answers-")
    assert names == ["questions.jsonl", "results.json"]


def test_two_tensor_ranks_answer_as_one(evaluation, finished):
    split = evaluation(tensor=2)

    outcome = split.start()

    assert outcome.returncode == 0, outcome.stderr
    assert split.results()["accuracy"] == finished.results()["accuracy"]
    for ours, theirs in zip(split.questions(), finished.questions(), strict=True):
        assert ours["loglikelihoods"] == pytest.approx(theirs["loglikelihoods"], abs=1e-3)


def test_the_first_checkpoint_is_the_one_before_training(evaluation, finished):
    first = evaluation(checkpoint="first")

    assert first.start().returncode == 0
    assert first.results()["checkpoint_step"] == 0
    assert first.questions() != finished.questions()


def test_worked_examples_come_before_every_question_and_the_limit_takes_a_sample(
    evaluation, finished
):
    shown = evaluation(shots=2, limit=4)

    assert shown.start().returncode == 0
    scored = {item["id"]: item for item in finished.questions()}
    assert {item["answer"] for item in shown.questions()} == {0, 1, 2, 3}
    for ours in shown.questions():
        if ours["id"] == "q7":
            continue  # of its prompt only the end is read
        theirs = scored[ours["id"]]
        assert ours["loglikelihoods"] != pytest.approx(theirs["loglikelihoods"], abs=1e-3)


def test_an_evaluation_uses_neither_the_network_nor_the_home_folder(evaluation, tmp_path_factory):
    """Not even with the prompts of lm-eval, whose task names a data set on the hub."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("medmcqa")
    record = {"id": "q", "question": "Which?", "cop": 2}
    record |= {"opa": "a", "opb": "b", "opc": "c", "opd": "d"}
    (folder / "dev.json").write_text(json.dumps(record) + "\n")
    task = evaluation(path=str(folder / "dev.json"), kind="medmcqa", mode="harness")
    callers = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"http://127.0.0.1:{server.getsockname()[1]}"

        def listen():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                callers.append(connection.recv(200))
                connection.close()

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_ENDPOINT"), where)
        outcome = task.interpret(**proxies, HOME=str(home))
        server.shutdown(socket.SHUT_RDWR)
        listener.join()

    assert outcome.returncode == 0, outcome.stderr
    assert callers == []
    assert list(home.iterdir()) == []
    assert task.results()["first_prompt"].startswith("Question: Which?\nChoices:\nA. a\n")


REFUSED = [
    (
        {"target_step": 8},
        "{checkpoints}: training is at step 6 of 8; no unfinished model is evaluated",
        "finish pretraining first, or name `first` or a step number",
    ),
    (
        {"checkpoint": "3"},
        "{checkpoints}: no valid checkpoint of step 3; the newest is of step 6",
        "name `first`, `last` or a step that was kept (`keep_checkpoints`, `keep_steps`)",
    ),
    (
        {"checkpoint_dir": "checkpoints"},
        "{run}/checkpoints: no valid checkpoint",
        "{meditron submit pretrain --run} first",
    ),
    (
        {"shots": 3},
        "{benchmark}: `shots` is 3, the benchmark has 2 train records",
        "set `shots` to 0, or add train records to the benchmark",
    ),
    (
        {"eod_token": "<end>"},
        "{checkpoints}/iter_0000004: its added tokens, their roles or their first rows differ from "
        "this run's",
        "use the run with the settings that it was trained with",
    ),
    (
        {"tokenizer_sha256": "0" * 64},
        "{tokenizer}: the tokenizer has changed since the run was made "
        "(SHA-256 {digest}, was 000000000000)",
        "put the old file back, then {meditron resume}",
    ),
]


@pytest.mark.parametrize(("fields", "message", "hint"), REFUSED)
def test_what_cannot_be_evaluated_is_refused_and_nothing_remains(
    evaluation, made, benchmark, tokenizer, fields, message, hint
):
    refused = evaluation(**fields)

    outcome = refused.start()

    message = message.format(
        checkpoints=made.folder,
        run=refused.run.root,
        benchmark=benchmark,
        tokenizer=tokenizer,
        digest=sha256(tokenizer)[:12],
    )
    assert outcome.returncode == 2
    assert outcome.stderr.splitlines()[-2:] == [
        f"evaluate: {message}",
        f"hint: {refused.run.hint(hint)}",
    ]
    assert not refused.folder.exists()


def test_a_model_is_evaluated_at_another_sequence_length_and_padding(evaluation, finished):
    spec = finished.task.spec.model
    spec = dataclasses.replace(spec, seq_length=4 * spec.seq_length, padded_vocab_size=1024)
    other = evaluation(model=spec)

    outcome = other.start()

    assert outcome.returncode == 0, outcome.stderr
    assert other.results()["truncated"] == 0
    untruncated = [item for item in finished.questions() if item["id"] != "q7"]
    found = {item["id"]: item["loglikelihoods"] for item in other.questions()}
    for item in untruncated:
        assert found[item["id"]] == pytest.approx(item["loglikelihoods"], abs=1e-3)


def test_an_altered_part_is_named_and_no_results_are_written(evaluation, made, tmp_path):
    folder = shutil.copytree(made.folder, tmp_path / "checkpoints")
    shard = folder / "iter_0000004/__0_0.distcp"
    first = manifest.manifest(shard.parent)[shard.name][0].bytes
    content = bytearray(shard.read_bytes())
    content[first // 2] ^= 1
    shard.write_bytes(content)
    altered = evaluation(checkpoint_dir=str(folder))

    outcome = altered.start()

    assert outcome.returncode == 2, outcome.stderr
    assert "iter_0000004: __0_0.distcp has the right size, but" in outcome.stderr
    assert not altered.folder.exists()


def test_a_model_of_another_shape_is_refused(evaluation, made):
    refused = evaluation()
    spec = dataclasses.replace(refused.task.spec.model, layers=3)
    refused = evaluation(model=spec)

    outcome = refused.start()

    assert outcome.returncode == 2
    assert f"{made.folder}/iter_0000004: its model has another architecture" in outcome.stderr


HELD = """
import os, signal, sys
from jobs.__main__ import main

steps = []

def watch(event, arguments):
    if event == "os.rename" and "/leases/" in str(arguments[1]):
        steps.append("leased")
    elif event == "open" and steps == ["leased"] and "/iter_0000004/" in str(arguments[0]):
        steps.append("stopped")
        os.kill(os.getpid(), signal.SIGSTOP)

sys.addaudithook(watch)
sys.exit(main())
"""
"""A rank that stops as it reads the checkpoint that it has leased, until it is let continue."""


def test_a_checkpoint_stays_while_it_is_evaluated_although_training_prunes(
    evaluation, made, tmp_path
):
    folder = shutil.copytree(made.folder, tmp_path / "checkpoints")
    task = evaluation(checkpoint_dir=str(folder), batch_size=1)

    def leases():
        return sorted((folder / "leases").glob("iter_0000004.*.json"))

    def is_held(rank):
        process = processes.read(rank.pid)
        return process is not None and process.state == "T"

    (killed,) = task.begin(code=HELD)
    wait_until(lambda: is_held(killed))
    killed.kill()
    killed.communicate()
    retention.prune(folder, 0)  # as training does after each save: step 6 is the newest
    (left,) = leases()
    (rank,) = task.begin(code=HELD)
    wait_until(lambda: is_held(rank))
    assert len(leases()) == 2
    left.unlink()
    retention.prune(folder, 0)
    rank.send_signal(signal.SIGCONT)
    while rank.poll() is None:
        retention.prune(folder, 0)
        time.sleep(0.01)
    output = rank.communicate()

    assert rank.returncode == 0, output
    assert task.results()["checkpoint_step"] == 4
    assert leases() == []
    retention.prune(folder, 0)
    assert not (folder / "iter_0000004").exists()
    late = task.start()
    assert late.returncode == 2
    assert "no valid checkpoint of step 4; the newest is of step 6" in late.stderr


def test_weights_that_are_not_numbers_fail_instead_of_scoring(evaluation):
    broken = evaluation(target_step=6)

    outcome = broken.start()

    assert outcome.returncode == 1
    assert "evaluate: question q7: the log-likelihoods [nan, nan] are not finite" in outcome.stderr
    assert not broken.folder.exists()


def test_an_evaluation_requested_to_stop_writes_no_results(evaluation):
    stopped = evaluation(tensor=2)
    stopped.run.stop_file.touch()

    outcome = stopped.start()

    assert outcome.returncode == 130
    assert "evaluate: stopped after" in outcome.stderr
    assert not (stopped.folder / "results.json").exists()


def test_a_bad_line_of_the_benchmark_is_named(evaluation, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"id": "x"}) + "\n")
    refused = evaluation(path=str(path))

    outcome = refused.start()

    assert outcome.returncode == 2
    assert f"evaluate: {path}:1: `question` is missing, empty or not a string" in outcome.stderr
