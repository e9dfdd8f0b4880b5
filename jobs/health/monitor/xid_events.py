"""Receive XID errors as events of NVML, in a thread. Standard library only.

Events arrive only while somebody listens, and only for GPUs that were registered; those of an
earlier time are in the kernel's log, which users may not read. Source: NVML API reference, event
handling methods (docs.nvidia.com/deploy/nvml-api).
"""

from __future__ import annotations

import ctypes
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.health.nvml import Devices
from jobs.health.sample import Unknown, attempt

WAIT_MILLISECONDS = 250
"""Of one call."""
TIMEOUT = 10
"""NVML's return code: no event in that time."""
RETRY_SECONDS = 10.0
"""After an error of NVML."""
LAST_CALLS = 2
"""Begun after the ranks have ended, for an XID that ended them to arrive."""
LAST_SECONDS = 3.0
"""For these calls, where NVML fails."""
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class XidEvent:
    """An XID of one GPU."""

    time: float
    """When it arrived, in seconds since 1970."""
    gpu: int | None
    """Its index; None where the event has a GPU of another task."""
    uuid: str
    number: int


class XidListener:
    """The listener of this node."""

    def __init__(self) -> None:
        self.problem: Unknown | None = None
        """Why no event can arrive; None while they can."""
        self._events: queue.Queue[XidEvent] = queue.Queue()
        self._calls = 0
        """Calls of NVML that have returned, with what they returned in the queue."""

    def start(self, devices: Devices) -> None:
        """Listen to the GPUs in a thread; a node without NVML has none."""
        threading.Thread(target=self._listen, args=(devices,), daemon=True).start()

    def received(self) -> Iterator[XidEvent]:
        """Yield the events that have arrived since the last call, not those that arrive now."""
        for _ in range(self._events.qsize()):
            yield self._events.get_nowait()

    def settle(self) -> None:
        """Wait for an event that has just happened. Pauses are counted, as a busy node may run
        neither thread for long.
        """
        enough = self._calls + 1 + LAST_CALLS
        for _ in range(round(LAST_SECONDS / POLL_SECONDS)):
            if self._calls >= enough:
                return
            time.sleep(POLL_SECONDS)

    def _listen(self, devices: Devices) -> None:
        nvml = devices.nvml
        events = attempt(nvml.nvmlEventSetCreate)
        if isinstance(events, Unknown):
            self.problem = events
            return
        # A GPU that has fallen off the bus no longer has a UUID to ask for.
        known: dict[int | None, tuple[int, str]] = {}
        for index, handle in devices.handles.items():
            failed = attempt(_register, nvml, handle, events)
            self.problem = failed if isinstance(failed, Unknown) else self.problem
            uuid = attempt(nvml.nvmlDeviceGetUUID, handle)
            known[_address(handle)] = (index, uuid if isinstance(uuid, str) else "")
        registered = self.problem
        while True:
            event = attempt(_wait, nvml, events)
            has_failed = isinstance(event, Unknown) and event.nvml != TIMEOUT
            self.problem = event if has_failed else registered
            if not isinstance(event, Unknown):
                self._put(nvml, event, known)
            elif has_failed:
                time.sleep(RETRY_SECONDS)
            self._calls += 1

    def _put(self, nvml: Any, event: Any, known: Mapping[int | None, tuple[int, str]]) -> None:
        if event.eventType != nvml.nvmlEventTypeXidCriticalError:
            return
        gpu, uuid = known.get(_address(event.device), (None, ""))
        self._events.put(XidEvent(time.time(), gpu, uuid, int(event.eventData)))


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value


def _wait(nvml: Any, events: Any) -> Any:
    return nvml.nvmlEventSetWait_v2(events, WAIT_MILLISECONDS)


def _register(nvml: Any, handle: Any, events: Any) -> None:
    wanted = nvml.nvmlEventTypeXidCriticalError
    nvml.nvmlDeviceRegisterEvents(handle, wanted & _supported(nvml, handle), events)


def _supported(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetSupportedEventTypes(handle))
