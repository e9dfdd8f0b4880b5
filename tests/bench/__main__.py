"""``python -m tests.bench [SUBJECT …]``: measure, print a table, write ``bench.json``."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback

from meditron_cli.console import plain_table
from tests import bench
from tests.bench import Figure

GROUPS = {"engine": ("loop", "saves", "memory", "plan")}
"""Names for several subjects."""


def subjects() -> list[str]:
    """Return the names of the modules beside this one."""
    return [module.name for module in pkgutil.iter_modules(bench.__path__) if module.name[0] != "_"]


def wanted_subjects(wanted: list[str]) -> list[str]:
    """Return the subjects that some names stand for."""
    return [subject for name in wanted for subject in GROUPS.get(name, (name,))]


def main(wanted: list[str]) -> int:
    """Measure some subjects, or all."""
    known = subjects()
    named = wanted_subjects(wanted)
    odd = [name for name in named if name not in known]
    if odd:
        there = ", ".join([*known, *GROUPS])
        print(f"no subject is called {odd[0]}; there are {there}", file=sys.stderr)
        return 2
    found: list[Figure] = []
    broken = 0
    for name in named or known:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        try:
            found += importlib.import_module(f"tests.bench.{name}").figures()
        except Exception:  # one broken subject must not cost the figures of the others
            traceback.print_exc()
            broken += 1
    rows = [[figure.name, f"{figure.value:.4g}", figure.aim, figure.note] for figure in found]
    print("\n".join(plain_table(("figure", "value", "aim", "what"), rows)))
    bench.record({figure.name: figure.value for figure in found})
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
