"""Find the ranks for which the others wait, from the collectives that each rank has begun. Pure.

Each rank's flight recorder lists its collectives by process group and sequence number
(torch/csrc/distributed/c10d/FlightRecorder.hpp). Among the ranks of a group, the one that has not
begun what others have not finished is the one they wait for. A rank that itself waits in another
group is a victim, too; the cause is a rank that waits in none.

torch's own analyser (torch.distributed.flight_recorder) and that of the NVIDIA resiliency extension
(trace_analyzer, ``CollectiveAnalyzer``) align collectives in the same way. Neither is used here:
both print tables instead of returning ranks, and need torch or pandas in the supervisor, which has
to outlive what breaks the ranks.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.contract.units import plural, ranges_text

DEFAULT_GROUP = "0"
"""The name of the group of all ranks."""
PEERS = re.compile(r"(send|recv) (\d+)(?:->|<-)(\d+)")
"""Sender and receiver in the name of a message: ``nccl:send 0->1``, ``nccl:recv 1<-0``."""
UNEVEN = ("all_to_all", "scatter")
"""Collectives whose inputs may differ between ranks."""
BATCH = "coalesced"
LISTED = 16
"""Ranks that a sentence names."""


@dataclass(frozen=True)
class Call:
    """A collective that a rank has begun."""

    group: str
    description: str
    """Of the group, such as ``TENSOR_MODEL_PARALLEL_GROUP``."""
    number: int
    """Its place among the collectives of the group, from 1."""
    name: str
    """``all_reduce``."""
    sizes: str
    time: float
    """When it was begun, in nanoseconds of the rank's clock."""
    finished: bool


@dataclass(frozen=True)
class FlightRecord:
    """The collectives of one rank."""

    rank: int
    calls: tuple[Call, ...]
    begun: Mapping[str, int]
    """The number of the newest collective of each group of which this rank is a member."""
    groups: Mapping[str, frozenset[int]]
    """The members of its groups, as far as they are on record."""


@dataclass(frozen=True)
class CollectiveHang:
    """The reason for which ranks wait in a collective."""

    sentence: str
    ranks: tuple[int, ...] = ()
    """Those for which the others wait; none where the network stalled or where not known."""


def find_hang(records: Iterable[FlightRecord], world_size: int) -> CollectiveHang | None:
    """Return why the ranks wait; None where no record shows a collective that is not finished.

    Args:
        records: of the ranks that wrote one; the others are not alive enough to do so.
        world_size: number of ranks.
    """
    by_rank = {record.rank: record for record in records}
    waiting = {rank: _pending(record) for rank, record in by_rank.items()}
    calls = [call for pending in waiting.values() for call in pending]
    if not calls:
        return None
    stuck = _hung_calls(calls)
    verdicts = [_judge(call, by_rank, world_size) for call in stuck]
    missing = {rank for verdict in verdicts for rank in verdict.ranks}
    roots = {rank for rank in missing if not waiting.get(rank)} or missing
    for verdict in sorted(verdicts, key=lambda one: one.since):
        if found := tuple(sorted(roots & set(verdict.ranks))):
            return CollectiveHang(_missing_text(verdict, found, by_rank), found)
    first = min(verdicts, key=lambda one: (not one.differs, one.since))
    return CollectiveHang(_stalled_text(first))


@dataclass(frozen=True)
class _Verdict:
    """The ranks that entered a collective which is not finished."""

    call: Call
    since: float
    entered: tuple[int, ...]
    ranks: tuple[int, ...]
    """Members that have not begun it."""
    differs: tuple[str, ...] = ()
    """Names and sizes with their ranks, where these did not begin the same one."""


def _pending(record: FlightRecord) -> list[Call]:
    return [call for call in record.calls if not call.finished]


def _hung_calls(calls: Iterable[Call]) -> list[Call]:
    """Return the first unfinished collective of each group."""
    first: dict[str, Call] = {}
    for call in calls:
        if call.group not in first or call.number < first[call.group].number:
            first[call.group] = call
    return list(first.values())


