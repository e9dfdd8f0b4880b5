"""Readings of one node and its GPUs at one moment. Standard library only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Unknown:
    """The reason for which a probe has no value."""

    reason: str
    nvml: int | None = None
    """NVML's return code, when the reason is one."""


def value_or_none(reading: T | Unknown) -> T | None:
    """Return a reading's value; None where the probe has none."""
    return None if isinstance(reading, Unknown) else reading


def attempt(probe: Callable[..., Any], *arguments: Any) -> Any:
    """Return a probe's value, or ``Unknown`` with the reason."""
    try:
        return probe(*arguments)
    except AttributeError as error:  # an nvidia-ml-py older than the call
        return Unknown(str(error), FUNCTION_NOT_FOUND)
    except Exception as error:  # whatever a driver does to one probe, the others still count
        code = getattr(error, "value", None)
        return Unknown(str(error) or type(error).__name__, code if isinstance(code, int) else None)


FUNCTION_NOT_FOUND = 13
"""NVML's return code for a call that the driver does not have."""


@dataclass(frozen=True)
class SramErrors:
    """Uncorrectable errors of on-chip memory."""

    threshold_exceeded: bool
    aggregate: int


@dataclass(frozen=True)
class RemappedRows:
    """Memory rows replaced by spare ones, and whether a remap is pending or failed."""

    corrected: int
    uncorrected: int
    pending: bool
    failed: bool


@dataclass(frozen=True)
class Fabric:
    """Registration with the NVSwitch fabric; ``summary`` is 0 where the driver has none."""

    state: int
    status: int
    summary: int


@dataclass(frozen=True)
class GpuMemory:
    """Bytes of a GPU's memory."""

    used: int
    total: int


@dataclass(frozen=True)
class SlowTime:
    """Nanoseconds since the driver was loaded for which a cause held the clocks back."""

    power_cap: int
    thermal: int
    """By software, above the maximum operating temperature."""
    hardware_thermal: int
    power_brake: int


@dataclass(frozen=True)
class LinkErrors:
    """Errors of all NVLinks of a GPU since its reset."""

    replays: int
    recoveries: int
    crc: int


@dataclass(frozen=True)
class GpuProcess:
    """A process that computes on a GPU; ``uid`` is -1 when unknown."""

    pid: int
    uid: int
    memory: int


@dataclass(frozen=True)
class Gpu:
    """One GPU that this task may use; field names are those of ``nvml.PROBES``."""

    index: int
    uuid: str | Unknown
    serial: str | Unknown
    name: str | Unknown
    recovery_action: int | Unknown
    ecc_volatile: int | Unknown
    ecc_aggregate: int | Unknown
    sram: SramErrors | Unknown
    remapped_rows: RemappedRows | Unknown
    unrepairable_memory: bool | Unknown
    retired_pages: int | Unknown
    retired_pages_pending: bool | Unknown
    clock_reasons: int | Unknown
    temperature: int | Unknown
    temperature_max: int | Unknown
    temperature_slowdown: int | Unknown
    memory_temperature: int | Unknown
    memory_temperature_max: int | Unknown
    power_limit: int | Unknown
    power_limit_default: int | Unknown
    pcie_width: int | Unknown
    pcie_width_max: int | Unknown
    nvlinks: tuple[bool, ...] | Unknown
    """One entry per link of the card, True while active; empty for a card without NVLink."""
    fabric: Fabric | Unknown
    processes: tuple[GpuProcess, ...] | Unknown
    ecc_mode: tuple[bool, bool] | Unknown
    """Now, and after the next reset."""
    mig_mode: bool | Unknown
    persistence: bool | Unknown
    utilisation: int | Unknown
    """Per cent of the last sample period of the driver in which a kernel ran."""
    memory: GpuMemory | Unknown
    power: int | Unknown
    """Milliwatts."""
    energy: int | Unknown
    """Millijoules since the driver was loaded."""
    sm_clock: int | Unknown
    """MHz."""
    sm_clock_max: int | Unknown
    memory_clock: int | Unknown
    pcie_generation: int | Unknown
    """Of the link now; it drops while the card is idle."""
    pcie_generation_max: int | Unknown
    pcie_replays: int | Unknown
    pcie_fatal: int | Unknown
    """Fatal errors of the link."""
    slow_time: SlowTime | Unknown
    link_errors: LinkErrors | Unknown
    link_failures: int | Unknown
    """Times that an NVLink could not be recovered."""
    ecc_corrected: int | Unknown
    """Corrected errors since the last reset."""


@dataclass(frozen=True)
class Driver:
    """Versions, as NVML reports them."""

    driver: str | Unknown
    nvml: str | Unknown


@dataclass(frozen=True)
class Disk:
    """Space left to an ordinary user; ``inodes`` is None without such a limit."""

    path: str
    free: int
    inodes: int | None


@dataclass(frozen=True)
class Port:
    """A port of the node's network."""

    name: str
    """``mlx5_0/1`` of InfiniBand or RoCE, ``eth0`` of an interface without either."""
    active: bool
    rate: str
    """As the kernel prints it: ``400 Gb/sec (4X NDR)``; empty where it has none."""
    received: int
    """Bytes."""
    sent: int
    errors: int
    """Received with an error, or not sent for one."""
    downs: int
    """Times that the link went down; 0 for an interface, whose carrier changes are its."""


@dataclass(frozen=True)
class Host:
    """The node beside its GPUs; field names are those of ``host.PROBES``."""

    memory_total: int | Unknown
    swap_used: int | Unknown
    load: float | Unknown
    """Processes that ran or waited for a disk, the mean of a minute (proc(5), loadavg)."""
    cores: int | Unknown
    ports: tuple[Port, ...] | Unknown
    oom_kills: int | Unknown
    """Of this job on this node."""


@dataclass(frozen=True)
class Sample:
    """One node at one moment."""

    node: str
    time: float
    uid: int
    driver: Driver | Unknown
    """Unknown when NVML did not start; ``gpus`` is then empty."""
    gpus: tuple[Gpu, ...]
    unreachable: tuple[tuple[int, Unknown], ...]
    """Indices of GPUs that NVML counts but returns no handle for, with the reason."""
    disk: Disk | Unknown
    shm: Disk | Unknown
    memory_available: int | Unknown
    host: Host
