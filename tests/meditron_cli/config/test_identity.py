"""Settings that change a run's name, and those that do not."""

from __future__ import annotations

import re

import pytest

from meditron_cli.config.identity import run_name
from meditron_cli.config.load import load


def name(*overrides: str, size: str = "tiny") -> str:
    experiment = load("local", size, None, ["curate.sources=[a]", *overrides]).experiment
    return run_name(experiment, size, "local")


def test_a_name_is_experiment_size_and_eight_digits(folder: object) -> None:
    assert re.fullmatch(r"med-tiny-[0-9a-f]{8}", name())
    assert name() == name()


@pytest.mark.parametrize(
    "override",
    [
        "pretrain.time_minutes=3-00:00:00",
        "curate.time_minutes=1",
        "tokenize.time_minutes=1",
        "tokenize.cpus=2",
        "tokenize.max_parallel=1",
        "pretrain.signal_lead_seconds=60",
        "pretrain.save_interval=50",
        "pretrain.keep_checkpoints=5",
        "pretrain.keep_steps=[70, 90]",
        "pretrain.skip_steps=[7, 20-29]",
        "pretrain.micro_batch_size=4",
        "pretrain.max_epochs=9",
        "pretrain.spike_policy=rewind",
        "pretrain.spike_window=64",
        "pretrain.spike_deviations=5",
        "pretrain.spike_norm_factor=4",
        "pretrain.spike_rewind_steps=50",
        "parallel={tensor: 2, data: 2}",
        "parallel.recompute=full",
        "evaluate.benchmarks=[{name: a, path: a}]",
        "evaluate.batch_size=2",
        "curate.min_chars=100",
    ],
)
def test_how_a_run_is_carried_out_continues_it(folder: object, override: str) -> None:
    assert name(override) == name()


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "seed=1",
        "curate.sources=[b]",
        "curate.min_chars=101",
        "curate.shards=9",
        "tokenize.tokenizer=t.json",
        "vocabulary.eod_token=<eod>",
        "model.layers=3",
        "pretrain.learning_rate=1e-3",
        "pretrain.train_steps=601",
        "pretrain.global_batch_size=64",
        "pretrain.precision=bf16",
        "pretrain.data=[d]",
    ],
)
def test_what_is_trained_starts_another_run(folder: object, override: str) -> None:
    assert name(override) != name()


def test_the_cluster_and_the_size_are_part_of_the_identity(folder: object) -> None:
    experiment = load("local", "tiny", None, []).experiment

    names = {run_name(experiment, size, c) for size in ("tiny", "7b") for c in ("local", "kuma")}

    assert len({found[-8:] for found in names}) == 4
