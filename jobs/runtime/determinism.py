"""The variables that make the libraries of a rank choose deterministic algorithms. Pure."""

from __future__ import annotations

from jobs.contract.specs import TaskSpec
from jobs.contract.stage_specs import SelftestSpec, TrainingSpec

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

EARLY = ("CUBLAS_WORKSPACE_CONFIG",)
"""Of these, what a process must have before its first use of CUDA. The value is what torch chooses
on Hopper, and 24 MiB more than its choice on other GPUs (CUDAContext, CublasHandlePool.cpp): it
does not change what a selftest measures beside its deterministic trainings.
"""


def variables(task: TaskSpec) -> dict[str, str]:
    """Return the variables that a task's ranks need for it; they replace the site's."""
    spec = task.spec
    if isinstance(spec, SelftestSpec):
        return {name: VARIABLES[name] for name in EARLY}
    return dict(VARIABLES) if isinstance(spec, TrainingSpec) and spec.deterministic else {}
