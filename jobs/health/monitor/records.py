"""The files of a node monitor in the attempt's folder. Standard library only.

``monitor-<task>-<node>.json``
    The newest report: findings, summary, overhead; replaced whole.
``monitor-<task>-<node>.jsonl``
    One line per sample; the file before it has the suffix ``.1``, older lines are dropped.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.contract.files import FORMAT, read_lines, read_small
from jobs.contract.json_fields import from_fields
from jobs.contract.units import Moment
from jobs.health.monitor.xid_events import XidEvent
from jobs.health.sample import GpuMemory, LinkErrors, RemappedRows, Sample, SlowTime, Unknown

LOG_BYTES = 4 << 20
"""Of one of the two files of samples: some 15 hours of eight GPUs every 15 seconds, computed."""

GPU_FIELDS = (
    "index",
    "utilisation",
    "power",
    "energy",
    "temperature",
    "memory_temperature",
    "sm_clock",
    "memory_clock",
    "clock_reasons",
    "slow_time",
    "pcie_width",
    "pcie_generation",
    "pcie_replays",
    "pcie_fatal",
    "link_errors",
    "link_failures",
    "ecc_volatile",
    "ecc_corrected",
    "remapped_rows",
)
"""Fields of a GPU in a line, beside ``memory_used``; None where one was not read, a list for one of
several values (``jobs.health.sample``)."""


def report_path(folder: Path, index: int, node: str) -> Path:
    """Return the path of a node's report."""
    return folder / f"monitor-{index:05d}-{node}.json"


def log_path(folder: Path, index: int, node: str) -> Path:
    """Return the path of a node's samples."""
    return folder / f"monitor-{index:05d}-{node}.jsonl"


def read_reports(folder: Path, index: int, nodes: Iterable[str]) -> list[dict[str, Any]]:
    """Read the reports of a task's nodes; missing and damaged ones, and those of another version,
    are skipped.
    """
    found = ((node, read_small(report_path(folder, index, node))) for node in nodes)
    return [report for node, report in found if is_report(report, node)]


def is_report(value: Mapping[str, Any], node: str) -> bool:
    """Return whether a JSON object is the report of a node, with all that its readers need."""
    try:
        report = from_fields(_Report, value)
        for kind, items in (
            (_Finding, (*report.now, *report.findings)),
            (_Rank, report.ranks),
            (_Newest, report.newest),
            (_Gpu, report.gpus),
        ):
            for item in items:
                from_fields(kind, item)
        for item in (*report.now, *report.findings):
            from_fields(_Subject, item["subject"])
    except ValueError:
        return False
    return report.node == node


@dataclass(frozen=True)
class _Report:
    node: str
    time: Moment
    driver: str | None
    now: tuple[dict[str, Any], ...]
    findings: tuple[dict[str, Any], ...]
    ranks: tuple[dict[str, Any], ...]
    newest: tuple[dict[str, Any], ...]
    gpus: tuple[dict[str, Any], ...]
    energy_j: float
    energy_source: str


@dataclass(frozen=True)
class _Finding:
    code: str
    verdict: str
    message: str
    subject: dict[str, Any]
    evidence: dict[str, Any]


@dataclass(frozen=True)
class _Subject:
    gpu: int | None


@dataclass(frozen=True)
class _Rank:
    rank: int
    steps: int
    seconds: float
    data: float
    communication: float


@dataclass(frozen=True)
class _Newest:
    index: int
    utilisation: float | None
    power: float | None
    temperature: float | None
    sm_clock: float | None
    memory_used: float | None


@dataclass(frozen=True)
class _Gpu:
    index: int


def energy(reports: Iterable[Mapping[str, Any]]) -> tuple[float | None, str]:
    """Return the joules that the GPUs of all nodes used, and their source: ``counter``, or
    ``power`` where some are power times time; None without GPUs, or where none was read.
    """
    parts = [report for report in reports if report["gpus"] and report["energy_source"]]
    if not parts:
        return None, ""
    sources = {report["energy_source"] for report in parts}
    source = "counter" if sources == {"counter"} else "power"
    return sum(report["energy_j"] for report in parts), source


def read_samples(folder: Path, index: int, node: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a node, oldest first; a line cut short is skipped."""
    path = log_path(folder, index, node)
    yield from read_lines(path.with_name(f"{path.name}.1"))
    yield from read_lines(path)


def sample_line(
    sample: Sample, ranks: Iterable[dict[str, Any]], events: Iterable[XidEvent]
) -> dict[str, Any]:
    """Return one sample as a line: GPUs as lists in the order of ``GPU_FIELDS``."""
    host = sample.host
    ports = () if isinstance(host.ports, Unknown) else host.ports
    return {
        "format": FORMAT,
        "time": round(sample.time, 1),
        "gpus": [
            [
                *(_plain(getattr(gpu, name)) for name in GPU_FIELDS),
                gpu.memory.used if isinstance(gpu.memory, GpuMemory) else None,
            ]
            for gpu in sample.gpus
        ],
        "memory_available": _plain(sample.memory_available),
        "swap_used": _plain(host.swap_used),
        "shm_free": None if isinstance(sample.shm, Unknown) else sample.shm.free,
        "disk_free": None if isinstance(sample.disk, Unknown) else sample.disk.free,
        "load": _plain(host.load),
        "oom_kills": _plain(host.oom_kills),
        "ports": [[p.name, int(p.active), p.received, p.sent, p.errors, p.downs] for p in ports],
        "ranks": list(ranks),
        "xids": [[round(event.time, 1), event.gpu, event.number] for event in events],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Unknown):
        return None
    if isinstance(value, SlowTime | LinkErrors | RemappedRows):
        return dataclasses.astuple(value)
    return value


@dataclass
class SampleLog:
    """The writer of a node's samples."""

    path: Path
    limit: int = LOG_BYTES
    is_cut: bool = False
    """The last line was not written whole: the disk was full."""

    def append(self, line: dict[str, Any]) -> None:
        """Append a line; begin a new file where this one is full.

        Raises:
            OSError: it cannot be written.
        """
        data = b"\n" * self.is_cut + json.dumps(line, separators=(",", ":")).encode() + b"\n"
        if self._size() + len(data) > self.limit:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        self.is_cut = True
        with self.path.open("ab") as file:
            file.write(data)
        self.is_cut = False

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0
