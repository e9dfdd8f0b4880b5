"""Checks of GPUs, each alone, against its neighbours, and against what is expected. Pure.

A check turns the values of a probe into an outcome, or into None where it does not apply.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jobs.health.findings import (
    Expected,
    HealthFinding,
    HealthVerdict,
    Outcome,
    Subject,
    finding,
    no_value,
)
from jobs.health.gpu_peer_checks import judge_nvlink, judge_peer_temperature
from jobs.health.nvml import NOT_SUPPORTED
from jobs.health.sample import Fabric, Gpu, GpuProcess, RemappedRows, Sample, SramErrors, Unknown


@dataclass(frozen=True)
class Check:
    """How the fields of a GPU become an outcome."""

    code: str
    needs: tuple[str, ...]
    """Fields that must have values; they are handed to ``judge`` in this order."""
    judge: Callable[..., Outcome | None]
    also: tuple[str, ...] = ()
    """Fields handed on as they are, Unknown or not."""
    optional: bool = False
    """Many a good card lacks it: NOT_SUPPORTED is no finding."""

    def __call__(self, gpu: Gpu) -> Outcome | None:
        values = {name: getattr(gpu, name) for name in self.needs}
        missing = {name: value for name, value in values.items() if isinstance(value, Unknown)}
        if missing:
            lacking = all(value.nvml == NOT_SUPPORTED for value in missing.values())
            return None if self.optional and lacking else no_value(missing)
        return self.judge(*values.values(), *(getattr(gpu, name) for name in self.also))


def judge_recovery(action: int) -> Outcome:
    """NVML's own verdict, field 230, since driver 570."""
    name, verdict = RECOVERY.get(
        action, ("an action this program does not know", HealthVerdict.DRAIN)
    )
    evidence = {"recovery_action": action}
    if verdict is HealthVerdict.OK:
        return Outcome(verdict, "needs no recovery", evidence)
    return Outcome(verdict, f"the driver asks for {name} (recovery action {action})", evidence)


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
"""NVML_GPU_RECOVERY_ACTION_* → what it asks for, and our verdict."""


def judge_ecc(volatile: int, aggregate: int | Unknown) -> Outcome:
    """Uncorrected errors since the last reset; the lifetime count never falls: evidence only."""
    evidence = {"volatile": volatile, "aggregate": _or_none(aggregate)}
    if volatile:
        told = f"{volatile} uncorrected ECC errors since the last reset"
        return Outcome(HealthVerdict.DRAIN, told, evidence)
    return Outcome(HealthVerdict.OK, "no uncorrected ECC error since the last reset", evidence)


def judge_sram(sram: SramErrors) -> Outcome:
    """NVIDIA's flag is its replacement threshold; public fleets replace at over four in a life."""
    evidence = dataclasses.asdict(sram)
    if sram.threshold_exceeded:
        return Outcome(
            HealthVerdict.FATAL,
            "on-chip memory errors passed NVIDIA's replacement threshold",
            evidence,
        )
    told = f"{sram.aggregate} uncorrectable on-chip memory errors in its life"
    if sram.aggregate > 4:
        return Outcome(HealthVerdict.DRAIN, told, evidence)
    return Outcome(HealthVerdict.WARN if sram.aggregate else HealthVerdict.OK, told, evidence)


def judge_rows(rows: RemappedRows) -> Outcome:
    """A pending remap waits for a reset and harms no work; a failed one means replacement.

    Source: NVIDIA, GPU Memory Error Management (docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt).
    """
    evidence = dataclasses.asdict(rows)
    if rows.failed:
        return Outcome(
            HealthVerdict.FATAL,
            "a memory row could not be remapped: the card needs replacing",
            evidence,
        )
    if rows.pending:
        return Outcome(
            HealthVerdict.WARN,
            "a row remap is pending: reset the GPU when the node is idle",
            evidence,
        )
    remapped = rows.corrected + rows.uncorrected
    return Outcome(HealthVerdict.OK, f"{remapped} rows remapped, none pending", evidence)


