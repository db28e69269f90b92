"""Folding: ranks that all do the same are simulated once.

A program is *alike on every rank* if rank r does what rank 0 does with every peer moved by r.
Then rank 0's receive from the rank d places behind it mirrors its own send d places on: same
bytes, same moment. One rank's instructions are enough, and 4,096 ranks cost what one does.

    ring of 4096      rank r: send r+1, recv r-1     folded   rank 0: send 1, recv 4095

"Moved by r" is along the axes of the mesh, each of which wraps: on one axis of n ranks it is
addition modulo n, on a mesh of 16 x 16 x 16 it is addition coordinate by coordinate.

A network folds along if it too looks the same from every rank: all links that the ranks' copies
of one message take must be alike, and each must belong to one copy. Queues then are alike as
well, and one link stands for its class. What is left out is only who is who: folded equals
unfolded to the nanosecond, or is refused.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from parallel_core.clockwork import Run
from parallel_core.cost import Cost
from parallel_core.hardware.topology import Mesh as FullMesh
from parallel_core.hardware.torus import Torus, shifted
from parallel_core.mesh import Mesh
from parallel_core.network import Network, Route, Traffic, route_of
from parallel_core.numbered import Numbered, number, number_ranks
from parallel_core.program import Instr, Op, Program, ProgramError, Value
from parallel_core.simulate import trace_of
from parallel_core.trace import Trace

MOST_ROUTES = 10**6
"""Routes that are compared one by one before a fold is refused as too large to check."""


@dataclass(frozen=True, kw_only=True)
class Folded:
    """What rank 0 of `mesh` does, for all of its ranks; a peer is also the distance to it.

    `instrs` may be any iterable that can be walked more than once: nothing else is ever built.
    """

    mesh: Mesh
    instrs: Iterable[Instr]
    holds: tuple[Value, ...]
    keeps: tuple[Value, ...] = ()
    name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Degrees of the mesh, inner first."""
        return tuple(degree for _, degree in self.mesh.axes)

    def unfold(self) -> Program:
        """The whole program: rank r is rank 0 with every peer moved by r (names stay)."""
        ranks = tuple(
            tuple(_moved(instr, rank, self.shape) for instr in self.instrs)
            for rank in range(self.mesh.size)
        )
        n = self.mesh.size
        return Program(self.mesh, ranks, (self.holds,) * n, (self.keeps,) * n, self.name)


def _moved(instr: Instr, rank: int, shape: tuple[int, ...]) -> Instr:
    if instr.peer is None:
        return instr
    return Instr(**{**_fields(instr), "peer": shifted(instr.peer, rank, shape)})
