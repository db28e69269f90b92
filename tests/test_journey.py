"""Rows on their way to experts and home: one hop and two end alike, and every row comes back."""

from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from parallel_core.expert.journey import Journey
from parallel_core.expert.ways import ACROSS, INSIDE, WHOLE


def members(axis: str, rank: int, ranks: int, node: int) -> list[int]:
    """The group of a rank along an axis, in order."""
    if axis == INSIDE:
        return [rank - rank % node + place for place in range(node)]
    if axis == ACROSS:
        return list(range(rank % node, ranks, node))
    return list(range(ranks))


Parts = dict[int, list[Tensor]]


def exchanged(parts: Parts, axis: str, ranks: int, node: int) -> dict[int, Tensor]:
    """What every rank has when each has sent its n-th part to the n-th member of its group."""
    made = {}
    for rank in parts:
        group = members(axis, rank, ranks, node)
        me = group.index(rank)
        made[rank] = torch.cat([parts[other][me] for other in group])
    return made


class Fleet:
    """All ranks of a group in one process, hop by hop."""

    def __init__(self, counts: list[list[int]], node: int | None) -> None:
        self.ranks, self.node = len(counts), node or len(counts)
        self.axes = [WHOLE] if node is None else [INSIDE, ACROSS]
        self.journeys = [Journey() for _ in counts]
        for journey, mine in zip(self.journeys, counts, strict=True):
            journey.begin(mine, ranks=self.ranks, node=node)

    def announce(self, axis: str) -> None:
        """The counts of one hop: first looked at, then exchanged."""
        seen: dict[int, list[Tensor]] = {}
        for rank, journey in enumerate(self.journeys):
            counts = journey._counts
            assert counts is not None
            going = counts[0] if axis == WHOLE else counts.permute(1, 0, 2).contiguous()
            seen[rank] = [part[None] for part in going]
        came = exchanged(seen, axis, self.ranks, self.node)

        def answer(rank: int) -> Callable[[Tensor, str], Tensor]:
            def exchange(going: Tensor, along: str) -> Tensor:
                assert along == axis
                assert torch.equal(going, torch.cat(seen[rank]))
                return came[rank]

            return exchange

        for rank, journey in enumerate(self.journeys):
            journey.hop(answer(rank), axis)

    def travel(self, rows: list[Tensor], axis: str, *, home: bool) -> list[Tensor]:
        """Rows of every rank through one hop."""
        asked: Parts = {}
        came: dict[int, Tensor] = {}

        def ask(rank: int) -> Callable[..., Tensor]:
            def send(x: Tensor, along: str, out: list[int], into: list[int]) -> Tensor:
                asked[rank] = list(torch.split(x, out))
                return x.new_empty((sum(into), *x.shape[1:]))

            return send

        def give(rank: int) -> Callable[..., Tensor]:
            return lambda *_: came[rank]

        for first in (True, False):  # what goes is known when all have been asked
            came |= {} if first else exchanged(asked, axis, self.ranks, self.node)
            made = []
            for rank, journey in enumerate(self.journeys):
                hop = next(hop for hop in journey.hops if hop.axis == axis)
                way = journey.home if home else journey.out
                made.append(way(rows[rank], hop, ask(rank) if first else give(rank)))
        return made


def test_rows_end_expert_by_expert_and_come_home():
    """For any counts, also none: two hops end as one does, to the row, and each row comes back."""

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from([(4, 2), (6, 2), (6, 3), (8, 4)]), st.integers(1, 3), st.data())
    def holds(shape: tuple[int, int], here: int, data: st.DataObject) -> None:
        ranks, node = shape
        row = st.lists(st.integers(0, 3), min_size=ranks * here, max_size=ranks * here)
        counts = data.draw(st.lists(row, min_size=ranks, max_size=ranks))
        rows = [
            torch.tensor([(r, e, i) for e, n in enumerate(mine) for i in range(n)]).view(-1, 3)
            for r, mine in enumerate(counts)
        ]
        ends = []
        for size in (None, node):
            fleet, now = Fleet(counts, size), rows
            for axis in fleet.axes:
                fleet.announce(axis)
                now = fleet.travel(now, axis, home=False)
            for rank, got in enumerate(now):
                mine = range(rank * here, (rank + 1) * here)
                wanted = [
                    (r, e, i) for e in mine for r in range(ranks) for i in range(counts[r][e])
                ]
                assert [tuple(one) for one in got.tolist()] == wanted
                assert fleet.journeys[rank].each == [sum(c[e] for c in counts) for e in mine]
            ends.append(now)
            for axis in reversed(fleet.axes):
                now = fleet.travel(now, axis, home=True)
            assert all(torch.equal(a, b) for a, b in zip(now, rows, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))

    holds()
