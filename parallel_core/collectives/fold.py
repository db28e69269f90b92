"""Folding: how n ranks that are no power of two play an algorithm for p, the power below.

    n=6, p=4    before   r0 -> r1   r2 -> r3               0 and 2 hand in what they have
                then     r1 r3 r4 r5 play
                after    r1 -> r0   r3 -> r2               and get the result

The first 2(n-p) ranks pair up. Two steps more, and the whole buffer twice more on the wire.
Thakur, Rabenseifner and Gropp 2005, section 4.5, doi:10.1177/1094342005051521.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parallel_core.collectives import names as v
from parallel_core.collectives.group import Group
from parallel_core.collectives.script import Script


@dataclass(frozen=True)
class Fold:
    """Who plays (a power of two of ranks), and the pairs (who sits out, who plays for it)."""

    ranks: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, group: Group) -> Fold:
        """The fold of a group; nobody sits out where n is a power of two."""
        pairs = tuple((2 * i, 2 * i + 1) for i in range(group.n - group.power_below))
        out = {sits for sits, _ in pairs}
        return cls(tuple(r for r in group.ranks if r not in out), pairs)

    @property
    def levels(self) -> int:
        """log2 of how many play."""
        return len(self.ranks).bit_length() - 1

    @property
    def steps(self) -> int:
        """Steps that folding in takes; handing back takes as many."""
        return 1 if self.pairs else 0

    def fold_in(self, script: Script, chunks: Sequence[int]) -> None:
        """Step 0: who sits out hands its input to its partner, who adds it."""
        for sits, plays in self.pairs:
            script.reduce(0, sits, plays, chunks)

    def hand_back(self, script: Script, chunks: Sequence[int], step: int) -> None:
        """The last step: the partner hands over the sums."""
        for sits, plays in self.pairs:
            script.copy(step, plays, sits, [v.total(c) for c in chunks])
