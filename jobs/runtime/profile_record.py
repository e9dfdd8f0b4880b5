"""Profiles of a running training: the request of a person, and the records of ranks. Standard
library only.

``RUN/PROFILE`` is the request; training removes it when it begins. Each rank named in it writes its
trace and then its record into ``RUN/profiles/<name>``.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobs.contract.files import FormatError, read_json, write_json
from jobs.contract.json_fields import from_fields, to_fields
from jobs.contract.rundir import RunDir

STEP = "meditron.step"
"""Name of the range in a trace that spans one training step."""
DATA = "meditron.data"
"""Name of the ranges in which a step waits for its samples."""


@dataclass(frozen=True)
class ProfileRequest:
    """A request to profile the next steps of training on some ranks."""

    name: str
    """Of the folder for its results, below ``profiles``."""
    steps: int
    ranks: tuple[int, ...]
    memory: bool
    nsys: bool = False
    """By NVIDIA Nsight Systems, in an attempt that begins after the request."""


@dataclass(frozen=True)
class ProfileRecord:
    """The result of one rank, written last."""

    rank: int
    first_step: int
    """Of those in the trace."""
    last_step: int
    device: str
    """``cpu`` or ``cuda``."""
    trace: str
    """Name of the file of torch's trace, or of nsys's report; empty after an error."""
    memory: str
    """Name of the memory snapshot's file; empty where there is none."""
    error: str
    """Why there is no trace; empty when there is one."""


def write_request(run: RunDir, request: ProfileRequest) -> None:
    """Write a request, in the place of one that training has not taken."""
    write_json(run.profile_file, to_fields(request))


def take_request(run: RunDir) -> ProfileRequest | None:
    """Read the request and remove it; return None where there is none that can be read and
    removed.
    """
    request = read_request(run)
    try:
        run.profile_file.unlink()
    except OSError:
        return None
    return request


def read_request(run: RunDir) -> ProfileRequest | None:
    """Return the request that waits; None where there is none, or an unusable one."""
    try:
        return from_fields(ProfileRequest, read_json(run.profile_file))
    except (OSError, FormatError, ValueError):
        return None


def write_record(run: RunDir, name: str, record: ProfileRecord) -> None:
    """Write the record of a rank."""
    write_json(run.profile_record(name, record.rank), to_fields(record))


def read_records(run: RunDir, request: ProfileRequest) -> dict[int, ProfileRecord]:
    """Return the records of a profile that have been written, by rank."""
    found = {}
    for rank in request.ranks:
        try:
            value = read_json(run.profile_record(request.name, rank))
            found[rank] = from_fields(ProfileRecord, value)
        except (OSError, FormatError, ValueError):
            continue
    return found
