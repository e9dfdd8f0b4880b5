"""Read one node's NVML, /proc and file systems into a ``Sample``.

No checks here. Each probe runs on its own and returns a value, or ``Unknown`` with the reason,
and never stops another. Standard library only at import; NVML (``pynvml`` of nvidia-ml-py) is
imported where it is used, and always passed on as ``nvml``. Sizes are bytes, temperatures degrees
Celsius, power milliwatts, times Unix seconds. Source of every call: the NVML API reference
(docs.nvidia.com/deploy/nvml-api).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.contract.job import node_name
from jobs.health import host
from jobs.health.sample import (
    Disk,
    Driver,
    Fabric,
    Gpu,
    GpuMemory,
    GpuProcess,
    LinkErrors,
    RemappedRows,
    Sample,
    SlowTime,
    SramErrors,
    Unknown,
    attempt,
)
from jobs.runtime import memory

LIBRARY_NOT_FOUND = 12
DRIVER_NOT_LOADED = 9
NOT_SUPPORTED = 3
NO_PERMISSION = 4
INVALID_ARGUMENT = 2
VERSION_MISMATCH = 25


def read_sample(folder: Path | None, environ: Mapping[str, str], gpus: int | None = None) -> Sample:
    """Read this node once; never raise.

    Args:
        folder: on the file system that the work writes to; with None it is not read, since
            querying a file system that hangs would hang too.
        environ: of the work (``find_devices``).
        gpus: that it uses; None for all that it may use.
    """
    driver, found, unreachable = _read_gpus(environ, gpus)
    return Sample(
        node=node_name(environ),
        time=time.time(),
        uid=os.getuid(),
        driver=driver,
        gpus=found,
        unreachable=unreachable,
        disk=attempt(read_disk, folder) if folder else Unknown("not read"),
        shm=attempt(read_disk, Path("/dev/shm")),
        memory_available=attempt(memory_available),
        host=host.read_host(),
    )


def visible_devices(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the entries of ``CUDA_VISIBLE_DEVICES`` (indices or UUIDs); None for all GPUs."""
    value = environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    return tuple(entry.strip() for entry in value.split(",") if entry.strip())


