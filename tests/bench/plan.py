"""Mean absolute error of the plan's step times beside published ones; nothing is timed here."""

from __future__ import annotations

from tests.bench import Figure
from tests.published_steps import ROWS, mean_error


def figures() -> list[Figure]:
    validating = tuple(row for row in ROWS if not row.chosen)
    worst = max(ROWS, key=lambda row: abs(row.error))
    note = (
        f"{len(ROWS)} published steps; {mean_error(validating):.3f} for the {len(validating)} that "
        f"only validate; largest {abs(worst.error):.3f}, {worst.name}"
    )
    return [Figure("plan_mae", mean_error(ROWS), "< 0.10", note)]
