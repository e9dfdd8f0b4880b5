"""Garbage is collected at the same steps on all ranks."""

from __future__ import annotations

import gc
import json
import weakref

import pytest

from jobs.engine import garbage

from .conftest import LONG


class Ring:
    """An object that only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


def test_a_collection_happens_at_multiples_and_nowhere_else():
    with garbage.manual():
        ring = weakref.ref(Ring())
        for step in range(1, garbage.STEPS):
            garbage.collect_after(step)
        kept = ring() is not None
        garbage.collect_after(garbage.STEPS)

        assert kept
        assert ring() is None
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


COLLECTIONS = """
import gc, json, os, sys
from pathlib import Path
from jobs.__main__ import main

steps = []

def note(moment, details):
    caller = None if gc.isenabled() else sys._getframe(1)
    if moment == "start" and caller and caller.f_code.co_name == "collect_after":
        steps.append([caller.f_locals["step"], details["generation"]])

if __name__ == "__main__":
    gc.callbacks.append(note)
    code = main()
    Path(sys.argv[2], f"collections-{os.environ['RANK']}.json").write_text(json.dumps(steps))
    sys.exit(code)
"""


@pytest.mark.engine
@pytest.mark.full
def test_ranks_collect_after_the_same_steps(make_run, layout):
    run = make_run(**{**LONG, "train_steps": 110}, parallel=layout(data=2))
    program = run.root / "noting.py"
    program.write_text(COLLECTIONS)

    run.finish(str(program))

    for rank in (0, 1):
        collections = json.loads((run.root / f"collections-{rank}.json").read_text())
        assert collections == [[50, 2], [100, 2]]
