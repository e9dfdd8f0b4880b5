"""Parameters of a test that `make test` leaves to `make test-full`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from _pytest.mark import ParameterSet


def full(*values: object) -> ParameterSet:
    """Return one set of parameters that is not in the gate: another has the same kind of fault."""
    return pytest.param(*values, marks=pytest.mark.full)


def only(kept: Sequence[object], values: Iterable[object]) -> list[object]:
    """Return values of one parameter, of which those that are kept are in the gate."""
    return [value if value in kept else full(value) for value in values]
