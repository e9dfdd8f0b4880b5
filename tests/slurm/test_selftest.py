"""A selftest on the real Slurm, through the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from .cluster import Cluster
from .desk import Desk, make_desk

pytestmark = [pytest.mark.slurm, pytest.mark.full]

CLUSTER = "test-slurm"
PATIENCE = 1200.0
"""Seconds that a selftest may take on a busy machine."""


@pytest.fixture
def desk(slurm: Cluster, tmp_path: Path) -> Iterator[Desk]:
    yield replace(make_desk(tmp_path, slurm), timeout=PATIENCE)
    slurm.cancel_all()


@pytest.mark.timeout(PATIENCE + 60)
def test_a_selftest_on_two_nodes_confirms_and_its_speeds_are_those_of_plans(desk: Desk) -> None:
    answer = desk("selftest", "--cluster", CLUSTER, "--set", "selftest.steps=4", "--json")

    found = answer.json
    verdicts = {row["claim"]: row["verdict"] for row in found["claims"]}
    assert set(verdicts.values()) == {"confirmed", "not run"}
    assert verdicts["all-reduce sums are exact"] == "confirmed"
    assert verdicts["an interleaved pipeline trains as pipeline 1"] == "confirmed"
    assert verdicts["a resumed training is bit-equal"] == "confirmed"
    record = found["record"]
    assert (record["ranks"], len(record["nodes"]), record["device"]) == (4, 2, "cpu")
    assert list(desk.runs.iterdir()) == [], "nothing is kept when nothing is refuted"

    facts = desk.folder / f"cache/meditron/clusters/{CLUSTER}.json"
    speeds = json.loads(facts.read_text())["speeds"]
    measured = record["trials"]["speeds"]
    assert measured["network_gb_s"] > 0
    names = ("product_tflops", "memory_gb_s", "link_gb_s", "network_gb_s")
    assert {name: speeds[name] for name in names} == {name: measured[name] for name in names}
    assert speeds["nodes"] == record["nodes"]

    plan = desk("plan", "pretrain", "--cluster", CLUSTER, "--size", "tiny", "--json").json
    assert plan["training"]["measured_speeds"] == [
        *("products", "memory", "links in a node", "network")
    ]