def judge_unrepairable(unrepairable: bool) -> Outcome:
    """The card's own word on memory that neither ECC nor remapping can help."""
    evidence = {"unrepairable": unrepairable}
    if unrepairable:
        return Outcome(HealthVerdict.FATAL, "the card reports memory it cannot repair", evidence)
    return Outcome(HealthVerdict.OK, "no unrepairable memory", evidence)


def judge_retired(pages: int, pending: bool | Unknown) -> Outcome:
    """Cards before Ampere retire pages instead of remapping rows; beyond 60 they are replaced.

    Source: NVIDIA, Dynamic Page Retirement (docs.nvidia.com/deploy/dynamic-page-retirement).
    """
    evidence = {"pages": pages, "pending": _or_none(pending)}
    if pages > 60:
        return Outcome(
            HealthVerdict.FATAL, f"{pages} memory pages are retired, 60 is the limit", evidence
        )
    if pending is True:
        return Outcome(HealthVerdict.DRAIN, "a page retirement waits for a reboot", evidence)
    return Outcome(HealthVerdict.OK, f"{pages} memory pages are retired", evidence)


SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Clock event bits worth telling; idle, application clocks, power cap and boost are normal."""


def judge_clocks(reasons: int) -> Outcome:
    """What holds the clocks back now; one look cannot tell whether it lasts, so it never drains."""
    told = [name for bit, name in SLOWDOWNS.items() if reasons & bit]
    evidence = {"reasons": f"{reasons:#x}"}
    if told:
        return Outcome(HealthVerdict.WARN, f"clocks are held back: {', '.join(told)}", evidence)
    return Outcome(HealthVerdict.OK, "clocks are not held back", evidence)


def judge_temperature(degrees: int, limit: int | Unknown, slowdown: int | Unknown) -> Outcome:
    """The chip against the card's own limits."""
    evidence = {"celsius": degrees, "max": _or_none(limit), "slowdown": _or_none(slowdown)}
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


def judge_memory_temperature(degrees: int, limit: int | Unknown) -> Outcome:
    """The memory stacks against the card's own limit."""
    evidence = {"celsius": degrees, "max": _or_none(limit)}
    if isinstance(limit, Unknown):
        return Outcome(
            HealthVerdict.UNKNOWN, f"memory {degrees} °C, but the card names no limit", evidence
        )
    if degrees > limit:
        return Outcome(
            HealthVerdict.WARN, f"memory {degrees} °C, above its limit of {limit} °C", evidence
        )
    return Outcome(HealthVerdict.OK, f"memory {degrees} °C", evidence)


def judge_power(limit: int, default: int) -> Outcome:
    """Milliwatts the card may draw; below the default, somebody capped it."""
    evidence = {"watts": limit / 1000, "default": default / 1000}
    if limit < default:
        told = f"power is capped at {limit / 1000:g} W, the default is {default / 1000:g} W"
        return Outcome(HealthVerdict.WARN, told, evidence)
    return Outcome(HealthVerdict.OK, f"power limit {limit / 1000:g} W", evidence)


def judge_pcie(width: int, widest: int) -> Outcome:
    """Lanes; unlike the link's generation they do not drop when the card idles."""
    evidence = {"width": width, "max": widest}
    if width < widest:
        return Outcome(HealthVerdict.DRAIN, f"PCIe runs on {width} of {widest} lanes", evidence)
    return Outcome(HealthVerdict.OK, f"PCIe runs on {width} lanes", evidence)


FABRIC_COMPLETED = 3
FABRIC_UNHEALTHY = 2
FABRIC_LIMITED = 3


def judge_fabric(fabric: Fabric) -> Outcome | None:
    """Registration with the NVSwitch fabric, without which CUDA does not start (error 802)."""
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


