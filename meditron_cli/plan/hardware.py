"""The speed of a cluster's GPUs and links, measured, or as its profile states them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meditron_cli.config.cluster_schema import Node

GEMM_SHARES = {"V100": 0.75, "A100": 0.75, "H100": 0.67, "H200": 0.67, "H800": 0.67}
"""Share of the peak that a matrix product reaches where memory does not bound it, per generation.

A100's is the best of all hundredths on four published steps, H100's the middle of those that do
equally well on two (docs/plan.md). The others have the value of their nearest relative, as a guess;
``GH200`` has the GPU of an H100.
"""
UNKNOWN_SHARE = 0.67
"""The least of these, for a GPU that is not in the table (guess)."""
ATTENTION_SHARE = 0.75
"""Speed of fused attention as a share of a matrix product's. On an A100 that is 58 % of the peak;
FlashAttention-2 reaches 50 to 73 % (Dao 2023, arXiv 2307.08691, section 4).
"""
MEMORY_SHARE = 0.85
"""Share of the memory's peak that kernels without reuse reach (guess)."""
LINK_SHARE = 0.78
"""Share of the speed of links in a node that a large ring collective reaches (guess)."""
NETWORK_SHARE = 0.8
"""Share of the network's speed that large messages reach (guess)."""


@dataclass(frozen=True)
class Machine:
    """The speeds that a step's time depends on, as reached: FLOP/s and bytes per second."""

    peak: float
    """Of one GPU, dense bf16; the only figure that is a peak."""
    product: float
    """Matrix products of one GPU."""
    attention: float
    """Fused attention of one GPU."""
    memory: float
    """Memory of one GPU."""
    link: float
    """One GPU to the others of its node, one direction."""
    network: float
    """All adapters of a node together, one direction; infinite where a job has one node."""
    gpus: int
    """Per node."""


def gemm_share(gpu_kind: str) -> float:
    """Return the share of the peak that matrix products of a GPU reach, by its NVML name."""
    name = gpu_kind.upper().replace("GH200", "H100")
    return next((share for key, share in GEMM_SHARES.items() if key in name), UNKNOWN_SHARE)


def missing_figures(node: Node, world_size: int) -> tuple[str, ...]:
    """Return the profile's keys without which no step time of so many ranks is computed."""
    needed = ["peak_bf16_tflops"]
    needed += [] if node.reached.memory_gb_s else ["gpu_memory_gb_s"]
    needed += [] if node.reached.link_gb_s else ["gpu_link_gb_s"]
    if world_size > node.gpus and not node.reached.network_gb_s:
        needed.append("network_gb_s")
    return tuple(f"gpu_partition.node.{key}" for key in needed if not getattr(node, key))


def measured_figures(node: Node) -> tuple[str, ...]:
    """Return the speeds of a node that were measured, in words."""
    reached = node.reached
    words = {
        "products": reached.product_tflops,
        "memory": reached.memory_gb_s,
        "links in a node": reached.link_gb_s,
        "network": reached.network_gb_s,
    }
    return tuple(word for word, value in words.items() if value)


def machine_of(node: Node, world_size: int) -> Machine | None:
    """Return the speeds of a node's GPUs and links, measured ones before shares of the profile's
    peaks; None without GPUs or where one is missing.
    """
    if not node.gpus or missing_figures(node, world_size):
        return None
    peak, reached = node.peak_bf16_tflops * 1e12, node.reached
    product = (reached.product_tflops or 0) * 1e12 or peak * gemm_share(node.gpu_kind)
    return Machine(
        peak=peak,
        product=product,
        attention=product * ATTENTION_SHARE,
        memory=1e9 * (reached.memory_gb_s or node.gpu_memory_gb_s * MEMORY_SHARE),
        link=1e9 * (reached.link_gb_s or node.gpu_link_gb_s * LINK_SHARE),
        network=1e9 * (reached.network_gb_s or node.network_gb_s * NETWORK_SHARE) or float("inf"),
        gpus=node.gpus,
    )
