"""Curate as a task: files of every kind in, shards and a manifest out; kills and stops."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from jobs.contract.corpus.rules import BenchmarkFile, DecontaminationSpec
from jobs.contract.files import read_json
from jobs.data.json_stream import zstd


@pytest.fixture
def bench(forked: Any) -> Any:
    return forked


DOCUMENTS: list[dict[str, Any]] = [
    {"id": f"doc-{number}", "text": f"Finding {number}: blood pressure {90 + number} mmHg."}
    for number in range(60)
]


def as_lines(documents: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(document) + "\n" for document in documents).encode()


def zstd_frames(*parts: bytes) -> bytes:
    return b"".join(zstd.compress(part) for part in parts)


def write_as(path: Path, documents: list[dict[str, Any]]) -> Path:
    """Write documents in the kind of file that the name has."""
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(documents), path, row_group_size=7)
        return path
    content = as_lines(documents)
    if ".json" in path.suffixes:
        content = json.dumps(documents, indent=1).encode()
    packed = {
        ".gz": lambda: gzip.compress(content[:500]) + gzip.compress(content[500:]),
        ".zst": lambda: zstd_frames(content[:500], content[500:]),
    }
    path.write_bytes(packed.get(path.suffix, lambda: content)())
    return path


def of_source(name: str, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return documents as a shard has them."""
    return [{"source": name, **document} for document in documents]


