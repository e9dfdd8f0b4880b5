"""Write a node's newest readings for node_exporter's textfile collector.

Names and units follow prometheus.io/docs/practices/naming: counters end in ``_total``, else
Prometheus warns of each rate over one. prometheus_client is imported where it is used.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "meditron-"
"""Beginning of the files' names."""
MODE = 0o644
STALE_SECONDS = 900.0
"""Age of a file whose monitor is gone: one that runs replaces its file every 15 seconds."""

MILLI = 1e-3
MEGA = 1e6
PER_CENT = 1e-2


@dataclass(frozen=True)
class Metric:
    """A metric of each GPU or rank: the key of a report, and the factor to the metric's unit."""

    name: str
    text: str
    key: str
    factor: float = 1.0


GPU_METRICS = (
    Metric(
        "meditron_gpu_utilisation_ratio", "Time in which a kernel ran.", "utilisation", PER_CENT
    ),
    Metric("meditron_gpu_power_watts", "Power.", "power", MILLI),
    Metric("meditron_gpu_temperature_celsius", "Temperature of the chip.", "temperature"),
    Metric(
        "meditron_gpu_memory_temperature_celsius", "Temperature of memory.", "memory_temperature"
    ),
    Metric("meditron_gpu_sm_clock_hertz", "Clock of the multiprocessors.", "sm_clock", MEGA),
    Metric("meditron_gpu_memory_used_bytes", "Memory in use.", "memory_used"),
    Metric("meditron_gpu_energy_joules_total", "Energy since the attempt began.", "energy_j"),
)
RANK_METRICS = (
    Metric("meditron_rank_steps_total", "Steps since the attempt began.", "steps"),
    Metric("meditron_rank_step_seconds_total", "Time of these steps.", "seconds"),
    Metric(
        "meditron_rank_data_seconds_total", "Part in which the rank waited for samples.", "data"
    ),
    Metric(
        "meditron_rank_communication_seconds_total",
        "Part in which the rank waited for gradients, the loss and weights of other ranks.",
        "communication",
    ),
)
FINDINGS = "meditron_node_findings"
TOTAL = "_total"
"""The end of a counter's name."""

NAMES = frozenset({*(m.name for m in (*GPU_METRICS, *RANK_METRICS)), FINDINGS})
"""All metrics."""


def write(path: Path, labels: Mapping[str, str], report: Mapping[str, Any]) -> None:
    """Replace the file with the readings of a report (``jobs.health.monitor.records``).

    Args:
        path: ends in ``.prom``.
        labels: of every metric: run, stage, task, attempt, job and node.

    Raises:
        ImportError: prometheus_client is not installed.
        OSError: the file cannot be written.
    """
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    energies = {gpu["index"]: gpu["energy_j"] for gpu in report["gpus"]}
    uuids = {gpu["index"]: gpu["uuid"] or str(gpu["index"]) for gpu in report["gpus"]}
    gpus = [{**gpu, "energy_j": energies[gpu["index"]]} for gpu in report["newest"]]
    families: list[Any] = []

    def add(metric: Metric, label: str, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        # The classes Counter and Gauge would add the time at which the counter was created.
        kind = CounterMetricFamily if metric.name.endswith(TOTAL) else GaugeMetricFamily
        family = kind(metric.name, metric.text, labels=(*labels, label))
        for name, row in rows:
            if row[metric.key] is not None:
                family.add_metric((*labels.values(), name), row[metric.key] * metric.factor)
        families.append(family)

    for metric in GPU_METRICS:
        add(metric, "gpu", ((uuids[gpu["index"]], gpu) for gpu in gpus))
    for metric in RANK_METRICS:
        add(metric, "rank", ((str(rank["rank"]), rank) for rank in report["ranks"]))
    findings = GaugeMetricFamily(
        FINDINGS, "Findings that hold now.", labels=(*labels, "code", "verdict")
    )
    counts = Counter((item["code"], item["verdict"]) for item in report["now"])
    for names, count in counts.items():
        findings.add_metric((*labels.values(), *names), count)
    registry = CollectorRegistry()
    registry.register(_Readings([*families, findings]))
    replace(path, generate_latest(registry))


def replace(path: Path, data: bytes) -> None:
    """Replace the file at once; node_exporter, another user, may read it whatever our umask is.

    Raises:
        OSError: the file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(os.open(part, flags, MODE), "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), MODE)
    part.replace(path)


def remove_stale(folder: Path, now: float) -> None:
    """Remove what monitors left that were killed; what other users left stays."""
    for pattern in (f"{PREFIX}*.prom", f".{PREFIX}*.prom.part"):
        for path in folder.glob(pattern):
            with suppress(OSError):
                if now - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()


class _Readings:
    """A collector of prometheus_client with readings that are already known."""

    def __init__(self, families: Iterable[Any]) -> None:
        self._families = families

    def collect(self) -> Iterable[Any]:
        """Return the readings."""
        return self._families
