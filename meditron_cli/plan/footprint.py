"""Compute GPU-hours, energy, emissions and price of a training from its time. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.contract.units import Footprint

if TYPE_CHECKING:
    from meditron_cli.config.cluster_schema import Accounting


def footprint(seconds: float, gpus: int, gpu_watts: float, accounting: Accounting) -> Footprint:
    """Return the footprint of GPUs under full load for so long: energy is power times time."""
    hours = seconds * gpus / 3600
    kwh = hours * gpu_watts / 1000 if gpu_watts else None
    return Footprint.of(hours, kwh, accounting.model_dump())
