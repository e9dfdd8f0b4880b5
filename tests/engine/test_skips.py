"""Steps whose batches are skipped, on real ranks."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs.contract.files import read_json
from jobs.contract.metrics_log import SkipLine
from jobs.engine.stability.skips import CONFIGURED

from .. import metric_lines
from .conftest import new_run

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def skipping(tokens, fork_server, tmp_path_factory):
    """Return a finished run of eight steps that skips the third and the fourth."""
    folder = tmp_path_factory.mktemp("skipping")
    run = new_run(folder / "run", tokens, fork_server, skip_steps=(3, 4), validation_interval=2)
    run.finish()
    return run


def skipped(run, attempt=1):
    lines = (line for line in run.lines() if isinstance(line, SkipLine))
    return [(line.step, line.reason) for line in lines if line.attempt == attempt]


def test_skipped_steps_change_no_weights_and_later_ones_read_their_own_batches(skipping, make_run):
    plain = make_run()
    plain.finish()

    assert list(skipping.losses()) == [1, 2, 5, 6, 7, 8]
    assert skipped(skipping) == [(3, CONFIGURED), (4, CONFIGURED)]
    validations = skipping.validations()
    assert validations[2] == validations[4] != validations[6]
    samples, rates = plain.samples(), {line.step: line.learning_rate for line in plain.steps()}
    assert skipping.samples() == {step: samples[step] for step in (1, 2, 5, 6, 7, 8)}
    assert all(line.learning_rate == rates[line.step] for line in skipping.steps())
    summary = read_json(skipping.files.done("pretrain", 0))["summary"]
    assert (summary["steps"], summary["skipped"], summary["tokens"]) == (8, 2, 6 * 4 * 32)
    plots = EventAccumulator(str(skipping.root / "tensorboard")).Reload()
    assert [event.step for event in plots.Scalars("seconds/skipped step")] == [3, 4]


def test_a_step_that_was_decided_on_is_skipped_again_and_all_else_is_equal(skipping, tmp_path):
    root = shutil.copytree(skipping.root, tmp_path / "again")
    again = dataclasses.replace(skipping, root=root, started=[])
    shutil.rmtree(root / "checkpoints/iter_0000008")
    metric_lines.append(again.files, metric_lines.skip(8, reason="a spike of the loss"))

    again.finish()

    assert again.trained(2) == [5, 6, 7]
    assert skipped(again, 2) == [(8, "a spike of the loss")]
    assert again.losses() == skipping.losses()
