"""`meditron nodes`: entries against the nodes of a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.contract.outcomes import NodeEntry
from jobs.health import node_ledger

from ...conftest import Bench

CLUSTER = ("nodes", "--cluster", "test-slurm")


@pytest.fixture
def path(meditron: Bench) -> Path:
    """Return the ledger of a cluster with one bad node and one that is only suspected."""
    path = node_ledger.ledger(meditron.runs, "test-slurm")
    now = meditron.clock.now()
    about = {"run": "med", "stage": "pretrain"}
    node_ledger.append(
        path,
        [
            node_ledger.strike(
                "node02", "FATAL", "gpu_lost", "GPU 3 is gone", now, attempt=2, **about
            ),
            node_ledger.strike(
                "node03", "SUSPECT", "HANG", "rank 2 stopped", now, attempt=1, **about
            ),
            node_ledger.strike("node04", "DRAIN", "NODE_FAIL", "node04 failed", now - 1e7),
        ],
    )
    return path


def listed(path: Path) -> list[NodeEntry]:
    return [entry for entry in node_ledger.read(path) if entry.node == "node02"]


@pytest.mark.usefixtures("path")
def test_what_stands_against_nodes_is_listed_with_its_end(meditron: Bench) -> None:
    result = meditron(*CLUSTER)

    lines = [line.split("  ") for line in result.stdout.splitlines()]
    rows = [[cell.strip() for cell in line if cell] for line in lines]
    assert rows[0] == ["node", "verdict", "code", "since", "excluded until", "run", "evidence"]
    assert [(row[0], row[1], row[2], row[5], row[6]) for row in rows[1:]] == [
        ("node02", "FATAL", "gpu_lost", "med attempt 2", "GPU 3 is gone"),
        ("node03", "SUSPECT", "HANG", "med attempt 1", "rank 2 stopped"),
    ]
    assert (rows[1][4] != "-", rows[2][4]) == (True, "-")


@pytest.mark.usefixtures("path")
def test_all_shows_what_has_expired_too(meditron: Bench) -> None:
    assert "node04" in meditron(*CLUSTER, "--all").stdout
    assert "node04" not in meditron(*CLUSTER).stdout


def test_json_marks_the_entries_that_exclude_nodes(meditron: Bench, path: Path) -> None:
    found = json.loads(meditron(*CLUSTER, "--json").stdout)

    assert (found["cluster"], found["file"]) == ("test-slurm", str(path))
    assert [(entry["node"], entry["active"]) for entry in found["entries"]] == [
        ("node02", True),
        ("node03", False),
    ]


def test_a_cleared_node_is_used_again_and_the_ledger_keeps_what_was(
    meditron: Bench, path: Path
) -> None:
    result = meditron(*CLUSTER, "--clear", "node02")

    assert (result.exit_code, result.stderr) == (0, "node02: cleared, jobs may use it again\n")
    assert [entry.verdict for entry in listed(path)] == ["FATAL", "CLEARED"]
    assert "node02" not in meditron(*CLUSTER).stdout


@pytest.mark.usefixtures("path")
def test_a_ticket_can_be_sent_as_it_is(meditron: Bench) -> None:
    result = meditron(*CLUSTER, "--ticket", "node02")

    assert result.stdout.startswith("Subject: test-slurm: please check node node02\n")
    assert 'State=DRAIN Reason="meditron: gpu_lost"\n' in result.stdout


@pytest.mark.parametrize("option", ["--clear", "--ticket"])
def test_a_node_nothing_stands_against_is_an_error(
    meditron: Bench, path: Path, option: str
) -> None:
    result = meditron(*CLUSTER, option, "node09")

    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {path} has no entry against 'node09'; it has node02, node03\n"
        "hint: `meditron nodes --cluster test-slurm --all` shows what has expired\n"
    )


def test_clearing_and_reporting_are_two_commands(meditron: Bench) -> None:
    result = meditron(*CLUSTER, "--clear", "node02", "--ticket", "node02")

    assert result.exit_code == 2
    assert result.stderr == (
        "error: --clear and --ticket cannot be combined\nhint: "
        "`meditron nodes --cluster test-slurm --ticket node02` first\n"
    )


def test_a_cluster_without_a_ledger_has_nothing_to_show(meditron: Bench) -> None:
    result = meditron(*CLUSTER)

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("no entry against a node of test-slurm (")


def test_the_ledger_of_another_runs_directory_can_be_named(meditron: Bench, tmp_path: Path) -> None:
    other = tmp_path / "other"
    node_ledger.append(
        node_ledger.ledger(other, "test-slurm"),
        [node_ledger.strike("node05", "FATAL", "gpu_lost", "", meditron.clock.now())],
    )

    assert "node05" in meditron(*CLUSTER, "--runs-dir", str(other)).stdout
