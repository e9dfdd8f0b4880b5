"""The ranks for which the others wait, from records as torch writes them."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.outcomes import Hang
from jobs.supervision.ranks import collectives, hang_attribution
from jobs.supervision.ranks.collectives import CollectiveHang, find_hang, parse
from jobs.supervision.ranks.launcher import reserved_port
from jobs.supervision.ranks.stack_dump import RankReport

from ....ranks import PATIENCE

WORLD = 4
GROUPS = {"0": [0, 1, 2, 3], "1": [0, 1], "2": [2, 3]}
NAMES = {"0": "default_pg", "1": "TENSOR_MODEL_PARALLEL_GROUP", "2": "TENSOR_MODEL_PARALLEL_GROUP"}


def entry(group: str, number: int, *, done: bool = True, **changes: Any) -> dict[str, Any]:
    """Return a collective in a record."""
    return {
        "pg_id": 0,
        "process_group": [group, NAMES[group]],
        "collective_seq_id": number,
        "p2p_seq_id": 0,
        "profiling_name": "nccl:all_reduce",
        "time_created_ns": 1000 + number,
        "input_sizes": [[8]],
        "state": "completed" if done else "started",
        "retired": done,
        "is_p2p": False,
        **changes,
    }


def dump(rank: int, *entries: Mapping[str, Any], groups: bool = True) -> dict[str, Any]:
    """Return the record of a rank; over gloo it has no groups. The key of a status is the place of
    the group among those of the rank, which is no name: ranks 2 and 3 have no group 1.
    """
    own = [name for name, members in GROUPS.items() if rank in members]
    places = {name: place for place, name in enumerate(own)}
    last = {
        name: max([e["collective_seq_id"] for e in entries if e["process_group"][0] == name] or [0])
        for name in own
    }
    return {
        "version": "2.10",
        "entries": [{**e, "pg_id": places[e["process_group"][0]]} for e in entries],
        "pg_config": {
            name: {"name": name, "desc": NAMES[name], "ranks": str(GROUPS[name])}
            for name in own
            if groups
        },
        "pg_status": {
            str(places[name]): {"last_enqueued_collective": str(n)} for name, n in last.items()
        },
    }


def judge(*dumps: tuple[int, dict[str, Any]]) -> CollectiveHang | None:
    return find_hang([parse(rank, dump) for rank, dump in dumps], WORLD)


def everyone(number: int, *missing: int, groups: bool = True) -> list[tuple[int, dict[str, Any]]]:
    """Records in which all but some ranks wait in a collective of all."""
    return [
        (rank, dump(rank, entry("0", number - 1), groups=groups))
        if rank in missing
        else (
            rank,
            dump(rank, entry("0", number - 1), entry("0", number, done=False), groups=groups),
        )
        for rank in range(WORLD)
    ]


def test_ranks_that_finished_everything_do_not_hang() -> None:
    assert judge(*[(rank, dump(rank, entry("0", 5))) for rank in range(WORLD)]) is None
    assert judge() is None


@pytest.mark.parametrize("groups", [True, False])
def test_the_rank_that_has_not_entered_a_collective_is_named(groups: bool) -> None:
    assert judge(*everyone(412, 2, groups=groups)) == CollectiveHang(
        "rank 2 has not entered all_reduce 412 of the group of all ranks, in which 3 ranks wait",
        (2,),
    )


def test_several_ranks_are_named_together() -> None:
    found = judge(*everyone(7, 1, 2, 3))

    assert found is not None
    assert found.ranks == (1, 2, 3)
    assert found.sentence.startswith("ranks 1-3 have not entered all_reduce 7 of")
    assert found.sentence.endswith("in which 1 rank waits")


@pytest.mark.parametrize("groups", [True, False])
def test_a_rank_without_a_record_is_the_one_that_is_waited_for(groups: bool) -> None:
    records = [item for item in everyone(7, groups=groups) if item[0] != 3]

    assert judge(*records) == CollectiveHang(
        "rank 3 has not entered all_reduce 7 of the group of all ranks, in which 3 ranks wait; "
        "rank 3 wrote no record",
        (3,),
    )


def test_a_rank_that_waits_itself_is_a_victim() -> None:
    """Rank 0 waits for 1 in their group; 2 and 3 wait for both in the group of all."""
    waits = entry("0", 9, done=False)
    found = judge(
        (0, dump(0, entry("0", 8), entry("1", 30, done=False))),
        (1, dump(1, entry("0", 8), entry("1", 29))),
        (2, dump(2, entry("0", 8), waits)),
        (3, dump(3, entry("0", 8), waits)),
    )

    assert found is not None
    assert found.ranks == (1,)
    assert "all_reduce" in found.sentence


def test_all_ranks_in_one_collective_are_a_stalled_network() -> None:
    assert judge(*everyone(7)) == CollectiveHang(
        "all 4 ranks have entered all_reduce 7 of the group of all ranks and none finished it: "
        "the network stalled"
    )


def test_different_sizes_are_reported() -> None:
    records = everyone(7)
    records[2][1]["entries"][1]["input_sizes"] = [[16]]

    found = judge(*records)

    assert found is not None
    assert found.sentence == (
        "the ranks called different collectives as all_reduce 7 of the group of all ranks: "
        "all_reduce of [[16]] by rank 2; all_reduce of [[8]] by ranks 0-1, 3"
    )


def test_ranks_outside_a_group_are_not_waited_for() -> None:
    """Ranks 2 and 3 have done less in their own group, which is in the same place on them."""
    found = judge(
        (0, dump(0, entry("0", 8), entry("1", 30, done=False), groups=False)),
        (1, dump(1, entry("0", 8), entry("1", 29), groups=False)),
        (2, dump(2, entry("0", 8), entry("2", 12), groups=False)),
        (3, dump(3, entry("0", 8), entry("2", 12), groups=False)),
    )

    assert found is not None
    assert found.ranks == (1,)


def test_a_rank_that_has_begun_nothing_is_the_one_that_is_waited_for() -> None:
    """torch writes no list of entries where it is empty."""
    idle = dump(0)
    del idle["entries"]

    found = judge((0, idle), *[(rank, dump(rank, entry("0", 1, done=False))) for rank in (1, 2, 3)])

    assert found is not None
    assert found.sentence == (
        "rank 0 has not entered all_reduce 1 of the group of all ranks, in which 3 ranks wait"
    )


def test_inputs_of_an_exchange_may_differ_between_ranks() -> None:
    records = everyone(7)
    for rank, record in records:
        record["entries"][1] |= {"profiling_name": "nccl:all_to_all", "input_sizes": [[rank]]}

    found = judge(*records)

    assert found is not None
    assert found.sentence.endswith("none finished it: the network stalled")


def message(name: str, *, done: bool = False, number: int = 3) -> dict[str, Any]:
    return entry("0", 0, done=done, is_p2p=True, p2p_seq_id=number, profiling_name=f"nccl:{name}")


def batch(*names: str, done: bool = True, number: int = 3) -> list[dict[str, Any]]:
    """Return a batch of messages: torch never updates the state of its parts."""
    parts = [{**message(name, number=number), "state": "scheduled"} for name in names]
    return [*parts, message("coalesced", done=done, number=number)]


def test_messages_of_a_finished_batch_are_finished() -> None:
    """Rank 0 has sent one batch to rank 1, which waits for the second."""
    found = judge(
        (0, dump(0, entry("0", 8), *batch("send 0->1", number=1))),
        (
            1,
            dump(
                1,
                entry("0", 8),
                *batch("recv 1<-0", number=1),
                *batch("recv 1<-0", done=False, number=2),
            ),
        ),
        *[(rank, dump(rank, entry("0", 8), entry("0", 9, done=False))) for rank in (2, 3)],
    )

    assert found is not None
    assert found.ranks == (0,)


def test_collectives_of_a_finished_batch_are_finished() -> None:
    """Ranks wait in collective 9; the batch before it has long ended."""
    parts = [{**entry("0", 8, done=False), "state": "scheduled"} for _ in range(2)]
    before = [*parts, entry("0", 8, profiling_name="nccl:coalesced", input_sizes=[])]
    waiting = [(rank, dump(rank, *before, entry("0", 9, done=False))) for rank in (0, 1, 2)]

    found = judge(*waiting, (3, dump(3, *before)))

    assert found is not None
    assert found.ranks == (3,)
    assert judge(*[(rank, dump(rank, *before)) for rank in range(WORLD)]) is None


def test_a_rank_that_waits_for_a_message_waits_for_its_sender() -> None:
    found = judge(
        (0, dump(0, entry("0", 8))),
        (1, dump(1, entry("0", 8), message("recv 1<-0"))),
        (2, dump(2, entry("0", 8), entry("0", 9, done=False))),
        (3, dump(3, entry("0", 8), entry("0", 9, done=False))),
    )

    assert found is not None
    assert found.ranks == (0,)


def test_records_are_read_from_json_and_from_plain_pickles_only(tmp_path: Path) -> None:
    records = dict(everyone(7, 2))
    for rank in (0, 1):
        (tmp_path / f"flight-00000-{rank}.json").write_text(json.dumps(records[rank]))
    for rank in (2, 3):
        plain = pickle.dumps(records[rank])
        (tmp_path / f"flight-00000-{rank}").write_bytes(plain)
    (tmp_path / "flight-00001-0.json").write_text(json.dumps(records[0]))
    found = collectives.read(tmp_path, 0)
    assert [record.rank for record in found] == [0, 1, 2, 3]
    judged = find_hang(found, WORLD)
    assert judged is not None
    assert judged.ranks == (2,)

    (tmp_path / "flight-00000-2").write_bytes(pickle.dumps(os.system))
    (tmp_path / "flight-00000-3").write_bytes(b"\x80\x04cut short")
    (tmp_path / "flight-00000-1.json").write_text('{"entries": [')

    assert [record.rank for record in collectives.read(tmp_path, 0)] == [0]


def report(rank: int, state: str = "S", ticks: int = 5) -> RankReport:
    return RankReport(rank, f"gpu{rank:02d}", 100 + rank, state, "", "step", 6, ticks, 9.0, "")


def test_collectives_decide_where_no_process_has_stopped() -> None:
    records = [parse(rank, record) for rank, record in everyone(7, 2)]
    reports = [report(rank) for rank in range(WORLD)]
    hang = Hang("step", 130.0, 120.0)

    by_collectives = hang_attribution.attribute(hang, reports, records, (), WORLD)
    reports[1] = report(1, "T")
    by_state = hang_attribution.attribute(hang, reports, records, (), WORLD)
    without = hang_attribution.attribute(hang, reports, [], (), WORLD)

    assert (by_collectives.rank, by_collectives.node) == (2, "gpu02")
    assert by_collectives.collectives.startswith("rank 2 has not entered all_reduce 7 of")
    assert (by_state.rank, by_state.detail) == (1, "stopped by a signal (state T)")
    assert (without.rank, without.collectives) == (1, "no rank wrote its collectives")


RANK = """
import json, os, sys, threading, time
from pathlib import Path
import torch, torch.distributed
from jobs.engine.profiling import flight_recorder
rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])

