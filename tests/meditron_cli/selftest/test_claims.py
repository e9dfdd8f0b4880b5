"""Verdicts on what a selftest measured, and its settings on every kind of cluster."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.stage_specs import MAIN_CORPUS, WHOLE
from jobs.contract.units import GIB
from jobs.data import corpora
from jobs.data.indexed_dataset import stored_size
from jobs.data.mixture import CorpusSize
from jobs.selftest import inputs
from meditron_cli.commands.selftest import load_selftest
from meditron_cli.errors import ConfigError
from meditron_cli.inputs import problems
from meditron_cli.plan.spec_parts import parallel_spec
from meditron_cli.runs import prepare
from meditron_cli.selftest import claims, judges, settings


def record(name: str, precision: str = "fp32", **result: Any) -> dict[str, Any]:
    """Return the record of a selftest with one trial."""
    facts = {"precision": precision, "device": "cpu", "transformer_engine": True}
    return {**facts, "trials": {name: result}}


PLANNED = judges.Planned(
    memory_bytes=40 * GIB,
    without_engine_bytes=20 * GIB,
    step_seconds=2.0,
    no_time="",
    speeds={
        "product_tflops": 600.0,
        "memory_gb_s": 2800.0,
        "link_gb_s": 350.0,
        "network_gb_s": 300.0,
    },
)


def names_of(trial: str) -> tuple[str, ...]:
    """Return the claims of a trial."""
    return claims.CLAIMS[trial][1]


TIMES = {"seconds": 16.0, "data": 0.5, "communication": 1.0}
"""Of the steps of the trial ``shape``."""


def verdicts(content: dict[str, Any], planned: judges.Planned = PLANNED) -> dict[str, Any]:
    return {row.claim: row for row in claims.judge(content, planned, "")}


# ---- verdicts


@pytest.mark.parametrize(
    ("precision", "loss", "verdict"),
    [
        ("fp32", 1e-6, "confirmed"),
        ("fp32", 1e-3, "refuted"),
        ("bf16", 1e-3, "confirmed"),
        ("bf16", 0.1, "refuted"),
        ("fp32", float("nan"), "refuted"),
    ],
)
def test_two_trainings_agree_within_the_tolerance_of_their_precision(
    precision: str, loss: float, verdict: str
) -> None:
    content = record("tensor-parallel", precision, state="done", steps=20, loss=loss, norm=loss / 2)

    assert verdicts(content)["tensor 2 trains as tensor 1"].verdict == verdict


def test_trainings_without_a_common_step_prove_nothing() -> None:
    content = record("tensor-parallel", state="done", steps=0, loss=0.0, norm=0.0)

    assert verdicts(content)["tensor 2 trains as tensor 1"].verdict == "refuted"


def test_a_trial_that_failed_refutes_its_claims_with_its_error() -> None:
    content = record("tensor-parallel", state="failed", error="RuntimeError: no")

    row = verdicts(content)["tensor 2 trains as tensor 1"]

    assert (row.verdict, row.reason) == ("refuted", "RuntimeError: no")


def test_a_trial_that_was_not_reached_is_not_run_because_of_the_problem() -> None:
    rows = claims.judge({}, PLANNED, "the job was cancelled")

    assert {(row.verdict, row.reason) for row in rows} == {("not run", "the job was cancelled")}
    assert [row.claim for row in rows] == [
        name for _, names in claims.CLAIMS.values() for name in names
    ]


@pytest.mark.parametrize(
    ("memory", "seconds", "expected"),
    [
        (41, 2.1, ("confirmed", "confirmed")),
        (49, 1.5, ("refuted", "refuted")),
        (30, None, ("refuted", "refuted")),
    ],
)
def test_memory_and_time_must_be_near_the_plan(
    memory: float, seconds: float | None, expected: tuple[str, str]
) -> None:
    shape = record("shape", state="done", memory_bytes=memory * GIB, step_seconds=seconds, **TIMES)
    content = {**shape, "device": "cuda"}

    rows = verdicts(content)

    assert tuple(rows[claim].verdict for claim in names_of("shape")[:2]) == expected


@pytest.mark.parametrize(("measured", "verdict"), [(60, "confirmed"), (40, "refuted")])
def test_the_memory_of_ranks_without_transformer_engine_is_that_of_their_layers(
    measured: float, verdict: str
) -> None:
    shape = record("shape", state="done", memory_bytes=measured * GIB, step_seconds=2.0, **TIMES)

    rows = verdicts({**shape, "device": "cuda", "transformer_engine": False})

    row = rows["two layers at full width take the planned memory"]
    assert (row.expected, row.verdict) == ("60.00 GiB within 20%", verdict)


@pytest.mark.parametrize(
    ("data", "communication", "expected"),
    [
        (0.5, 1.0, ("confirmed", "confirmed")),
        (2.0, 0.0, ("refuted", "refuted")),
        (0.0, 17.0, ("confirmed", "refuted")),
    ],
)
def test_waits_for_samples_and_for_communication_are_a_part_of_the_steps(
    data: float, communication: float, expected: tuple[str, str]
) -> None:
    times = {"seconds": 16.0, "data": data, "communication": communication}
    shape = record("shape", state="done", memory_bytes=GIB, step_seconds=2.0, **times)

    rows = verdicts({**shape, "device": "cuda"})

    assert tuple(rows[claim].verdict for claim in names_of("shape")[2:]) == expected


def test_the_memory_of_a_cpu_process_is_measured_without_a_verdict() -> None:
    content = record("shape", state="done", memory_bytes=50 * GIB, step_seconds=1.0, **TIMES)

    row = verdicts(content)["two layers at full width take the planned memory"]

    assert (row.measured, row.verdict) == ("50.00 GiB", "not run")
    assert row.reason == judges.RESIDENT


def test_a_step_that_no_plan_computes_is_measured_without_a_verdict() -> None:
    planned = replace(PLANNED, step_seconds=None, no_time="the profile lacks a peak")
    content = record("shape", state="done", memory_bytes=40 * GIB, step_seconds=1.25, **TIMES)

    row = verdicts(content, planned)["two layers at full width take the planned time"]

    assert (row.measured, row.verdict) == ("1.250 s", "not run")
    assert row.reason.endswith("the profile lacks a peak")


MEASURED: dict[str, Any] = {
    "state": "done",
    "product_tflops": 590.0,
    "memory_gb_s": 2000.0,
    "link_gb_s": 360.0,
    "network_gb_s": None,
    "exact": True,
}


def test_speeds_are_refuted_only_where_they_are_below_the_plan() -> None:
    content = {**record("speeds", "bf16", **MEASURED), "device": "cuda"}

    assert [verdicts(content)[claim].verdict for claim in names_of("speeds")] == [
        "confirmed",
        "confirmed",
        "refuted",
        "confirmed",
        "not run",
    ]


def test_cpu_ranks_measure_gloo_and_prove_nothing_of_nccl() -> None:
    rows = verdicts(record("speeds", **MEASURED), replace(PLANNED, speeds={}))

    assert rows["all-reduce sums are exact"].measured == "gloo, in a node 360 GB/s"
    assert rows["NCCL in a node reaches the planned speed"].reason == (
        "these ranks communicate by gloo"
    )
    assert rows["matrix products reach the planned speed"].verdict == "not run"


def test_wrong_sums_are_refuted() -> None:
    rows = verdicts(record("speeds", **{**MEASURED, "exact": False}))

    assert rows["all-reduce sums are exact"].verdict == "refuted"


@pytest.mark.parametrize(
    ("differing", "equal", "verdict"),
    [([], True, "confirmed"), ([11], True, "refuted"), ([], False, "refuted")],
)
def test_a_resumed_training_has_every_bit(differing: list[int], equal: bool, verdict: str) -> None:
    content = record(
        "resume", state="done", steps=10, differing_steps=differing, equal_checkpoints=equal
    )

    assert verdicts(content)["a resumed training is bit-equal"].verdict == verdict


PARITY: dict[str, Any] = {"steps": 20, "loss": 1e-7, "norm": 1e-6}


def on_gpus(name: str, **result: Any) -> list[tuple[str, str]]:
    """Return verdict and reason of each claim of a trial on two GPUs."""
    content = {**record(name, state="done", **result), "device": "cuda", "ranks": 2}
    rows = verdicts(content)
    return [(rows[claim].verdict, rows[claim].reason) for claim in names_of(name)]


def test_both_schedules_of_a_pipeline_are_judged_alone() -> None:
    far = {**PARITY, "norm": 1e-3}

    assert on_gpus("pipeline", layouts=[PARITY, far]) == [("confirmed", ""), ("refuted", "")]


@pytest.mark.parametrize(
    ("effect", "far", "expected"),
    [
        (0.01, {}, ["confirmed", "confirmed"]),
        (0.01, {"loss": 1e-3}, ["confirmed", "refuted"]),
        (0.0, {}, ["refuted", "refuted"]),
    ],
)
def test_longer_sequences_must_agree_and_change_the_losses(
    effect: float, far: dict[str, float], expected: list[str]
) -> None:
    rows = on_gpus("lengths", trainings=[PARITY, PARITY | far], effect=effect)

    assert [row[0] for row in rows] == expected


@pytest.mark.parametrize(("effect", "verdict"), [(0.01, "confirmed"), (0.0, "refuted")])
def test_packed_sequences_must_differ_from_attention_across_documents(
    effect: float, verdict: str
) -> None:
    assert [row[0] for row in on_gpus("documents", **PARITY, effect=effect)] == [verdict]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((1.0, 1.2), ("confirmed", "")),
        ((1.3, 1.2), ("refuted", "")),
        ((None, None), ("not run", "the shape has one copy")),
    ],
)
def test_overlap_must_shorten_a_step(
    seconds: tuple[float | None, float | None], expected: tuple[str, str]
) -> None:
    times = dict(zip(("seconds_with", "seconds_without"), seconds, strict=True))

    assert on_gpus("overlap", **PARITY, **times) == [("confirmed", ""), expected]


@pytest.mark.parametrize(
    ("locked", "speed", "verdict"),
    [(True, 50.0, "confirmed"), (True, 9.0, "refuted"), (False, 50.0, "refuted")],
)
def test_copies_of_saves_must_be_locked_and_faster(
    locked: bool, speed: float, verdict: str
) -> None:
    result = {"is_pinned": locked, "pinned_gb_s": speed, "plain_gb_s": 10.0}

    assert on_gpus("copies", **result) == [(verdict, "")]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({}, ["confirmed"] * 3),
        ({"grouped": 0}, ["confirmed", "refuted", "confirmed"]),
        ({"memory_bytes": 0}, ["confirmed", "confirmed", "refuted"]),
        ({"error": "no room"}, ["confirmed", "refuted", "refuted"]),
    ],
)
def test_a_profile_must_hold_steps_kernels_groups_and_memory(
    result: dict[str, Any], expected: list[str]
) -> None:
    whole = {"traced_steps": 2, "kernels": 90, "grouped": 4, "memory_bytes": 8, "error": ""}

    assert [row[0] for row in on_gpus("profile", **PARITY, **whole | result)] == expected


def test_a_report_of_nsys_that_is_missing_is_refuted_with_its_message() -> None:
    assert on_gpus("nsys", report_bytes=0, message="no permission") == [
        ("refuted", "no permission")
    ]
    assert on_gpus("nsys", report_bytes=9, message="") == [("confirmed", "")]


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        (("2.11.0", "2.8.3"), ("confirmed", "")),
        (("2.11.0", ""), ("not run", "flash-attn is not installed")),
        (("2.11.0: ImportError: no symbol", ""), ("refuted", "")),
    ],
)
def test_packages_of_kernels_that_do_not_load_are_refuted(
    packages: tuple[str, str], expected: tuple[str, str]
) -> None:
    named = dict(zip(("transformer-engine", "flash-attn"), packages, strict=True))

    rows = on_gpus("environment", gpus=1, expandable=2, compiled=0, packages=named)

    assert rows == [("refuted", ""), ("confirmed", ""), ("refuted", ""), expected]


# ---- settings


@pytest.mark.parametrize(
    ("name", "layout", "size"),
    [
        ("local", (1, 2), None),
        ("test-slurm", (2, 2), None),
        ("generic-h100", (4, 4), None),
        ("generic-h100", (8, 2), "70b"),
        ("izar", (2, 2), None),
        ("clariden", (4, 2), None),
    ],
)
def test_a_selftest_fills_two_nodes_of_every_kind_of_cluster(
    name: str, layout: tuple[int, int], size: str | None
) -> None:
    loaded = load_selftest(name, size, None, ())

    parallel = parallel_spec(loaded.experiment)
    assert (parallel.tensor, parallel.data) == layout
    assert loaded.experiment.model.layers == settings.LAYERS


@pytest.mark.parametrize(
    ("name", "size"), [("local", None), ("rcp", None), ("generic-h100", "1b"), ("kuma", None)]
)
def test_a_selftest_has_tokens_for_a_batch_of_its_shape(
    name: str, size: str | None, tmp_path: Path
) -> None:
    (stage,) = prepare.plan_of(load_selftest(name, size, None, ()), [settings.STAGE]).stages
    training = stage.tasks[0].spec.training

    batch = training.global_batch_size * training.model.seq_length
    inputs.write(tmp_path, training.model.vocab_size, [batch])

    size_of = CorpusSize(*stored_size(tmp_path / inputs.TOKENS))
    shape = replace(training, phases=(WHOLE,), max_epochs=None)
    corpora.require_enough(shape, {MAIN_CORPUS: size_of})


def test_a_selftest_is_planned_as_one_task_without_data() -> None:
    loaded = load_selftest("local", None, None, ())

    (stage,) = prepare.plan_of(loaded, [settings.STAGE]).stages

    assert problems.of_stages(loaded, [settings.STAGE]) == []
    assert [task.ranks for task in stage.tasks] == [2]


def test_more_nodes_than_the_partition_has_are_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        load_selftest("test-slurm", None, 5, ())

    assert refused.value.message == "a selftest on 5 nodes does not fit partition low, which has 4"


# ---- documentation


PAGES = Path(__file__).parents[3] / "docs"


def test_each_trial_is_explained_and_named_where_a_claim_is_unproven() -> None:
    _, trials, claims_ = re.split(
        r"\| trial \||## Unproven claims", (PAGES / "gpu.md").read_text(), maxsplit=2
    )

    for name in claims.CLAIMS:
        assert f"\n| `{name}` |" in trials
        assert f"`{name}`" in claims_


def test_each_page_links_what_it_calls_unproven_to_what_decides_it() -> None:
    unlinked = [
        f"{page.name}: {line}"
        for page in sorted(PAGES.glob("*.md"))
        for line in page.read_text().splitlines()
        if "unproven" in line.lower() and page.name != "gpu.md"
        if "[unproven](gpu.md#unproven-claims)" not in line
    ]

    assert unlinked == []


def test_each_row_of_unproven_claims_names_a_trial_or_says_that_none_decides_it() -> None:
    rows = (PAGES / "gpu.md").read_text().partition("## Unproven claims")[2].splitlines()[4:]

    for row in rows:
        decision = row.split("|")[2]
        named = set(re.findall(r"`([a-z-]+)`", decision)) & claims.CLAIMS.keys()
        assert named or "no trial" in decision, row
