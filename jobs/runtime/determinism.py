"""The variables that make the libraries of a rank choose deterministic algorithms. Pure."""

from __future__ import annotations

from jobs.contract.specs import TaskSpec
from jobs.contract.stage_specs import PretrainSpec

VARIABLES = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "NCCL_ALGO": "Ring",
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
}
"""For cuBLAS, whose results else depend on which workspace is free (cuBLAS documentation, "Results
reproducibility"); for NCCL, which else may choose an algorithm, and with it an order of sums, by
measurement; and for transformer-engine's attention. Megatron-LM's ``--deterministic-mode`` requires
the same (``megatron/training/arguments.py``).
"""


def variables(task: TaskSpec) -> dict[str, str]:
    """Return the variables that a task's ranks need for it; they replace the site's."""
    spec = task.spec
    return dict(VARIABLES) if isinstance(spec, PretrainSpec) and spec.deterministic else {}
