"""Checks of GPUs: each alone, and against the expectations. Pure.

A check turns a probe's values into an outcome, or into None where it does not apply.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jobs.health import gpu_memory_checks
from jobs.health.findings import (
    Expected,
    HealthFinding,
    HealthVerdict,
    Outcome,
    Subject,
    finding,
    no_value,
    on_off,
)
from jobs.health.gpu_peer_checks import check_nvlink, check_peer_temperature
from jobs.health.nvml import NOT_SUPPORTED
from jobs.health.sample import Fabric, Gpu, GpuProcess, Sample, Unknown, value_or_none


@dataclass(frozen=True)
class Check:
    """A rule for some fields of a GPU."""

    code: str
    needs: tuple[str, ...]
    """Fields that must have values, the first arguments of ``rule``."""
    rule: Callable[..., Outcome | None]
    also: tuple[str, ...] = ()
    """Fields passed as they are, Unknown or not."""
    optional: bool = False
    """Good cards may lack it: NOT_SUPPORTED is not a finding."""

    def __call__(self, gpu: Gpu) -> Outcome | None:
        values = {name: getattr(gpu, name) for name in self.needs}
        missing = {name: value for name, value in values.items() if isinstance(value, Unknown)}
        if missing:
            lacking = all(value.nvml == NOT_SUPPORTED for value in missing.values())
            return None if self.optional and lacking else no_value(missing)
        return self.rule(*values.values(), *(getattr(gpu, name) for name in self.also))


def check_recovery(action: int) -> Outcome:
    """Check NVML's recovery action (field 230, since driver 570)."""
    name, verdict = RECOVERY.get(action, ("an unknown action", HealthVerdict.DRAIN))
    evidence = {"recovery_action": action}
    if verdict is HealthVerdict.OK:
        return Outcome(verdict, "needs no recovery", evidence)
    return Outcome(verdict, f"the driver requests {name} (recovery action {action})", evidence)


RECOVERY = {
    0: ("nothing", HealthVerdict.OK),
    1: ("a GPU reset", HealthVerdict.FATAL),
    2: ("a reboot of the node", HealthVerdict.FATAL),
    3: ("draining its peer-to-peer traffic", HealthVerdict.DRAIN),
    4: ("draining and a reset", HealthVerdict.DRAIN),
    5: ("a recovery of the IMEX domain", HealthVerdict.DRAIN),
    6: ("a bus reset", HealthVerdict.FATAL),
    7: ("a reboot of the system", HealthVerdict.FATAL),
}
"""Name and verdict per NVML_GPU_RECOVERY_ACTION_*."""


SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Clock event bits to report; idle, application clocks, power cap and boost are normal."""


def check_clocks(reasons: int) -> Outcome:
    """Check for reduced clocks; one sample cannot show whether they last, so never DRAIN."""
    slowdowns = [name for bit, name in SLOWDOWNS.items() if reasons & bit]
    evidence = {"reasons": f"{reasons:#x}"}
    if slowdowns:
        return Outcome(
            HealthVerdict.WARN, f"clocks are held back: {', '.join(slowdowns)}", evidence
        )
    return Outcome(HealthVerdict.OK, "clocks are not held back", evidence)


def check_temperature(degrees: int, limit: int | Unknown, slowdown: int | Unknown) -> Outcome:
    """Check the chip's temperature against the card's own limits."""
    evidence = {
        "celsius": degrees,
        "max": value_or_none(limit),
        "slowdown": value_or_none(slowdown),
    }
    if isinstance(slowdown, int) and degrees >= slowdown:
        return Outcome(
            HealthVerdict.DRAIN, f"{degrees} °C, and it slows down from {slowdown} °C", evidence
        )
    if isinstance(limit, int) and degrees > limit:
        return Outcome(HealthVerdict.WARN, f"{degrees} °C, above its limit of {limit} °C", evidence)
    if isinstance(limit, Unknown) and isinstance(slowdown, Unknown):
        return Outcome(
            HealthVerdict.UNKNOWN, f"{degrees} °C, but the card names no limit", evidence
        )
    return Outcome(HealthVerdict.OK, f"{degrees} °C", evidence)


def check_memory_temperature(degrees: int, limit: int | Unknown) -> Outcome:
    """Check the memory's temperature against the card's own limit."""
    evidence = {"celsius": degrees, "max": value_or_none(limit)}
    if isinstance(limit, Unknown):
        return Outcome(
            HealthVerdict.UNKNOWN, f"memory {degrees} °C, but the card names no limit", evidence
        )
    if degrees > limit:
        return Outcome(
            HealthVerdict.WARN, f"memory {degrees} °C, above its limit of {limit} °C", evidence
        )
    return Outcome(HealthVerdict.OK, f"memory {degrees} °C", evidence)


def check_power(limit: int, default: int) -> Outcome:
    """Check the power limit, in milliwatts; below the default it is capped."""
    evidence = {"watts": limit / 1000, "default": default / 1000}
    if limit < default:
        message = f"power is capped at {limit / 1000:g} W, the default is {default / 1000:g} W"
        return Outcome(HealthVerdict.WARN, message, evidence)
    return Outcome(HealthVerdict.OK, f"power limit {limit / 1000:g} W", evidence)


def check_pcie(width: int, widest: int) -> Outcome:
    """Check the PCIe lanes; unlike the link's generation they do not drop on an idle card."""
    evidence = {"width": width, "max": widest}
    if width < widest:
        return Outcome(HealthVerdict.DRAIN, f"PCIe runs on {width} of {widest} lanes", evidence)
    return Outcome(HealthVerdict.OK, f"PCIe runs on {width} lanes", evidence)


