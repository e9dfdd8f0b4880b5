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
from pathlib import Path
from typing import Any

from jobs.contract.job import node_name
from jobs.health.sample import (
    Disk,
    Driver,
    Fabric,
    Gpu,
    GpuProcess,
    RemappedRows,
    Sample,
    SramErrors,
    Unknown,
)
from jobs.runtime import memory

LIBRARY_NOT_FOUND = 12
DRIVER_NOT_LOADED = 9
NOT_SUPPORTED = 3
NO_PERMISSION = 4
INVALID_ARGUMENT = 2
FUNCTION_NOT_FOUND = 13
VERSION_MISMATCH = 25


def read_sample(folder: Path | None, environ: Mapping[str, str]) -> Sample:
    """Read this node once; never raise.

    ``folder`` lies on the file system that the work writes to; with None it is not read, since
    querying a file system that hangs would hang too. GPUs outside ``CUDA_VISIBLE_DEVICES`` (of
    ``environ``) and those the kernel withholds from us belong to other jobs and are omitted.
    """
    driver, gpus, unreachable = _read_gpus(environ)
    return Sample(
        node=node_name(environ),
        time=time.time(),
        uid=os.getuid(),
        driver=driver,
        gpus=gpus,
        unreachable=unreachable,
        disk=_attempt(read_disk, folder) if folder else Unknown("not read"),
        shm=_attempt(read_disk, Path("/dev/shm")),
        memory_available=_attempt(_memory_available),
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


def _memory_available() -> int:
    return memory.of_machine(memory.MEMINFO.read_text())


def _read_gpus(
    environ: Mapping[str, str],
) -> tuple[Driver | Unknown, tuple[Gpu, ...], tuple[tuple[int, Unknown], ...]]:
    try:
        import pynvml as nvml
    except ImportError:
        return Unknown("the Python package nvidia-ml-py is not installed"), (), ()
    try:
        with _session(nvml):
            driver = Driver(
                _attempt(nvml.nvmlSystemGetDriverVersion), _attempt(nvml.nvmlSystemGetNVMLVersion)
            )
            gpus, unreachable = _read_visible(nvml, visible_devices(environ))
            return driver, gpus, unreachable
    except nvml.NVMLError as error:
        return Unknown(str(error), error.value), (), ()


@contextmanager
def _session(nvml: Any) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        _attempt(nvml.nvmlShutdown)  # the readings are valid even if this fails


def _read_visible(
    nvml: Any, visible: tuple[str, ...] | None
) -> tuple[tuple[Gpu, ...], tuple[tuple[int, Unknown], ...]]:
    gpus: list[Gpu] = []
    unreachable: list[tuple[int, Unknown]] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = _attempt(nvml.nvmlDeviceGetHandleByIndex, index)
        if isinstance(handle, Unknown):
            if handle.nvml != NO_PERMISSION and (visible is None or str(index) in visible):
                unreachable.append((index, handle))
            continue
        if _is_visible(index, _attempt(nvml.nvmlDeviceGetUUID, handle), visible):
            gpus.append(read_gpu(nvml, handle, index))
    return tuple(gpus), tuple(unreachable)


def _is_visible(index: int, uuid: str | Unknown, visible: tuple[str, ...] | None) -> bool:
    if visible is None or str(index) in visible:
        return True
    # CUDA accepts the beginning of a UUID as well as the whole.
    return isinstance(uuid, str) and any(uuid.startswith(entry) for entry in visible)


def read_gpu(nvml: Any, handle: Any, index: int) -> Gpu:
    """Run every probe of ``PROBES`` on one GPU."""
    return Gpu(
        index=index, **{name: _attempt(probe, nvml, handle) for name, probe in PROBES.items()}
    )


def _attempt(probe: Callable[..., Any], *arguments: Any) -> Any:
    """Return the probe's value, or ``Unknown`` with the reason."""
    try:
        return probe(*arguments)
    except AttributeError as error:  # an nvidia-ml-py older than the call
        return Unknown(str(error), FUNCTION_NOT_FOUND)
    except Exception as error:  # whatever a driver does to one probe, the others still count
        code = getattr(error, "value", None)
        return Unknown(str(error) or type(error).__name__, code if isinstance(code, int) else None)


def _field(nvml: Any, handle: Any, field: int) -> int:
    (value,) = nvml.nvmlDeviceGetFieldValues(handle, [field])
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
    mps = _attempt(nvml.nvmlDeviceGetMPSComputeRunningProcesses, handle)
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
}
"""Probe per field of ``Gpu``. Each runs on its own."""
