"""Rules for the samples of a GPU over time. Pure; numbers without a source are guesses.

The checks of a single sample (``jobs.health.gpu_checks``) apply to a running node as well: each has
in ``SUSTAINED`` the number of samples in a row for which it must hold.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jobs.health.findings import HealthVerdict, Outcome
from jobs.health.monitor.series import WINDOW_SECONDS, GpuSeries, rise
from jobs.health.sample import LinkErrors, SlowTime

NANOSECONDS = 1e9

SUSTAINED = {
    "driver": 2,
    "gpu_count": 2,
    "gpu_lost": 1,
    "gpu_reset_required": 1,
    "inforom_corrupted": 1,
    "recovery_action": 1,
    "ecc_sram": 1,
    "row_remap": 1,
    "memory_unrepairable": 1,
    "retired_pages": 1,
    "fabric": 1,
    "pcie_width": 3,
    "nvlink": 3,
    "power_cap": 4,
    "temperature": 4,
    "memory_temperature": 4,
    "temperature_peers": 8,
}
"""Samples in a row for which a check must hold, by code; checks that are not here look at what
cannot change under a job, or are replaced by a rule. What the hardware latches needs one."""

THROTTLE_BITS = 0x08 | 0x40 | 0x80
"""Hardware slowdown, hardware thermal slowdown, power brake."""
POWER_CAP_BIT = 0x04

SLOW_SHARE = 0.05
BRAKED_SHARE = 0.30
"""Shares of time: docs/resilience.md."""
BITS_SHARE = 0.6
"""Six of ten minutes (leptonai/gpud, components/accelerator/nvidia/hw-slowdown)."""
SEEN_SHARE = 0.1

CLOCK_SHARE = 0.8
POWER_SHARE = 0.6

REPLAYS = 100
"""PCIe replays in the window."""
CORRECTED = 10_000
"""Corrected ECC errors in the window."""
LINK_SHARE = 0.5
"""Of the intervals in the window (NVIDIA resiliency extension: 15 of 30)."""
LINK_INTERVALS = 30


@dataclass(frozen=True)
class GpuRule:
    """A rule for one GPU over time."""

    code: str
    rule: Callable[[GpuSeries, Sequence[GpuSeries]], Outcome | None]
    """From its series, and those of all GPUs of the node, to an outcome; None without a finding."""


def new_uncorrected_errors(series: GpuSeries, peers: Sequence[GpuSeries]) -> Outcome | None:
    """Report uncorrected ECC errors since the attempt began."""
    return _any_new(series, "ecc_volatile", "uncorrected ECC errors")


def fatal_pcie_errors(series: GpuSeries, peers: Sequence[GpuSeries]) -> Outcome | None:
    """Report fatal errors of PCIe since the attempt began."""
    return _any_new(series, "pcie_fatal", "fatal errors of PCIe")


def failed_links(series: GpuSeries, peers: Sequence[GpuSeries]) -> Outcome | None:
    """Report NVLinks that could not be recovered since the attempt began."""
    return _any_new(series, "link_failures", "failed recoveries of NVLinks")


def _any_new(series: GpuSeries, name: str, what: str) -> Outcome | None:
    first, newest = getattr(series.first, name), getattr(series.newest, name)
    if not isinstance(first, int) or not isinstance(newest, int):
        return None
    new = newest - first if newest >= first else newest
    if not new:
        return None
    evidence = {"new": new, "count": newest}
    return Outcome(HealthVerdict.DRAIN, f"{new} {what} since the attempt began", evidence)


def corrected_errors(series: GpuSeries, peers: Sequence[GpuSeries]) -> Outcome | None:
    """Report many corrected ECC errors."""
    new = rise(series.values("ecc_corrected"))
    if new < CORRECTED:
        return None
    return Outcome(
        HealthVerdict.WARN, f"{new:,} corrected ECC errors within ten minutes", {"new": new}
    )


def throttled(series: GpuSeries, peers: Sequence[GpuSeries]) -> Outcome | None:
    """Report clocks that the hardware held back: by the driver's time, else by the samples."""
    by_time = _slow_shares(series.values("slow_time"))
    if by_time is not None:
        thermal, braked = by_time
        evidence = {"thermal_share": round(thermal, 3), "hardware_share": round(braked, 3)}
        verdict = HealthVerdict.DRAIN if braked > BRAKED_SHARE else HealthVerdict.WARN
        share = max(thermal, braked)
        if share <= SLOW_SHARE:
            return None
        cause = "the hardware" if braked >= thermal else "heat"
        return Outcome(
            verdict, f"{cause} held its clocks back for {share:.0%} of the time", evidence
        )
    samples = series.values("clock_reasons")
    if not samples or samples[-1][0] - samples[0][0] < WINDOW_SECONDS / 2:
        return None
    share = sum(bool(bits & THROTTLE_BITS) for _, bits in samples) / len(samples)
    if share < SEEN_SHARE:
        return None
    verdict = HealthVerdict.DRAIN if share >= BITS_SHARE else HealthVerdict.WARN
    message = f"the hardware held its clocks back in {share:.0%} of the samples"
    return Outcome(verdict, message, {"share": round(share, 3)})


