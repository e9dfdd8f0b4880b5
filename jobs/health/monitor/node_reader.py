"""Read a node again and again; a probe that does not return blocks no other one.

A driver or a file server that is broken holds a call in the kernel, where no signal reaches it.
Each GPU, and the node beside them, is therefore read in a thread of its own; while one is stuck,
the others are read on. Standard library only.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from jobs.contract.job import node_name
from jobs.health import host, nvml
from jobs.health.sample import Gpu, Sample, Unknown, attempt

T = TypeVar("T")
Note = Callable[[str], None]

PROBE_SECONDS = 10.0
"""For one probe to return. A guess: a healthy driver answers within milliseconds, also under load.
"""
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class StuckProbe:
    """A probe that has not returned."""

    subject: str
    """``GPU 3``, ``the driver`` or ``the node``."""
    gpu: int | None
    name: str
    seconds: float


class ProbeThread(Generic[T]):
    """One reading at a time, in a thread."""

    def __init__(self, subject: str, read: Callable[[Note], T], gpu: int | None = None) -> None:
        self.gpu = gpu
        self.result: T | None = None
        """Of the newest reading that returned."""
        self._subject = subject
        self._read = read
        self._thread: threading.Thread | None = None
        self._probe = ("", 0.0)

    def request(self) -> bool:
        """Begin a reading; return False while the one before has not returned."""
        if self.is_busy():
            return False
        self.result = None
        self._note("start")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return True

    def is_busy(self) -> bool:
        """Return whether a reading has not returned."""
        return self._thread is not None and self._thread.is_alive()

    def stuck(self, now: float, limit: float) -> StuckProbe | None:
        """Return the probe that has exceeded its time at a moment of the monotonic clock."""
        name, since = self._probe
        if not self.is_busy() or now - since < limit:
            return None
        return StuckProbe(self._subject, self.gpu, name, now - since)

    def _run(self) -> None:
        self.result = self._read(self._note)

    def _note(self, name: str) -> None:
        self._probe = (name, time.monotonic())


class NodeReader:
    """The reader of one node: its GPUs, and itself."""

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str],
        probe_seconds: float = PROBE_SECONDS,
        gpus: int | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            folder: on the file system that the run writes to.
            environ: names the GPUs that this task may use.
            probe_seconds: for one probe to return.
            gpus: that the task uses, of which none is read with 0; None for all that it may use.
        """
        self._most = gpus
        self._limit = probe_seconds
        self._folder = folder
        self._environ = environ
        self._nvml: Any = Unknown("NVML was not started")
        self.devices = nvml.Devices(self._nvml, {}, ())
        self._driver = ProbeThread("the driver", self._find_devices)
        self._host = ProbeThread("the node", self._read_host)
        self._disk = ProbeThread("the file system of the run", self._read_disk)
        self._gpus: dict[int, ProbeThread[Gpu]] = {}

    def read(self) -> tuple[Sample, tuple[StuckProbe, ...]]:
        """Read the node once; return what was read, and the probes that are stuck.

        A GPU whose probe is stuck has ``Unknown`` everywhere.
        """
        beside: list[ProbeThread[Any]] = [self._host, self._disk]
        for thread in beside:
            thread.request()
        if self._most != 0 and self._driver.request():
            self._wait([self._driver])
        if self._driver.result is not None:
            self.devices = self._driver.result
        for index in self.devices.handles:
            self._thread(index).request()
        threads = [self._thread(index) for index in self.devices.handles]
        everything: list[ProbeThread[Any]] = [self._driver, *beside, *threads]
        self._wait(everything)
        now = time.monotonic()
        stuck = tuple(probe for thread in everything if (probe := thread.stuck(now, self._limit)))
        return self._sample(threads), stuck

    def _thread(self, index: int) -> ProbeThread[Gpu]:
        def read(note: Note) -> Gpu:
            return nvml.read_gpu(self.devices, index, note)

        return self._gpus.setdefault(index, ProbeThread(f"GPU {index}", read, index))

    def _sample(self, threads: Iterable[ProbeThread[Gpu]]) -> Sample:
        silent = Unknown("did not answer in time")
        disk, beside = self._disk.result, self._host.result
        shm, memory, host_readings = beside or (silent, silent, host.unread(silent))
        return Sample(
            node=node_name(self._environ),
            time=time.time(),
            uid=os.getuid(),
            driver=silent if self._driver.is_busy() else self.devices.driver,
            gpus=tuple(thread.result or unread(thread.gpu or 0, silent) for thread in threads),
            unreachable=self.devices.unreachable,
            disk=disk or silent,
            shm=shm,
            memory_available=memory,
            host=host_readings,
        )

    def _find_devices(self, note: Note) -> nvml.Devices:
        if isinstance(self._nvml, Unknown):
            note("nvmlInit")
            self._nvml = nvml.open_nvml()
        if isinstance(self._nvml, Unknown):
            return nvml.Devices(self._nvml, {}, ())
        note("nvmlDeviceGetHandleByIndex")
        return nvml.find_devices(self._nvml, self._environ, self._most)

    def _read_host(self, note: Note) -> tuple[Any, Any, Any]:
        note("/dev/shm")
        shm = attempt(nvml.read_disk, Path("/dev/shm"))
        note("/proc and /sys")
        return shm, attempt(nvml.memory_available), host.read_host()

    def _read_disk(self, note: Note) -> Any:
        note(f"statvfs {self._folder}")
        return attempt(nvml.read_disk, self._folder)

    def _wait(self, threads: Iterable[ProbeThread[Any]]) -> None:
        """Wait until each of the threads has returned or is stuck."""
        waiting = list(threads)
        while waiting:
            now = time.monotonic()
            waiting = [
                one for one in waiting if one.is_busy() and one.stuck(now, self._limit) is None
            ]
            if waiting:
                time.sleep(POLL_SECONDS)


def unread(index: int, reason: Unknown) -> Gpu:
    """Return a GPU without any reading."""
    return Gpu(index=index, **dict.fromkeys(nvml.PROBES, reason))
