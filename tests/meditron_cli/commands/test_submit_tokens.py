"""Trainings that `submit` refuses for their tokens or checkpoints, before anything is created."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from click.testing import Result

from jobs.contract import done_markers, specs
from jobs.contract.files import sha256
from jobs.contract.rundir import RunDir
from jobs.data.indexed_dataset import IndexedWriter

from ...conftest import Bench
from ...jobs.checkpoint_files import write_checkpoint
from ...metric_lines import append, skip, step

TOKENS = 16 * 128 * 60
"""Of 60 batches of the recipe ``tiny``, which has 500 steps."""


def write_tokens(prefix: Path, tokens: int = TOKENS, dtype: str = "uint16", last: int = 0) -> None:
    writer = IndexedWriter(prefix, dtype)
    ids = numpy.full(tokens, 3, dtype=writer.dtype)
    ids[-1:] = last
    writer.add(ids, numpy.array([tokens], dtype=numpy.int32))
    writer.publish()


@pytest.fixture
def submit(meditron: Bench) -> Callable[..., Result]:
    """Submit training on the dataset ``tokens`` of the project."""

    def submit(*settings: str) -> Result:
        words = [word for setting in settings for word in ("--set", setting)]
        data = f"pretrain.data=[{meditron.folder / 'tokens'}]"
        return meditron.submit("--set", data, *words, stage="pretrain")

    return submit


def refusal(meditron: Bench, done: Result) -> tuple[str, str]:
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert not meditron.runs.exists()
    assert meditron.scheduler.submitted == []
    error, hint = done.stderr.splitlines()[-2:]
    return error.removeprefix("error: "), hint.removeprefix("hint: ")


def test_more_epochs_than_allowed_with_the_command_that_allows_them(
    meditron: Bench, submit: Callable[..., Result]
) -> None:
    write_tokens(meditron.folder / "tokens")

    message, hint = refusal(meditron, submit("pretrain.max_epochs=4"))

    assert message == (
        f"500 steps read the {TOKENS:,} training tokens 8.3 times, and pretrain.max_epochs is 4, "
        "which 240 steps would keep to"
    )
    _, command, _ = hint.split("`")
    assert meditron(*shlex.split(command)[1:]).exit_code == 0
    task = specs.load_task(meditron.run(), "pretrain", 0)
    assert task.training is not None
    assert task.training.max_epochs == 9.0


def test_the_tiny_recipe_allows_ten_epochs_and_null_any_number(
    meditron: Bench, submit: Callable[..., Result]
) -> None:
    write_tokens(meditron.folder / "tokens")
    assert submit().exit_code == 0
    write_tokens(meditron.folder / "tokens", TOKENS // 2)

    assert "pretrain.max_epochs is 10" in submit("seed=2").stderr
    assert submit("seed=2", "pretrain.max_epochs=null").exit_code == 0


def test_fewer_sequences_than_a_batch(meditron: Bench, submit: Callable[..., Result]) -> None:
    write_tokens(meditron.folder / "tokens", 16 * 128)

    message, _ = refusal(meditron, submit("pretrain.max_epochs=null"))

    assert message == (
        "2048 training tokens are 15 sequences of 128, and pretrain.global_batch_size is 16: one "
        "batch would repeat documents"
    )


@pytest.mark.parametrize(("last", "dtype"), [(-1, "int32"), (4, "uint16")])
def test_ids_outside_the_vocabulary(
    meditron: Bench, submit: Callable[..., Result], last: int, dtype: str
) -> None:
    write_tokens(meditron.folder / "tokens", dtype=dtype, last=last)

    message, hint = refusal(meditron, submit())

    binary = meditron.folder / "tokens.bin"
    assert message == f"{binary} holds token {last}, the model has a vocabulary of 4"
    assert hint.startswith("tokenize with the tokenizer of this model")


def test_documents_that_do_not_end_as_those_of_the_tokenizer(
    meditron: Bench, submit: Callable[..., Result]
) -> None:
    write_tokens(meditron.folder / "tokens", last=2)

    message, hint = refusal(meditron, submit())

    assert message == (
        f"{meditron.folder / 'tokens'}.bin: of its documents none ends with '<EOD>', token 0 of "
        "this tokenizer; 1 were read, most end with token 2"
    )
    *_, command, _ = hint.split("`")
    assert meditron(*shlex.split(command)[1:]).exit_code == 0
    task = specs.load_task(meditron.run(), "pretrain", 0)
    assert task.training is not None
    assert not task.training.require_eod


@pytest.fixture
def tried(meditron: Bench) -> Callable[..., list[Result]]:
    """Try training on datasets of the project with `check`, `plan` and `submit`."""
    file = meditron.folder / "experiment.yaml"
    text = file.read_text()

    def tried(*data: str) -> list[Result]:
        named = ", ".join(str(meditron.folder / name) for name in data)
        file.write_text(f"{text}pretrain: {{data: [{named}]}}\n")
        target = ("--cluster", "local", "--size", "tiny")
        config = ("--config", str(file))
        return [
            meditron("check", str(file), *target),
            meditron("plan", "pretrain", *target, *config),
            meditron("submit", "pretrain", *target, *config, "--dry-run"),
            meditron("submit", "pretrain", *target, *config),
        ]

    return tried


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"last": 2}, "of its documents none ends with '<EOD>'"),
        ({"last": -1, "dtype": "int32"}, "holds token -1, the model has a vocabulary of 4"),
        ({"tokens": 16 * 128}, "one batch would repeat documents"),
        ({"tokens": 30 * 16 * 128}, "--set pretrain.max_epochs=17` allows it"),
    ],
)
def test_check_and_plan_refuse_what_submit_refuses(
    meditron: Bench, tried: Callable[..., list[Result]], written: dict[str, Any], message: str
) -> None:
    write_tokens(meditron.folder / "tokens", **written)

    results = tried("tokens")

    assert [result.exit_code for result in results] == [2] * 4
    *_, submitted = (result.stderr[result.stderr.index("error: ") :] for result in results)
    assert message in submitted
    for result in results[1:]:
        assert result.stderr.endswith(submitted)
    assert results[0].stderr == submitted.replace(" submit pretrain ", " submit pipeline ")
    assert not meditron.runs.exists()


def test_check_and_plan_refuse_a_checkpoint_beyond_the_target(
    meditron: Bench, tried: Callable[..., list[Result]]
) -> None:
    write_tokens(meditron.folder / "tokens")
    assert [result.exit_code for result in tried("tokens")] == [0] * 4
    write_checkpoint(meditron.run().path("checkpoints"), 501)

    results = tried("tokens")

    assert [result.exit_code for result in results] == [2] * 4
    for result in results:
        assert "is of step 501, beyond the target of this training, step 500\n" in result.stderr


def test_check_names_a_dataset_that_is_not_here_and_checks_the_others(
    meditron: Bench, tried: Callable[..., list[Result]]
) -> None:
    write_tokens(meditron.folder / "tokens", last=2)

    check, *_ = tried("tokens", "more")

    assert check.exit_code == 2
    assert f"{meditron.folder}/more.idx: no such file or folder\n" in check.stderr
    assert check.stderr.startswith("warning: not checked: ")
    assert f"error: {meditron.folder}/tokens.bin: of its documents none ends" in check.stderr


def test_check_leaves_out_data_whose_tokenizer_is_not_here(
    meditron: Bench, tried: Callable[..., list[Result]]
) -> None:
    write_tokens(meditron.folder / "tokens", last=2)
    (meditron.folder / "tokenizer.json").unlink()

    check, *_ = tried("tokens")

    assert check.exit_code == 0
    assert check.stdout.endswith(": a valid experiment, which fits cluster local at size tiny\n")
    assert f"{meditron.folder}/tokenizer.json: no such file or folder\n" in check.stderr


def test_a_damaged_index(meditron: Bench, submit: Callable[..., Result]) -> None:
    write_tokens(meditron.folder / "tokens")
    index = meditron.folder / "tokens.idx"
    index.write_bytes(index.read_bytes()[:-1])

    message, hint = refusal(meditron, submit())

    assert message == f"{index} is not a complete index of tokens"
    assert hint == "make the dataset again"


def test_tokens_that_another_run_made_with_another_tokenizer(
    meditron: Bench, tmp_path: Path
) -> None:
    other = RunDir(tmp_path / "other")
    write_tokens(other.path("tokens/train/00000"))
    meditron.submit("--set", "name=any")
    task = specs.load_task(meditron.run(), "tokenize", 0).spec
    shutil.rmtree(meditron.runs)
    meditron.scheduler.submitted.clear()
    finish(other, sha256(meditron.folder / "tokenizer.json"), task)
    data = f"pretrain.data=[{other.path('tokens/train/00000')}]"
    same = meditron.submit("--set", data, "--dry-run", stage="pretrain")
    assert same.exit_code == 0
    finish(other, "2" * 64, task)

    message, hint = refusal(meditron, meditron.submit("--set", data, stage="pretrain"))

    assert "00000.bin was tokenized with another tokenizer than this run's (SHA-256 222" in message
    assert hint.startswith("name datasets that were made with it")


def test_a_run_that_has_not_tokenized_its_corpus(meditron: Bench, tmp_path: Path) -> None:
    other = RunDir(tmp_path / "other")
    other.done_folder("curate").mkdir(parents=True)
    (other.root / "run.json").write_text("{}")
    shard = {"path": "corpus/train/00000.jsonl", "bytes": 1, "mtime_ns": 1}
    done_markers.write_done(
        other, "curate", 0, spec_digest="", inputs=[], outputs=[shard], summary={}, seconds=0.0
    )

    data = f"pretrain.data=[{other.root}]"
    message, _ = refusal(meditron, meditron.submit("--set", data, stage="pretrain"))

    assert message == f"{other.root}: tokenize has not finished corpus/train/00000.jsonl"


def finish(run: RunDir, tokenizer: str, spec: Any) -> None:
    prefix = "tokens/train/00000"
    read = {"path": "x", "bytes": 1, "mtime_ns": 1}
    done_markers.write_done(
        run,
        "tokenize",
        0,
        spec_digest="",
        inputs=[read, {**read, "sha256": tokenizer}],
        outputs=[done_markers.describe_file(run, f"{prefix}{end}") for end in (".bin", ".idx")],
        summary={"tokens": TOKENS, "vocabulary": specs.digest(spec.tokenizer.vocabulary)},
        seconds=0.0,
    )


def test_the_runs_own_tokens_once_they_are_made(
    meditron: Bench, finish_tokens: Callable[[int], None]
) -> None:
    """Too many epochs are refused for the training alone, and again for the whole pipeline."""
    assert meditron.submit().exit_code == 0
    finish_tokens(TOKENS // 2)
    jobs = len(meditron.scheduler.submitted)

    for stage in ("pretrain", "pipeline"):
        done = meditron.submit(stage=stage)
        assert done.exit_code == 2
        assert f"read the {TOKENS // 2:,} training tokens 16.7 times" in done.stderr
        assert f"meditron submit {stage} " in done.stderr
    by_name = meditron("submit", "pretrain", "--run", meditron.run().name)
    assert by_name.exit_code == 2
    assert "--run" in by_name.stderr
    assert len(meditron.scheduler.submitted) == jobs

    (meditron.folder / "docs.jsonl").write_text("{}")  # to be curated again
    assert "training tokens" not in meditron.submit().stderr


@pytest.fixture
def finish_tokens(meditron: Bench) -> Callable[[int], None]:
    """Finish curate and tokenize of the first run, with so many tokens."""

    def finish(tokens: int) -> None:
        run = meditron.run()
        curated = specs.load_task(run, "curate", 0)
        facts: dict[str, Any] = {"seconds": 1.0, "spec_digest": specs.digest(curated.spec)}
        source = done_markers.describe_file(run, str(meditron.folder / "docs.jsonl"))
        names = ("train/00000", "train/00001", "validation/00000")
        shards = [f"corpus/{name}.jsonl" for name in names]
        for shard in shards:
            run.path(shard).parent.mkdir(parents=True, exist_ok=True)
            run.path(shard).write_text("{}\n")
        described = [done_markers.describe_file(run, shard) for shard in shards]
        written = {"inputs": [source], "outputs": described, "summary": {}}
        done_markers.write_done(run, "curate", 0, **written, **facts)
        for index, prefix in enumerate(names):
            task = specs.load_task(run, "tokenize", index)
            write_tokens(run.path(f"tokens/{prefix}"), tokens // 2)
            outputs = [
                done_markers.describe_file(run, f"tokens/{prefix}{end}") for end in (".bin", ".idx")
            ]
            facts["spec_digest"] = specs.digest(task.spec)
            summary = {"documents": 1, "tokens": tokens // 2}
            written = {"inputs": [described[index]], "outputs": outputs, "summary": summary}
            done_markers.write_done(run, "tokenize", index, **written, **facts)

    return finish


def test_a_plan_shows_the_epochs_of_each_corpus_once_they_are_known(
    meditron: Bench, finish_tokens: Callable[[int], None]
) -> None:
    def plan(*more: str) -> str:
        config = str(meditron.folder / "experiment.yaml")
        target = ("--cluster", "local", "--size", "tiny", "--config", config)
        done = meditron("plan", "pipeline", *target, *more)
        assert done.exit_code == 0, done.output
        return done.stdout

    unknown = "data         at most 10 epochs; tokens are counted once tokenize has finished\n"
    assert unknown in plan()
    assert json.loads(plan("--json"))["training"]["corpora"] is None
    meditron.submit()
    finish_tokens(TOKENS)

    assert "data         8.33 epochs of corpus (122.9K tokens); at most 10 epochs\n" in plan()
    training = json.loads(plan("--json"))["training"]
    assert training["max_epochs"] == 10
    (corpus,) = training["corpora"]
    assert (corpus["name"], corpus["tokens"], corpus["share"]) == ("corpus", TOKENS, 1.0)
    assert training["phases"] == [
        {
            "first_step": 1,
            "tokens_before": 0,
            "sequence_length": 128,
            "tokens_per_step": 16 * 128,
            "by": "epochs",
            "weights": {"corpus": 1.0},
            "shares": {"corpus": 1.0},
            "tail": None,
            "train_steps": 500,
        }
    ]
    assert corpus["epochs"] == pytest.approx(500 / 60)


def test_a_plan_shows_the_epochs_of_a_mixture_and_refuses_those_of_one_corpus(
    meditron: Bench, submit: Callable[..., Result]
) -> None:
    """Of 500 steps of 16 x 128 tokens, a tenth is of the second corpus."""
    write_tokens(meditron.folder / "tokens", 10 * TOKENS)
    write_tokens(meditron.folder / "replay", TOKENS // 12)
    corpora = f"pretrain.corpora=[{{name: replay, data: [{meditron.folder / 'replay'}]}}]"
    mixture = "pretrain.mixture={by: tokens, weights: {corpus: 9, replay: 1}}"

    message, _ = refusal(meditron, submit(corpora, mixture, "pretrain.max_epochs=9"))
    assert message == (
        f"500 steps read the {TOKENS // 12:,} training tokens of the corpus 'replay' 10.0 times, "
        "and pretrain.max_epochs is 9, which 450 steps would keep to"
    )
    config = str(meditron.folder / "experiment.yaml")
    words = ("--cluster", "local", "--size", "tiny", "--config", config)
    data = f"pretrain.data=[{meditron.folder / 'tokens'}]"
    sets = [word for value in (data, corpora, mixture) for word in ("--set", value)]
    done = meditron("plan", "pretrain", *words, *sets)
    assert done.exit_code == 0, done.output
    assert (
        "data         0.75 epochs of corpus (1.2M tokens), 10 epochs of replay (10.2K tokens); at "
        "most 10 epochs of each\n"
        "mixture      90% corpus, 10% replay\n"
    ) in done.stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{corpus: 1, more: 1}", "no corpus has this name; there are corpus, replay"),
        ("{corpus: 0}", "must be at least 1e-09, found 0"),
        ("{corpus: -1, replay: 2}", "must be at least 1e-09, found -1"),
        ("{corpus: .inf}", "finite number"),
        ("{}", "names no corpus; the run's own is corpus"),
        ("{corpus: 1, replay: 1e-9}", "the weight of the corpus 'replay' gives it none of the"),
    ],
)
def test_nonsensical_weights(
    meditron: Bench, submit: Callable[..., Result], settings: str, message: str
) -> None:
    write_tokens(meditron.folder / "tokens")
    write_tokens(meditron.folder / "replay")
    corpora = f"pretrain.corpora=[{{name: replay, data: [{meditron.folder / 'replay'}]}}]"

    done = submit(corpora, f"pretrain.mixture={{by: tokens, weights: {settings}}}")

    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert message in done.stderr
    assert not meditron.runs.exists()


def test_a_phase_that_has_started_is_not_changed_and_one_is_appended(
    meditron: Bench, submit: Callable[..., Result]
) -> None:
    for name in ("tokens", "replay"):
        write_tokens(meditron.folder / name, 10 * TOKENS)
    corpora = f"pretrain.corpora=[{{name: replay, data: [{meditron.folder / 'replay'}]}}]"

    def phases(*weights: tuple[int, str]) -> str:
        items = (
            f"{{from_tokens: {step * 16 * 128}, mixture: {{weights: {given}}}}}"
            for step, given in weights
        )
        return f"pretrain.phases=[{', '.join(items)}]"

    begun = (100, "{corpus: 1, replay: 1}")
    assert submit(corpora, phases(begun)).exit_code == 0
    run = meditron.run()
    shares = [
        {"step": 0, "shares": {"corpus": 1.0}, "sequence_length": 128, "tail": None},
        {"step": 100, "shares": {"corpus": 0.5, "replay": 0.5}, "tail": None},
    ]
    write_checkpoint(run.path("checkpoints"), 200, data={"phases": shares})

    done = submit(corpora, phases((100, "{replay: 1}")))
    assert done.exit_code == 2
    assert (
        "error: pretrain.phases.0.mixture: the phases of the first 200 steps have changed since "
        "iter_0000200 was saved"
    ) in done.stderr
    assert "from step 101 corpus 0.5, replay 0.5 then" in done.stderr
    assert f"may begin from_tokens: {200 * 16 * 128}" in done.stderr
    assert submit(corpora, phases(begun, (200, "{corpus: 1}"))).exit_code == 0
    assert meditron.run().name == run.name


def test_a_finished_run_is_trained_further_by_a_phase(
    meditron: Bench, submit: Callable[..., Result]
) -> None:
    """The recipe ``tiny`` has 500 steps of 16 x 128 tokens."""
    write_tokens(meditron.folder / "tokens", 20 * TOKENS)
    end = 500 * 16 * 128
    tail = f"{{from_tokens: {end - 100 * 16 * 128}, tail: {{learning_rate: 1e-5}}}}"
    assert submit(f"pretrain.phases=[{tail}]").exit_code == 0
    run = meditron.run()
    _, second = shares = [
        {"step": step, "shares": {"corpus": 1.0}, "sequence_length": 128, "tail": None}
        for step in (0, 400)
    ]
    second["tail"] = {"learning_rate": 1e-5, "shape": "linear", "last_step": 500}
    write_checkpoint(run.path("checkpoints"), 500, data={"phases": shares})
    longer = f"{{from_tokens: {end}, sequence_length: 256, train_steps: 600}}"

    edited = tail.replace("from_tokens", "train_steps: 600, from_tokens")
    done = submit(f"pretrain.phases=[{edited}]")
    assert done.exit_code == 2
    assert "error: pretrain.phases.0.train_steps: the phases of the first 500" in done.stderr
    assert f"may begin from_tokens: {end}" in done.stderr
    more = f"pretrain.phases=[{tail}, {longer}]"
    done = meditron("submit", "pretrain", "--run", run.name, "--set", more)
    assert done.exit_code == 0, done.output
    training = specs.load_task(meditron.run(), "pretrain", 0).training
    assert training is not None
    assert meditron.run().name == run.name
    assert (training.train_steps, training.optimizer.decay_steps) == (600, 500)
    assert training.tokens(600) == end + 100 * 16 * 256
    assert [phase.tail.last_step for phase in training.phases if phase.tail] == [500]


@pytest.mark.parametrize("stage", ["pretrain", "index", "export"])
def test_a_target_below_the_step_that_is_saved(
    meditron: Bench, submit: Callable[..., Result], stage: str
) -> None:
    """The phase with the later target is given a lower one, or removed."""
    write_tokens(meditron.folder / "tokens", 20 * TOKENS)
    longer = "{from_tokens: 921600, train_steps: 600}"
    assert submit(f"pretrain.phases=[{longer}]").exit_code == 0
    run = meditron.run()
    write_checkpoint(run.path("checkpoints"), 580)
    jobs = len(meditron.scheduler.submitted)
    lowered = longer.replace("600", "550")

    for phases, target in ((lowered, 550), ("", 500)):
        value = f"pretrain.phases=[{phases}]"
        words = ("--run", run.name, "--set", value, "--set", "export.step=last")
        done = meditron("submit", stage, *words)

        assert (done.exit_code, done.stdout) == (2, ""), done.output
        assert done.stderr == (
            f"error: {run.path('checkpoints/iter_0000580')}: it is of step 580, beyond the target "
            f"of this training, step {target}\n"
            "hint: restore the phase of pretrain.phases that had a later target, or give one "
            "train_steps of at least 580; if the checkpoint is another run's, move it away\n"
        )
    assert len(meditron.scheduler.submitted) == jobs


def test_removing_a_phase_that_has_started_below_the_step_that_is_saved(
    meditron: Bench, submit: Callable[..., Result]
) -> None:
    write_tokens(meditron.folder / "tokens", 20 * TOKENS)
    assert submit("pretrain.phases=[{from_tokens: 921600, train_steps: 600}]").exit_code == 0
    run = meditron.run()
    shares = [{"step": step, "shares": {"corpus": 1.0}, "tail": None} for step in (0, 450)]
    write_checkpoint(run.path("checkpoints"), 580, data={"phases": shares})

    done = submit()

    assert done.exit_code == 2
    assert "hint: restore the phase of pretrain.phases that had a later target" in done.stderr


def test_a_step_to_skip_that_is_trained_already(
    meditron: Bench, submit: Callable[..., Result]
) -> None:
    write_tokens(meditron.folder / "tokens")
    assert submit().exit_code == 0
    run = meditron.run()
    append(run, *map(step, (1, 2)), skip(3), *map(step, range(4, 13)))
    write_checkpoint(run.path("checkpoints"), 10)

    done = submit("pretrain.skip_steps=[3, 7, 12]")

    assert done.exit_code == 2
    assert done.stderr.startswith(
        "error: pretrain.skip_steps names step 7, which is trained: the newest checkpoint is of "
        "step 10\nhint: leave out steps up to 10; or move the checkpoints from step 7 on out of "
    )
    assert submit("pretrain.skip_steps=[3, 12]").exit_code == 0
