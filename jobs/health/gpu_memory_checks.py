"""Checks of a GPU's memory: ECC, remapped rows, retired pages. Pure."""

from __future__ import annotations

import dataclasses
import re

from jobs.contract.units import plural
from jobs.health.findings import HealthVerdict, Outcome, on_off
from jobs.health.sample import RemappedRows, SramErrors, Unknown, value_or_none

WORKSTATION = re.compile(r"GeForce|Quadro|RTX|TITAN", re.IGNORECASE)
"""Cards that ship with ECC off."""


def check_ecc(volatile: int, aggregate: int | Unknown) -> Outcome:
    """Check uncorrected errors since the last reset; the lifetime count is evidence only."""
    evidence = {"volatile": volatile, "aggregate": value_or_none(aggregate)}
    if volatile:
        message = f"{volatile} uncorrected ECC errors since the last reset"
        return Outcome(HealthVerdict.DRAIN, message, evidence)
    return Outcome(HealthVerdict.OK, "no uncorrected ECC error since the last reset", evidence)


def check_sram(sram: SramErrors) -> Outcome:
    """Check on-chip memory errors against NVIDIA's replacement threshold, and four in total."""
    evidence = dataclasses.asdict(sram)
    if sram.threshold_exceeded:
        return Outcome(
            HealthVerdict.FATAL,
            "on-chip memory errors passed NVIDIA's replacement threshold",
            evidence,
        )
    message = f"{sram.aggregate} uncorrectable on-chip memory errors in its lifetime"
    if sram.aggregate > 4:
        return Outcome(HealthVerdict.DRAIN, message, evidence)
    return Outcome(HealthVerdict.WARN if sram.aggregate else HealthVerdict.OK, message, evidence)


def check_rows(rows: RemappedRows) -> Outcome:
    """Check row remapping: a pending remap needs a reset when idle, a failed one a replacement.

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
    return Outcome(HealthVerdict.OK, f"{plural(remapped, 'row')} remapped, none pending", evidence)


def check_unrepairable(unrepairable: bool) -> Outcome:
    """Check the card's flag for memory that neither ECC nor remapping repairs."""
    evidence = {"unrepairable": unrepairable}
    if unrepairable:
        return Outcome(HealthVerdict.FATAL, "the card reports memory it cannot repair", evidence)
    return Outcome(HealthVerdict.OK, "no unrepairable memory", evidence)


def check_retired(pages: int, pending: bool | Unknown) -> Outcome:
    """Check retired pages, on cards before Ampere; beyond 60 the card needs replacing.

    Source: NVIDIA, Dynamic Page Retirement (docs.nvidia.com/deploy/dynamic-page-retirement).
    """
    evidence = {"pages": pages, "pending": value_or_none(pending)}
    if pages > 60:
        return Outcome(
            HealthVerdict.FATAL, f"{pages} memory pages are retired, 60 is the limit", evidence
        )
    if pending is True:
        return Outcome(HealthVerdict.DRAIN, "a page retirement waits for a reboot", evidence)
    return Outcome(HealthVerdict.OK, f"{pages} memory pages are retired", evidence)


def check_ecc_mode(mode: tuple[bool, bool], name: str | Unknown) -> Outcome:
    """Check that ECC is on; workstation cards ship with it off."""
    current, pending = mode
    evidence = {"current": current, "pending": pending}
    if pending != current:
        message = f"ECC is {on_off(current)} and will be {on_off(pending)} after the next reset"
        return Outcome(HealthVerdict.WARN if current else HealthVerdict.DRAIN, message, evidence)
    workstation = isinstance(name, str) and WORKSTATION.search(name)
    if not current and not workstation:
        return Outcome(HealthVerdict.DRAIN, "ECC is off", evidence)
    return Outcome(HealthVerdict.OK, f"ECC is {on_off(current)}", evidence)
