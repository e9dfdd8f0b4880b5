"""Read the node beside its GPUs: memory, load, network, OOM kills. Standard library only.

Each probe runs on its own, as those of ``jobs.health.nvml``. Sizes are bytes. Sources: proc(5);
the kernel's documentation of ``/sys/class/net/<name>/statistics`` and of
``/sys/class/infiniband/<device>/ports`` (ABI/stable/sysfs-class-infiniband).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobs.health.sample import Host, Port, Unknown, attempt
from jobs.runtime import cgroups

PROC = Path("/proc")
SYS = Path("/sys")

ACTIVE = "4: ACTIVE"
"""The state of a port of InfiniBand that carries data."""
WORD = 4
"""Bytes per unit of ``port_rcv_data`` and ``port_xmit_data``."""
VIRTUAL = "virtual"
"""A folder in the path of an interface without a device: loopback, bridges, containers' pairs."""

PORT_ERRORS = (
    "port_rcv_errors",
    "port_xmit_discards",
    "symbol_error",
    "local_link_integrity_errors",
)
INTERFACE_ERRORS = ("rx_errors", "tx_errors")


def read_host(proc: Path = PROC, sys: Path = SYS) -> Host:
    """Run every probe of ``PROBES``; never raise."""
    return Host(**{name: attempt(probe, proc, sys) for name, probe in PROBES.items()})


def _memory_total(proc: Path, sys: Path) -> int:
    return _meminfo(proc)["MemTotal"]


def _swap_used(proc: Path, sys: Path) -> int:
    values = _meminfo(proc)
    return values["SwapTotal"] - values["SwapFree"]


def _meminfo(proc: Path) -> dict[str, int]:
    """Return the sizes of /proc/meminfo, which are in KiB."""
    lines = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3}


def _load(proc: Path, sys: Path) -> float:
    return float((proc / "loadavg").read_text().split()[0])


def _cores(proc: Path, sys: Path) -> int:
    return os.cpu_count() or 1


def _ports(proc: Path, sys: Path) -> tuple[Port, ...]:
    """Return the ports of InfiniBand and RoCE, and the interfaces of devices with neither."""
    fabric = list(_fabric_ports(sys))
    under_fabric = {
        entry.name
        for device in _entries(sys / "class/infiniband")
        for entry in _entries(device / "device/net")
    }
    return (*fabric, *_interfaces(sys, under_fabric))


def _fabric_ports(sys: Path) -> Iterator[Port]:
    for device in _entries(sys / "class/infiniband"):
        for folder in _entries(device / "ports"):
            counters = folder / "counters"
            yield Port(
                name=f"{device.name}/{folder.name}",
                active=_text(folder / "state") == ACTIVE,
                rate=_text(folder / "rate"),
                received=WORD * _number(counters / "port_rcv_data"),
                sent=WORD * _number(counters / "port_xmit_data"),
                errors=sum(_number(counters / name) for name in PORT_ERRORS),
                downs=_number(counters / "link_downed"),
            )


def _interfaces(sys: Path, under_fabric: set[str]) -> Iterator[Port]:
    for folder in _entries(sys / "class/net"):
        if folder.name in under_fabric or VIRTUAL in folder.resolve().parts:
            continue
        speed = _number(folder / "speed")
        statistics = folder / "statistics"
        yield Port(
            name=folder.name,
            active=_text(folder / "operstate") == "up",
            rate=f"{speed} Mb/s" if speed > 0 else "",
            received=_number(statistics / "rx_bytes"),
            sent=_number(statistics / "tx_bytes"),
            errors=sum(_number(statistics / name) for name in INTERFACE_ERRORS),
            downs=_number(folder / "carrier_down_count"),
        )


def _entries(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _text(path: Path) -> str:
    with suppress(OSError):  # an interface that is down has no speed, a driver lacks a counter
        return path.read_text().strip()
    return ""


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.lstrip("-").isdigit() else 0


def _oom_kills(proc: Path, sys: Path) -> int:
    kills = cgroups.oom_kills(sys / "fs/cgroup", proc / "self/cgroup")
    if kills is None:
        raise OSError("the control group of this job has no counter of OOM kills")
    return kills


PROBES: dict[str, Callable[[Path, Path], Any]] = {
    "memory_total": _memory_total,
    "swap_used": _swap_used,
    "load": _load,
    "cores": _cores,
    "ports": _ports,
    "oom_kills": _oom_kills,
}
"""Probe per field of ``Host``."""


def unread(reason: Unknown) -> Host:
    """Return a node without any reading."""
    return Host(**dict.fromkeys(PROBES, reason))
