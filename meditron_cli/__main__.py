"""``python -m meditron_cli``: the same as ``meditron``."""

from __future__ import annotations

import sys

from meditron_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
