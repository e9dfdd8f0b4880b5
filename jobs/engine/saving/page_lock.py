"""Page-lock host memory, for fast copies from a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable
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


class PageLocks:
    """Locks of one owner's memory, which does without them once CUDA has refused one."""

    def __init__(
        self, runtime: Any, clear_error: Callable[[], None], warn: Callable[[str], None]
    ) -> None:
        """Lock nothing yet.

        Args:
            runtime: as for ``lock``.
            clear_error: clears the error that CUDA keeps of this thread's last refused call.
            warn: takes the warning, once.
        """
        self._runtime = runtime
        self._clear_error = clear_error
        self._warn = warn
        self._is_refused = False

    def lock(self, content: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Lock an array's pages; warn where CUDA refuses. One rank that failed would leave the
        others waiting for it.
        """
        if self._is_refused:
            return
        error = lock(content, self._runtime)
        if error:
            self._is_refused = True
            self._clear_error()
            self._warn(
                f"CUDA does not page-lock {content.nbytes} bytes of host memory (error {error} of "
                "cudaHostRegister); copies of checkpoints take longer without. `ulimit -l` on the "
                "node shows how much memory a process may lock"
            )
