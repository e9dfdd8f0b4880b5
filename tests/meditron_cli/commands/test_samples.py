"""`meditron samples`: the documents of a training step, and the steps that used a document."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import specs
from jobs.contract.files import read_json, write_json
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import PretrainSpec
from jobs.data.sample_trace import Trace

from ... import metric_lines
from ...byte_tokenizer import write_byte_tokenizer
from ...conftest import Bench

REPOSITORY = Path(__file__).parents[3]
BATCH, STEPS = 4, 40
LENGTHS = {**dict.fromkeys(range(1, 6), 32), **dict.fromkeys(range(6, 10), 16)}
"""Sequence length of each step of the first two phases."""
LONG = 48
"""Sequence length of the last phase."""
PHASES = [
    {"from_tokens": BATCH * sum(list(LENGTHS.values())[:5]), "sequence_length": 16},
    {"from_tokens": BATCH * sum(LENGTHS.values()), "sequence_length": LONG},
]
SETTINGS = (
    f"pretrain.global_batch_size={BATCH}",
    "pretrain.micro_batch_size=2",
    f"pretrain.train_steps={STEPS}",
    "pretrain.warmup_steps=1",
    f"model.seq_length={LENGTHS[1]}",
    f"pretrain.phases={json.dumps(PHASES)}",
    "model.vocab_size=257",
    "curate.validation_fraction=0.1",
    "curate.min_chars=1",
    "evaluate.benchmarks=[]",
)
LAST = 12
"""The last step that the run has trained."""


def text_of(number: int) -> str:
    return f"Document {number} of the corpus. " + "abcdefghij"[: number % 10] * 5


@pytest.fixture
def run(meditron: Bench, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Return a run whose documents are tokenized, and that has trained to ``LAST``."""
    made = tmp_path_factory.getbasetemp() / "samples"
    if not made.exists():
        make(meditron, made)
    shutil.copytree(made / "runs", meditron.runs)
    return meditron.run()