def judge_ecc_mode(mode: tuple[bool, bool], name: str | Unknown) -> Outcome:
    """Workstation cards ship with ECC off; a data-centre card without it trains on bit flips."""
    current, pending = mode
    evidence = {"current": current, "pending": pending}
    if pending != current:
        told = f"ECC is {_on(current)} and will be {_on(pending)} after the next reset"
        return Outcome(HealthVerdict.WARN if current else HealthVerdict.DRAIN, told, evidence)
    workstation = isinstance(name, str) and WORKSTATION.search(name)
    if not current and not workstation:
        return Outcome(HealthVerdict.DRAIN, "ECC is off", evidence)
    return Outcome(HealthVerdict.OK, f"ECC is {_on(current)}", evidence)


WORKSTATION = re.compile(r"GeForce|Quadro|RTX|TITAN", re.IGNORECASE)


def judge_mig(enabled: bool) -> Outcome:
    """A card cut into instances cannot run a rank of a training."""
    if enabled:
        return Outcome(HealthVerdict.FATAL, "MIG mode is on", {"mig": True})
    return Outcome(HealthVerdict.OK, "MIG mode is off", {"mig": False})


def judge_persistence(enabled: bool) -> Outcome:
    """Without persistence the driver unloads between processes: slow starts, lost settings."""
    verdict = HealthVerdict.OK if enabled else HealthVerdict.WARN
    return Outcome(verdict, f"persistence mode is {_on(enabled)}", {"persistence": enabled})


def _on(value: bool) -> str:
    return "on" if value else "off"


def _or_none(reading: Any) -> Any:
    return None if isinstance(reading, Unknown) else reading


CHECKS = (
    Check("recovery_action", ("recovery_action",), judge_recovery),
    Check("ecc_uncorrected", ("ecc_volatile",), judge_ecc, also=("ecc_aggregate",)),
    Check("ecc_sram", ("sram",), judge_sram),
    Check("row_remap", ("remapped_rows",), judge_rows),
    Check("memory_unrepairable", ("unrepairable_memory",), judge_unrepairable),
    Check(
        "retired_pages",
        ("retired_pages",),
        judge_retired,
        ("retired_pages_pending",),
        optional=True,
    ),
    Check("throttle", ("clock_reasons",), judge_clocks),
    Check(
        "temperature",
        ("temperature",),
        judge_temperature,
        ("temperature_max", "temperature_slowdown"),
    ),
    Check(
        "memory_temperature",
        ("memory_temperature",),
        judge_memory_temperature,
        ("memory_temperature_max",),
        optional=True,
    ),
    Check("power_cap", ("power_limit", "power_limit_default"), judge_power),
    Check("pcie_width", ("pcie_width", "pcie_width_max"), judge_pcie),
    Check("fabric", ("fabric",), judge_fabric, optional=True),
    Check("ecc_mode", ("ecc_mode",), judge_ecc_mode, ("name",), optional=True),
    Check("mig_mode", ("mig_mode",), judge_mig, optional=True),
    Check("persistence", ("persistence",), judge_persistence),
)
"""Checks that look at one GPU alone."""


def gpu_findings(sample: Sample, expected: Expected) -> Iterator[HealthFinding]:
    """Findings about every GPU of a sample, reachable or not."""
    for index, reason in sample.unreachable:
        outcome = hard_error(reason) or no_value({"handle": reason})
        found = finding(sample, _HARD_CODES.get(reason.nvml, "gpu_handle"), outcome)
        yield dataclasses.replace(found, subject=Subject(sample.node, index))
    for gpu in sample.gpus:
        yield from _hard_errors(sample, gpu)
        for one in CHECKS:
            if judged := one(gpu):
                yield finding(sample, one.code, judged, gpu)
        yield from _compared(sample, expected, gpu)


