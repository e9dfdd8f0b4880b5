"""Metrics of earlier attempts as rank 0 reads them."""

from __future__ import annotations

from jobs.contract.stage_specs import PretrainSpec
from jobs.engine.reporter import Reporter
from jobs.runtime.context import context_from

from ...metric_lines import append, save, step, validation
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
