"""`meditron corpus`, and the funnel of a corpus in `meditron report`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest

from jobs.contract import done_markers, specs
from jobs.contract.files import FORMAT, read_json, sha256, write_json
from jobs.contract.rundir import RunDir
from jobs.data.tokenized import MANIFEST_PATH

from ...conftest import Bench
from .test_samples import REPOSITORY
from .test_samples import run as trained_run  # noqa: F401 - a fixture

EXPERIMENT = """\
name: trial
curate:
  sources:
    - {path: docs.jsonl, name: papers, licence: CC-BY-4.0}
    - more.jsonl
  shards: 2
  min_chars: 20
  validation_fraction: 0.2
tokenize: {tokenizer: tokenizer.json}
model: {vocab_size: 4}
vocabulary: {added_tokens: [], control_tokens: []}
"""


def text_of(number: int) -> str:
    return f"Paper {number} reports on the treatment of fever."


DOCUMENTS = [
    *({"id": f"p{number}", "text": text_of(number)} for number in range(30)),
    *({"id": f"s{number}", "text": "too short"} for number in range(3)),
]
MORE = [
    {"id": "again", "text": text_of(3)},
    *({"id": f"m{number}", "text": f"Note {number} on the care of wounds."} for number in range(4)),
]


@pytest.fixture
def curated(meditron: Bench, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Return a run that has curated two sources."""
    made = tmp_path_factory.getbasetemp() / "curated"
    if not made.exists():
        shutil.copytree(meditron.folder, made)
        (made / "experiment.yaml").write_text(EXPERIMENT)
        for name, documents in (("docs", DOCUMENTS), ("more", MORE)):
            lines = (json.dumps(document) + "\n" for document in documents)
            (made / f"{name}.jsonl").write_text("".join(lines))
        maker = Bench(made)
        submitted = maker.submit(stage="curate")
        assert submitted.exit_code == 0, submitted.output
        command = [sys.executable, "-m", "jobs", "curate", str(maker.run().root), "0"]
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    shutil.copytree(made / "runs", meditron.runs)
    return meditron.run()


def sampled(meditron: Bench, run: RunDir, *words: str) -> list[dict[str, Any]]:
    done = meditron("corpus", "sample", run.name, *words, "--json")
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)["documents"]
    return found


def test_kept_and_dropped_documents_are_shown(meditron: Bench, curated: RunDir) -> None:
    found = sampled(meditron, curated, "-n", "2")

    assert [item["reason"] for item in found] == ["kept", "kept", "length", "length", "duplicate"]
    assert len({item["id"] for item in found}) == 5
    duplicate = found[-1]
    assert (duplicate["id"], duplicate["source"]) == ("again", "more")
    assert duplicate["matched"] == "p3 of papers"
    assert found[2]["matched"] == "9 of 20 characters"


def test_all_documents_of_a_small_source_are_found_once(meditron: Bench, curated: RunDir) -> None:
    found = sampled(meditron, curated, "--source", "more", "--kept", "-n", "50")

    assert sorted(item["id"] for item in found) == ["m0", "m1", "m2", "m3"]


def test_a_reason_is_shown_alone(meditron: Bench, curated: RunDir) -> None:
    done = meditron("corpus", "sample", curated.name, "--dropped", "duplicate")

    assert done.stdout.startswith("more again duplicate: p3 of papers\n    Paper 3 reports on")


@pytest.mark.parametrize(
    ("reason", "note"),
    [
        ("duplicate_id", "{run}/corpus/rejected.jsonl has them"),
        ("bad", "{run}/corpus/rejected.jsonl has them"),
        ("not_sampled", "the corpus has no documents that were dropped as 'not_sampled'"),
    ],
)
def test_documents_that_are_elsewhere_or_nowhere_have_a_note(
    meditron: Bench, curated: RunDir, reason: str, note: str
) -> None:
    path = curated.path("corpus/manifest.json")
    manifest = read_json(path)
    manifest["sources"][0][reason] = 1
    write_json(path, manifest)

    done = meditron("corpus", "sample", curated.name, "--dropped", reason)

    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"{note.format(run=curated.root)}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--source", "replay"), "no source is called 'replay'; there are papers, more"),
        (("--dropped", "language"), "nothing was dropped as 'language'; reasons were: duplicate, "
         "length"),
        (("--dropped", "length", "--source", "more"), "nothing was dropped as 'length'; reasons "
         "were: duplicate"),
    ],
)  # fmt: skip
def test_names_that_the_corpus_does_not_have_are_refused(
    meditron: Bench, curated: RunDir, words: tuple[str, ...], message: str
) -> None:
    done = meditron("corpus", "sample", curated.name, *words)

    assert done.exit_code == 2
    assert done.stderr == (
        f"error: {message}\n"
        f"hint: `meditron report {curated.name}` shows what became of each source\n"
    )


