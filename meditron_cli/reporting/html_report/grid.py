"""Layout of the tables of the page: columns of numbers, empty columns, cells on one line. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from meditron_cli.reporting.tables import Table

NUMBER = re.compile(r"[-+±]?[\d.,:]+(±[\d.,]+)?(e[-+]?\d+)?( ?[%a-zA-Z]{1,3})?")
EMPTY = (None, "", "-")
ONE_LINE = 24
"""Letters of a cell that is not broken: wider tables scroll."""


def is_number(cell: object) -> bool:
    """Return whether a cell of a table is a number, with or without a unit."""
    return isinstance(cell, int | float) or bool(NUMBER.fullmatch(str(cell)))


def classes(table: Table) -> Sequence[str]:
    """Return the class of each column: ``n`` where most of its cells are numbers."""
    _, columns, rows = table
    filled = [[row[at] for row in rows if row[at] not in EMPTY] for at in range(len(columns))]
    return ["n" if 2 * sum(map(is_number, cells)) > len(cells) else "" for cells in filled]


def is_short(cell: object) -> bool:
    """Return whether a cell stays on one line."""
    return len(str(cell)) <= ONE_LINE


def without_empty_columns(table: Table) -> Table:
    """Return a table without the columns that are empty in all rows."""
    title, columns, rows = table
    kept = [at for at in range(len(columns)) if any(row[at] not in EMPTY for row in rows)]
    return title, tuple(columns[at] for at in kept), [tuple(row[at] for at in kept) for row in rows]
