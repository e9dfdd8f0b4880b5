"""Make torch choose deterministic algorithms, for a training that is bit-equal when repeated.

``jobs.engine.model`` does the same for megatron.core. All of it is unproven on GPUs.
"""

from __future__ import annotations

import os

from jobs.runtime.determinism import VARIABLES


def switch_on() -> None:
    """Turn on every switch of this process, before its first use of CUDA.

    An operation without a deterministic algorithm then raises an error. Of the kernels of
    ``scaled_dot_product_attention``, only flash attention's and the plain one stay, whose backward
    passes torch makes deterministic.
    """
    import torch

    os.environ.update(VARIABLES)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
