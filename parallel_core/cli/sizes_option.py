"""Sizes as people type them: 64MiB, 1kB, 4096; decimal and binary units are told apart."""

from __future__ import annotations

import re
from fractions import Fraction

from parallel_core.fields import PlanError, shown

UNITS = {"B": 1}
UNITS |= {f"{letter}iB": 1024**k for k, letter in enumerate("KMGT", start=1)}
UNITS |= {f"{letter}B": 1000**k for k, letter in enumerate("kMGT", start=1)}
"""Unit -> bytes: KiB is 1024, kB is 1000."""

_SIZE = re.compile(r"([0-9][0-9_,]{0,20}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)", re.ASCII)


def bytes_of(text: str, field: str = "bytes") -> int:
    """The bytes that `text` names; PlanError with the nearest size that works if it names none.

    >>> bytes_of("64MiB"), bytes_of("1.5 kB"), bytes_of("4096")
    (67108864, 1500, 4096)
    """
    units = {unit.lower(): unit for unit in UNITS}
    found = _SIZE.fullmatch(text.strip())
    rule = f"must be a number and a unit of {', '.join(UNITS)}"
    if found is None:
        raise PlanError(field, shown(text), rule, "64MiB")
    number, unit = found[1].replace(",", "").replace("_", ""), found[2].lower() or "b"
    if unit not in units:
        like = units.get(f"{unit[0]}ib", "MiB")
        raise PlanError(field, shown(text), rule, f"{number}{like}")
    size = Fraction(number) * UNITS[units[unit]]
    if size.denominator != 1:
        raise PlanError(field, shown(text), "must be a whole number of bytes", round(size))
    return int(size)
