"""Checks of a node: readings become findings, findings a verdict.

Pure, apart from ``read_sample`` of ``jobs.health.nvml``. A probe without a value gives UNKNOWN,
never OK or FATAL. Sizes named ``_gb`` are 2**30 bytes.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jobs.contract.job import node_name
from jobs.contract.outcomes import HEALTH_CODES
from jobs.contract.units import GIB, plural
from jobs.health import gpu_checks
from jobs.health.findings import (
    Expected,
    HealthFinding,
    HealthVerdict,
    NodeAction,
    Outcome,
    finding,
    no_value,
)
from jobs.health.nvml import DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, read_sample
from jobs.health.sample import Disk, Driver, Gpu, Sample, Unknown

__all__ = [
    "CODES",
    "Expected",
    "HealthFinding",
    "HealthVerdict",
    "NodeAction",
    "Sample",
    "check",
    "expectation",
    "node_name",
    "read_sample",
    "worst",
]


CODES = gpu_checks.CODES | {"driver", "gpu_count", "disk", "shm", "memory", "storage", "scratch"}
"""All codes of findings about a sample. ``storage`` and ``scratch`` are the preflight check's."""


def check(sample: Sample, expected: Expected) -> list[HealthFinding]:
    """Return all findings about a node, OK ones too, without the codes in ``expected.skip``."""
    findings = [
        *_node_findings(sample, expected),
        *(gpu_checks.gpu_findings(sample, expected) if expected.gpus != 0 else ()),
    ]
    return [finding for finding in findings if finding.code not in expected.skip]


def worst(findings: Iterable[HealthFinding]) -> HealthVerdict:
    """Return the worst verdict; UNKNOWN without findings."""
    return max((finding.verdict for finding in findings), default=HealthVerdict.UNKNOWN)


def expectation(health: Mapping[str, Any], environ: Mapping[str, str]) -> Expected:
    """Return the expectations in a task's ``health``; the default number of GPUs is Slurm's here.

    Raises:
        ValueError: an unknown key, or an unknown code in ``skip``.
    """
    names = {field.name for field in dataclasses.fields(Expected)} - {"idle"}
    _refuse_unknown("key", set(health) - names, names)
    settings = {name: value for name, value in health.items() if value is not None}
    settings["skip"] = frozenset(settings.get("skip", ()))
    _refuse_unknown("code to skip", settings["skip"] - {*HEALTH_CODES}, HEALTH_CODES)
    slurm = environ.get("SLURM_GPUS_ON_NODE", "")
    if "gpus" not in settings and slurm.isdigit():
        settings["gpus"] = int(slurm)
    return Expected(**settings)


def _refuse_unknown(what: str, odd: Iterable[str], known: Iterable[str]) -> None:
    for name in sorted(odd):
        near = difflib.get_close_matches(name, known, n=1)
        instead = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(sorted(known))}"
        raise ValueError(f"health: unknown {what} {name!r}; {instead}")


def _node_findings(sample: Sample, expected: Expected) -> Iterator[HealthFinding]:
    outcomes: tuple[tuple[str, Outcome | None], ...] = (
        ("driver", check_driver(sample.driver, expected)),
        ("gpu_count", check_count(sample, expected)),
        ("disk", _check_known(sample.disk, lambda disk: check_disk(disk, expected))),
        ("shm", _check_known(sample.shm, lambda shm: check_shm(shm, expected, len(sample.gpus)))),
        (
            "memory",
            _check_known(sample.memory_available, lambda free: check_memory(free, expected)),
        ),
    )
    for code, outcome in outcomes:
        if outcome:
            yield finding(sample, code, outcome)


def _check_known(reading: Any, check: Callable[[Any], Outcome]) -> Outcome:
    return no_value({"reading": reading}) if isinstance(reading, Unknown) else check(reading)


def _has_no_driver(driver: Driver | Unknown) -> bool:
    return isinstance(driver, Unknown) and driver.nvml in (LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED)


def check_driver(driver: Driver | Unknown, expected: Expected) -> Outcome | None:
    """Check that NVML starts; a node without a driver has no GPUs, which ``gpu_count`` reports."""
    if isinstance(driver, Driver):
        unread = {k: v for k, v in vars(driver).items() if isinstance(v, Unknown)}
        if unread:
            return no_value(unread)
        return Outcome(HealthVerdict.OK, f"driver {driver.driver} answers", dict(vars(driver)))
    if _has_no_driver(driver):
        return None
    if driver.nvml is None:
        return no_value({"nvml": driver})
    evidence = dataclasses.asdict(driver)
    if expected.gpus == 0:
        return Outcome(
            HealthVerdict.WARN, f"the NVIDIA driver does not start: {driver.reason}", evidence
        )
    return gpu_checks.hard_error(driver) or Outcome(
        HealthVerdict.DRAIN, f"the NVIDIA driver does not start: {driver.reason}", evidence
    )


