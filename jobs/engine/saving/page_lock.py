"""Page-lock host memory, for fast copies from a GPU."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np


def lock(content: np.ndarray[Any, np.dtype[np.uint8]], runtime: Any) -> int:
    """Lock the pages of an array until the array is freed. CUDA refuses to lock an address again,
    and the allocator may give it to the array of the next training in this process.

    Args:
        runtime: ``torch.cuda.cudart()``, which has the functions of CUDA's runtime API.

    Returns:
        The runtime's error code; 0 is none.
    """
    address = content.ctypes.data
    error = int(runtime.cudaHostRegister(address, content.nbytes, 0))
    if error == 0:
        unlock = weakref.finalize(content, runtime.cudaHostUnregister, address)
        unlock.atexit = False  # the end of a process frees all
    return error
