"""Metric lines on disk, and reading them as they are appended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.contract.metrics_log import (
    MetricLine,
    MetricsLog,
    MetricsReader,
    StepLine,
    from_json,
    to_json,
)
from jobs.contract.rundir import RunDir

from ...metric_lines import append, period, save, skip, snapshot, spike, step, validation


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        (
            step(3),
            "step loss lr grad_norm consumed_samples samples tokens seconds tokens_per_s time "
            "attempt",
        ),
        (
            period(10),
            "step period loss perplexity param_norm seconds data_s communication_s checkpoint_s "
            "validation_s step_p50 step_p95 step_max tokens_per_s tokens_per_s_per_rank mfu "
            "mfu_without_attention memory_bytes time attempt",
        ),
        (spike(7, first=7), "step spike action samples saved first time attempt"),
        (validation(3), "step validation_loss corpora seconds time attempt"),
        (skip(3), "step skipped seconds time attempt"),
        (snapshot(3), "step snapshot time attempt"),
        (save(3), "step save written bytes time attempt"),
    ],
)
def test_a_line_has_the_documented_keys_and_is_parsed_as_it_was(
    line: MetricLine, keys: str
) -> None:
    value = json.loads(json.dumps(to_json(line)))

    assert list(value) == keys.split()
    assert from_json(value) == line


def test_lines_that_are_of_no_kind_are_skipped(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    append(run, step(1))
    with run.metrics("pretrain").open("a") as file:
        file.write('{"step": 2, "loss": \n[1]\n{"step": 2}\n{"step": 2, "loss": 1.0}\n')
    append(run, save(2))

    assert list(MetricsLog(run, "pretrain").read_new()) == [step(1), save(2)]


@pytest.mark.parametrize(
    "of_corpus", [{"loss": None, "perplexity": 9.0}, {"loss": float("nan")}, {"loss": 2.0}, {}, 1]
)
def test_a_validation_without_the_loss_of_a_corpus_is_skipped(
    tmp_path: Path, of_corpus: object
) -> None:
    run = RunDir(tmp_path)
    whole = {"loss": 2.0, "perplexity": 7.4}
    append(run, validation(1, corpora={"med": whole}))
    append(run, validation(2, corpora={"med": whole, "replay": of_corpus}))

    assert [line.step for line in MetricsLog(run, "pretrain").read_new()] == [1]


def test_a_training_without_metrics_has_no_lines(tmp_path: Path) -> None:
    assert list(MetricsLog(RunDir(tmp_path), "pretrain").read_new()) == []


def test_only_new_lines_are_read_and_only_whole_ones(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    log = MetricsLog(run, "pretrain")
    append(run, step(1), step(2))
    first = list(log.read_new())
    with run.metrics("pretrain").open("a") as file:
        file.write('{"step": 3, "save": 1.0, "written": 1.0, "bytes": 1,')
    torn = list(log.read_new())
    with run.metrics("pretrain").open("a") as file:
        file.write(' "time": 0.0, "attempt": 1}\n')

    assert (first, torn, list(log.read_new())) == ([step(1), step(2)], [], [save(3)])


def test_a_log_longer_than_a_block_is_read_whole(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    lines = [step(number, samples="x" * 20_000) for number in range(1, 501)]
    append(run, *lines)

    read = [line for line in MetricsLog(run, "pretrain").read_new() if isinstance(line, StepLine)]

    assert [line.step for line in read] == list(range(1, 501))


def test_a_summary_is_kept_current_without_reading_old_lines_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    reader = MetricsReader(run, "pretrain")
    append(run, save(5, seconds=7.0))
    reader.current()
    path = run.metrics("pretrain")
    path.write_bytes(b"x" * (path.stat().st_size - 1) + b"\n")
    append(run, snapshot(4, seconds=0.5), save(4, seconds=0.25, written=2.0))
    append(run, validation(4, seconds=9.0))

    summary = reader.current()

    assert (summary.highest_saved, summary.longest_save) == (5, 7.0)
    assert (list(summary.saves), list(summary.blocked)) == ([7.0, 2.0], [7.0, 0.75])
    assert summary.longest_validation == 9.0