def read_disk(path: Path) -> Disk:
    """Return free bytes and inodes at a path, or at its nearest existing parent."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    stat = os.statvfs(path)
    return Disk(str(path), stat.f_bavail * stat.f_frsize, stat.f_favail if stat.f_files else None)


def memory_available() -> int:
    return memory.of_machine(memory.MEMINFO.read_text())


def _read_gpus(
    environ: Mapping[str, str], most: int | None
) -> tuple[Driver | Unknown, tuple[Gpu, ...], tuple[tuple[int, Unknown], ...]]:
    with session(environ, most) as devices:
        gpus = tuple(read_gpu(devices, index) for index in devices.handles)
    return devices.driver, gpus, devices.unreachable


@dataclass(frozen=True)
class Devices:
    """The GPUs that this task uses, while NVML is open."""

    driver: Driver | Unknown
    """Unknown when NVML did not start; there are then no handles."""
    handles: dict[int, Any]
    """By index."""
    unreachable: tuple[tuple[int, Unknown], ...]
    nvml: Any = None


def open_nvml() -> Any:
    """Return the module of NVML once it has started, else ``Unknown`` with the reason."""
    try:
        import pynvml as nvml
    except ImportError:
        return Unknown("the Python package nvidia-ml-py is not installed")
    started = attempt(nvml.nvmlInit)
    return started if isinstance(started, Unknown) else nvml


@contextmanager
def session(environ: Mapping[str, str], most: int | None = None) -> Iterator[Devices]:
    """Open NVML, and close it after the block; never raise on its account."""
    nvml = open_nvml()
    if isinstance(nvml, Unknown):
        yield Devices(nvml, {}, ())
        return
    try:
        yield find_devices(nvml, environ, most)
    finally:
        attempt(nvml.nvmlShutdown)  # the readings are valid even if this fails


def find_devices(nvml: Any, environ: Mapping[str, str], most: int | None = None) -> Devices:
    """Return the GPUs that this task uses, while NVML is open.

    GPUs outside ``CUDA_VISIBLE_DEVICES``, and those the kernel withholds from us, belong to other
    jobs. Ranks take the first of the others (``jobs.engine.device``).

    Args:
        nvml: its module.
        environ: of the task.
        most: number that it uses; None for all that it may use.
    """
    driver = Driver(
        attempt(nvml.nvmlSystemGetDriverVersion), attempt(nvml.nvmlSystemGetNVMLVersion)
    )
    visible = visible_devices(environ)
    count = attempt(nvml.nvmlDeviceGetCount)
    if isinstance(count, Unknown):
        return Devices(count, {}, (), nvml)
    found: list[tuple[int, int, Any]] = []
    for index in range(count):
        handle = attempt(nvml.nvmlDeviceGetHandleByIndex, index)
        is_lost = isinstance(handle, Unknown)
        if is_lost and handle.nvml == NO_PERMISSION:
            continue
        uuid = handle if is_lost else attempt(nvml.nvmlDeviceGetUUID, handle)
        place = _place(index, uuid, visible)
        if place is not None:
            found.append((place, index, handle))
    found.sort(key=lambda row: row[:2])
    ours = {index: handle for _, index, handle in found[:most]}
    lost = {index: handle for index, handle in ours.items() if isinstance(handle, Unknown)}
    handles = {index: ours[index] for index in sorted(ours.keys() - lost.keys())}
    return Devices(driver, handles, tuple(sorted(lost.items())), nvml)


def _place(index: int, uuid: str | Unknown, visible: tuple[str, ...] | None) -> int | None:
    """Return the number of a GPU among those that are visible; None where it is not."""
    if visible is None:
        return index
    # CUDA accepts the beginning of a UUID as well as the whole.
    for number, entry in enumerate(visible):
        if entry == str(index) or (isinstance(uuid, str) and uuid.startswith(entry)):
            return number
    return None


def read_gpu(devices: Devices, index: int, note: Callable[[str], None] | None = None) -> Gpu:
    """Run every probe of ``PROBES`` on one GPU.

    Args:
        note: called with the name of each probe before it runs: one may not return.
    """
    handle, readings = devices.handles[index], {}
    for name, probe in PROBES.items():
        if note is not None:
            note(name)
        readings[name] = attempt(probe, devices.nvml, handle)
    return Gpu(index=index, **readings)


def _field(nvml: Any, handle: Any, field: int | tuple[int, int]) -> int:
    """Return the value of a field, or of a field and its scope."""
    (value,) = nvml.nvmlDeviceGetFieldValues(handle, [field])
    return _value(nvml, value)


def _value(nvml: Any, value: Any) -> int:
    if value.nvmlReturn != nvml.NVML_SUCCESS:
        raise nvml.NVMLError(value.nvmlReturn)
    # Read the union as the driver wrote it: a narrower member leaves the rest undefined.
    member = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")[value.valueType]
    return int(getattr(value.value, member))


def _recovery_action(nvml: Any, handle: Any) -> int:
    return _field(nvml, handle, nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)


def _ecc_volatile(nvml: Any, handle: Any) -> int:
    kind = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    return int(nvml.nvmlDeviceGetTotalEccErrors(handle, kind, nvml.NVML_VOLATILE_ECC))


def _ecc_aggregate(nvml: Any, handle: Any) -> int:
    kind = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    return int(nvml.nvmlDeviceGetTotalEccErrors(handle, kind, nvml.NVML_AGGREGATE_ECC))


def _sram(nvml: Any, handle: Any) -> SramErrors:
    import ctypes

    status = nvml.c_nvmlEccSramErrorStatus_v1_t()
    nvml.nvmlDeviceGetSramEccErrorStatus(handle, ctypes.byref(status))
    return SramErrors(
        bool(status.bThresholdExceeded), status.aggregateUncParity + status.aggregateUncSecDed
    )


def _remapped_rows(nvml: Any, handle: Any) -> RemappedRows:
    corrected, uncorrected, pending, failed = nvml.nvmlDeviceGetRemappedRows(handle)
    return RemappedRows(corrected, uncorrected, bool(pending), bool(failed))


def _unrepairable_memory(nvml: Any, handle: Any) -> bool:
    return bool(nvml.nvmlDeviceGetUnrepairableMemoryFlag_v1(handle))


def _retired_pages(nvml: Any, handle: Any) -> int:
    causes = range(nvml.NVML_PAGE_RETIREMENT_CAUSE_COUNT)
    return sum(len(nvml.nvmlDeviceGetRetiredPages(handle, cause)) for cause in causes)


def _retired_pages_pending(nvml: Any, handle: Any) -> bool:
    return bool(nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle))


def _clock_reasons(nvml: Any, handle: Any) -> int:
    try:
        return int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except nvml.NVMLError_FunctionNotFound:  # drivers before 535 have the older name only
        return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _temperature(nvml: Any, handle: Any) -> int:
    try:
        return int(nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU))
    except nvml.NVMLError_FunctionNotFound:
        return int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))


def _threshold(name: str) -> Callable[[Any, Any], int]:
    def probe(nvml: Any, handle: Any) -> int:
        return int(nvml.nvmlDeviceGetTemperatureThreshold(handle, getattr(nvml, name)))

    return probe


def _memory_temperature(nvml: Any, handle: Any) -> int:
    return _field(nvml, handle, nvml.NVML_FI_DEV_MEMORY_TEMP)


def _nvlinks(nvml: Any, handle: Any) -> tuple[bool, ...]:
    states: list[bool] = []
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            states.append(bool(nvml.nvmlDeviceGetNvLinkState(handle, link)))
        except nvml.NVMLError as error:
            if error.value in (NOT_SUPPORTED, INVALID_ARGUMENT):  # past the card's last link
                break
            raise
    return tuple(states)


def _fabric(nvml: Any, handle: Any) -> Fabric:
    import ctypes

    info = nvml.c_nvmlGpuFabricInfo_v3_t()
    try:
        nvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info))
        return Fabric(info.state, info.status, info.healthSummary)
    except nvml.NVMLError as error:
        if error.value != VERSION_MISMATCH:  # drivers that know the second form only
            raise
    info = nvml.c_nvmlGpuFabricInfo_v2_t()
    nvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info))
    return Fabric(info.state, info.status, nvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_NOT_SUPPORTED)


def _processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...]:
    """Return compute processes, those under MPS too, without processes that have exited."""
    processes = {entry.pid: entry for entry in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    mps = attempt(nvml.nvmlDeviceGetMPSComputeRunningProcesses, handle)
    processes |= {} if isinstance(mps, Unknown) else {entry.pid: entry for entry in mps}
    return tuple(
        GpuProcess(pid, _owner(pid), entry.usedGpuMemory or 0)
        for pid, entry in sorted(processes.items())
        if _is_alive(pid)
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _owner(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def _ecc_mode(nvml: Any, handle: Any) -> tuple[bool, bool]:
    current, pending = nvml.nvmlDeviceGetEccMode(handle)
    return bool(current), bool(pending)


def _mig_mode(nvml: Any, handle: Any) -> bool:
    current, _ = nvml.nvmlDeviceGetMigMode(handle)
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _persistence(nvml: Any, handle: Any) -> bool:
    return bool(nvml.nvmlDeviceGetPersistenceMode(handle))


def _utilisation(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)


def _memory(nvml: Any, handle: Any) -> GpuMemory:
    info = nvml.nvmlDeviceGetMemoryInfo(handle)
    return GpuMemory(int(info.used), int(info.total))


def _sm_clock(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))


def _memory_clock(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))


def _sm_clock_max(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))


def _slow_time(nvml: Any, handle: Any) -> SlowTime:
    words = str(nvml.nvmlSystemGetDriverVersion()).split(".")
    version = tuple(int(word) for word in words[:2] if word.isdigit())
    is_between = RENUMBERED[0] <= version < RENUMBERED[1]
    thermal = SLOW_TIME_BETWEEN if is_between else SLOW_TIME_FIELD
    fields = (POWER_CAP_FIELD, thermal, thermal + 1, thermal + 2)
    return SlowTime(*(_field(nvml, handle, field) for field in fields))


POWER_CAP_FIELD = 74
"""NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP."""
SLOW_TIME_FIELD = 269
"""NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN, before HW_THERM_SLOWDOWN and
HW_POWER_BRAKE_SLOWDOWN."""
SLOW_TIME_BETWEEN = 251
"""The same with drivers of which 269 to 271 are fields of power smoothing (nvidia-ml-py 12.575.51
and 13.580.65, against 13.580.82 and later)."""
RENUMBERED = ((575, 0), (580, 82))
"""The first of these drivers, and the first after them."""


def _link_errors(nvml: Any, handle: Any) -> LinkErrors:
    """Return the errors of all links: of each link since Hopper, else by the totals of cards that
    do not count so (as NVIDIA's resiliency extension does, shared_utils/health_check.py).
    """
    try:
        return LinkErrors(*(_of_links(nvml, handle, field) for field in LINK_ERROR_FIELDS))
    except nvml.NVMLError as error:
        if error.value not in (NOT_SUPPORTED, INVALID_ARGUMENT):
            raise
    replays, recoveries, flit, data = (_field(nvml, handle, field) for field in LINK_TOTAL_FIELDS)
    return LinkErrors(replays, recoveries, flit + data)


LINK_TOTAL_FIELDS = (52, 59, 38, 45)
"""NVML_FI_DEV_NVLINK_{REPLAY,RECOVERY,CRC_FLIT,CRC_DATA}_ERROR_COUNT_TOTAL."""
LINK_ERROR_FIELDS = (161, 162, 163)
"""NVML_FI_DEV_NVLINK_ERROR_DL_{REPLAY,RECOVERY,CRC}; Blackwell has none of them."""


def _of_links(nvml: Any, handle: Any, field: int) -> int:
    """Return the sum of a field over all links; one beyond the card's last is not supported."""
    links = range(nvml.NVML_NVLINK_MAX_LINKS)
    values = nvml.nvmlDeviceGetFieldValues(handle, [(field, link) for link in links])
    known = [_value(nvml, value) for value in values if value.nvmlReturn == nvml.NVML_SUCCESS]
    if not known:
        raise nvml.NVMLError(values[0].nvmlReturn)
    return sum(known)


def _pcie_fatal(nvml: Any, handle: Any) -> int:
    return _field(nvml, handle, nvml.NVML_FI_DEV_PCIE_COUNT_FATAL_ERROR)


def _link_failures(nvml: Any, handle: Any) -> int:
    """Return the failed recoveries of all links."""
    return _of_links(nvml, handle, nvml.NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS)


def _ecc_corrected(nvml: Any, handle: Any) -> int:
    kind = nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED
    return int(nvml.nvmlDeviceGetTotalEccErrors(handle, kind, nvml.NVML_VOLATILE_ECC))


def _call(name: str) -> Callable[[Any, Any], Any]:
    """Return a probe that returns the value of one NVML call."""
    return lambda nvml, handle: getattr(nvml, name)(handle)


PROBES: dict[str, Callable[[Any, Any], Any]] = {
    "uuid": _call("nvmlDeviceGetUUID"),
    "serial": _call("nvmlDeviceGetSerial"),
    "name": _call("nvmlDeviceGetName"),
    "recovery_action": _recovery_action,
    "ecc_volatile": _ecc_volatile,
    "ecc_aggregate": _ecc_aggregate,
    "sram": _sram,
    "remapped_rows": _remapped_rows,
    "unrepairable_memory": _unrepairable_memory,
    "retired_pages": _retired_pages,
    "retired_pages_pending": _retired_pages_pending,
    "clock_reasons": _clock_reasons,
    "temperature": _temperature,
    "temperature_max": _threshold("NVML_TEMPERATURE_THRESHOLD_GPU_MAX"),
    "temperature_slowdown": _threshold("NVML_TEMPERATURE_THRESHOLD_SLOWDOWN"),
    "memory_temperature": _memory_temperature,
    "memory_temperature_max": _threshold("NVML_TEMPERATURE_THRESHOLD_MEM_MAX"),
    "power_limit": _call("nvmlDeviceGetEnforcedPowerLimit"),
    "power_limit_default": _call("nvmlDeviceGetPowerManagementDefaultLimit"),
    "pcie_width": _call("nvmlDeviceGetCurrPcieLinkWidth"),
    "pcie_width_max": _call("nvmlDeviceGetMaxPcieLinkWidth"),
    "nvlinks": _nvlinks,
    "fabric": _fabric,
    "processes": _processes,
    "ecc_mode": _ecc_mode,
    "mig_mode": _mig_mode,
    "persistence": _persistence,
    "utilisation": _utilisation,
    "memory": _memory,
    "power": _call("nvmlDeviceGetPowerUsage"),
    "energy": _call("nvmlDeviceGetTotalEnergyConsumption"),
    "sm_clock": _sm_clock,
    "sm_clock_max": _sm_clock_max,
    "memory_clock": _memory_clock,
    "pcie_generation": _call("nvmlDeviceGetCurrPcieLinkGeneration"),
    "pcie_generation_max": _call("nvmlDeviceGetMaxPcieLinkGeneration"),
    "pcie_replays": _call("nvmlDeviceGetPcieReplayCounter"),
    "pcie_fatal": _pcie_fatal,
    "slow_time": _slow_time,
    "link_errors": _link_errors,
    "link_failures": _link_failures,
    "ecc_corrected": _ecc_corrected,
}
"""Probe per field of ``Gpu``. Each runs on its own."""