FABRIC_COMPLETED = 3
FABRIC_UNHEALTHY = 2
FABRIC_LIMITED = 3


def check_fabric(fabric: Fabric) -> Outcome | None:
    """Check the registration with the NVSwitch fabric; CUDA needs it (error 802)."""
    evidence = dataclasses.asdict(fabric)
    if fabric.state == 0:  # this system has no such fabric
        return None
    if fabric.state != FABRIC_COMPLETED or fabric.status:
        return Outcome(HealthVerdict.FATAL, "not registered with the NVSwitch fabric", evidence)
    if fabric.summary == FABRIC_UNHEALTHY:
        return Outcome(HealthVerdict.DRAIN, "its NVSwitch fabric is unhealthy", evidence)
    if fabric.summary == FABRIC_LIMITED:
        return Outcome(HealthVerdict.WARN, "its NVSwitch fabric has limited capacity", evidence)
    return Outcome(HealthVerdict.OK, "registered with the NVSwitch fabric", evidence)


def check_mig(enabled: bool) -> Outcome:
    """Check that MIG is off: a partitioned card cannot run a rank."""
    if enabled:
        return Outcome(HealthVerdict.FATAL, "MIG mode is on", {"mig": True})
    return Outcome(HealthVerdict.OK, "MIG mode is off", {"mig": False})


def check_persistence(enabled: bool) -> Outcome:
    """Check persistence mode: without it the driver unloads between processes."""
    verdict = HealthVerdict.OK if enabled else HealthVerdict.WARN
    return Outcome(verdict, f"persistence mode is {on_off(enabled)}", {"persistence": enabled})


CHECKS = (
    Check("recovery_action", ("recovery_action",), check_recovery),
    Check(
        "ecc_uncorrected", ("ecc_volatile",), gpu_memory_checks.check_ecc, also=("ecc_aggregate",)
    ),
    Check("ecc_sram", ("sram",), gpu_memory_checks.check_sram),
    Check("row_remap", ("remapped_rows",), gpu_memory_checks.check_rows),
    Check("memory_unrepairable", ("unrepairable_memory",), gpu_memory_checks.check_unrepairable),
    Check(
        "retired_pages",
        ("retired_pages",),
        gpu_memory_checks.check_retired,
        ("retired_pages_pending",),
        optional=True,
    ),
    Check("throttle", ("clock_reasons",), check_clocks),
    Check(
        "temperature",
        ("temperature",),
        check_temperature,
        ("temperature_max", "temperature_slowdown"),
    ),
    Check(
        "memory_temperature",
        ("memory_temperature",),
        check_memory_temperature,
        ("memory_temperature_max",),
        optional=True,
    ),
    Check("power_cap", ("power_limit", "power_limit_default"), check_power),
    Check("pcie_width", ("pcie_width", "pcie_width_max"), check_pcie),
    Check("fabric", ("fabric",), check_fabric, optional=True),
    Check("ecc_mode", ("ecc_mode",), gpu_memory_checks.check_ecc_mode, ("name",), optional=True),
    Check("mig_mode", ("mig_mode",), check_mig, optional=True),
    Check("persistence", ("persistence",), check_persistence),
)
"""Checks of one GPU alone."""


