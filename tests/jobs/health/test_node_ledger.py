"""The node ledger: what is written, what counts, and what is left out of a job."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.outcomes import NodeEntry
from jobs.health import node_ledger

from ..supervision.endings import NOW, listed

REPOSITORY = Path(__file__).parents[3]
DAY = 86_400.0
PARTITION = tuple(f"gpu{number:02d}" for number in range(1, 41))
WRITER = """
import sys
from pathlib import Path
from jobs.health import node_ledger
for number in range(50):
    entry = node_ledger.strike(f"{sys.argv[2]}-{number}", "SUSPECT", "CRASH", "x" * 5000, 1.0)
    node_ledger.append(Path(sys.argv[1]), [entry])
"""


def strike(
    node: str = "gpu01", verdict: str = "SUSPECT", now: float = NOW, **about: object
) -> NodeEntry:
    values = {"run": "med", "stage": "pretrain", "attempt": 1, **about}
    return node_ledger.strike(node, verdict, "HANG", "rank 2 stopped", now, **values)


def names(entries: tuple[NodeEntry, ...]) -> set[str]:
    return {entry.node for entry in entries}


def test_entries_come_back_as_they_were_written_oldest_first(tmp_path: Path) -> None:
    path = node_ledger.ledger(tmp_path / "runs", "izar")
    first, second, third = strike(), strike("gpu02", "FATAL"), strike("gpu03", attempt=9)

    node_ledger.append(path, [first, second])
    node_ledger.append(path, [third])

    assert path == tmp_path / "runs" / "nodes-izar.jsonl"
    assert node_ledger.read(path) == (first, second, third)


def test_a_cluster_without_a_ledger_has_no_entries(tmp_path: Path) -> None:
    assert node_ledger.read(tmp_path / "nodes-izar.jsonl") == ()


def test_nothing_to_add_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "nodes-izar.jsonl"

    node_ledger.append(path, [])

    assert not path.exists()


def test_a_line_cut_short_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "nodes-izar.jsonl"
    node_ledger.append(path, [strike()])
    with path.open("ab") as file:
        file.write(b'{"node": "gpu09", "verd')

    node_ledger.append(path, [strike("gpu02")])

    assert names(node_ledger.read(path)) == {"gpu01", "gpu02"}


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "BAD"},
        {"node": 7},
        {"expires": "soon"},
        {"time": None},
        {"attempt": "first"},
        {"evidence": None},
    ],
)
def test_a_line_that_is_no_entry_is_skipped(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "nodes-izar.jsonl"
    node_ledger.append(path, [strike()])
    good = json.loads(path.read_text())

    path.write_text("\n".join(map(json.dumps, [{**good, **change}, {"node": "gpu05"}, [], good])))

    assert node_ledger.read(path) == (strike(),)


def test_a_line_of_a_later_version_is_read_for_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "nodes-izar.jsonl"
    node_ledger.append(path, [strike()])

    path.write_text(json.dumps({**json.loads(path.read_text()), "rack": "B7"}))

    assert node_ledger.read(path) == (strike(),)


def test_two_who_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "nodes-izar.jsonl"
    command = [sys.executable, "-c", WRITER, str(path)]

    writers = [
        subprocess.Popen([*command, name], env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
        for name in ("a", "b")
    ]

    assert [writer.wait(timeout=300) for writer in writers] == [0, 0]
    assert len(names(node_ledger.read(path))) == 100


@pytest.mark.parametrize(("folder", "file"), [(0o2775, 0o664), (0o755, 0o644)])
def test_the_group_may_write_to_it_where_it_may_write_to_the_folder(
    tmp_path: Path, folder: int, file: int
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(folder)
    path = node_ledger.ledger(tmp_path / "runs", "izar")

    node_ledger.append(path, [strike()])

    assert stat.S_IMODE(path.stat().st_mode) == file


# What counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verdict", "days"), [("FATAL", 7), ("DRAIN", 2), ("SUSPECT", 1)])
def test_an_entry_counts_for_as_long_as_its_verdict_does(verdict: str, days: int) -> None:
    entries = [strike(verdict=verdict), strike(verdict=verdict, attempt=2)]

    assert names(node_ledger.active(entries, NOW + days * DAY - 1)) == {"gpu01"}
    assert node_ledger.active(entries, NOW + days * DAY) == ()


@pytest.mark.parametrize(
    ("second", "counts"),
    [
        ({"attempt": 2}, True),
        ({"run": "other"}, True),
        ({"stage": "evaluate"}, True),
        ({}, False),
        ({"attempt": 2, "node": "gpu02"}, False),
        ({"attempt": 2, "now": NOW - DAY}, False),
        ({"attempt": 2, "verdict": "CLEARED"}, False),
    ],
)
def test_two_suspicions_of_different_attempts_within_a_day_exclude_a_node(
    second: dict[str, object], counts: bool
) -> None:
    entries = [strike(**second), strike()]

    assert ("gpu01" in names(node_ledger.active(entries, NOW))) is counts


def test_what_stands_before_a_clearing_is_taken_back_and_nothing_after_it() -> None:
    cleared = strike(verdict="CLEARED")
    fatal, other = strike(verdict="FATAL"), strike("gpu02", "FATAL")

    assert names(node_ledger.active([fatal, other, cleared], NOW)) == {"gpu02"}
    assert names(node_ledger.active([fatal, cleared, fatal], NOW)) == {"gpu01"}


# What is left out ---------------------------------------------------------------------------------


def test_the_worst_nodes_of_the_partition_are_excluded_first() -> None:
    entries = [
        listed("gpu03", "DRAIN", time=NOW - 5),
        listed("gpu02", "FATAL", time=NOW - 9),
        listed("gpu01", "FATAL", time=NOW - 7),
        listed("cpu01"),
    ]

    assert node_ledger.excluded(entries, NOW, PARTITION, 8) == (("gpu01", "gpu02", "gpu03"), "")


def test_a_name_unknown_to_slurm_is_not_passed_to_it() -> None:
    assert node_ledger.excluded([listed("gone01")], NOW, PARTITION, 1) == ((), "")


def test_without_the_names_of_the_nodes_none_is_excluded_with_a_warning() -> None:
    assert node_ledger.excluded([listed("gpu01")], NOW, None, 1) == (
        (),
        "gpu01 should be excluded, but Slurm does not list the nodes",
    )
    assert node_ledger.excluded([], NOW, None, 1) == ((), "")


@pytest.mark.parametrize(
    ("known", "needed", "out", "warning"),
    [
        (
            6,
            1,
            2,
            "gpu03 may be used although in the node ledger: no more than 2 of the "
            "partition's 6 nodes are excluded",
        ),
        (
            6,
            5,
            1,
            "gpu02, gpu03 may be used although in the node ledger: the job needs 5 "
            "of the partition's 6 nodes",
        ),
        (
            3,
            4,
            0,
            "gpu01, gpu02, gpu03 may be used although in the node ledger: the job "
            "needs 4 of the partition's 3 nodes",
        ),
        (30, 4, 3, ""),
    ],
)
def test_a_job_can_still_start(known: int, needed: int, out: int, warning: str) -> None:
    entries = [listed(f"gpu0{number}", time=NOW - number) for number in (1, 2, 3)]

    found = node_ledger.excluded(entries, NOW, PARTITION[:known], needed)

    assert found == (("gpu01", "gpu02", "gpu03")[:out], warning)


ENTRIES = st.lists(
    st.builds(
        listed,
        node=st.sampled_from([*PARTITION[:12], "other"]),
        verdict=st.sampled_from([*node_ledger.SEVERITY, node_ledger.CLEARED]),
        time=st.floats(NOW - 2 * DAY, NOW),
        expires=st.floats(NOW - DAY, NOW + DAY),
        run=st.sampled_from("ab"),
        attempt=st.integers(1, 3),
    ),
    max_size=40,
)


@given(ENTRIES, st.integers(0, 40), st.integers(1, 40))
def test_never_so_many_are_excluded_that_a_job_cannot_start(
    entries: list[NodeEntry], size: int, needed: int
) -> None:
    known = PARTITION[:size]

    out, warning = node_ledger.excluded(entries, NOW, known, needed)

    bad = names(node_ledger.active(entries, NOW)) & set(known)
    assert set(out) <= bad
    assert len(out) == len(set(out)) <= max(2, size // 10)
    assert not out or size - len(out) >= needed
    assert (warning == "") is (set(out) == bad)


@given(ENTRIES)
def test_counted_steps_are_the_same_when_read_again(entries: list[NodeEntry]) -> None:
    active = node_ledger.active(entries, NOW)

    assert node_ledger.active(active, NOW) == active
    assert set(active) <= set(node_ledger.standing(entries, NOW))


# What administrators read -------------------------------------------------------------------------


def test_a_ticket_has_what_happened_and_how_to_drain() -> None:
    entries = [
        strike("gpu07", "FATAL", now=0.0),
        listed("gpu07", time=60.0, code="row_remap", gpu_uuid="GPU-1f", run="", evidence="failed"),
        strike("gpu08"),
    ]

    text = node_ledger.ticket(entries, "gpu07", "izar")

    assert text == (
        "Subject: izar: please check node gpu07\n"
        "\n"
        "Training jobs on izar reported the following on gpu07:\n"
        "\n"
        "- 1970-01-01 00:00 UTC: FATAL HANG: rank 2 stopped (run med, attempt 1)\n"
        "- 1970-01-01 00:01 UTC: FATAL row_remap: failed [GPU-1f] (outside a run)\n"
        "\n"
        "My jobs exclude the node for now. To drain it:\n"
        "\n"
        '    scontrol update NodeName=gpu07 State=DRAIN Reason="meditron: HANG, row_remap"'
    )


@given(st.text(), st.text())
def test_a_drain_command_runs_nothing_else(node: str, code: str) -> None:
    command = node_ledger.drain_command([listed(node, code=code)], node)

    assert command.count('"') == 2
    assert not set(command) & set("`$\\;|&<>\n'!")
