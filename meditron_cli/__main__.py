"""Run ``meditron`` as ``python -m meditron_cli``."""

from __future__ import annotations

import sys

from meditron_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
