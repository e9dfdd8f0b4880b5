"""`meditron submit`: what it prints, refuses and waits for."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meditron_cli.commands import options, submit
from meditron_cli.config import files
from meditron_cli.main import main
from meditron_cli.reporting import follow
from meditron_cli.scheduler.base import JobState

from ...conftest import Bench
from ...fakes import FakeClock


def test_json_names_the_run_its_folder_and_its_jobs(meditron: Bench) -> None:
    result = meditron.submit("--json")

    run = meditron.run()
    assert json.loads(result.stdout) == {
        "format": 1,
        "run": run.name,
        "dir": str(run.root),
        "jobs": {
            "curate": ["101_0"],
            "tokenize": ["102_0", "102_1", "102_2"],
            "index": ["103_0"],
            "pretrain": ["104_0"],
            "evaluate": ["105_0", "105_1"],
        },
    }


def test_a_dry_run_prints_what_the_scheduler_renders_and_makes_nothing(meditron: Bench) -> None:
    result = meditron.submit("--dry-run")

    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[1] for line in lines] == ["curate", "tokenize", "index", "pretrain", "evaluate"]
    assert lines[0][0].startswith("trial-tiny-")
    assert not meditron.runs.exists()
    assert meditron.scheduler.submitted == []


def test_a_dry_run_shows_a_profile_that_is_not_filled_in_and_submit_refuses_it(
    meditron: Bench,
) -> None:
    words = ("pretrain", "--cluster", "rcp", "--size", "7b", "--set", "tokenize.tokenizer=t.json")

    shown = meditron("submit", *words, "--dry-run")
    refused = meditron("submit", *words)

    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.endswith(" pretrain\n")
    assert "warning: " in shown.stderr
    assert refused.exit_code == 2
    assert "rcp.yaml" in refused.stderr
    assert not meditron.runs.exists()


def test_a_pipeline_without_benchmarks_has_no_evaluation(meditron: Bench) -> None:
    result = meditron.submit("--json", "--set", "evaluate.benchmarks=[]")

    assert list(json.loads(result.stdout)["jobs"]) == ["curate", "tokenize", "index", "pretrain"]


def test_an_evaluation_of_nothing_is_refused(meditron: Bench) -> None:
    result = meditron.submit("--set", "evaluate.benchmarks=[]", stage="evaluate")

    assert result.exit_code == 2
    assert result.stderr == (
        "error: evaluate.benchmarks lists no benchmark, or evaluate.checkpoints no checkpoint to "
        "score\nhint: `meditron explain evaluate` explains the key\n"
    )


def test_every_missing_input_is_named_before_anything_is_made(meditron: Bench) -> None:
    for name in ("docs.jsonl", "tokenizer.json", "quiz.jsonl"):
        (meditron.folder / name).unlink()

    result = meditron.submit()

    assert result.exit_code == 2
    for name in ("docs.jsonl", "tokenizer.json", "quiz.jsonl"):
        assert result.stderr.count(f"{name}: no such file or folder") == 1
    assert not meditron.runs.exists()


UNUSABLE = {
    "no JSON": ("oops", "", ":1: not JSON (Expecting value: line 1 column 1 (char 0)); correct"),
    "no question": (
        '{"id": "q1"}',
        "",
        ":1: `question` is missing, empty or not a string; correct",
    ),
    "an answer outside of the choices": (
        '{"id": "q1", "question": "Which?", "choices": ["this", "that"], "answer": 2}',
        "",
        ":1: `answer` is 2; it is an index from 0 to 1",
    ),
    "another layout": (
        '{"id": "q1", "question": "Which?", "choices": ["this", "that"], "answer": 0}',
        ", kind: medmcqa",
        ":1: `opa` is missing, empty or not a string; correct",
    ),
    "examples without train records": (
        '{"id": "q1", "question": "Which?", "choices": ["this", "that"], "answer": 0}',
        ", shots: 3",
        ": `shots` is 3, the benchmark has 0 train records; set `shots` to 0, or add",
    ),
    "options without letters": (
        '{"id": "q1", "question": "Which?", "choices": ["this", "that"], "answer": 0}',
        ", permute: 3",
        ": `permute` has no effect, no prompt lists its options under letters; remove `permute`",
    ),
}


@pytest.mark.parametrize(("content", "settings", "problem"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_benchmark_is_refused_before_anything_is_made(
    content: str, settings: str, problem: str, meditron: Bench
) -> None:
    (meditron.folder / "quiz.jsonl").write_text(content + "\n")

    experiment = meditron.folder / "experiment.yaml"
    text = experiment.read_text()
    experiment.write_text(text.replace("path: quiz.jsonl", f"path: quiz.jsonl{settings}"))

    refused = meditron.submit()
    checked = meditron("check", "--cluster", "test-slurm", "--size", "tiny")

    assert refused.exit_code == checked.exit_code == 2
    for result in (refused, checked):
        assert f"evaluate.benchmarks (quiz): {meditron.folder}/quiz.jsonl{problem}" in result.stderr
    assert not meditron.runs.exists()


def test_each_of_two_benchmarks_in_one_file_has_its_own_settings(meditron: Bench) -> None:
    two = "[{name: few, path: quiz.jsonl, shots: 3}, {name: none, path: quiz.jsonl}]"

    result = meditron.submit("--set", f"evaluate.benchmarks={two}")

    assert result.exit_code == 2
    assert "evaluate.benchmarks (few): " in result.stderr
    assert "evaluate.benchmarks (none): " not in result.stderr


def test_a_stage_that_reads_no_benchmark_accepts_an_unusable_one(meditron: Bench) -> None:
    (meditron.folder / "quiz.jsonl").write_text("oops\n")

    assert meditron.submit(stage="curate").exit_code == 0


def test_a_folder_without_an_experiment_is_refused_with_the_command_that_writes_one(
    meditron: Bench,
) -> None:
    (meditron.folder / "experiment.yaml").unlink()

    result = meditron("submit", "curate", "--cluster", "local", "--size", "tiny")

    assert result.exit_code == 2
    assert result.stderr == (
        "error: experiment.yaml: curate.sources: no documents are named, as this folder has no "
        "such file; name an experiment with --config\n"
        "hint: `meditron init` writes experiment.yaml and a sample corpus into this folder\n"
    )
    assert not meditron.runs.exists()
    assert meditron("init").exit_code == 0


def write_tokenizer(folder: Path, vocabulary: object, added: object = None) -> None:
    content = {"model": {"vocab": vocabulary}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("vocabulary", "added", "message"),
    [
        (
            {"<EOD>": 0, "a": 7},
            None,
            "{path} has 8 tokens, the model only 4; set model.vocab_size to 8 or more",
        ),
        (
            {"a": 0},
            [{"content": "<EOD>", "id": 4}],
            "{path} has 5 tokens, the model only 4; set model.vocab_size to 5 or more",
        ),
        (
            {"a": 0},
            [{"content": "<s>", "id": 1}],
            "vocabulary.eod_token: {path}: no token '<EOD>' in the vocabulary; set "
            "vocabulary.eod_token to one it has (its added tokens: <s>)",
        ),
        (3, None, "{path} is not a tokenizer.json (it has no model with a vocabulary)"),
    ],
)
def test_a_tokenizer_that_cannot_serve_is_refused(
    meditron: Bench, vocabulary: object, added: object, message: str
) -> None:
    write_tokenizer(meditron.folder, vocabulary, added)

    result = meditron.submit()

    assert result.exit_code == 2
    path = meditron.folder / "tokenizer.json"
    assert result.stderr.splitlines()[0].endswith(message.format(path=path))
    assert not meditron.runs.exists()


def test_a_tokenizer_that_is_not_json_is_refused(meditron: Bench) -> None:
    (meditron.folder / "tokenizer.json").write_bytes(b"\xff\xfe{")

    result = meditron.submit()

    assert result.exit_code == 2
    assert "tokenizer.json is not a tokenizer.json" in result.stderr


def test_a_tokenizer_without_the_added_tokens_is_refused(meditron: Bench) -> None:
    write_tokenizer(meditron.folder, {"<EOD>": 0, "a": 1})

    result = meditron.submit("--set", 'vocabulary.added_tokens=["[fig]"]')

    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == (
        f"error: vocabulary.added_tokens: {meditron.folder / 'tokenizer.json'}: 0 of 1 added token "
        "in the vocabulary of 2; the first that it lacks is '[fig]'; `meditron tokenizer build "
        "--help` shows how to make a tokenizer.json with these tokens"
    )
    assert not meditron.runs.exists()


def test_the_tokenizer_of_another_model_is_refused(meditron: Bench) -> None:
    folder = meditron.folder / "base"
    folder.mkdir()
    write_tokenizer(folder, {"<EOD>": 1, "fever": 0, "heart": 2, "insulin": 3})
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")

    result = meditron.submit("--set", f"model.weights={folder}")

    assert result.exit_code == 2
    config = meditron.folder / "experiment.yaml"
    assert result.stderr.splitlines()[0] == (
        f"error: tokenize.tokenizer: {meditron.folder / 'tokenizer.json'} is not that of the base "
        f"model in {folder}: 'fever' has the id 1, in the base model it has 0; `meditron tokenizer "
        f"build --size tiny {folder} --config {config} --output base.json` makes one that is"
    )
    assert not meditron.runs.exists()
    write_tokenizer(folder, {"<EOD>": 0, "fever": 1, "heart": 2, "insulin": 3})
    again = meditron.submit("--set", f"model.weights={folder}", stage="tokenize")
    assert "is not that of the base model" not in again.stderr


@pytest.mark.parametrize("name", ["docs.jsonl", "quiz.jsonl"])
def test_an_empty_input_is_refused(meditron: Bench, name: str) -> None:
    (meditron.folder / name).write_text("")

    result = meditron.submit()

    assert result.exit_code == 2
    assert result.stderr.splitlines()[0].endswith(f"{meditron.folder / name} is empty")


def test_an_empty_folder_of_sources_is_refused(meditron: Bench) -> None:
    (meditron.folder / "docs.jsonl").unlink()
    (meditron.folder / "docs.jsonl").mkdir()

    result = meditron.submit()

    assert result.exit_code == 2
    assert f"the folder {meditron.folder / 'docs.jsonl'} is empty" in result.stderr


def test_waiting_ends_when_the_run_has_succeeded(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    stages = iter([("curate", 1), ("tokenize", 3), ("index", 1), ("pretrain", 1), ("evaluate", 2)])

    waited = []

    def work() -> None:
        stage, count = next(stages, ("", 0))
        if stage:
            finish(meditron.run(), stage, *range(count))
            meditron.scheduler.put_stage(stage, JobState.ENDED, "COMPLETED")
        else:  # no supervisor is left to write an exit record, and that wait has an end
            waited.append(meditron.clock.now())

    meditron.clock.when_slept = work

    result = meditron.submit("--wait")

    assert result.exit_code == 0
    assert waited[-1] - waited[0] <= follow.EXIT_RECORD_SECONDS
    lines = result.stderr.splitlines()
    assert "tokenize: succeeded 3/3 tasks" in lines
    assert lines[-1].endswith("shows the results")


@pytest.mark.parametrize(("code", "exit_code"), [(1, 4), (2, 2), (5, 4)])
def test_waiting_for_a_run_that_fails_is_exit_4_or_2_on_bad_input_with_its_reason(
    meditron: Bench, fail: Callable[..., None], code: int, exit_code: int
) -> None:
    def break_down() -> None:
        fail(meditron.run(), "curate", 0, code=code)
        for stage in ("tokenize", "index", "pretrain", "evaluate"):
            meditron.scheduler.put_stage(
                stage, JobState.QUEUED, "PENDING", "DependencyNeverSatisfied"
            )

    meditron.clock.when_slept = break_down

    result = meditron.submit("--wait")

    assert result.exit_code == exit_code
    assert result.stderr.endswith(
        f"error: run {meditron.run().name} failed: curate task 0: docs.jsonl:7: no text\n"
        "hint: fix the line\n"
    )


def test_an_interruption_while_waiting_does_not_end_the_run(meditron: Bench) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    meditron.clock.when_slept = interrupt

    result = meditron.submit("--wait")

    name = meditron.run().name
    assert result.exit_code == 130
    assert meditron.scheduler.cancelled == []
    assert (
        f"run {name} continues; `meditron status {name}`, `meditron logs --follow {name}`, "
        f"`meditron cancel {name}`" in result.stderr
    )


def test_a_run_outside_the_usual_place_comes_with_a_hint(meditron: Bench) -> None:
    elsewhere = meditron.folder / "elsewhere"

    result = meditron.submit("--runs-dir", str(elsewhere))

    assert f"hint: `export MEDITRON_RUNS={elsewhere}` shows the run to commands in" in result.stderr


def test_a_stage_can_be_submitted_for_a_run_without_its_options(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit("--set", "pretrain.train_steps=20", "--set", "pretrain.warmup_steps=2")
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    finish(run, "pretrain", 0)
    meditron.scheduler.jobs.clear()
    meditron.clock.time += 1_000

    result = meditron("submit", "evaluate", "--run", run.name[:14], "--json")

    assert result.exit_code == 0, result.stderr
    submitted = json.loads(result.stdout)
    assert (submitted["run"], list(submitted["jobs"])) == (run.name, ["evaluate"])
    assert len(list(meditron.runs.iterdir())) == 1
    assert list(meditron.events("request")) == []


@pytest.mark.parametrize(
    "words",
    [
        ("--size", "tiny"),
        ("--cluster", "local"),
        ("--config", "experiment.yaml"),
        ("--new",),
    ],
)
def test_options_that_change_the_configuration_are_refused_with_run(
    meditron: Bench, words: tuple[str, ...]
) -> None:
    meditron.submit(stage="curate")

    result = meditron("submit", "curate", "--run", meditron.run().name, *words)

    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"error: {words[0]} cannot be given with --run, which submits the run as it is configured"
    )


def test_a_run_that_was_named_is_not_said_to_have_the_same_configuration(meditron: Bench) -> None:
    """Nor is ``--new`` offered, which cannot be given with ``--run``."""
    meditron.submit(stage="curate")
    name = meditron.run().name

    result = meditron("submit", "curate", "--run", name, "--set", "curate.time_minutes=7")

    assert result.stderr.splitlines()[0] == f"continuing run {name} (curate 0/1 task)"


def test_run_with_another_step_exports_it_beside_the_first(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    finish(run, "pretrain", 0)
    meditron.scheduler.jobs.clear()

    result = meditron("submit", "export", "--run", run.name, "--set", "export.step=first", "--json")

    assert result.exit_code == 0, result.stderr
    submitted = json.loads(result.stdout)
    assert (submitted["run"], list(submitted["jobs"])) == (run.name, ["export"])
    assert "export-first" in run.spec("export", 0).read_text()
    assert [event["experiment"]["export"]["step"] for event in meditron.events("request")] == [
        ["first"]
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("pretrain.train_steps=900", "cannot continue with another pretrain.train_steps"),
        ("export.stride=2", "--set export.stride=2: export.stride"),
        ("export", "write KEY=VALUE"),
    ],
)
def test_a_setting_that_makes_another_run_or_none_is_refused_with_run(
    meditron: Bench, value: str, message: str
) -> None:
    meditron.submit(stage="curate")

    result = meditron("submit", "curate", "--run", meditron.run().name, "--set", value)

    assert result.exit_code == 2
    assert message in result.stderr
    assert list(meditron.events("request")) == []


def test_run_with_a_missing_input_names_it(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    (meditron.folder / "docs.jsonl").unlink()

    result = meditron("submit", "curate", "--run", meditron.run().name)

    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: run {meditron.run().name}: curate.sources[0]: ")


@pytest.mark.parametrize("option", ["--cluster", "--size"])
def test_cluster_and_size_are_required_without_run(meditron: Bench, option: str) -> None:
    words = {"--cluster": "local", "--size": "tiny"}
    del words[option]

    result = meditron("submit", "curate", *(word for pair in words.items() for word in pair))

    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: missing option '{option}'")


def test_new_run_beside_one_of_the_same_experiment_is_noted_with_what_differs(
    meditron: Bench,
) -> None:
    meditron.submit(stage="curate")
    first = meditron.run().name

    other = meditron.submit("--set", "pretrain.learning_rate=2e-3", stage="curate")
    again = meditron.submit("--set", "pretrain.learning_rate=2e-3", stage="curate")
    new = meditron.submit("--set", "pretrain.learning_rate=4e-3", "--new", stage="curate")

    assert (
        f" is a new run: {first} differs in pretrain.learning_rate; "
        f"`meditron submit curate --run {first}` continues that one"
    ) in other.stderr
    assert "is a new run" not in again.stderr + new.stderr


def test_a_run_that_an_equal_submit_makes_meanwhile_is_not_noted(
    meditron: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = options.load_target("local", "tiny", meditron.folder / "experiment.yaml", ())
    first = submit.resolve(meditron.services(), loaded, "pipeline", None, new=False)
    meditron.submit()

    submit.note_other_runs(first, "pipeline")

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("key", ["curate.sources=[pipe]", "tokenize.tokenizer=pipe"])
def test_a_pipe_as_input_is_refused(meditron: Bench, key: str) -> None:
    os.mkfifo(meditron.folder / "pipe")

    result = meditron.submit("--set", key)

    assert result.exit_code == 2
    assert f"{meditron.folder}/pipe is neither a regular file nor a folder\n" in result.stderr
    assert not meditron.runs.exists()


def test_the_hint_about_a_profiles_runs_directory_is_quoted(meditron: Bench) -> None:
    profile = meditron.folder / "mine.yaml"
    text = (files.shipped_profiles() / "local.yaml").read_text()
    profile.write_text(text.replace("name: local", "name: mine", 1) + "runs_dir: a$(id) b\n")
    config = str(meditron.folder / "experiment.yaml")
    words = ("--cluster", str(profile), "--size", "tiny", "--config", config)
    services = dataclasses.replace(meditron.services(), environ={})

    result = CliRunner().invoke(main, ["submit", "curate", *words], obj=services)

    assert result.exit_code == 2, result.output
    assert "variables are not replaced" in result.stderr

    profile.write_text(text.replace("name: local", "name: mine", 1) + "runs_dir: a (id) b\n")
    result = CliRunner().invoke(main, ["submit", "curate", *words], obj=services)

    assert result.exit_code == 0, result.output
    quoted = f"'{meditron.folder}/a (id) b'"
    assert f"hint: `export MEDITRON_RUNS={quoted}` shows the run to commands in" in result.stderr


@pytest.fixture
def elsewhere(meditron: Bench) -> Callable[..., Result]:
    """Return `meditron` without MEDITRON_RUNS, and a profile `mine.yaml` with a runs_dir."""
    text = (files.shipped_profiles() / "local.yaml").read_text()
    text = text.replace("name: local", "name: mine", 1) + "runs_dir: far/runs\n"
    (meditron.folder / "mine.yaml").write_text(text)
    services = dataclasses.replace(meditron.services(), environ={})

    def call(*words: str) -> Result:
        return CliRunner().invoke(main, list(words), obj=services)

    return call


SUBMIT_CURATE = ("submit", "curate", "--size", "tiny", "--cluster")


def test_status_finds_the_run_where_the_profile_put_it(
    meditron: Bench, elsewhere: Callable[..., Result]
) -> None:
    assert elsewhere(*SUBMIT_CURATE, "./mine.yaml").exit_code == 0
    (run,) = (meditron.folder / "far" / "runs").iterdir()

    assert f"{run.name}  pending" in elsewhere("status").stdout
    assert elsewhere("cancel", run.name).exit_code == 0


def test_status_finds_the_run_of_the_last_submission_from_the_folder(
    meditron: Bench, elsewhere: Callable[..., Result]
) -> None:
    elsewhere(*SUBMIT_CURATE, "./mine.yaml")
    elsewhere(*SUBMIT_CURATE, "local")

    assert meditron.run().name in elsewhere("status").stdout


def test_the_later_of_two_first_submits_continues_the_run(meditron: Bench) -> None:
    class OneFirst(FakeClock):
        """Lets another submit make the run just before this one does."""

        def now(self) -> float:
            if not meditron.runs.exists():
                meditron.runs.mkdir()
                meditron.submit()
            return super().now()

    services = dataclasses.replace(meditron.services(), clock=OneFirst())
    config = str(meditron.folder / "experiment.yaml")
    words = ["submit", "pipeline", "--cluster", "local", "--size", "tiny", "--config", config]

    result = CliRunner().invoke(main, words, obj=services)

    assert result.exit_code == 0, result.output
    assert "continuing run" in result.stderr
    assert len(meditron.scheduler.submitted) == 5