def by_id(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(documents, key=lambda document: str(document["id"]))


def shard_digests(bench: Any) -> dict[str, str]:
    shards = read_json(bench.run.path("corpus/manifest.json"))["shards"]
    return {
        Path(shard["path"]).parent.name + Path(shard["path"]).stem: shard["sha256"][:12]
        for shard in shards
    }


DIGESTS = {
    "train00000": "053bff3738cd",
    "train00001": "9f47d6daa449",
    "validation00000": "14a6e103bd2b",
}
"""SHA-256 of the shards of DOCUMENTS, equal for every kind of file."""

KINDS = [
    "d.jsonl", "d.jsonl.gz", "d.jsonl.zst", "d.json", "d.json.gz", "d.json.zst", "d.gz", "d.zst",
    "d.parquet",
]  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_the_kind_of_file_makes_no_difference(name: str, bench: Any, tmp_path: Path) -> None:
    bench.curate(write_as(tmp_path / name, DOCUMENTS))

    result = bench.start("curate")

    assert (result.returncode, result.stderr) == (0, "")
    counts = bench.done("curate")["summary"]
    train, held_out = bench.documents(), bench.documents("corpus/validation")
    assert by_id(train + held_out) == by_id(of_source("d", DOCUMENTS))
    assert counts == {
        "in": 60, "kept": 60, "empty": 0, "length": 0, "duplicate": 0, "bad": 0,
        "repaired": 0, "documents": 60, "train": len(train), "validation": len(held_out),
        "bytes": counts["bytes"], "characters_in": sum(len(one["text"]) for one in DOCUMENTS),
    }  # fmt: skip
    assert 0 < len(held_out) < 30
    assert shard_digests(bench) == DIGESTS


def test_a_source_that_is_named_twice_gives_the_same_bytes(bench: Any, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    paths = [
        write_as(folder / "b.jsonl.zst", DOCUMENTS[:30]),
        write_as(folder / "a.parquet", DOCUMENTS[20:]),
    ]
    shards = []

    for sources in ([folder], [folder, *paths]):
        bench.curate(*sources)
        assert bench.start("curate").returncode == 0
        shards.append([bench.files("corpus/train"), bench.files("corpus/validation")])

    assert shards[0] == shards[1]


def test_equal_texts_of_different_files_and_kinds_are_kept_once(bench: Any, tmp_path: Path) -> None:
    text = "Sepsis is a dysregulated response to infection."
    write_as(tmp_path / "in.jsonl", [{"id": "first", "text": text}, *DOCUMENTS])
    folder = tmp_path / "more" / "deep"
    folder.mkdir(parents=True)
    write_as(folder / "b.parquet", [{"id": "second", "text": text + "  \r\n"}])
    write_as(folder / "c.json.gz", [{"id": "third", "text": "\u200b" + text}, *DOCUMENTS[:5]])
    bench.curate(tmp_path / "in.jsonl", tmp_path / "more")

    result = bench.start("curate")

    assert (result.returncode, result.stderr) == (0, "")
    kept = bench.documents() + bench.documents("corpus/validation")
    assert [document["id"] for document in kept if document["text"] == text] == ["first"]
    manifest = read_json(bench.run.path("corpus/manifest.json"))
    assert [(one["name"], one["in"], one["duplicate"]) for one in manifest["sources"]] == [
        ("in", 61, 0),
        ("more", 7, 7),
    ]
    dropped = bench.run.path("corpus/dropped.jsonl").read_text().splitlines()
    found = {one["id"]: one["matched"] for one in map(json.loads, dropped)}
    assert found["second"] == found["third"] == "first of in"


ARTICLE = """<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta>
<article-id pub-id-type="pmid">11</article-id><title-group><article-title>A trial</article-title>
</title-group></article-meta></front><body><p>Give 5\u00ad10 mg, as in <xref ref-type="fig"
rid="f"/> and the literal [fig].</p><fig id="f"><label>Fig. 1</label><caption><p>Doses.</p>
</caption></fig></body></article>"""  # fmt: skip

CITATIONS = """<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>12</PMID><Article>
<ArticleTitle>Another trial.</ArticleTitle><Abstract><AbstractText>It failed.</AbstractText>
</Abstract></Article></MedlineCitation></PubmedArticle><PubmedArticle><MedlineCitation><PMID>13</PMID><Article>
<ArticleTitle>No abstract.</ArticleTitle></Article></MedlineCitation></PubmedArticle>
</PubmedArticleSet>"""  # fmt: skip


def test_articles_and_citations_become_documents_with_their_markup(
    bench: Any, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nxml").write_text(ARTICLE)
    (tmp_path / "in" / "p.xml.gz").write_bytes(gzip.compress(CITATIONS.encode()))
    bench.curate(tmp_path / "in", validation_fraction=0.0)

    result = bench.start("curate")

    assert (result.returncode, result.stderr) == (0, "")
    citation, article = by_id(bench.documents())
    assert article["text"] == (
        "A trial\n\nGive 5-10 mg, as in [fig_ref] Figure 1: Doses. [/fig_ref] and the literal "
        "[fig].\n\n[fig] Figure 1: Doses. [/fig]"
    )
    tokens = [article["text"][begin:end] for begin, end in article["spans"]]
    assert tokens == ["[fig_ref]", "[/fig_ref]", "[fig]", "[/fig]"]
    assert (article["id"], article["work_id"], article["title"]) == (
        "pmid:11",
        "pmid:11",
        "A trial",
    )
    assert citation["text"] == "Another trial.\nIt failed."
    assert (citation["spans"], citation["meta"]["pmid"]) == ([], "12")
    manifest = read_json(bench.run.path("corpus/manifest.json"))
    assert [(one["in"], one["kept"], one["empty"]) for one in manifest["sources"]] == [(3, 2, 1)]
    assert manifest["repairs"]["hyphen"] == 1


def test_articles_that_are_no_xml_are_set_aside(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nxml").write_text(ARTICLE)
    (tmp_path / "in" / "b.nxml").write_text(ARTICLE[:-20])
    bench.curate(tmp_path / "in", validation_fraction=0.0, on_bad_record="skip")

    result = bench.start("curate")

    assert (result.returncode, result.stderr) == (0, "")
    [line] = bench.run.path("corpus/rejected.jsonl").read_text().splitlines()
    rejected = json.loads(line)
    assert rejected["file"].endswith("b.nxml")
    assert rejected["reason"].startswith("not XML")


def test_repairs_are_counted_per_source(bench: Any, write_jsonl: Any) -> None:
    clean = write_jsonl("in/clean.jsonl", {"id": "a", "text": "Give 5 mg of it twice daily."})
    damaged = write_jsonl(
        "in/damaged.jsonl",
        {"id": "b", "text": "Give 5\x9610 mg of it, 10\xad20 mg later, 1\u200b000 mg at most."},
        {"id": "c", "text": "Give 5\xad6 mg of it, and no more."},
    )
    bench.curate(clean, damaged, validation_fraction=0.0)

    result = bench.start("curate")

    assert (result.returncode, result.stderr) == (0, "")
    assert by_id(bench.documents()) == by_id(
        [
            *of_source("clean", [{"id": "a", "text": "Give 5 mg of it twice daily."}]),
            *of_source(
                "damaged",
                [
                    {
                        "id": "b",
                        "text": "Give 5\u201310 mg of it, 10-20 mg later, 1 000 mg at most.",
                    },
                    {"id": "c", "text": "Give 5-6 mg of it, and no more."},
                ],
            ),
        ]
    )
    manifest = read_json(bench.run.path("corpus/manifest.json"))
    assert [source["repairs"] for source in manifest["sources"]] == [
        {"documents": 0, "encoding": 0, "hyphen": 0, "space": 0},
        {"documents": 2, "encoding": 1, "hyphen": 2, "space": 1},
    ]
    assert manifest["repairs"] == manifest["sources"][1]["repairs"]
    assert bench.done("curate")["summary"]["repaired"] == 2


TEXTS = [
    "A document that is long enough.",
    " \n\x00 ",
    "too short",
    "A document that is long enough.",
    "No id, but long enough.",
]


def test_the_manifest_counts_every_record_and_names_every_shard(
    bench: Any, write_jsonl: Any
) -> None:
    source = write_jsonl(
        "in/docs.jsonl",
        {"id": "a", "text": TEXTS[0], "source": "guidelines", "url": "x"},
        {"id": "b", "text": TEXTS[1]},
        {"id": "c", "text": TEXTS[2]},
        {"id": "e", "text": TEXTS[3]},
        {"text": TEXTS[4], "source": 7},
    )
    (source.parent / "README.md").write_text("not a document")
    (source.parent / ".docs.jsonl.swp").write_text("not a document")
    bench.curate(source.parent, shards=3, validation_fraction=0.0)

    result = bench.start("curate")

    assert (result.returncode, result.stderr) == (0, "")
    manifest = read_json(bench.run.path("corpus/manifest.json"))
    outcomes = {"in": 5, "kept": 2, "empty": 1, "length": 1, "duplicate": 1, "bad": 0}
    files = bench.files("corpus")
    assert manifest["sources"] == [
        {
            "name": "in",
            "paths": [str(source.parent)],
            "licences": [],
            "files": 1,
            "file_bytes": source.stat().st_size,
            "characters_in": sum(map(len, TEXTS)),
            "documents": 2,
            "train": 2,
            "validation": 0,
            "bytes": sum(len(files[name]) for name in files if name.startswith("train/")),
            "repairs": {"documents": 0, "encoding": 0, "hyphen": 0, "space": 0},
            **outcomes,
        }
    ]
    assert manifest["counts"].items() >= outcomes.items()
    assert sorted(manifest["ignored"]) == [
        str(source.parent / name) for name in (".docs.jsonl.swp", "README.md")
    ]
    assert manifest["shards"] == [
        {
            "path": f"corpus/{name}",
            "documents": content.count(b"\n"),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        for name, content in files.items()
        if name.endswith(".jsonl") and "/" in name
    ]
    assert [shard["path"] for shard in manifest["shards"]] == [
        "corpus/train/00000.jsonl",
        "corpus/train/00001.jsonl",
        "corpus/train/00002.jsonl",
        "corpus/validation/00000.jsonl",
    ]
    assert files["validation/00000.jsonl"] == b""
    lone_id = hashlib.blake2b(b"No id, but long enough.", digest_size=16).hexdigest()
    assert by_id(bench.documents()) == by_id(
        [
            {
                "id": "a",
                "source": "in",
                "text": "A document that is long enough.",
                "meta": {"source": "guidelines", "url": "x"},
            },
            {"id": lone_id, "source": "in", "text": "No id, but long enough."},
        ]
    )


def test_a_done_marker_stands_until_a_source_changes(bench: Any, write_jsonl: Any) -> None:
    source = write_jsonl("docs.jsonl", *DOCUMENTS)
    task = bench.curate(source)
    assert bench.start("curate").returncode == 0
    assert bench.is_done(task)

    write_jsonl("docs.jsonl", *DOCUMENTS[:-1])

    assert not bench.is_done(task)


def test_keys_of_text_and_id_can_be_named(bench: Any, write_jsonl: Any) -> None:
    record = {"pmid": 31, "abstract": "Long enough to stay.", "text": None, "url": "u"}
    bench.curate(
        write_jsonl("d.jsonl", record), text_key="abstract", id_key="pmid", validation_fraction=0.0
    )

    assert bench.start("curate").returncode == 0

    assert bench.documents() == [
        {
            "id": "31",
            "source": "d",
            "work_id": "pmid:31",
            "text": "Long enough to stay.",
            "meta": {"pmid": "31", "url": "u"},
        }
    ]


def test_progress_has_documents(bench: Any, write_jsonl: Any) -> None:
    source = write_jsonl("d.jsonl", *DOCUMENTS)
    bench.curate(source)

    assert bench.start("curate").returncode == 0

    progress = read_json(bench.run.progress("curate", 0))
    assert {name: progress[name] for name in ("done", "total", "unit")} == {
        "done": 60, "total": 60, "unit": "documents",
    }  # fmt: skip


def test_killed_before_any_rename_a_rerun_ends_as_if_undisturbed(
    bench: Any, write_jsonl: Any
) -> None:
    task = bench.curate(write_jsonl("d.jsonl", *DOCUMENTS, "not an object"), on_bad_record="skip")
    assert bench.start("curate").returncode == 0
    undisturbed = bench.files("corpus")
    shutil.rmtree(bench.run.path("corpus"))
    moments = 0

    while (
        result := bench.start_and_signal("curate", "os.rename", moments + 1, signal.SIGKILL)
    ).returncode:
        moments += 1
        assert result.returncode == -signal.SIGKILL
        assert not bench.is_done(task)

    assert moments > 6  # files of the piece, three shards and their records, what is beside them
    assert bench.is_done(task)
    assert bench.files("corpus") == undisturbed
    assert sorted(bench.files("stages/curate")) == [
        "done/00000.json", "manifest.lock", "progress/00000.json", "spec/00000.json",
    ]  # fmt: skip


def test_killed_on_a_fresh_run_no_shard_stands_half_written(bench: Any, write_jsonl: Any) -> None:
    bench.curate(write_jsonl("d.jsonl", *DOCUMENTS))

    result = bench.start_and_signal("curate", "os.rename", 2, signal.SIGKILL)

    assert result.returncode == -signal.SIGKILL
    assert not bench.run.path("corpus/train").exists()
    assert bench.start("curate").returncode == 0
    assert [name for name in bench.files("corpus") if Path(name).name.startswith(".")] == []


def test_a_stop_request_ends_it_without_shards_and_it_can_continue(
    bench: Any, write_jsonl: Any
) -> None:
    bench.curate(write_jsonl("d.jsonl", *DOCUMENTS))

    result = bench.start_and_signal("curate", "os.rename", 1, signal.SIGTERM)

    assert result.returncode == 130
    assert result.stderr == (
        "curate: stop requested; the next attempt continues behind the finished parts\n"
    )
    assert not bench.run.path("corpus/train").exists()
    assert bench.start("curate").returncode == 0
    assert len(bench.documents() + bench.documents("corpus/validation")) == 60


def test_a_refused_write_names_the_file_and_nothing_remains(bench: Any, tmp_path: Path) -> None:
    many = [{"id": n, "text": f"{n} " + "word " * 200} for n in range(400)]
    bench.curate(write_as(tmp_path / "d.jsonl.gz", many), shards=1, validation_fraction=0.0)

    result = bench.start("curate", file_limit=200_000)

    assert result.returncode == 2  # the same limit would meet the next attempt
    shard = bench.run.path("corpus/train/00000.jsonl")
    assert f"curate: {shard}: File too large\n" in result.stderr
    assert bench.files("corpus/train") == {}


def test_many_shards_need_few_open_files(bench: Any, write_jsonl: Any) -> None:
    bench.curate(write_jsonl("d.jsonl", *DOCUMENTS), shards=200)

    result = bench.start("curate", open_files=128)

    assert (result.returncode, result.stderr) == (0, "")
    assert len(bench.files("corpus/train")) == 200
    assert len(bench.documents() + bench.documents("corpus/validation")) == 60


def test_addresses_are_masked_in_titles_too(bench: Any, write_jsonl: Any) -> None:
    text = "Write to a.b@example.org for the data of this trial."
    source = write_jsonl("d.jsonl", {"id": "a", "title": "From a.b@example.org", "text": text})
    bench.curate(source, validation_fraction=0.0, mask=("email",))

    assert bench.start("curate").returncode == 0

    (document,) = bench.documents()
    assert document["title"] == "From |||EMAIL_ADDRESS|||"
    assert document["text"] == text.replace("a.b@example.org", "|||EMAIL_ADDRESS|||")
    manifest = read_json(bench.run.path("corpus/manifest.json"))
    assert manifest["sources"][0]["repairs"]["email"] == 2


def write_pubmedqa(folder: Path) -> list[str]:
    folder.mkdir()
    context, question = "Of sixty patients, half received the drug by mouth.", "Does it help them?"
    record = {"QUESTION": question, "CONTEXTS": [context], "final_decision": "yes"}
    (folder / "ori_pqal.json").write_text(json.dumps({"1": record}))
    (folder / "test_ground_truth.json").write_text('{"1": "yes"}')
    return [context, question]


def write_mmlu(folder: Path) -> list[str]:
    folder.mkdir()
    question = "Which vitamin was lacking in the food of the sailors?"
    (folder / "anatomy_test.csv").write_text(f"{question},A,B,C,D,C\n")
    return [question]


@pytest.mark.parametrize("kind", ["pubmedqa", "mmlu"])
def test_documents_with_questions_of_a_folder_are_dropped(
    kind: str, bench: Any, write_jsonl: Any, tmp_path: Path
) -> None:
    folder = tmp_path / kind
    question = (write_pubmedqa if kind == "pubmedqa" else write_mmlu)(folder)
    leaked = {"id": "leaked", "text": "Introduction\n" + "\nMethods\n".join(question)}
    spec = DecontaminationSpec((BenchmarkFile("exam", str(folder), kind),), 6, 0.8)
    bench.curate(write_jsonl("d.jsonl", *DOCUMENTS, leaked), decontamination=spec)

    result = bench.start("curate")

    assert (result.returncode, result.stderr) == (0, "")
    assert read_json(bench.run.path("corpus/manifest.json"))["counts"]["contaminated"] == 1


def test_a_source_without_records_is_counted(bench: Any, write_jsonl: Any) -> None:
    source = write_jsonl("d.jsonl", *DOCUMENTS)
    bench.curate(source, write_jsonl("empty.jsonl"))

    assert bench.start("curate").returncode == 0

    counts = read_json(bench.run.path("corpus/manifest.json"))["sources"]
    assert [one["in"] for one in counts] == [len(DOCUMENTS), 0]
