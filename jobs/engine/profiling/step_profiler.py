"""Profile the steps that a person requests, on the ranks named, without changing what is computed.

All ranks agree on the step: rank 0 takes the request, and its notice travels with the sums of a
batch. The step after is profiled as a warm-up and not recorded, since the first use of the profiler
is slow. Training never fails for a profile: the error is in the rank's record.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed
from torch.profiler import record_function

from jobs.contract.files import make_folder
from jobs.engine import device as devices
from jobs.engine.profiling.recorders import Recorder, recorder
from jobs.runtime import profile_record
from jobs.runtime.context import Context
from jobs.runtime.heartbeat import Phase
from jobs.runtime.profile_record import DATA, STEP, ProfileRecord, ProfileRequest

POLL_SECONDS = 1.0
"""Seconds between two checks by rank 0 for the file PROFILE."""


class StepProfiler:
    """The profiler of this rank's training steps. Every rank has one; most never use it."""

    def __init__(self, context: Context, device: torch.device) -> None:
        self._context = context
        self._device = device
        self._request: ProfileRequest | None = None
        self._begun = 0
        """The step after which the request was taken."""
        self._recorder: Recorder | None = None
        """Of a rank that was named, while it profiles."""
        self._error = ""
        self._checked = 0.0
        self._is_requested = False
        first = None if context.rank else profile_record.read_request(context.run)
        self._nsys = first.name if first and first.nsys else ""
        """Name of the request for nsys that this attempt began with, on rank 0."""

    def poll(self) -> bool:
        """Return whether rank 0 sees a request that may begin; False on other ranks."""
        now = time.monotonic()
        if self._context.rank == 0 and now - self._checked >= POLL_SECONDS and not self._request:
            self._checked = now
            request = profile_record.read_request(self._context.run)
            is_late = request is not None and request.nsys and request.name != self._nsys
            self._is_requested = request is not None and not is_late
        return self._is_requested

    def step(self) -> AbstractContextManager[object]:
        """Return the range of one step, for a ``with`` block."""
        return record_function(STEP) if self._recorder else nullcontext()

    def data(self) -> AbstractContextManager[object]:
        """Return the range in which a step waits for samples, for a ``with`` block."""
        return record_function(DATA) if self._recorder else nullcontext()

    def after_step(self, step: int, is_requested: bool) -> None:
        """Begin, continue or end a profile after a step. Every rank calls it, with the same
        arguments.
        """
        if self._request is not None:
            if self._recorder is not None:
                self._attempt(self._recorder.step)
            if step > self._begun + self._request.steps:
                self._end(self._request, step)
        elif is_requested:
            run = self._context.run
            self._request = devices.decide_once(lambda: profile_record.take_request(run))
            self._is_requested = False
            self._begun, self._error = step, ""
            if self._request and self._context.rank in self._request.ranks:
                request = self._request
                self._attempt(lambda: self._begin(request))

    def close(self, step: int) -> None:
        """Record that training ended before a profile did, if one has begun."""
        if self._request is None:
            return
        if self._recorder is not None:
            self._attempt(self._recorder.stop)
        self._error = f"training ended after step {step}, before the profile did"
        self._attempt(lambda: self._record(self._request, step, "", ""))
        self._request = self._recorder = None

    def _begin(self, request: ProfileRequest) -> None:
        self._recorder = recorder(request, self._device)
        self._recorder.start()

    def _end(self, request: ProfileRequest, step: int) -> None:
        """Write this rank's results, if it was named, while all ranks wait: a trace may take longer
        to write than a step may last.
        """
        with self._context.heart.during(Phase.CHECKPOINT):
            if self._context.rank in request.ranks:
                self._attempt(lambda: self._write(request, step))
                self._recorder = None
                if self._error:
                    self._attempt(lambda: self._record(request, step, "", ""))
            torch.distributed.barrier()
        self._request = None

    def _write(self, request: ProfileRequest, step: int) -> None:
        if self._error or self._recorder is None:
            return
        folder = self._context.run.profile(request.name)
        make_folder(folder)
        names = self._recorder.write(folder / f"rank-{self._context.rank:05d}")
        self._record(request, step, *names)

    def _record(self, request: ProfileRequest | None, step: int, trace: str, memory: str) -> None:
        if request is None or self._context.rank not in request.ranks:
            return
        record = ProfileRecord(
            rank=self._context.rank,
            first_step=self._begun + 2,
            last_step=step,
            device=self._device.type,
            trace=trace,
            memory=memory,
            error=self._error,
        )
        profile_record.write_record(self._context.run, request.name, record)

    def _attempt(self, action: Any) -> None:
        """Call an action of the profiler; keep the first error of the profile instead of raising
        it.
        """
        try:
            action()
        except Exception as error:  # of a library, or of a full disk: training continues
            self._error = self._error or f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"rank {self._context.rank}: no profile: {self._error}")