def write(*finished):
    # Once the collectives of the pair are finished, which torch records a little late, or are not.
    while True:
        record = flight_recorder.record()
        entries = json.loads(record)["entries"]
        if tuple(e["retired"] for e in entries if e["process_group"][1] == "PAIR") == finished:
            break
        time.sleep(0.01)
    (folder / f"flight-00000-{rank}.json").write_bytes(record)

torch.distributed.init_process_group("gloo")
pair = torch.distributed.new_group([0, 1], group_desc="PAIR")
for number in range(3):
    torch.distributed.all_reduce(torch.ones(2), group=pair)
if rank == 0:
    threading.Thread(
        target=lambda: torch.distributed.all_reduce(torch.ones(2), group=pair), daemon=True
    ).start()
    write(True, True, True, False)
else:
    write(True, True, True)
    while not (folder / "flight-00000-0.json").exists():  # its end would end the collective
        time.sleep(0.01)
os._exit(0)
"""


@pytest.mark.engine
def test_a_rank_of_gloo_that_has_not_entered_is_named(tmp_path: Path) -> None:
    with reserved_port() as port:
        base = {
            **os.environ,
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCH_FR_BUFFER_SIZE": "100",
            "TORCH_INCLUDE_STACK_TRACE": "false",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", RANK, str(tmp_path)]
        ranks = [subprocess.Popen(command, env={**base, "RANK": str(n)}) for n in range(2)]
        assert [rank.wait(PATIENCE) for rank in ranks] == [0, 0]

    assert find_hang(collectives.read(tmp_path, 0), 2) == CollectiveHang(
        "rank 1 has not entered all_reduce 4 of PAIR, in which 1 rank waits", (1,)
    )