def make(meditron: Bench, folder: Path) -> None:
    folder.mkdir()
    write_byte_tokenizer(folder / "tokenizer.json")
    documents = [{"id": f"doc {number}", "text": text_of(number)} for number in range(60)]
    documents[7]["id"] = documents[3]["id"]  # of another source, which nothing forbids
    for name, items in (("docs", documents[:7] + documents[8:]), ("more", documents[7:8])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    experiment = (meditron.folder / "experiment.yaml").read_text()
    experiment = experiment.replace("[docs.jsonl]", "[docs.jsonl, more.jsonl]")
    (folder / "experiment.yaml").write_text(experiment)
    maker = Bench(folder)
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    done = maker.submit(*words)
    assert done.exit_code == 0, done.output
    made = maker.run()
    for stage in ("curate", "tokenize"):
        for index in specs.indices(made, stage):
            command = [sys.executable, "-m", "jobs", stage, str(made.root), str(index)]
            subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    trace = Trace(made, spec_of(made))
    for step in range(1, LAST + 1):
        print_ = str(trace.fingerprint(step))  # tests/engine compares it with real ranks
        metric_lines.append(made, metric_lines.step(step, samples=print_))


def spec_of(run: RunDir) -> PretrainSpec:
    spec = specs.load_task(run, "pretrain", 0).spec
    assert isinstance(spec, PretrainSpec)
    return spec


def traced(meditron: Bench, run: RunDir, *words: str) -> dict[str, Any]:
    done = meditron("samples", run.name, *words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def corpus_of(run: RunDir) -> dict[str, tuple[str, int, str]]:
    """Return shard, place in it and text of each document, by id; the later one of two."""
    found = {}
    for shard in sorted(run.path("corpus/train").glob("*.jsonl")):
        byte = 0
        for line in shard.read_bytes().splitlines(keepends=True):
            record = json.loads(line)
            name = str(shard.relative_to(run.root))
            found[record["text"]] = (name, byte, record["id"])
            byte += len(line)
    return found


def test_each_sequence_has_the_texts_of_its_documents_from_their_offsets(
    meditron: Bench, run: RunDir
) -> None:
    corpus = corpus_of(run)
    of_place = {(shard, byte): (text, name) for text, (shard, byte, name) in corpus.items()}
    for step in (1, 5, 6, 9, 10, LAST):  # both ends of each sequence length
        found = traced(meditron, run, "--step", str(step))

        assert (found["run"], found["step"], found["missing"]) == (run.name, step, [])
        assert found["verified"] is True
        assert [item["sequence"] for item in found["sequences"]] == list(range(BATCH))
        for sequence in found["sequences"]:
            assert sum(part["tokens"] for part in sequence["parts"]) == LENGTHS.get(step, LONG) + 1
            for part in sequence["parts"]:
                text, name = of_place[part["shard"], part["byte"]]
                whole = [*text, "<EOD>"]
                end = part["offset"] + part["tokens"]
                assert part["id"] == name
                assert part["text"] == "".join(whole[part["offset"] : end])


def test_a_document_leads_to_the_steps_that_lead_to_it(meditron: Bench, run: RunDir) -> None:
    uses: dict[str, list[dict[str, int]]] = {}
    names = {}
    for step in range(1, LAST + 1):
        for sequence in traced(meditron, run, "--step", str(step))["sequences"]:
            for part in sequence["parts"]:
                names[part["document"]] = part["id"]
                place = {"step": step, "sequence": sequence["sequence"]}
                place |= {key: part[key] for key in ("offset", "tokens")}
                uses.setdefault(part["document"], []).append(place)
    assert any(len(found) > 1 for found in uses.values())

    for document, name in names.items():
        by_number = traced(meditron, run, "--document", document)
        expected = sorted(uses[document], key=lambda use: tuple(use.values()))
        assert [item["uses"] for item in by_number["documents"]] == [expected]
        by_id = traced(meditron, run, "--document", name)
        assert by_number["documents"][0] in by_id["documents"]
        assert by_id["steps"] == LAST


def test_all_documents_of_one_id_are_shown_and_unused_ones_named(
    meditron: Bench, run: RunDir
) -> None:
    done = meditron("samples", run.name, "--document", "doc 3")
    found = traced(meditron, run, "--document", "doc 3")["documents"]

    assert done.exit_code == 0, done.output
    assert len(found) == 2
    for document in found:
        name = document["document"]
        note = f"no step up to {LAST} used {name}\n"
        assert (note in done.stderr) == (not document["uses"])
        assert (name in done.stdout) == bool(document["uses"])


def test_a_range_of_sequences(meditron: Bench, run: RunDir) -> None:
    whole = traced(meditron, run, "--step", "5")["sequences"]
    part = traced(meditron, run, "--step", "5", "--sequence", "1-2")

    assert part["sequences"] == whole[1:3]
    assert part["verified"] is None
    assert traced(meditron, run, "--step", "5", "--sequence", "3")["sequences"] == whole[3:]


def test_a_skipped_step_is_reported_and_used_no_document(meditron: Bench, run: RunDir) -> None:
    part = traced(meditron, run, "--step", str(LAST))["sequences"][0]["parts"][0]
    before = traced(meditron, run, "--document", part["document"])["documents"][0]["uses"]
    assert LAST in {use["step"] for use in before}

    metric_lines.append(run, metric_lines.skip(LAST, reason="a spike of the loss"))
    done = meditron("samples", run.name, "--step", str(LAST))
    after = traced(meditron, run, "--document", part["document"])["documents"][0]["uses"]

    reason = f"step {LAST} was skipped and trained on none of them: a spike of the loss\n"
    assert (done.exit_code, reason in done.stderr) == (0, True), done.output
    assert after == [use for use in before if use["step"] != LAST]
    assert traced(meditron, run, "--step", str(LAST))["skipped"] == "a spike of the loss"


def test_a_step_whose_spike_ended_the_training_is_traced(meditron: Bench, run: RunDir) -> None:
    samples = str(Trace(run, spec_of(run)).fingerprint(LAST + 1))
    line = metric_lines.spike(LAST + 1, action="stopped", samples=samples)
    metric_lines.append(run, line)

    found = traced(meditron, run, "--step", str(LAST + 1))

    assert (found["verified"], len(found["sequences"])) == (True, BATCH)


def test_texts_are_shortened_in_a_table_on_one_line(meditron: Bench, run: RunDir) -> None:
    done = meditron("samples", run.name[:6], "--step", "2")

    lines = [line.split("  ") for line in done.stdout.splitlines()]
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].split() == [
        "sequence", "corpus", "id", "document", "offset", "tokens", "text",
    ]  # fmt: skip
    assert "the sequences are those that step 2 was trained on: " in done.stderr
    assert {line[0].strip() for line in lines[1:]} == set("0123")


def test_long_texts_are_cut_on_a_terminal(meditron: Bench, run: RunDir) -> None:
    control, terminal = pty.openpty()
    words = ("samples", run.name, "--runs-dir", str(meditron.runs), "--step", "1")
    environ = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "meditron_cli", *words],
        cwd=REPOSITORY,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env=environ,
    )
    os.close(terminal)
    output = b""
    try:
        while block := os.read(control, 65536):
            output += block
    except OSError:  # Linux reports the end of a terminal so
        pass
    os.close(control)

    assert process.wait() == 0
    assert "…" in output.decode()
    assert "tokens/train/0000" in output.decode()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name either a step with --step or a document with --document"),
        (("--step", "1", "--document", "a"), "name either a step with --step or a document"),
        (("--document", "a", "--sequence", "1"), "--sequence goes with --step"),
        (("--step", "0"), "invalid value for '--step': 0 is not in the range x>=1"),
        (("--step", "1", "--sequence", "2-1"), "'2-1' is neither a number from 0 nor a range"),
        (("--step", "1", "--sequence", "-1"), "'-1' is neither a number from 0 nor a range"),
        (("--step", "1", "--sequence", "2-4"), "a step has 4 sequences, numbered from 0 to 3"),
        (("--document", "tokens/train/00000:999"), "trains on no document"),
        (("--document", "no such"), "trains on no document 'no such'"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    meditron: Bench, run: RunDir, words: tuple[str, ...], message: str
) -> None:
    done = meditron("samples", run.name, *words)

    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_step_beyond_those_trained_is_refused_with_the_last_one(
    meditron: Bench, run: RunDir
) -> None:
    done = meditron("samples", run.name, "--step", str(LAST + 1))

    assert (done.exit_code, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert error == f"error: the last step that run {run.name} has trained is {LAST}"
    _, command, _ = hint.split("`")
    assert meditron(*shlex.split(command)[1:]).exit_code == 0


def test_a_run_that_has_not_trained_is_refused(meditron: Bench, run: RunDir) -> None:
    run.metrics("pretrain").unlink()
    untrained = meditron("samples", run.name, "--step", "1")
    meditron.submit("--new", stage="curate")
    (curated,) = (path.name for path in meditron.runs.glob("[a-z]*") if path != run.root)
    other = meditron("samples", curated, "--step", "1")

    assert (untrained.exit_code, other.exit_code) == (2, 2)
    assert f"error: run {run.name} has trained no step yet\n" in untrained.stderr
    assert "has no pretraining\n" in other.stderr


def test_settings_of_another_version_are_named_with_what_writes_them_again(
    meditron: Bench, run: RunDir
) -> None:
    record = read_json(run.spec("pretrain", 0))
    del record["spec"]["micro_batch_size"]
    write_json(run.spec("pretrain", 0), record)

    done = meditron("samples", run.name, "--step", "1")

    assert (done.exit_code, done.stdout) == (2, "")
    assert "PretrainSpec: missing or unknown fields: micro_batch_size\n" in done.stderr
    assert "resume" in done.stderr.splitlines()[1]


def test_a_document_held_out_is_reported_so(meditron: Bench, run: RunDir) -> None:
    line = run.path("corpus/validation/00000.jsonl").read_text().splitlines()[0]

    done = meditron("samples", run.name, "--document", json.loads(line)["id"])

    assert done.exit_code == 2
    assert "is in the validation split, which no step trains on" in done.stderr


def test_without_the_corpus_numbers_offsets_and_texts_are_shown(
    meditron: Bench, run: RunDir
) -> None:
    whole = traced(meditron, run, "--step", "3")
    used = traced(meditron, run, "--document", "doc 20")
    shutil.rmtree(run.path("corpus"))

    found = traced(meditron, run, "--step", "3")
    table = meditron("samples", run.name, "--step", "3")

    for sequence in whole["sequences"]:
        for part in sequence["parts"]:
            part["id"] = None
    assert found["sequences"] == whole["sequences"]
    shard = run.path("corpus/train/00000.jsonl")
    sentence = f"{shard}: No such file or directory; ids are not known"
    assert sentence in found["missing"]
    assert table.exit_code == 0
    assert f"warning: {sentence}\n" in table.stderr
    uses = traced(meditron, run, "--document", "doc 20")["documents"]
    assert [item["uses"] for item in uses] == [item["uses"] for item in used["documents"]]


def test_a_corpus_that_was_changed_gives_no_false_ids(meditron: Bench, run: RunDir) -> None:
    for shard in run.path("corpus/train").glob("*.jsonl"):
        shard.write_text(shard.read_text().replace("doc ", "duc "))

    found = traced(meditron, run, "--step", "3")

    assert {part["id"] for item in found["sequences"] for part in item["parts"]} == {None}
    changed = "it has changed since it was tokenized; ids are not known"
    assert any(sentence.endswith(changed) for sentence in found["missing"])


def test_without_tokens_ids_and_offsets_are_shown(meditron: Bench, run: RunDir) -> None:
    whole = traced(meditron, run, "--step", "3")
    for binary in run.path("tokens/train").glob("*.bin"):
        binary.unlink()

    found = traced(meditron, run, "--step", "3")

    assert found["verified"] is None
    assert [{**part, "text": None} for item in whole["sequences"] for part in item["parts"]] == [
        part for item in found["sequences"] for part in item["parts"]
    ]
    assert any("texts are not known" in sentence for sentence in found["missing"])


def test_without_the_document_map_numbers_are_shown(meditron: Bench, run: RunDir) -> None:
    for path in run.path("tokens/train").glob("*.docs"):
        path.unlink()

    found = traced(meditron, run, "--step", "3")

    parts = [part for item in found["sequences"] for part in item["parts"]]
    assert {(part["id"], part["byte"]) for part in parts} == {(None, None)}
    assert all(part["text"] for part in parts)
    assert any(".docs: no document map" in sentence for sentence in found["missing"])


def test_other_tokens_than_those_trained_on_are_reported(meditron: Bench, run: RunDir) -> None:
    for binary in run.path("tokens/train").glob("*.bin"):
        binary.write_bytes(bytes(reversed(binary.read_bytes())))

    done = meditron("samples", run.name, "--step", "3")

    assert done.exit_code == 4
    assert f"step 3 of run {run.name} was trained on other sequences: its" in done.stderr


def test_a_lost_index_is_named(meditron: Bench, run: RunDir) -> None:
    run.path("tokens/train/00001.idx").unlink()

    done = meditron("samples", run.name, "--step", "3")

    assert (done.exit_code, done.stdout) == (2, "")
    index = run.path("tokens/train/00001.idx")
    assert f"error: {index}: No such file or directory; the index orders" in done.stderr


def test_tokens_of_another_run_are_traced_to_its_corpus(meditron: Bench, run: RunDir) -> None:
    whole = traced(meditron, run, "--step", "3")
    other = RunDir(shutil.copytree(run.root, run.root.with_name("other-run")))
    record = read_json(other.spec("pretrain", 0))
    record["spec"]["corpora"][0]["data"] = [str(run.root)]
    write_json(other.spec("pretrain", 0), record)
    shutil.rmtree(other.path("corpus"))
    shutil.rmtree(other.path("tokens"))

    found = traced(meditron, other, "--step", "3")

    assert found["missing"] == []
    for sequence in whole["sequences"]:
        for part in sequence["parts"]:
            part["shard"] = str(run.path(part["shard"]))
            part["document"] = str(run.path(part["document"]))
    assert found["sequences"] == whole["sequences"]


NOTHING_HEAVY = """
import sys
from meditron_cli.__main__ import run
try:
    run()
except SystemExit as end:
    heavy = {"torch", "megatron", "transformers", "pyarrow"} & set(sys.modules)
    print(end.code, sorted(heavy), file=sys.stderr)
"""


def test_neither_torch_nor_megatron_is_loaded(meditron: Bench, run: RunDir) -> None:
    words = ("samples", run.name, "--runs-dir", str(meditron.runs), "--step", "1", "--json")

    done = subprocess.run(
        [sys.executable, "-c", NOTHING_HEAVY, *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )

    assert done.stderr == "0 []\n"