def check_count(sample: Sample, expected: Expected) -> Outcome:
    """Compare the number of GPUs that answer with the number expected.

    GPUs that are needed but cannot be counted, since NVML does not start, count as missing.
    """
    count = len(sample.gpus)
    evidence = {
        "found": count,
        "expected": expected.gpus,
        "gpus": [_identity(g) for g in sample.gpus],
    }
    if isinstance(sample.driver, Unknown) and not _has_no_driver(sample.driver):
        if expected.gpus:
            needed = plural(expected.gpus, "GPU")
            message = f"{needed} needed, none can be counted: {sample.driver.reason}"
            return Outcome(HealthVerdict.FATAL, message, evidence)
        if expected.gpus is None:
            return no_value({"driver": sample.driver})
    if expected.gpus == 0:
        present = f"{count} there, not examined" if count else "none there"
        return Outcome(HealthVerdict.OK, f"no GPU expected and {present}", evidence)
    if expected.gpus is None:
        message = (
            f"{answers(count)}, no number was expected" if count else "no GPU here, none expected"
        )
        return Outcome(HealthVerdict.OK, message, evidence)
    if count < expected.gpus:
        why = f" ({sample.driver.reason})" if isinstance(sample.driver, Unknown) else ""
        return Outcome(
            HealthVerdict.FATAL, f"{count} of {expected.gpus} GPUs answer{why}", evidence
        )
    return Outcome(HealthVerdict.OK, f"{answers(count)}, {expected.gpus} needed", evidence)


def answers(count: int) -> str:
    """Return ``1 GPU answers``, ``8 GPUs answer``."""
    return f"{plural(count, 'GPU')} {'answers' if count == 1 else 'answer'}"


def _identity(gpu: Gpu) -> dict[str, Any]:
    return {
        name: value if not isinstance(value, Unknown) else None
        for name, value in (
            ("index", gpu.index),
            ("uuid", gpu.uuid),
            ("serial", gpu.serial),
            ("name", gpu.name),
        )
    }


def check_disk(disk: Disk, expected: Expected) -> Outcome:
    """Check free space where the run writes; a full file system is not the node's fault."""
    free = disk.free / GIB
    evidence = {"path": disk.path, "free_gb": round(free, 1), "inodes": disk.inodes}
    if free < expected.min_free_gb:
        message = f"{disk.path} has {free:.1f} GiB free, {expected.min_free_gb:g} are needed"
        return Outcome(HealthVerdict.FATAL, message, evidence, NodeAction.RETRY_SAME)
    if disk.inodes == 0:
        return Outcome(
            HealthVerdict.FATAL, f"{disk.path} has no free inode", evidence, NodeAction.RETRY_SAME
        )
    return Outcome(HealthVerdict.OK, f"{disk.path} has {free:.1f} GiB free", evidence)


def check_shm(shm: Disk, expected: Expected, count: int) -> Outcome:
    """Check shared memory per GPU, for NCCL and data loaders."""
    gpus = count if expected.gpus is None else expected.gpus
    needed, free = gpus * expected.min_shm_gb_per_gpu, shm.free / GIB
    evidence = {"free_gb": round(free, 1), "needed_gb": needed}
    if free < needed:
        message = (
            f"/dev/shm has {free:.1f} GiB free, {needed:g} GiB are needed for {plural(gpus, 'GPU')}"
        )
        return Outcome(HealthVerdict.FATAL, message, evidence)
    return Outcome(HealthVerdict.OK, f"/dev/shm has {free:.1f} GiB free", evidence)


def check_memory(available: int, expected: Expected) -> Outcome:
    """Check host memory; the system itself may use a tenth of it."""
    free = available / GIB
    evidence = {"available_gb": round(free, 1), "expected_gb": expected.memory_gb}
    if free < 0.9 * expected.memory_gb:
        message = f"{free:.1f} GiB of memory are available, {expected.memory_gb:g} are expected"
        return Outcome(HealthVerdict.WARN, message, evidence)
    return Outcome(HealthVerdict.OK, f"{free:.1f} GiB of memory are available", evidence)
