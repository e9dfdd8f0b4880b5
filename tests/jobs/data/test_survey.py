"""Datasets are recognised by their content: a run's own, and those made elsewhere."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from jobs.contract import done_markers, specs
from jobs.contract.errors import TaskError
from jobs.contract.files import (
    SAMPLED_BLOCKS,
    SAMPLED_BYTES,
    sampled_blocks,
    sampled_sha256,
)
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import (
    WHOLE,
    CorpusSpec,
    CorpusWeight,
    PhaseSpec,
    TailSpec,
    TokenizerRef,
)
from jobs.data.indexed_dataset import (
    HEADER,
    MAGIC,
    TOKEN_TYPES,
    VERSION,
    IndexedWriter,
    read_index,
)
from jobs.data.survey import DatasetSurvey, last_places, survey

from ...model_specs import corpus_spec, vocabulary_spec

LARGE = 200_000
"""Tokens of a dataset of which blocks are sampled, not all bytes read."""

OWN = "tokens/train/00000"


def write_dataset(prefix: Path, tokens: int, seed: int = 0) -> None:
    writer = IndexedWriter(prefix, "uint16")
    ids = numpy.random.default_rng(seed).integers(0, 90, size=tokens, dtype=numpy.uint16)
    writer.add(ids, numpy.array([tokens] if tokens else [], dtype=numpy.int32))
    writer.publish()


Survey = Callable[..., DatasetSurvey]


@pytest.fixture
def run(bench: Any) -> RunDir:
    """Return a run whose tokenize task has finished."""
    run: RunDir = bench.run
    tokenize(run, OWN, LARGE)
    return run


@pytest.fixture
def survey_of(run: RunDir, bench: Any) -> Survey:
    """Return a survey of the datasets of these prefixes, by default the run's own."""
    spec = bench.training().spec

    def survey_of(*train: str, **values: Any) -> DatasetSurvey:
        changed = {"corpora": corpus_spec(*(train or (OWN,))), "require_eod": False, **values}
        return survey(run, dataclasses.replace(spec, **changed))

    return survey_of


def tokenize(
    run: RunDir, prefix: str, tokens: int, index: int = 0, tokenizer: str | None = None
) -> None:
    """Write a dataset of the run and its done marker."""
    write_dataset(run.path(prefix), tokens)
    outputs = [done_markers.describe_file(run, f"{prefix}{end}") for end in (".bin", ".idx")]
    outputs[0]["sampled_sha256"] = sampled_sha256(run.path(f"{prefix}.bin"))
    summary = {"vocabulary": specs.digest(vocabulary_spec(0))}
    read = [] if tokenizer is None else [described("a"), described("b") | {"sha256": tokenizer}]
    facts: dict[str, Any] = {"spec_digest": "", "inputs": read, "summary": summary, "seconds": 0.0}
    done_markers.write_done(run, "tokenize", index, outputs=outputs, **facts)


def described(path: str) -> dict[str, Any]:
    return {"path": path, "bytes": 1, "mtime_ns": 1}