def _compared(sample: Sample, expected: Expected, gpu: Gpu) -> Iterator[HealthFinding]:
    outcomes = (
        ("gpu_kind", judge_kind(gpu.name, expected.gpu_kind)),
        ("temperature_peers", judge_peer_temperature(gpu, sample.gpus)),
        ("nvlink", judge_nvlink(gpu, sample.gpus)),
        ("foreign_process", judge_processes(gpu.processes, sample.uid, expected.idle)),
    )
    for code, outcome in outcomes:
        if outcome:
            yield finding(sample, code, outcome, gpu)


HARD_ERRORS = {
    14: ("inforom_corrupted", HealthVerdict.DRAIN, "its InfoROM is corrupted"),
    15: ("gpu_lost", HealthVerdict.FATAL, "has fallen off the bus or is otherwise lost"),
    16: ("gpu_reset_required", HealthVerdict.FATAL, "needs a reset before it works again"),
}
"""NVML return codes that condemn the card, whichever call they come from."""

_HARD_CODES: dict[int | None, str] = {number: code for number, (code, _, _) in HARD_ERRORS.items()}


def hard_error(reason: Unknown) -> Outcome | None:
    """The outcome of an NVML code that condemns a card; None for any other."""
    if reason.nvml not in HARD_ERRORS:
        return None
    _, verdict, told = HARD_ERRORS[reason.nvml]
    return Outcome(verdict, told, dataclasses.asdict(reason))


def _hard_errors(sample: Sample, gpu: Gpu) -> Iterator[HealthFinding]:
    """One finding for each kind of hard error, however many probes met it."""
    readings = {name: value for name, value in vars(gpu).items() if isinstance(value, Unknown)}
    for number, (code, verdict, told) in HARD_ERRORS.items():
        probes = sorted(name for name, reading in readings.items() if reading.nvml == number)
        if probes:
            yield finding(
                sample, code, Outcome(verdict, told, {"nvml": number, "probes": probes}), gpu
            )


def judge_kind(name: str | Unknown, kind: str) -> Outcome | None:
    """The card's model against the profile's word for it."""
    if not kind:
        return None
    if isinstance(name, Unknown):
        return no_value({"name": name})
    evidence = {"name": name, "expected": kind}
    if is_kind(name, kind):
        return Outcome(HealthVerdict.OK, name, evidence)
    return Outcome(HealthVerdict.FATAL, f"is a {name}, expected {kind}", evidence)


def is_kind(name: str, kind: str) -> bool:
    """Whether NVML's name (``NVIDIA A100-SXM4-80GB``) is of a kind as people write it (``a100``).

    The first word of the kind that is no maker's name must be one word of the name, or several in
    a row (``rtx3090``). Memory sizes are not compared: names and profiles round them differently.
    """
    words, wanted = (
        _words(name),
        [w for w in _words(kind) if w not in ("nvidia", "tesla", "geforce")],
    )
    runs = ("".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1))
    return not wanted or wanted[0] in runs


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def judge_processes(
    processes: tuple[GpuProcess, ...] | Unknown, uid: int, idle: bool
) -> Outcome | None:
    """Others' work on our GPU; before a start (``idle``) our own leftovers are in the way too."""
    if isinstance(processes, Unknown):
        return no_value({"processes": processes})
    foreign = [process for process in processes if idle or process.uid != uid]
    evidence = {"processes": [dataclasses.asdict(process) for process in processes]}
    if not foreign:
        return Outcome(HealthVerdict.OK, "nobody else computes on it", evidence)
    told = ", ".join(f"{process.pid} of user {process.uid}" for process in foreign)
    return Outcome(HealthVerdict.FATAL, f"other processes compute on it: {told}", evidence)


CODES = frozenset(
    {one.code for one in CHECKS}
    | set(_HARD_CODES.values())
    | {"gpu_handle", "gpu_kind", "temperature_peers", "nvlink", "foreign_process"}
)
"""Every code a finding about a GPU may have."""
