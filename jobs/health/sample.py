"""Readings of one node and its GPUs at one moment. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

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