def _judge(call: Call, by_rank: Mapping[int, FlightRecord], world_size: int) -> _Verdict:
    same = {
        rank: other
        for rank, record in by_rank.items()
        for other in record.calls
        if (other.group, other.number) == (call.group, call.number)
    }
    begun = {
        rank for rank, record in by_rank.items() if record.begun.get(call.group, 0) >= call.number
    }
    entered = begun | set(same)
    members = _members(call.group, by_rank, world_size) | entered
    forms: dict[str, list[int]] = {}
    for rank, one in same.items():
        form = one.name if one.name in UNEVEN else f"{one.name} of {one.sizes}"
        forms.setdefault(form, []).append(rank)
    differs = (f"{form} by {_names(tuple(forms[form]))}" for form in sorted(forms))
    return _Verdict(
        call=call,
        since=min((one.time for one in same.values()), default=call.time),
        entered=tuple(sorted(entered)),
        ranks=tuple(sorted(members - entered)),
        differs=tuple(differs) if len(forms) > 1 else (),
    )


def _members(group: str, by_rank: Mapping[int, FlightRecord], world_size: int) -> set[int]:
    members = {rank for rank, record in by_rank.items() if group in record.begun}
    for record in by_rank.values():
        members |= record.groups.get(group, frozenset())
    return members | set(range(world_size)) if group == DEFAULT_GROUP else members


def _missing_text(
    verdict: _Verdict, ranks: tuple[int, ...], by_rank: Mapping[int, FlightRecord]
) -> str:
    verb = "has" if len(ranks) == 1 else "have"
    sentence = (
        f"{_names(ranks)} {verb} not entered {_call_text(verdict.call)}, in which "
        f"{plural(len(verdict.entered), 'rank')} wait{'s' if len(verdict.entered) == 1 else ''}"
    )
    silent = tuple(rank for rank in ranks if rank not in by_rank)
    return f"{sentence}; {_names(silent)} wrote no record" if silent else sentence


def _stalled_text(verdict: _Verdict) -> str:
    call = _call_text(verdict.call)
    if verdict.differs:
        return f"the ranks called different collectives as {call}: {'; '.join(verdict.differs)}"
    entered = plural(len(verdict.entered), "rank")
    return f"all {entered} have entered {call} and none finished it: the network stalled"


def _call_text(call: Call) -> str:
    if call.name == "message":
        return f"a message between {call.description}"
    return f"{call.name} {call.number:,} of {call.description or f'group {call.group}'}"


def _names(ranks: tuple[int, ...]) -> str:
    shown = ranges_text(ranks[:LISTED])
    more = f" and {len(ranks) - LISTED} others" if len(ranks) > LISTED else ""
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}{more}"


# Reading ------------------------------------------------------------------------------------------


def read(folder: Path, index: int) -> list[FlightRecord]:
    """Read the records of a task's ranks, by rank; damaged ones are skipped.

    Ranks write theirs on request, as JSON in ``flight-<task>-<rank>.json``
    (``jobs.engine.profiling.flight_recorder``). NCCL's watchdog writes pickles, without the suffix,
    when a collective times out. The newer one counts.
    """
    found: dict[int, tuple[float, FlightRecord]] = {}
    for path in folder.glob(f"flight-{index:05d}-*"):
        number, _, suffix = path.name.rpartition("-")[2].partition(".")
        if not number.isdigit() or suffix not in ("", "json"):
            continue
        with suppress(Exception):  # a rank was killed while it wrote, or another version did
            load: Callable[[bytes], Any] = json.loads if suffix else load_plain
            record = parse(int(number), load(path.read_bytes()))
            moment = path.stat().st_mtime
            if record.rank not in found or found[record.rank][0] < moment:
                found[record.rank] = (moment, record)
    return [record for _, (_, record) in sorted(found.items())]


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler of dictionaries, lists, numbers and strings: no name is ever imported."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the record of a rank names {module}.{name}")


