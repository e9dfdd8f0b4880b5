from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def values() -> list[str]:
    """Return the golden doses, ranges, ratios, units, formulas and names."""
    return (Path(__file__).parents[2] / "golden" / "values.txt").read_text().splitlines()