def gpu_findings(sample: Sample, expected: Expected) -> Iterator[HealthFinding]:
    """Yield the findings about every GPU of a sample, reachable or not."""
    for index, reason in sample.unreachable:
        outcome = hard_error(reason) or no_value({"handle": reason})
        unreachable = finding(sample, _HARD_CODES.get(reason.nvml, "gpu_handle"), outcome)
        yield dataclasses.replace(unreachable, subject=Subject(sample.node, index))
    for gpu in sample.gpus:
        yield from _hard_errors(sample, gpu)
        for one in CHECKS:
            if result := one(gpu):
                yield finding(sample, one.code, result, gpu)
        yield from _compared(sample, expected, gpu)


def _compared(sample: Sample, expected: Expected, gpu: Gpu) -> Iterator[HealthFinding]:
    outcomes = (
        ("gpu_kind", check_kind(gpu.name, expected.gpu_kind)),
        ("temperature_peers", check_peer_temperature(gpu, sample.gpus)),
        ("nvlink", check_nvlink(gpu, sample.gpus)),
        ("foreign_process", check_processes(gpu.processes, sample.uid, expected.idle)),
    )
    for code, outcome in outcomes:
        if outcome:
            yield finding(sample, code, outcome, gpu)


HARD_ERRORS = {
    14: ("inforom_corrupted", HealthVerdict.DRAIN, "its InfoROM is corrupted"),
    15: ("gpu_lost", HealthVerdict.FATAL, "has fallen off the bus or is otherwise lost"),
    16: ("gpu_reset_required", HealthVerdict.FATAL, "needs a reset before it works again"),
}
"""NVML return codes that make the card unusable, from any call."""

_HARD_CODES: dict[int | None, str] = {number: code for number, (code, _, _) in HARD_ERRORS.items()}


def hard_error(reason: Unknown) -> Outcome | None:
    """Return the outcome of an NVML code that makes a card unusable; None for others."""
    if reason.nvml not in HARD_ERRORS:
        return None
    _, verdict, message = HARD_ERRORS[reason.nvml]
    return Outcome(verdict, message, dataclasses.asdict(reason))


def _hard_errors(sample: Sample, gpu: Gpu) -> Iterator[HealthFinding]:
    """Yield one finding per kind of hard error, for all probes that returned it."""
    readings = {name: value for name, value in vars(gpu).items() if isinstance(value, Unknown)}
    for number, (code, verdict, message) in HARD_ERRORS.items():
        probes = sorted(name for name, reading in readings.items() if reading.nvml == number)
        if probes:
            yield finding(
                sample, code, Outcome(verdict, message, {"nvml": number, "probes": probes}), gpu
            )


def check_kind(name: str | Unknown, kind: str) -> Outcome | None:
    """Compare the card's model with the profile's."""
    if not kind:
        return None
    if isinstance(name, Unknown):
        return no_value({"name": name})
    evidence = {"name": name, "expected": kind}
    if is_kind(name, kind):
        return Outcome(HealthVerdict.OK, name, evidence)
    return Outcome(HealthVerdict.FATAL, f"is a {name}, expected {kind}", evidence)


def is_kind(name: str, kind: str) -> bool:
    """Return whether NVML's name (``NVIDIA A100-SXM4-80GB``) is of a kind (``a100``).

    The first word of the kind, without makers' names, must be one word of the name, or several
    joined (``rtx3090``). Memory sizes are not compared: names and profiles round them differently.
    """
    words, expected = (
        _words(name),
        [w for w in _words(kind) if w not in ("nvidia", "tesla", "geforce")],
    )
    runs = ("".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1))
    return not expected or expected[0] in runs


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def check_processes(
    processes: tuple[GpuProcess, ...] | Unknown, uid: int, idle: bool
) -> Outcome | None:
    """Check for foreign processes on a GPU; before a start (``idle``) the user's own count too."""
    if isinstance(processes, Unknown):
        return no_value({"processes": processes})
    foreign = [process for process in processes if idle or process.uid != uid]
    evidence = {"processes": [dataclasses.asdict(process) for process in processes]}
    if not foreign:
        return Outcome(HealthVerdict.OK, "no foreign process computes on it", evidence)
    owners = ", ".join(f"{process.pid} of user {process.uid}" for process in foreign)
    return Outcome(HealthVerdict.FATAL, f"other processes compute on it: {owners}", evidence)


CODES = frozenset(
    {one.code for one in CHECKS}
    | set(_HARD_CODES.values())
    | {"gpu_handle", "gpu_kind", "temperature_peers", "nvlink", "foreign_process"}
)
"""All codes of findings about a GPU."""
