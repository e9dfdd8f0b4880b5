"""Is this node fit for work? Readings become findings, findings one verdict.

Pure but for ``read_sample``, which is ``health_reading``'s. A probe without a value gives UNKNOWN,
which is never OK and never FATAL. Sizes named ``_gb`` are 2**30 bytes.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jobs.contract.job import node_name
from jobs.contract.units import GIB
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
"""Every code a finding may have. ``storage`` and ``scratch`` are preflight's."""


def check(sample: Sample, expected: Expected) -> list[HealthFinding]:
    """Every finding about a node, OK ones too; codes in ``expected.skip`` are left out."""
    findings = [
        *_node_findings(sample, expected),
        *(gpu_checks.gpu_findings(sample, expected) if expected.gpus != 0 else ()),
    ]
    return [finding for finding in findings if finding.code not in expected.skip]


def worst(findings: Iterable[HealthFinding]) -> HealthVerdict:
    """The verdict on the whole; UNKNOWN when nothing was found at all."""
    return max((finding.verdict for finding in findings), default=HealthVerdict.UNKNOWN)


def expectation(health: Mapping[str, Any], environ: Mapping[str, str]) -> Expected:
    """What a task's ``health`` expects; without a number of GPUs, those Slurm gave on this node.

    Raises:
        ValueError: an unknown key, or an unknown code in ``skip``.
    """
    names = {field.name for field in dataclasses.fields(Expected)} - {"idle"}
    _refuse_unknown("key", set(health) - names, names)
    given = {name: value for name, value in health.items() if value is not None}
    given["skip"] = frozenset(given.get("skip", ()))
    _refuse_unknown("code to skip", given["skip"] - CODES, CODES)
    slurm = environ.get("SLURM_GPUS_ON_NODE", "")
    if "gpus" not in given and slurm.isdigit():
        given["gpus"] = int(slurm)
    return Expected(**given)


def _refuse_unknown(what: str, odd: Iterable[str], known: Iterable[str]) -> None:
    for name in sorted(odd):
        near = difflib.get_close_matches(name, known, n=1)
        instead = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(sorted(known))}"
        raise ValueError(f"health: unknown {what} {name!r}; {instead}")


def _node_findings(sample: Sample, expected: Expected) -> Iterator[HealthFinding]:
    outcomes: tuple[tuple[str, Outcome | None], ...] = (
        ("driver", judge_driver(sample.driver, expected)),
        ("gpu_count", judge_count(sample, expected)),
        ("disk", _judge_known(sample.disk, lambda disk: judge_disk(disk, expected))),
        ("shm", _judge_known(sample.shm, lambda shm: judge_shm(shm, expected, len(sample.gpus)))),
        (
            "memory",
            _judge_known(sample.memory_available, lambda free: judge_memory(free, expected)),
        ),
    )
    for code, outcome in outcomes:
        if outcome:
            yield finding(sample, code, outcome)


def _judge_known(reading: Any, judge: Callable[[Any], Outcome]) -> Outcome:
    return no_value({"reading": reading}) if isinstance(reading, Unknown) else judge(reading)


def _has_no_driver(driver: Driver | Unknown) -> bool:
    return isinstance(driver, Unknown) and driver.nvml in (LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED)


def judge_driver(driver: Driver | Unknown, expected: Expected) -> Outcome | None:
    """NVML's start. A node without driver is a node without GPUs, which ``gpu_count`` judges."""
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


def judge_count(sample: Sample, expected: Expected) -> Outcome:
    """GPUs that answer against GPUs expected.

    Those that are needed and cannot be counted, since NVML does not start, are as good as missing.
    """
    found = len(sample.gpus)
    evidence = {
        "found": found,
        "expected": expected.gpus,
        "gpus": [_identity(g) for g in sample.gpus],
    }
    if isinstance(sample.driver, Unknown) and not _has_no_driver(sample.driver):
        if expected.gpus:
            told = f"{expected.gpus} GPUs are needed, none can be counted: {sample.driver.reason}"
            return Outcome(HealthVerdict.FATAL, told, evidence)
        if expected.gpus is None:
            return no_value({"driver": sample.driver})
    if expected.gpus == 0:
        seen = f"{found} there, not examined" if found else "none there"
        return Outcome(HealthVerdict.OK, f"no GPU expected and {seen}", evidence)
    if expected.gpus is None:
        known = (
            f"{found} GPUs answer, no number was expected"
            if found
            else "no GPU here, none expected"
        )
        return Outcome(HealthVerdict.OK, known, evidence)
    if found < expected.gpus:
        why = f" ({sample.driver.reason})" if isinstance(sample.driver, Unknown) else ""
        return Outcome(
            HealthVerdict.FATAL, f"{found} of {expected.gpus} GPUs answer{why}", evidence
        )
    return Outcome(HealthVerdict.OK, f"{found} GPUs answer, {expected.gpus} are needed", evidence)


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


def judge_disk(disk: Disk, expected: Expected) -> Outcome:
    """Room where the run is written. A full file system is no node's fault."""
    free = disk.free / GIB
    evidence = {"path": disk.path, "free_gb": round(free, 1), "inodes": disk.inodes}
    if free < expected.min_free_gb:
        told = f"{disk.path} has {free:.1f} GiB free, {expected.min_free_gb:g} are needed"
        return Outcome(HealthVerdict.FATAL, told, evidence, NodeAction.RETRY_SAME)
    if disk.inodes == 0:
        return Outcome(
            HealthVerdict.FATAL, f"{disk.path} has no free inode", evidence, NodeAction.RETRY_SAME
        )
    return Outcome(HealthVerdict.OK, f"{disk.path} has {free:.1f} GiB free", evidence)


def judge_shm(shm: Disk, expected: Expected, found: int) -> Outcome:
    """Shared memory per GPU, for NCCL and data loaders."""
    gpus = found if expected.gpus is None else expected.gpus
    needed, free = gpus * expected.min_shm_gb_per_gpu, shm.free / GIB
    evidence = {"free_gb": round(free, 1), "needed_gb": needed}
    if free < needed:
        told = f"/dev/shm has {free:.1f} GiB free, {gpus} GPUs need {needed:g}"
        return Outcome(HealthVerdict.FATAL, told, evidence)
    return Outcome(HealthVerdict.OK, f"/dev/shm has {free:.1f} GiB free", evidence)


def judge_memory(available: int, expected: Expected) -> Outcome:
    """Host memory; a tenth less than asked for is what the system itself takes."""
    free = available / GIB
    evidence = {"available_gb": round(free, 1), "expected_gb": expected.memory_gb}
    if free < 0.9 * expected.memory_gb:
        told = f"{free:.1f} GiB of memory are available, {expected.memory_gb:g} are expected"
        return Outcome(HealthVerdict.WARN, told, evidence)
    return Outcome(HealthVerdict.OK, f"{free:.1f} GiB of memory are available", evidence)
