"""Compare a GPU with the others of its node. Pure."""

from __future__ import annotations

import re
import statistics

from jobs.health.findings import HealthVerdict, Outcome, no_value
from jobs.health.sample import Gpu, Unknown


def check_peer_temperature(gpu: Gpu, gpus: tuple[Gpu, ...]) -> Outcome | None:
    """Compare the temperature with the node's median: a cooling problem shows before any limit."""
    if isinstance(gpu.temperature, Unknown):
        return None  # the temperature check reports it
    median = statistics.median(g.temperature for g in gpus if isinstance(g.temperature, int))
    if gpu.temperature <= median + 15:
        return None
    evidence = {"celsius": gpu.temperature, "median": median}
    message = f"{gpu.temperature} °C, while the node's median is {median:g} °C"
    return Outcome(HealthVerdict.WARN, message, evidence)


SOLDERED = re.compile(r"SXM|HBM3|GH200|GB200|GB300|\bB[23]00|H200(?! NVL)", re.IGNORECASE)
"""Names of boards whose NVLinks are wired; those of PCIe cards may be unused."""


def check_nvlink(gpu: Gpu, gpus: tuple[Gpu, ...]) -> Outcome | None:
    """Compare the active links with the node's other GPUs; a single card has no peers."""
    if isinstance(gpu.nvlinks, Unknown):
        return no_value({"nvlinks": gpu.nvlinks})
    if not gpu.nvlinks or len(gpus) < 2:
        return None
    active = sum(gpu.nvlinks)
    most = max(sum(other.nvlinks) for other in gpus if not isinstance(other.nvlinks, Unknown))
    evidence = {"active": active, "links": len(gpu.nvlinks), "most_on_node": most}
    soldered = isinstance(gpu.name, str) and SOLDERED.search(gpu.name)
    if not active and soldered:
        return Outcome(
            HealthVerdict.FATAL, f"none of its {len(gpu.nvlinks)} NVLinks is active", evidence
        )
    if active < most:
        message = f"{active} NVLinks are active, {most} on the best GPU of the node"
        return Outcome(HealthVerdict.DRAIN, message, evidence)
    return Outcome(HealthVerdict.OK, f"{active} NVLinks are active", evidence)
