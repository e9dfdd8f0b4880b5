"""The program ``meditron``, also as ``python -m meditron_cli``."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def run() -> NoReturn:
    """Import the program and run it. Ctrl-C ends the import, which takes tenths of a second,
    without a traceback.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # not where a shell has ignored the signal
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from meditron_cli.main import main

    signal.signal(signal.SIGINT, handler)
    sys.exit(main())


if __name__ == "__main__":
    run()
