"""The picture in a schedule's docstring, read back: what it shows is an Order like any other.

    p=3 m=4    rank 0   F0 F1 F2 B0 F3 B1 B2 B3
               rank 1   F0 F1 B0 F2 B1 F3 B2 B3
               rank 2   F0 B0 F1 B1 F2 B2 F3 B3

The sizes stand before rank 0, with `v=2` where a rank has several stages; a line a rank follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from parallel_core.pipeline.order import Order
from parallel_core.program import ProgramError

_SIZES = re.compile(r"^ *p=(\d+) +m=(\d+)(?: +v=(\d+))? +(?=rank +0\b)")
_RANK = re.compile(r"^ *rank +(\d+)\b")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """p ranks, m microbatches, v stages a rank, and the order drawn for them."""

    p: int
    m: int
    v: int
    order: Order


def picture(docstring: str | None) -> Picture:
    """The first picture in a docstring.

    Raises ProgramError where there is none, or its ranks are not 0 to p-1 from top to bottom.
    """
    lines = (docstring or "").splitlines()
    at, sizes = next(
        ((n, s) for n, line in enumerate(lines) if (s := _SIZES.match(line))), (0, None)
    )
    if sizes is None:
        raise ProgramError("no picture here; write `p=3 m=4    rank 0   F0 ...` and a line a rank")
    drawn = [lines[at][sizes.end() :]]
    for line in lines[at + 1 :]:
        if not _RANK.match(line):
            break
        drawn.append(line)
    p, m, v = (int(size or 1) for size in sizes.groups())
    numbers = [int(found[1]) for line in drawn if (found := _RANK.match(line))]
    if numbers != list(range(p)):
        raise ProgramError(f"the picture says p={p} but shows ranks {numbers}; write 0 to {p - 1}")
    return Picture(p=p, m=m, v=v, order=Order.parse("\n".join(drawn)))