def test_a_run_without_a_corpus_is_refused(meditron: Bench) -> None:
    meditron.submit()
    name = meditron.run().name

    for words in (("sample", name), ("remove", name, "p3", "--yes")):
        meditron.scheduler.jobs.clear()
        meditron.clock.time += 1_000
        done = meditron("corpus", *words)

        assert done.exit_code == 2
        assert "the run has no finished corpus" in done.stderr


def test_the_report_shows_what_became_of_each_source(meditron: Bench, curated: RunDir) -> None:
    papers, more = json.loads(meditron("report", curated.name, "--json").stdout)["corpus"][
        "sources"
    ]
    lines = [line.split() for line in meditron("report", curated.name).stdout.splitlines()]

    assert (papers["in"], papers["dropped"], papers["kept"]) == (33, {"length": 3}, 30)
    assert (more["in"], more["dropped"], more["kept"]) == (5, {"duplicate": 1}, 4)
    assert papers["train"] + papers["validation"] == 30
    assert papers["licences"] == ["CC-BY-4.0"]
    assert ["papers", "in", "33", "100.0%", "#" * 30] in lines
    assert ["-", "length", "3", "9.1%", "###"] in lines
    assert ["train", str(papers["train"]), "4,900,000"] in lines  # those of GAP-Replay's papers
    assert ["train", str(more["train"])] in lines
    assert papers["train_tokens"] is None


def test_the_report_shows_the_tokens_of_each_source(
    meditron: Bench,
    trained_run: RunDir,  # noqa: F811
) -> None:
    results = json.loads(meditron("report", trained_run.name, "--json").stdout)["corpus"]

    tokens = {item["name"]: item["train_tokens"] for item in results["sources"]}
    texts = {"docs": 0, "more": 0}
    for path in trained_run.path("corpus/train").iterdir():
        for document in map(json.loads, path.read_text().splitlines()):
            texts[document["source"]] += len(document["text"]) + 1  # a token each, and <EOD>
    assert tokens == texts
    assert sum(tokens.values()) == results["tokenization"]["splits"]["train"]["tokens"]


def lines_of(run: RunDir) -> dict[str, int]:
    """Return the lines of each shard's documents by id."""
    found: dict[str, int] = {}
    for path in run.path("corpus").glob("*/*.jsonl"):
        for line in path.read_text().splitlines():
            name = json.loads(line)["id"]
            found[name] = found.get(name, 0) + 1
    return found


def require_consistent(run: RunDir) -> dict[str, Any]:
    """Check the manifest against the shards, and that the result stands; return the manifest."""
    manifest = read_json(run.path("corpus/manifest.json"))
    for described in (manifest["source_files"], *manifest["shards"]):
        path = run.path(described["path"])
        assert (described["bytes"], described["sha256"]) == (path.stat().st_size, sha256(path))
    for shard in manifest["shards"]:
        path = run.path(shard["path"])
        assert shard["documents"] == len(path.read_text().splitlines())
    documents = sum(shard["documents"] for shard in manifest["shards"])
    for counts in (manifest["counts"], done_markers.load(run.done("curate", 0)).summary):
        assert counts["documents"] == counts["train"] + counts["validation"] == documents
    assert sum(source["documents"] for source in manifest["sources"]) == documents
    task = specs.load_task(run, "curate", 0)
    assert done_markers.check_done(run, "curate", 0, specs.digest(task.spec)) == "done"
    return manifest


def test_a_document_is_removed_from_everything_that_quotes_it(
    meditron: Bench, curated: RunDir
) -> None:
    before = lines_of(curated)

    done = meditron("corpus", "remove", curated.name, "p3", "m1", "s1", "--yes")
    assert done.exit_code == 2
    assert f"the corpus of run {curated.name} has no document 's1'" in done.stderr
    assert lines_of(curated) == before

    done = meditron("corpus", "remove", curated.name, "p3", "m1", "--yes", "--json")

    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert sorted((item["id"], item["source"]) for item in found["removed"]) == [
        ("m1", "more"),
        ("p3", "papers"),
    ]
    assert (found["uses"], found["unknown"]) == ([], [])
    assert lines_of(curated) == {name: n for name, n in before.items() if name not in ("p3", "m1")}
    manifest = require_consistent(curated)
    assert sorted(item["id"] for item in manifest["taken_down"]) == ["m1", "p3"]
    assert [source["taken_down"] for source in manifest["sources"]] == [1, 1]
    assert "taken_down" in meditron("report", curated.name).stdout
    assert text_of(3) not in curated.path("corpus/dropped.jsonl").read_text()  # its copy, "again"


