"""Make torch choose deterministic algorithms, for a training that is bit-equal when repeated.

``jobs.engine.model`` does the same for megatron.core. All of it is unproven on GPUs, where the
trial ``deterministic`` of a selftest decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


@contextmanager
def switched_on() -> Iterator[None]:
    """Turn the switches on in the block alone, for a selftest, which began with
    ``runtime.determinism.EARLY``: cuBLAS has read them before.
    """
    import torch

    cudnn: Any = torch.backends.cudnn
    cuda: Any = torch.backends.cuda
    algorithms = torch.are_deterministic_algorithms_enabled()
    choices = cudnn.benchmark, cudnn.deterministic
    kernels = cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()
    environ = {name: os.environ.pop(name, None) for name in VARIABLES}
    try:
        switch_on()
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms)
        cudnn.benchmark, cudnn.deterministic = choices
        cuda.enable_mem_efficient_sdp(kernels[0])
        cuda.enable_cudnn_sdp(kernels[1])
        for name, value in environ.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