def _slow_shares(values: Sequence[tuple[float, SlowTime]]) -> tuple[float, float] | None:
    """Return the shares of time held back by heat, and by the hardware; None where not known."""
    if len(values) < 2 or values[-1][0] - values[0][0] < WINDOW_SECONDS / 2:
        return None
    (start, first), (end, last) = values[0], values[-1]
    seconds = (end - start) * NANOSECONDS
    thermal = (last.thermal - first.thermal) / seconds
    hardware = (
        last.hardware_thermal - first.hardware_thermal + last.power_brake - first.power_brake
    ) / seconds
    return (thermal, hardware) if min(thermal, hardware) >= 0 else None


def low_clock(series: GpuSeries, peers: Sequence[GpuSeries]) -> Outcome | None:
    """Report a clock far below its maximum under load, where no power limit explains it."""
    clock, most = series.mean("sm_clock"), series.newest.sm_clock_max
    reasons = series.lasting("clock_reasons")
    if clock is None or not isinstance(most, int) or not most or not series.is_loaded():
        return None
    if clock >= CLOCK_SHARE * most or any(bits & POWER_CAP_BIT for bits in reasons):
        return None
    evidence = {"mhz": round(clock), "max": most}
    return Outcome(HealthVerdict.WARN, f"runs at {clock:.0f} of {most} MHz under load", evidence)


def low_power(series: GpuSeries, peers: Sequence[GpuSeries]) -> Outcome | None:
    """Report far less power than the node's other GPUs draw under load: it may be slow."""
    own, others = series.mean("power"), [one.mean("power") for one in peers if one.is_loaded()]
    known = [power for power in others if power is not None]
    if own is None or len(known) < 2 or not series.is_loaded():
        return None
    median = statistics.median(known)
    if own >= POWER_SHARE * median:
        return None
    evidence = {"watts": round(own / 1000), "median": round(median / 1000)}
    message = f"draws {own / 1000:.0f} W under load, the node's median is {median / 1000:.0f} W"
    return Outcome(HealthVerdict.WARN, message, evidence)


def low_generation(series: GpuSeries, peers: Sequence[GpuSeries]) -> Outcome | None:
    """Report a PCIe link below its generation under load; it drops while the card is idle."""
    values, most = series.lasting("pcie_generation"), series.newest.pcie_generation_max
    if not values or not isinstance(most, int) or max(values) >= most or not series.is_loaded():
        return None
    evidence = {"generation": max(values), "max": most}
    return Outcome(
        HealthVerdict.WARN, f"PCIe runs at generation {max(values)} of {most} under load", evidence
    )


def pcie_replays(series: GpuSeries, peers: Sequence[GpuSeries]) -> Outcome | None:
    """Report packets that were sent again over PCIe."""
    new = rise(series.values("pcie_replays"))
    if new < REPLAYS:
        return None
    return Outcome(HealthVerdict.WARN, f"{new:,} PCIe replays within ten minutes", {"new": new})


def link_errors(series: GpuSeries, peers: Sequence[GpuSeries]) -> Outcome | None:
    """Report NVLinks that replay or recover again and again."""
    values = series.values("link_errors")[-LINK_INTERVALS - 1 :]
    if len(values) <= LINK_INTERVALS:
        return None
    pairs = itertools.pairwise(values)
    bad = sum(_has_errors(before, after) for (_, before), (_, after) in pairs)
    if bad <= LINK_SHARE * LINK_INTERVALS:
        return None
    message = f"its NVLinks replayed or recovered in {bad} of the last {LINK_INTERVALS} samples"
    return Outcome(HealthVerdict.WARN, message, {"bad": bad, "of": LINK_INTERVALS})


def _has_errors(before: LinkErrors, after: LinkErrors) -> bool:
    return after.replays > before.replays or after.recoveries > before.recoveries


RULES = (
    GpuRule("ecc_uncorrected", new_uncorrected_errors),
    GpuRule("ecc_corrected", corrected_errors),
    GpuRule("throttle", throttled),
    GpuRule("clock_low", low_clock),
    GpuRule("power_low", low_power),
    GpuRule("pcie_generation", low_generation),
    GpuRule("pcie_replays", pcie_replays),
    GpuRule("pcie_errors", fatal_pcie_errors),
    GpuRule("nvlink_errors", link_errors),
    GpuRule("nvlink_recovery", failed_links),
)
"""One row per code."""
