"""Tables printed in papers and datasheets, as data beside their source; nothing here is ours.

One JSON file a table. `table("zero_table1")` reads one; a view that draws its rows marks them
"quoted" with `source`. Units stand in the column names (`_GB` is 1e9 bytes, `_TF` 1e12 FLOP/s).
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One published table: its rows, and where a reader can check them.

    `known` lists the inputs the source prints, `assumed` those it leaves out; `notes` says what
    is misprinted or easily misread.
    """

    name: str
    title: str
    source: str
    url: str
    known: str
    assumed: str
    notes: str
    rows: tuple[Row, ...]

    def row(self, **cells: object) -> Row:
        """The one row whose cells have these values; ValueError if none or several do."""
        found = [r for r in self.rows if all(r.get(k) == v for k, v in cells.items())]
        if len(found) != 1:
            wanted = ", ".join(f"{k}={v!r}" for k, v in cells.items())
            raise ValueError(f"{len(found)} rows of {self.name} have {wanted}; name one row")
        return found[0]

    def column(self, name: str) -> tuple[Any, ...]:
        """One column, top to bottom; ValueError names the columns there are."""
        if name not in self.rows[0]:
            raise ValueError(
                f"{self.name} has no column {name!r}; it has {', '.join(self.rows[0])}"
            )
        return tuple(row[name] for row in self.rows)


def names() -> tuple[str, ...]:
    """The tables there are."""
    files = resources.files(__package__).iterdir()
    return tuple(sorted(f.name.removesuffix(".json") for f in files if f.name.endswith(".json")))


@cache
def table(name: str) -> Table:
    """The table of that name; ValueError with the closest name if there is none."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1, cutoff=0.0)
        raise ValueError(f"no published table {name!r}; the closest is {close[0]!r}")
    text = resources.files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return Table(name=name, **{**data, "rows": tuple(data["rows"])})
