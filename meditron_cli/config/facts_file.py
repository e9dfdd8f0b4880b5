"""Read and write the facts of a cluster that ``doctor`` and ``selftest`` found, for later plans.

One file per cluster, written whole: ``meditron/clusters/<cluster>.json`` in XDG_CACHE_HOME, or in
``~/.cache``. A person may delete it at any time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.contract.files import FormatError, read_json, write_json

OLD_DAYS = 30
"""Sites change their settings a few times a year: a guess."""


@dataclass(frozen=True)
class PartitionFacts:
    """Facts about a partition, for jobs of one quality of service."""

    qos: str
    """Of the profile at the time of the query; empty for the site's default."""
    grace_seconds: int | None
    """None where it is not known, or nothing is preempted."""
    max_time_minutes: int | None
    """None where it is not known, or not limited."""


@dataclass(frozen=True)
class SlurmFacts:
    """Facts about a site's Slurm; None if not known."""

    max_array_size: int | None = None
    requeue: bool | None = None
    submit_from_jobs: bool | None = None


@dataclass(frozen=True)
class Probe:
    """A probe job: its folder and its report."""

    job_id: str
    folder: str
    submitted: float
    """Seconds since 1970."""
    report: dict[str, Any] | None = None
    """None while it waits or runs."""


SPEEDS = ("product_tflops", "memory_gb_s", "link_gb_s", "network_gb_s")


@dataclass(frozen=True)
class Speeds:
    """Speeds that a selftest has measured on a partition's nodes; None if not measured."""

    partition: str
    time: float
    """Seconds since 1970."""
    nodes: tuple[str, ...]
    product_tflops: float | None = None
    memory_gb_s: float | None = None
    link_gb_s: float | None = None
    network_gb_s: float | None = None

    @property
    def reached(self) -> dict[str, float]:
        """Return the known speeds by their key in ``gpu_partition.node.reached``."""
        values = asdict(self)
        return {key: values[key] for key in SPEEDS if values[key] is not None}


@dataclass(frozen=True)
class Facts:
    """The content of a cache file."""

    cluster: str
    time: float
    """Time of the query, in seconds since 1970."""
    partitions: Mapping[str, PartitionFacts] = field(default_factory=dict)
    slurm: SlurmFacts = SlurmFacts()
    probe: Probe | None = None
    fatal: tuple[str, ...] = ()
    """Sentences of the FATAL findings: why a job cannot start, or training cannot work."""
    speeds: Speeds | None = None
    """None before a selftest."""


class Broken(Exception):
    """A cache file that cannot be read; the text gives the file and the reason."""


def path_of(cluster: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the cache file of a cluster."""
    home = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or Path.home()) / ".cache"
    return Path(home) / "meditron" / "clusters" / f"{cluster}.json"


def write(path: Path, facts: Facts) -> None:
    """Replace a cache file."""
    write_json(path, asdict(facts))


def read(path: Path) -> Facts | None:
    """Return the facts of a cache file; None if there is none.

    Raises:
        Broken: it is unreadable, or was written by another version.
    """
    try:
        return from_json(read_json(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except FormatError as error:
        raise Broken(str(error)) from error
    except OSError as error:
        raise Broken(f"{path}: {error.strerror}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Broken(f"{path}: not what `meditron doctor` writes ({error})") from error


def from_json(data: Mapping[str, Any]) -> Facts:
    """Build facts from their JSON form, which a person may have edited.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: something is missing, left over, or of
            another type.
    """
    probe = data["probe"]
    return Facts(
        cluster=text(data["cluster"]),
        time=float(data["time"]),
        partitions={
            name: PartitionFacts(
                text(item["qos"]), number(item["grace_seconds"]), number(item["max_time_minutes"])
            )
            for name, item in data["partitions"].items()
        },
        slurm=SlurmFacts(
            number(data["slurm"]["max_array_size"]),
            optional_bool(data["slurm"]["requeue"]),
            optional_bool(data["slurm"]["submit_from_jobs"]),
        ),
        probe=None if probe is None else Probe(**probe),
        fatal=tuple(text(item) for item in data["fatal"]),
        speeds=None if data["speeds"] is None else speeds(data["speeds"]),
    )


def speeds(data: Mapping[str, Any]) -> Speeds:
    """Build measured speeds from their JSON form, with errors as of ``from_json``."""
    measured = Speeds(
        **{**data, "time": float(data["time"]), "nodes": tuple(map(text, data["nodes"]))}
    )
    text(measured.partition)
    for value in measured.reached.values():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise TypeError(f"{value!r} is not a speed")
    return measured


def text(value: object) -> str:
    """Return a text; raise TypeError for other types."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def number(value: object) -> int | None:
    """Return a count or None; raise TypeError for other types."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise TypeError(f"{value!r} is not a count")
    return value


def optional_bool(value: object) -> bool | None:
    """Return True, False or None; raise TypeError for other types."""
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def age(seconds: float) -> str:
    """Return an age in words, rounded down: ``3 minutes``, ``5 hours``, ``12 days``."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"