def load_plain(data: bytes) -> Any:
    """Return the plain values of a pickle.

    Raises:
        pickle.UnpicklingError: it has a value of another type.
    """
    import io

    return _PlainUnpickler(io.BytesIO(data)).load()


def parse(rank: int, dump: Mapping[str, Any]) -> FlightRecord:
    """Return the record in a dump of torch's flight recorder.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    entries = list(_with_batches(dump.get("entries", [])))  # torch leaves an empty list out
    calls = [_call(entry) for entry in entries if not entry.get("is_p2p")]
    begun = _newest(dump["pg_status"], entries)
    groups = {
        str(name): frozenset(json.loads(config["ranks"]))
        for name, config in dump["pg_config"].items()
        if config["ranks"] not in ("", "[]")
    }
    for call in calls:
        begun[call.group] = max(begun.get(call.group, 0), call.number)
    for call in _messages(entries, groups, dump["pg_config"]):
        calls.append(call)
        begun[call.group] = 1
    return FlightRecord(rank, tuple(calls), begun, groups)


def _newest(
    status: Mapping[str, Mapping[str, Any]], entries: Iterable[Mapping[str, Any]]
) -> dict[str, int]:
    """Return the number of the newest collective per group: torch's key is not the group's name but
    its place among the groups of that rank, which the entries have beside the name.
    """
    names = {"0": DEFAULT_GROUP, **{str(e["pg_id"]): str(e["process_group"][0]) for e in entries}}
    return {
        names[place]: int(group["last_enqueued_collective"])
        for place, group in status.items()
        if place in names
    }


def _with_batches(entries: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the entries, those of a batch with its state: torch follows the batch as a whole, in an
    entry after its parts, which stay scheduled (ProcessGroupNCCL.cpp, ``endCoalescing``).
    """
    entries = list(entries)
    batches = {_place(e): e for e in entries if str(e["profiling_name"]).endswith(f":{BATCH}")}
    for entry in entries:
        batch = batches.get(_place(entry), entry)
        if entry is not batch or _place(entry) not in batches:
            yield {**entry, "state": batch["state"], "retired": batch["retired"]}


def _place(entry: Mapping[str, Any]) -> tuple[str, int, int]:
    """Return what a batch and its parts have in common."""
    return str(entry["process_group"][0]), entry["collective_seq_id"], entry["p2p_seq_id"]


def _call(entry: Mapping[str, Any]) -> Call:
    name, description = entry["process_group"]
    _, _, operation = str(entry["profiling_name"]).rpartition(":")
    return Call(
        group=str(name),
        description="the group of all ranks" if name == DEFAULT_GROUP else str(description),
        number=int(entry["collective_seq_id"]),
        name=operation,
        sizes=str(entry["input_sizes"]),
        time=float(entry["time_created_ns"]),
        finished=entry["state"] == "completed" or bool(entry["retired"]),
    )


def _messages(
    entries: Iterable[Mapping[str, Any]],
    groups: dict[str, frozenset[int]],
    config: Mapping[str, Any],
) -> Iterator[Call]:
    """Yield unfinished messages as the first call of a group of sender and receiver, which is added
    to ``groups``: the numbers of messages are not those of their peers.

    A message names places in its process group, so one of a group without members is left out.
    """
    for entry in entries:
        match = PEERS.search(str(entry["profiling_name"])) if entry.get("is_p2p") else None
        call = _call(entry)
        if match is None or call.finished:
            continue
        ranks = json.loads(config.get(call.group, {}).get("ranks", "[]"))
        pair = frozenset(
            ranks[int(place)] for place in match.groups()[1:] if int(place) < len(ranks)
        )
        if len(pair) != 2:
            continue
        first, second = sorted(pair)
        name = f"{call.group}:{first}-{second}"
        groups[name] = pair
        yield replace(
            call,
            group=name,
            description=f"ranks {first} and {second} in {call.description}",
            number=1,
            name="message",
            sizes="",
        )