def test_a_corpus_that_is_made_again_has_what_was_taken_out(
    meditron: Bench, curated: RunDir
) -> None:
    meditron("corpus", "remove", curated.name, "p3", "--yes")
    assert "made again" not in meditron("resume", curated.name).stderr
    curated.path("corpus/train/00000.jsonl").unlink()

    done = meditron("resume", curated.name)

    note = "the corpus is made again, with the 1 document taken out of it, if the sources have them"
    assert note in done.stderr


def test_after_a_removal_the_next_step_is_named(meditron: Bench, curated: RunDir) -> None:
    for name in ("m1", "m2"):
        done = meditron("corpus", "remove", curated.name, name, "--yes")

        last = done.stderr.splitlines()[-1]
        again = f"`meditron submit tokenize --run {curated.name}` makes the tokens without them"
        assert (last == again) == curated.path("tokens").exists()
        assert not curated.path(MANIFEST_PATH).exists()
        curated.path("tokens").mkdir(exist_ok=True)
        curated.path(MANIFEST_PATH).write_text("of the tokens with the document")


def test_a_removal_that_was_killed_is_completed_by_the_next(
    meditron: Bench, curated: RunDir
) -> None:
    manifest = curated.path("corpus/manifest.json")
    old = manifest.read_bytes(), curated.done("curate", 0).read_bytes()
    meditron("corpus", "remove", curated.name, "p3", "--yes")
    (removed,) = read_json(manifest)["taken_down"]
    manifest.write_bytes(old[0])  # as it was after the shards were written
    curated.done("curate", 0).write_bytes(old[1])
    removed.pop("time")
    intent = curated.path("corpus/takedown.json")
    intent.write_text(json.dumps({"format": FORMAT, "documents": [removed]}))

    done = meditron("corpus", "remove", curated.name, "m1", "--yes")

    assert done.exit_code == 0, done.output
    assert not intent.exists()
    assert lines_of(curated).keys().isdisjoint({"p3", "m1"})
    assert sorted(item["id"] for item in require_consistent(curated)["taken_down"]) == ["m1", "p3"]


def test_nothing_is_removed_without_an_answer(meditron: Bench, curated: RunDir) -> None:
    before = lines_of(curated)

    done = meditron("corpus", "remove", curated.name, "p3")

    assert done.exit_code == 2
    assert done.stderr.splitlines()[-2:] == [
        "error: nothing was removed",
        f"hint: `meditron corpus remove {curated.name} p3 --yes` removes without asking",
    ]
    assert lines_of(curated) == before


def test_nothing_is_removed_while_a_job_is_alive(meditron: Bench) -> None:
    meditron.submit()

    done = meditron("corpus", "remove", meditron.run().name, "p3", "--yes")

    assert done.exit_code == 2
    assert "has jobs that may be alive" in done.stderr


def test_the_steps_are_listed_that_used_a_removed_document(
    meditron: Bench,
    trained_run: RunDir,  # noqa: F811
) -> None:
    run = trained_run
    (used,) = json.loads(meditron("samples", run.name, "--document", "doc 5", "--json").stdout)[
        "documents"
    ]
    steps = sorted({use["step"] for use in used["uses"]})
    assert tokens_of(run, "tokenize") == {"done"}
    other = RunDir(shutil.copytree(run.root, run.root.with_name("other-run")))
    record = read_json(other.spec("pretrain", 0))
    shards = sorted(run.path("tokens/train").glob("*.idx"))
    record["spec"]["corpora"][0]["data"] = [str(path.with_suffix("")) for path in shards]
    write_json(other.spec("pretrain", 0), record)
    meditron.scheduler.jobs.clear()
    meditron.clock.time += 1_000

    done = meditron("corpus", "remove", run.name, "doc 5", "--yes", "--json")

    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    document = used["document"]
    assert found["uses"] == [
        {"run": name, "id": "doc 5", "document": path, "steps": steps}
        for name, path in (("other-run", str(run.path(document))), (run.name, document))
    ]
    assert steps
    assert "inputs" in tokens_of(run, "tokenize")  # they are made again before they are used


def tokens_of(run: RunDir, stage: str) -> set[str]:
    """Return what a submission finds of a stage's results."""
    return {
        done_markers.check_done(
            run, stage, index, specs.digest(specs.load_task(run, stage, index).spec)
        )
        for index in specs.indices(run, stage)
    }
