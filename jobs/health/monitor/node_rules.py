"""Rules for the samples of a node over time: its memory, load and network. Pure; numbers without a
source are guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jobs.contract.units import GIB, plural
from jobs.health.findings import HealthVerdict, Outcome
from jobs.health.monitor.node_reader import StuckProbe
from jobs.health.monitor.series import NodeSeries, rise
from jobs.health.sample import Disk, Sample, Unknown

LASTING = 4
"""Samples in a row for which a state must last."""

MEMORY_SHARE = 0.03
SHM_BYTES = 256 << 20
SWAP_BYTES = GIB
DISK_SHARE = 1 / 2.2
"""Of the free space that the preflight check demands, which is that of 2.2 checkpoints."""
LOAD_FACTOR = 2.0

PORT_ERRORS = 1000
"""In the window."""
FLAPS = 2
"""Times in one attempt that a link went down from which the node should be left."""
STUCK_SECONDS = 300.0


@dataclass(frozen=True)
class NodeRule:
    """A rule for one node over time."""

    code: str
    rule: Callable[[NodeSeries], Outcome | None]


def low_memory(series: NodeSeries) -> Outcome | None:
    """Report memory that is nearly used up."""
    shares = [_free_share(sample) for sample in series.last(LASTING)]
    known = [share for share in shares if share is not None]
    if len(known) < LASTING or max(known) >= MEMORY_SHARE:
        return None
    evidence = {"free_share": round(known[-1], 4)}
    return Outcome(HealthVerdict.WARN, f"only {known[-1]:.1%} of its memory is free", evidence)


def _free_share(sample: Sample) -> float | None:
    total, free = sample.host.memory_total, sample.memory_available
    if isinstance(total, Unknown) or isinstance(free, Unknown) or not total:
        return None
    return free / total


def swapping(series: NodeSeries) -> Outcome | None:
    """Report memory that was swapped out while the ranks ran."""
    values = _host_values(series, "swap_used")
    if not values or values[-1] - values[0] < SWAP_BYTES:
        return None
    grown = (values[-1] - values[0]) / GIB
    message = f"{grown:.1f} GiB were swapped out within ten minutes"
    return Outcome(HealthVerdict.WARN, message, {"gib": round(grown, 1)})


def overloaded(series: NodeSeries) -> Outcome | None:
    """Report far more processes than cores: the ranks share them with others."""
    loads, cores = _host_values(series, "load"), _host_values(series, "cores")
    if len(loads) < LASTING or not cores or min(loads[-LASTING:]) <= LOAD_FACTOR * cores[-1]:
        return None
    message = f"{loads[-1]:.0f} processes compete for {plural(cores[-1], 'core')}"
    return Outcome(HealthVerdict.WARN, message, {"load": loads[-1], "cores": cores[-1]})


def shared_memory(series: NodeSeries) -> Outcome | None:
    """Report a full /dev/shm: a rank that writes there dies with SIGBUS."""
    values = [sample.shm for sample in series.last(LASTING)]
    free = [disk.free for disk in values if isinstance(disk, Disk)]
    if len(free) < LASTING or max(free) >= SHM_BYTES:
        return None
    message = f"/dev/shm has only {free[-1] >> 20} MiB free"
    return Outcome(HealthVerdict.WARN, message, {"mib": free[-1] >> 20})


def oom_kills(series: NodeSeries) -> Outcome | None:
    """Report processes of this job that the kernel killed for want of memory."""
    first, newest = series.first, series.newest.host.oom_kills
    before = first.host.oom_kills if first else newest
    if isinstance(before, Unknown) or isinstance(newest, Unknown) or newest <= before:
        return None
    kills = newest - before
    message = (
        f"the kernel killed {plural(kills, 'process')[:-1] + 'es' if kills > 1 else '1 process'}"
    )
    return Outcome(
        HealthVerdict.WARN, f"{message} of this job for want of memory", {"kills": kills}
    )


def _host_values(series: NodeSeries, name: str) -> list[Any]:
    values = (getattr(sample.host, name) for sample in series)
    return [value for value in values if not isinstance(value, Unknown)]


RULES = (
    NodeRule("memory", low_memory),
    NodeRule("swap", swapping),
    NodeRule("load", overloaded),
    NodeRule("shm", shared_memory),
    NodeRule("oom_kill", oom_kills),
)
"""One row per code."""


# Disk, ports and probes ---------------------------------------------------------------------------


def disk_outcomes(series: NodeSeries, needed_gb: float) -> Iterator[tuple[str, Outcome]]:
    """Yield code and outcome of storage of the run that has no room for another checkpoint.

    Args:
        needed_gb: free space that the preflight check demands.
    """
    values = [sample.disk for sample in series.last(LASTING)]
    free = [disk.free / GIB for disk in values if isinstance(disk, Disk)]
    if len(free) < LASTING or max(free) >= DISK_SHARE * needed_gb:
        return
    message = f"the storage of the run has only {free[-1]:.1f} GiB free"
    yield "disk", Outcome(HealthVerdict.WARN, message, {"free_gb": round(free[-1], 1)})


def port_outcomes(series: NodeSeries) -> Iterator[tuple[str, Outcome]]:
    """Yield code and outcome of each port that is down, flaps or has errors."""
    for first, row in series.ports():
        newest = row[-1][1]
        evidence = {"port": newest.name, "rate": newest.rate}
        lasting = [port for _, port in row[-LASTING:]]
        if first.active and len(lasting) == LASTING and not any(port.active for port in lasting):
            message = f"network port {newest.name} is down, and was not when the attempt began"
            yield "network_port", Outcome(HealthVerdict.DRAIN, message, evidence)
        downs = max(0, newest.downs - first.downs)
        if downs:
            verdict = HealthVerdict.DRAIN if downs >= FLAPS else HealthVerdict.WARN
            message = f"network port {newest.name} went down {plural(downs, 'time')}"
            yield "network_flap", Outcome(verdict, message, {**evidence, "downs": downs})
        errors = rise((moment, port.errors) for moment, port in row)
        if errors >= PORT_ERRORS:
            message = f"network port {newest.name} had {errors:,} errors within ten minutes"
            yield (
                "network_errors",
                Outcome(HealthVerdict.WARN, message, {**evidence, "errors": errors}),
            )


def stuck_outcome(probe: StuckProbe) -> Outcome:
    """Return the outcome of a probe that does not return: a driver or a file server hangs."""
    verdict = HealthVerdict.DRAIN if probe.seconds >= STUCK_SECONDS else HealthVerdict.WARN
    message = f"{probe.name} of {probe.subject} has not returned for {probe.seconds:.0f} s"
    return Outcome(verdict, message, {"probe": probe.name, "seconds": round(probe.seconds)})
