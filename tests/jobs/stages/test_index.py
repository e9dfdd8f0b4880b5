"""The stage that writes a training's samples: its files, refusals, and the state after a kill."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from jobs.contract import specs
from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import (
    WHOLE,
    CorpusSpec,
    CorpusWeight,
    IndexSpec,
    PhaseSpec,
    PretrainSpec,
)
from jobs.data import sample_index, survey
from jobs.data.indexed_dataset import IndexedWriter
from jobs.data.mixture import Section
from jobs.data.sample_order import CorpusOrder
from jobs.data.sample_reader import SampleReader

Training = Callable[..., PretrainSpec]

FOLDER = "tokens/index"


@pytest.fixture
def training(bench: Any, tmp_path: Path) -> Training:
    """Return the settings of a training on datasets that no run has made."""
    for name, documents in (("a", 30), ("b", 9), ("c", 11), ("held-out", 8), ("replay", 7)):
        source = numpy.random.default_rng(documents)
        writer = IndexedWriter(tmp_path / name, "uint16")
        lengths = source.integers(20, 90, size=documents, dtype=numpy.int32)
        writer.add(source.integers(0, 90, size=lengths.sum(), dtype=numpy.uint16), lengths)
        writer.publish()
    spec = dataclasses.replace(
        bench.training().spec,
        corpora=(
            CorpusSpec(
                "corpus", (str(tmp_path / "a"), str(tmp_path / "b")), (f"{tmp_path}/held-out",)
            ),
            CorpusSpec("replay", (str(tmp_path / "c"),), (str(tmp_path / "replay"),)),
        ),
        phases=(
            PhaseSpec(0, "tokens", (CorpusWeight("corpus", 3.0), CorpusWeight("replay", 1.0))),
        ),
        index_dir=FOLDER,
        global_batch_size=4,
        validation_batches=2,
        train_steps=20,
        require_eod=False,
    )
    return lambda **values: dataclasses.replace(spec, **values)


def task(bench: Any, spec: PretrainSpec) -> specs.TaskSpec:
    found: specs.TaskSpec = bench.task("index", IndexSpec(spec.order, spec, FOLDER))
    return found


def read(bench: Any, spec: PretrainSpec) -> list[SampleReader]:
    return sample_index.read(bench.run, spec, survey.survey(bench.run, spec))


def require(bench: Any, spec: PretrainSpec) -> None:
    sample_index.require(bench.run, spec, survey.survey(bench.run, spec))


def samples(bench: Any, spec: PretrainSpec) -> list[list[list[int]]]:
    """Return the tokens of each sample of each split."""
    splits = read(bench, spec)
    return [[split[number].tolist() for number in range(split.samples)] for split in splits]


def test_each_corpus_has_a_split_of_its_own_and_all_is_as_in_memory(
    bench: Any, training: Training
) -> None:
    spec = training()
    indexed = task(bench, spec)

    result = bench.start("index")

    assert (result.returncode, result.stderr) == (0, "")
    assert bench.is_done(indexed)
    splits = read(bench, spec)
    names = ["", "corpus", "replay"]
    assert [(split.corpus, split.samples) for split in splits] == [
        *zip(names, (80, 8, 8), strict=True)
    ]
    for split in splits:
        order, files = split.opened
        orders = {
            name: CorpusOrder(found.lengths, [Section(0, spec.model.seq_length)], spec.seed)
            for name, found in files.items()
        }
        for number in range(split.samples):
            (drawn,) = order.take(number, 1)
            stretches = orders[drawn.corpus].stretches(drawn.number)
            assert stretches == order.stretches(drawn)
            parts = [files[drawn.corpus].tokens(part) for part in stretches]
            assert numpy.concatenate(parts).tolist() == split[number].tolist()
    assert set(splits[0].opened.files) == {"corpus", "replay"}


def test_another_sequence_length_is_laid_out_as_in_memory(bench: Any, training: Training) -> None:
    (first,) = training().phases
    phases = (
        first,
        *(
            dataclasses.replace(first, from_tokens=n, sequence_length=length)
            for n, length in ((1300, 16), (1700, 192), (6000, None))
        ),
    )
    spec = training(phases=phases)
    task(bench, spec)

    assert bench.start("index").returncode == 0

    train, *held_out = read(bench, spec)
    assert [(split.corpus, split.length_of(0)) for split in held_out] == [
        (name, length) for name in ("corpus", "replay") for length in (64, 16, 192)
    ]
    assert {len(split[number]) for split in held_out for number in range(8)} == {65, 17, 193}
    order, files = train.opened
    mixture = order.mixture
    consumed = mixture.consumed(spec.sequences)
    assert len(mixture.sections("corpus", consumed["corpus"])) == 4
    plain = {
        name: CorpusOrder(found.lengths, mixture.sections(name, consumed[name]), spec.seed)
        for name, found in files.items()
    }
    for number in range(train.samples):
        (drawn,) = order.take(number, 1)
        assert order.stretches(drawn) == plain[drawn.corpus].stretches(drawn.number)
        assert len(train[number]) == train.length_of(number) + 1
    content = [train[number].tolist() for number in range(train.samples)]
    running = read(bench, spec)[0]
    assert running[0].tolist() == content[0]
    task(bench, training())
    assert bench.start("index").returncode == 0
    assert samples(bench, training())[0][:16] == content[:16]
    assert [running[number].tolist() for number in range(train.samples)] == content


@pytest.mark.parametrize(("token", "kind"), [(-1, "int32"), (60_000, "uint16")])
def test_an_id_outside_of_the_vocabulary_is_found_wherever_it_is(
    bench: Any, training: Training, tmp_path: Path, token: int, kind: str
) -> None:
    """Behind the bytes that a submission reads; a corrected file is checked again."""
    tokens = numpy.zeros(survey.SCANNED_BYTES // numpy.dtype(kind).itemsize + 1000, kind)
    tokens[-7] = token
    large = IndexedWriter(tmp_path / "large", kind)
    large.add(tokens, numpy.array([len(tokens) - 10, 10], numpy.int32))
    large.publish()
    spec = training(corpora=(CorpusSpec("corpus", (f"{tmp_path}/large",)),), phases=(WHOLE,))
    survey.check_elsewhere(bench.run, spec)
    task(bench, spec)

    refused = bench.start("index")

    assert refused.returncode == 2
    where = f"{tmp_path}/large.bin: document 1 at position 3, both counted from 0,"
    assert f"{where} holds token {token}, the model has a vocabulary" in refused.stderr
    with pytest.raises(TaskError, match="is missing or incomplete"):
        require(bench, spec)

    tokens[-7] = 0
    tokens.tofile(tmp_path / "large.bin")
    assert bench.start("index").returncode == 0
    require(bench, spec)
    tokens.tofile(tmp_path / "large.bin")
    with pytest.raises(TaskError, match="is of other tokens"):
        require(bench, spec)


def test_done_again_it_keeps_what_fits_and_replaces_what_does_not(
    bench: Any, training: Training
) -> None:
    task(bench, training())
    bench.start("index")
    before, times = samples(bench, training()), [path.stat().st_mtime_ns for path in files(bench)]

    task(bench, training(save_interval=7))
    assert bench.start("index").returncode == 0
    assert [path.stat().st_mtime_ns for path in files(bench)] == times

    task(bench, training(train_steps=30))
    assert bench.start("index").returncode == 0
    more = samples(bench, training(train_steps=30))
    assert [len(split) for split in more] == [120, 8, 8]
    assert more[0][:80] == before[0]
    assert more[1:] == before[1:]


def files(bench: Any) -> list[Path]:
    found: list[Path] = sample_index.files(bench.run.path(FOLDER))
    return found


def test_what_does_not_decide_the_samples_keeps_the_task_done(
    bench: Any, training: Training
) -> None:
    task(bench, training())
    bench.start("index")

    assert bench.is_done(task(bench, training(micro_batch_size=2, save_interval=3)))
    for change in ({"train_steps": 21}, {"seed": 7}, {"validation_batches": 3}):
        assert not bench.is_done(task(bench, training(**change)))


def test_a_reader_keeps_its_samples_while_they_are_replaced(bench: Any, training: Training) -> None:
    task(bench, training())
    bench.start("index")
    reader, *_ = read(bench, training())
    before = [reader[number].tolist() for number in range(40)]

    task(bench, training(seed=99))
    assert bench.start("index").returncode == 0

    assert [reader[number].tolist() for number in range(40)] == before
    assert samples(bench, training(seed=99))[0][:40] != before


@pytest.mark.parametrize("count", [1, 2])
def test_killed_before_it_is_whole_it_starts_from_scratch(
    bench: Any, training: Training, count: int
) -> None:
    task(bench, training())

    killed = bench.start_and_signal("index", "os.rename", count, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(TaskError, match="the index of samples is missing or incomplete"):
        require(bench, training())

    assert bench.start("index").returncode == 0
    assert [path.name for path in bench.run.path("tokens").iterdir()] == ["index"]


def test_a_file_cut_short_is_refused_by_training_and_written_again(
    bench: Any, training: Training
) -> None:
    task(bench, training())
    bench.start("index")
    before = samples(bench, training())
    require(bench, training())
    *_, windows = files(bench)
    windows.write_bytes(windows.read_bytes()[:-1])

    with pytest.raises(TaskError, match="the index of samples is missing or incomplete"):
        require(bench, training())
    assert not bench.is_done(task(bench, training()))
    assert bench.start("index").returncode == 0

    assert samples(bench, training()) == before


def test_training_refuses_the_samples_of_other_settings(bench: Any, training: Training) -> None:
    task(bench, training())
    bench.start("index")

    with pytest.raises(TaskError, match="of other tokens or settings than this training's"):
        require(bench, training(seed=7))


def test_bad_tokens_are_refused_here_and_not_in_an_allocation(
    bench: Any, training: Training
) -> None:
    task(bench, training(global_batch_size=400))
    result = bench.start("index")
    assert result.returncode == 2
    assert "and pretrain.global_batch_size is 400: one batch would repeat documents" in (
        result.stderr
    )

    task(bench, training(max_epochs=0.1))
    result = bench.start("index")
    assert (result.returncode, "pretrain.max_epochs is 0.1" in result.stderr) == (2, True)


def test_neither_torch_nor_megatron_is_loaded() -> None:
    code = "import jobs.stages.index, sys; print({'torch', 'megatron'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