def alter(path: Path, offset: int, *, keep_time: bool) -> None:
    """Change one byte of a file."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    moment = before.st_mtime_ns if keep_time else before.st_mtime_ns + 10**9
    os.utime(path, ns=(moment, moment))


def test_tokens_of_another_registry_are_refused_by_name(run: RunDir, survey_of: Survey) -> None:
    other = TokenizerRef("", "", vocabulary_spec(0, bos_token="<s>"))

    with pytest.raises(TaskError) as refusal:
        survey_of(tokenizer=other)

    assert refusal.value.message == (
        f"{run.path(OWN)}.bin was tokenized with another vocabulary registry than this run's"
    )


def between_samples(path: Path) -> int:
    """Return an offset that no sampled block covers."""
    (first, length), (second, _) = sampled_blocks(path.stat().st_size)[:2]
    assert first + length < second
    return first + length


@pytest.mark.parametrize(
    ("where", "keep_time"), [("sample", True), ("sample", False), ("between", False)]
)
def test_an_altered_file_of_equal_length_is_refused_by_name(
    run: RunDir, survey_of: Survey, where: str, keep_time: bool
) -> None:
    binary = run.path(f"{OWN}.bin")
    survey_of()
    alter(binary, 0 if where == "sample" else between_samples(binary), keep_time=keep_time)

    with pytest.raises(TaskError) as refusal:
        survey_of()

    assert refusal.value.message == (
        f"{binary} is not what tokenize wrote: its content has changed since"
    )
    assert refusal.value.hint == f"`rm {binary}`, then {{meditron resume}} makes it again"


def test_a_change_between_the_samples_with_the_old_time_is_not_found(
    run: RunDir, survey_of: Survey
) -> None:
    """The limit that docs/data.md states; only reading every byte would find it."""
    binary = run.path(f"{OWN}.bin")
    before = survey_of().record(4)["digest"]
    alter(binary, between_samples(binary), keep_time=True)

    assert survey_of().record(4)["digest"] == before


def test_a_file_that_was_only_touched_or_copied_is_accepted(run: RunDir, survey_of: Survey) -> None:
    before = survey_of()
    os.utime(run.path(f"{OWN}.bin"))

    assert survey_of() == before


def test_an_altered_index_is_refused_by_name(run: RunDir, survey_of: Survey) -> None:
    index = run.path(f"{OWN}.idx")
    alter(index, index.stat().st_size - 8, keep_time=True)  # the bounds of documents

    with pytest.raises(TaskError, match=r"00000\.idx is not what tokenize wrote"):
        survey_of()


def test_both_files_of_another_dataset_are_refused(run: RunDir, survey_of: Survey) -> None:
    write_dataset(run.path(OWN), 5000)

    with pytest.raises(TaskError, match=r"00000\.idx is not what tokenize wrote"):
        survey_of()


def test_an_emptied_file_is_not_taken_for_an_empty_dataset(run: RunDir, survey_of: Survey) -> None:
    tokenize(run, "tokens/train/00001", 0, index=1)
    assert len(survey_of(OWN, "tokens/train/00001").train) == 1
    run.path(f"{OWN}.bin").write_bytes(b"")

    with pytest.raises(TaskError, match="has 0 bytes, by its index it has 400000"):
        survey_of(OWN, "tokens/train/00001")


def test_a_dataset_of_the_run_without_a_done_marker_is_refused(
    run: RunDir, survey_of: Survey
) -> None:
    run.done("tokenize", 0).unlink()

    with pytest.raises(TaskError, match=r"00000\.bin has no done marker of tokenize"):
        survey_of()


def test_a_dataset_that_another_run_has_not_finished_is_refused(
    survey_of: Survey, tmp_path: Path
) -> None:
    other = RunDir(tmp_path / "other")
    tokenize(other, OWN, LARGE)
    left = other.path(f"{OWN}-0001")
    write_dataset(left, LARGE)
    assert survey_of(str(other.path(OWN)))

    with pytest.raises(TaskError) as refusal:
        survey_of(str(left))

    assert refusal.value.message == f"{left}.bin has no done marker of tokenize"
    assert refusal.value.hint == f"name the run in its place: {other.root}"


def test_tokens_of_another_tokenizer_are_refused_of_this_run_and_another(
    run: RunDir, survey_of: Survey, tmp_path: Path
) -> None:
    ours = TokenizerRef("", "1" * 64, vocabulary_spec(0))
    other = RunDir(tmp_path / "other")
    made = str(other.path(OWN))
    for place in (run, other):
        tokenize(place, OWN, LARGE, tokenizer="1" * 64)
    assert len(survey_of(OWN, made, tokenizer=ours).train) == 2

    for place, prefix, remedy in (
        (other, made, "name datasets that were made with it, or curate and tokenize in this run"),
        (run, OWN, "{meditron resume} makes it again"),
    ):
        tokenize(place, OWN, LARGE, tokenizer="2" * 64)
        with pytest.raises(TaskError) as refusal:
            survey_of(prefix, tokenizer=ours)
        assert refusal.value.message == (
            f"{place.path(OWN)}.bin was tokenized with another tokenizer than this run's "
            "(SHA-256 222222222222, not 111111111111)"
        )
        assert (refusal.value.hint, refusal.value.code) == (remedy, 2)


def test_tokens_of_another_registry_in_another_run_are_refused(
    survey_of: Survey, tmp_path: Path
) -> None:
    other = RunDir(tmp_path / "other")
    tokenize(other, OWN, LARGE)

    with pytest.raises(TaskError, match="with another vocabulary registry than this run's"):
        survey_of(
            str(other.path(OWN)), tokenizer=TokenizerRef("", "", vocabulary_spec(0, "<other>"))
        )


@pytest.mark.parametrize(
    ("ids", "kind", "outside"),
    [
        ([1, 2, -1], "<i4", -1),
        ([-32_768, 499], "<i2", -32_768),
        ([3, 2**40], "<i8", 2**40),
        ([500, 1], "<u2", 500),
    ],
)
def test_ids_outside_the_vocabulary_are_refused(
    survey_of: Survey, tmp_path: Path, ids: list[int], kind: str, outside: int
) -> None:
    prefix = tmp_path / "made elsewhere/odd"
    write_dataset(prefix, 0)
    values = numpy.array(ids * 50, dtype=kind)
    prefix.with_suffix(".bin").write_bytes(values.tobytes())
    code = next(code for code, name in TOKEN_TYPES.items() if name == kind)
    header = HEADER.pack(MAGIC, VERSION, code, 1, 2)
    lengths = numpy.array([len(values)], dtype="<i4").tobytes()
    bounds = numpy.array([0, 0, 1], dtype="<i8").tobytes()
    prefix.with_suffix(".idx").write_bytes(header + lengths + bounds)

    with pytest.raises(TaskError) as refusal:
        survey_of(str(prefix))

    assert refusal.value.message == (
        f"{prefix}.bin holds token {outside}, the model has a vocabulary of 500"
    )
    assert refusal.value.code == 2


WITH_EOD = TokenizerRef("", "", vocabulary_spec(499, added_tokens=("<EOD>",)))
"""A tokenizer whose ``<EOD>`` has the id 499."""


def write_documents(prefix: Path, *documents: list[int]) -> str:
    writer = IndexedWriter(prefix, "uint16")
    ids = numpy.array([token for document in documents for token in document], "<u2")
    writer.add(ids, numpy.array([len(document) for document in documents], numpy.int32))
    writer.publish()
    return str(prefix)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_dataset_of_which_no_document_ends_with_eod_is_refused(
    survey_of: Survey, tmp_path: Path, split: str
) -> None:
    full = write_documents(tmp_path / "full", [7] * 5000 + [499])
    made = write_documents(tmp_path / "a", [7, 8, 2], [], [9, 2], [3, 499, 5])
    train, validation = ((full, made), ()) if split == "train" else ((full,), (made,))
    values = {
        "corpora": corpus_spec(*train, validation=validation),
        "tokenizer": WITH_EOD,
        "max_epochs": None,
    }

    with pytest.raises(TaskError) as refusal:
        survey_of(**values, require_eod=True)

    assert refusal.value.message == (
        f"{made}.bin: of its documents none ends with '<EOD>', token 499 of this tokenizer; 3 were "
        "read, most end with token 2"
    )
    assert refusal.value.hint.endswith(
        "; {meditron submit pretrain --set pretrain.require_eod=false --run} allows it"
    )
    assert refusal.value.code == 2
    allowed = survey_of(**values, require_eod=False)
    assert made in [source.prefix for source in (*allowed.train, *allowed.validation)]


@pytest.mark.parametrize(
    "documents", [[[7, 8, 499], [9, 2]], [[7, 2]] * 15 + [[8, 499]], [[], []], []]
)
def test_one_document_that_ends_with_eod_is_enough(
    survey_of: Survey, tmp_path: Path, documents: list[list[int]]
) -> None:
    full = write_documents(tmp_path / "full", [7] * 5000 + [499])
    made = write_documents(tmp_path / "a", *documents)

    found = survey_of(full, made, tokenizer=WITH_EOD, require_eod=True, max_epochs=None)

    assert len(found.train) == 1 + any(documents)


@pytest.mark.parametrize(
    ("scanned", "places"), [(2, range(2, 48, 3)), (120, range(2, 60, 3)), (122, range(2, 63, 3))]
)
def test_the_ends_of_documents_that_begin_in_the_bytes_read_are_checked(
    tmp_path: Path, scanned: int, places: range
) -> None:
    made = write_documents(tmp_path / "a", *[[1, 2, 3]] * 30)

    found = last_places(read_index(Path(f"{made}.idx")), scanned)

    assert found.tolist() == list(places)


def test_too_few_tokens_are_refused(run: RunDir, survey_of: Survey) -> None:
    with pytest.raises(TaskError, match=r"pretrain\.global_batch_size is 4000: one batch would"):
        survey_of(global_batch_size=4000)
    with pytest.raises(TaskError, match=r"read the 200,000 training tokens 3\.8 times, and"):
        survey_of(global_batch_size=200, max_epochs=3.0)


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    """Return the prefix of a dataset that no run has made."""
    write_dataset(tmp_path / "made elsewhere/a", LARGE)
    return str(tmp_path / "made elsewhere/a")


def another_time(binary: Path) -> None:
    os.utime(binary, ns=(1, 1_700_000_000_123_456_789))


CHANGES: dict[str, Callable[[Path], None]] = {
    "a sampled block": lambda path: alter(path, path.stat().st_size - 1, keep_time=True),
    "another byte, and the time": lambda path: alter(path, between_samples(path), keep_time=False),
    "the time": another_time,
    "the size": lambda path: write_dataset(path.with_suffix(""), LARGE + 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_dataset_made_elsewhere_is_refused_by_name(
    run: RunDir, survey_of: Survey, elsewhere: str, change: str
) -> None:
    recorded = survey_of(elsewhere).record(4)
    CHANGES[change](Path(f"{elsewhere}.bin"))

    with pytest.raises(TaskError) as refusal:
        survey_of(elsewhere).require_same(run, recorded, 4, "iter_0000004")

    assert refusal.value.message.startswith(f"{elsewhere}.bin ")
    assert "since iter_0000004 was saved" in refusal.value.message


def test_the_hint_about_a_changed_time_sets_it_back(
    run: RunDir, survey_of: Survey, elsewhere: str
) -> None:
    another_time(Path(f"{elsewhere}.bin"))
    recorded = survey_of(elsewhere).record(4)
    os.utime(f"{elsewhere}.bin")
    with pytest.raises(TaskError) as refusal:
        survey_of(elsewhere).require_same(run, recorded, 4, "iter_0000004")
    _, command, rest = refusal.value.hint.split("`")

    subprocess.run(shlex.split(command), check=True)

    assert rest == ", then {meditron resume}"
    survey_of(elsewhere).require_same(run, recorded, 4, "iter_0000004")


def test_a_moved_dataset_is_the_same(
    run: RunDir, survey_of: Survey, elsewhere: str, tmp_path: Path
) -> None:
    before = survey_of(elsewhere)
    for end in (".bin", ".idx"):
        shutil.move(f"{elsewhere}{end}", tmp_path / f"b{end}")

    survey_of(str(tmp_path / "b")).require_same(run, before.record(4), 4, "iter_0000004")


def test_other_files_or_another_order_are_named(
    run: RunDir, survey_of: Survey, elsewhere: str
) -> None:
    both = survey_of(OWN, elsewhere)

    def refusal(found: DatasetSurvey, recorded: DatasetSurvey) -> str:
        with pytest.raises(TaskError) as caught:
            found.require_same(run, recorded.record(4), 4, "iter_0000004")
        return caught.value.message

    own = survey_of()
    assert refusal(own, both).startswith(f"{elsewhere}.bin is no longer among the tokens")
    assert refusal(both, own).startswith(f"{elsewhere}.bin has been added to the tokens")
    assert "the order of samples" in refusal(survey_of(seed=7), own)
    assert "the order of the files of a corpus" in refusal(survey_of(elsewhere, OWN), both)
    validated = survey_of(corpora=corpus_spec(OWN, validation=(OWN,)))
    assert "the order of the files of a corpus" in refusal(validated, own)


def later(step: int, **weights: float) -> PhaseSpec:
    """Return a phase of the training of ``bench``, whose steps have 64 tokens."""
    listed = tuple(CorpusWeight(name, weight) for name, weight in weights.items())
    return PhaseSpec(step * 64, "tokens", listed)


def test_corpora_and_phases_may_be_added_behind_a_checkpoint(
    run: RunDir, survey_of: Survey, elsewhere: str
) -> None:
    both = (*corpus_spec(OWN), CorpusSpec("replay", (elsewhere,)))
    before = survey_of().record(4)
    assert before["corpora"]["corpus"]["samples"] == 4
    assert before["phases"] == [
        {"step": 0, "shares": {"corpus": 1.0}, "sequence_length": 64, "tail": None}
    ]

    first = survey_of(corpora=both, phases=(WHOLE, later(4, corpus=1, replay=1)))
    first.require_same(run, before, 4, "iter_0000004")
    again = first.record(8)
    assert {name: corpus["samples"] for name, corpus in again["corpora"].items()} == {
        "corpus": 6,
        "replay": 2,
    }
    phases = (WHOLE, later(4, corpus=1, replay=1), later(8, replay=1))
    survey_of(corpora=both, phases=phases).require_same(run, again, 8, "iter_0000008")


def test_a_phase_that_has_started_cannot_be_changed(
    run: RunDir, survey_of: Survey, elsewhere: str
) -> None:
    both = (*corpus_spec(OWN), CorpusSpec("replay", (elsewhere,)))
    recorded = survey_of(corpora=both, phases=(WHOLE, later(4, replay=1))).record(6)

    longer = dataclasses.replace(later(4, replay=1), sequence_length=128)
    ending = dataclasses.replace(later(4, replay=1), tail=TailSpec(0.0, "linear", 60))
    for key, phases in (
        ("0.mixture", (later(4, corpus=1, replay=1),)),
        ("0.from_tokens", (later(5, replay=1),)),
        ("0.from_tokens", ()),
        ("0.sequence_length", (longer,)),
        ("0.tail", (ending,)),
        ("1.from_tokens", (later(4, replay=1), later(5, corpus=1))),
    ):
        found = survey_of(corpora=both, phases=(WHOLE, *phases))
        with pytest.raises(TaskError) as refusal:
            found.require_same(run, recorded, 6, "iter_0000006")
        where = f"pretrain.phases.{key}: the phases of the first 6 steps have changed"
        assert refusal.value.message.startswith(where)
        assert refusal.value.hint.endswith("may begin from_tokens: 384")
    edited = survey_of(corpora=both, phases=(WHOLE, later(4, replay=1), later(6, corpus=1)))
    edited.require_same(run, recorded, 6, "iter_0000006")


def test_a_corpus_that_was_trained_on_cannot_be_taken_away(
    run: RunDir, survey_of: Survey, elsewhere: str
) -> None:
    both = (*corpus_spec(OWN), CorpusSpec("replay", (elsewhere,)))
    used = survey_of(corpora=both, phases=(WHOLE, later(4, replay=1)))

    with pytest.raises(TaskError, match=r"a\.bin is no longer among the tokens"):
        survey_of().require_same(run, used.record(6), 6, "iter_0000006")
    survey_of().require_same(run, used.record(4), 4, "iter_0000004")


def test_consumed_samples_that_the_order_does_not_give_are_refused(
    run: RunDir, survey_of: Survey
) -> None:
    recorded = survey_of().record(4)
    recorded["corpora"]["corpus"]["samples"] = 5

    with pytest.raises(TaskError, match="has consumed 5 samples of the corpus 'corpus', by this"):
        survey_of().require_same(run, recorded, 4, "iter_0000004")


@pytest.mark.parametrize("size", [0, 1, SAMPLED_BLOCKS * SAMPLED_BYTES])
def test_all_of_a_small_file_is_read(size: int) -> None:
    assert sampled_blocks(size) == [(0, size)]


@pytest.mark.parametrize("size", [SAMPLED_BLOCKS * SAMPLED_BYTES + 1, 10**9 + 7, 10**14])
def test_of_a_large_file_a_fixed_number_of_blocks_is_read(size: int) -> None:
    blocks = sampled_blocks(size)
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(blocks)]

    assert len(blocks) == SAMPLED_BLOCKS
    assert blocks[0] == (0, SAMPLED_BYTES)
    assert blocks[-1] == (size - SAMPLED_BYTES, SAMPLED_BYTES)
    assert max(gaps) - min(gaps) <= 1
