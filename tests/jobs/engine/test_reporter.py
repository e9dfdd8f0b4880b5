"""Metrics of earlier attempts as rank 0 reads them."""

from __future__ import annotations

import threading

import pytest

from jobs.contract import progress_record
from jobs.contract.stage_specs import PretrainSpec
from jobs.engine.reporter import Reporter
from jobs.runtime.context import context_from

from ...metric_lines import append, save, skip, step, validation
from ..conftest import Workbench


def test_rank_0_parses_each_metric_line_once(bench: Workbench) -> None:
    spec = bench.training().spec
    assert isinstance(spec, PretrainSpec)
    append(bench.run, step(4), save(4), validation(4))
    reporter = Reporter(context_from(bench.run.root, "pretrain", 0, {}), spec)
    highest = reporter.highest_saved()
    path = bench.run.metrics("pretrain")
    path.write_bytes(b"x" * (path.stat().st_size - 1) + b"\n")
    append(bench.run, step(5))

    lines = list(reporter.lines())

    assert highest == 4
    assert lines == [step(4), save(4), validation(4), step(5)]
    assert (reporter.has_validation(4), reporter.has_validation(5)) == (True, False)


def test_an_attempt_shows_the_loss_of_the_step_that_it_continues_from(bench: Workbench) -> None:
    """An attempt that finds nothing to train left a run without a loss in ``status``."""
    spec = bench.training().spec
    assert isinstance(spec, PretrainSpec)
    append(bench.run, step(4, loss=2.5), step(5, loss=1.5), step(6, loss=0.5))
    reporter = Reporter(context_from(bench.run.root, "pretrain", 0, {}), spec)

    reporter.open(5)
    reporter.progress(5, "step")
    reporter.close()

    progress = progress_record.read(bench.run, "pretrain", 0)
    assert progress is not None
    assert progress.loss == 1.5


def test_a_validation_of_steps_that_were_left_does_not_count(bench: Workbench) -> None:
    spec = bench.training().spec
    assert isinstance(spec, PretrainSpec)
    append(bench.run, *map(step, range(1, 5)), validation(2), validation(4), step(5))
    reporter = Reporter(context_from(bench.run.root, "pretrain", 0, {}), spec)
    before = reporter.has_validation(4)

    append(bench.run, skip(4, 2))  # training returned to step 3

    assert before
    assert (reporter.has_validation(2), reporter.has_validation(4)) == (True, False)


def test_a_full_disk_is_named_by_the_file_of_the_metrics(bench: Workbench) -> None:
    spec = bench.training().spec
    assert isinstance(spec, PretrainSpec)
    bench.run.metrics("pretrain").unlink(missing_ok=True)
    bench.run.metrics("pretrain").symlink_to("/dev/full")
    reporter = Reporter(context_from(bench.run.root, "pretrain", 0, {}), spec)
    before = threading.enumerate()
    reporter.open(0)

    for call in (lambda: reporter.skip(1, "spike", 0.1), reporter.close):
        with pytest.raises(OSError, match=r"No space left on device: '.*/metrics\.jsonl'"):
            call()
    assert not [thread for thread in threading.enumerate() if thread not in before]
