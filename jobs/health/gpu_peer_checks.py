"""Compare a GPU with the others of its node. Pure."""

from __future__ import annotations

import re
import statistics

from jobs.health.findings import HealthVerdict, Outcome, no_value
from jobs.health.sample import Gpu, Unknown


def judge_peer_temperature(gpu: Gpu, gpus: tuple[Gpu, ...]) -> Outcome | None:
    """A card much hotter than its neighbours has a cooling problem before it reaches a limit."""
    if isinstance(gpu.temperature, Unknown):
        return None  # the temperature check has told
    median = statistics.median(g.temperature for g in gpus if isinstance(g.temperature, int))
    if gpu.temperature <= median + 15:
        return None
    evidence = {"celsius": gpu.temperature, "median": median}
    told = f"{gpu.temperature} °C, while the node's median is {median:g} °C"
    return Outcome(HealthVerdict.WARN, told, evidence)


SOLDERED = re.compile(r"SXM|HBM3|GH200|GB200|GB300|\bB[23]00|H200(?! NVL)", re.IGNORECASE)
"""Names of boards whose NVLinks are wired to neighbours; those of PCIe cards may be unused."""


def judge_nvlink(gpu: Gpu, gpus: tuple[Gpu, ...]) -> Outcome | None:
    """Active links against those of the node's other GPUs; a card alone has nobody to talk to."""
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
        told = f"{active} NVLinks are active, {most} on the best GPU of the node"
        return Outcome(HealthVerdict.DRAIN, told, evidence)
    return Outcome(HealthVerdict.OK, f"{active} NVLinks are active", evidence)
