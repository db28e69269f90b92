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

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace

from parallel_core.clockwork import Run
from parallel_core.cost import Cost
from parallel_core.hardware.topology import Link, Pace
from parallel_core.hardware.topology import Mesh as FullMesh
from parallel_core.hardware.torus import Torus, shifted
from parallel_core.mesh import Mesh
from parallel_core.network import Network, Route, Traffic, route_of
from parallel_core.numbered import Numbered, Numbers, number, number_ranks
from parallel_core.program import Instr, Op, Program, ProgramError, Value
from parallel_core.simulate import trace_of
from parallel_core.trace import Span, Trace

MOST_ROUTES = 10**6
"""Routes that are compared one by one before a network counts as too large to fold."""


@dataclass(frozen=True, kw_only=True)
class Folded:
    """What rank 0 of `mesh` does, for all of its ranks; its peers are distances as well.

    Nothing else is ever built, so a mesh may have any number of ranks.
    """

    mesh: Mesh
    instrs: tuple[Instr, ...]
    holds: tuple[Value, ...]
    keeps: tuple[Value, ...] = ()
    name: str = ""

    @property
    def shape(self) -> Numbers:
        """Degrees of the mesh, inner first."""
        return tuple(degree for _, degree in self.mesh.axes)

    def unfold(self) -> Program:
        """The whole program: what rank 0 does, with every peer moved by r (values keep names)."""
        n = self.mesh.size
        ranks = tuple(
            tuple(
                instr if instr.peer is None else replace(instr, peer=self.moved(instr.peer, rank))
                for instr in self.instrs
            )
            for rank in range(n)
        )
        return Program(self.mesh, ranks, (self.holds,) * n, (self.keeps,) * n, self.name)

    def moved(self, rank: int, by: int, *, back: bool = False) -> int:
        """`rank` moved along the mesh by the distance of `by` from rank 0."""
        return shifted(rank, by, self.shape, -1 if back else 1)


def fold(program: Program, cost: Cost | None = None) -> Folded:
    """Rank 0 of a program that is alike on every rank; ProgramError names the first difference.

    Names of values may differ (rank 3 may send chunk 3 where rank 0 sends chunk 0), what depends
    on what may not. With a `cost`, times and bytes must agree too.
    """
    folded = Folded(
        mesh=program.mesh,
        instrs=program.ranks[0],
        holds=program.holds[0],
        keeps=program.keeps[0],
        name=program.name,
    )
    work = number(program)
    first = work.first_of_ranks()
    mine = [_likeness(folded, work, at, 0) for at in range(first[1])]
    for rank in range(1, program.mesh.size):
        theirs = range(first[rank], first[rank + 1])
        if len(theirs) != len(mine):
            many = f"{len(theirs)} instructions, rank 0 has {len(mine)}"
            raise ProgramError(f"rank {rank} has {many}: only ranks that are alike fold")
        for index, at in enumerate(theirs):
            if _likeness(folded, work, at, first[rank]) != mine[index]:
                raise _differ(work, at, index, "does something else")
            if cost is not None and _price(cost, work, at) != _price(cost, work, index):
                raise _differ(work, at, index, "takes another time or other bytes")
    return folded


def _likeness(folded: Folded, work: Numbered, at: int, first: int) -> tuple[object, ...]:
    """What must agree between ranks: everything but names."""
    instr, rank = work.instrs[at], work.rank[at]
    peer = None if instr.peer is None else folded.moved(instr.peer, rank, back=True)
    freed = sorted(max(work.writer[slot] - first, -1) for slot in work.frees[at])
    held = sum(work.writer[slot] < 0 for slot in work.reads[at])
    inner = tuple((message.op, message.axis) for message in instr.inner)
    flow = (work.deps(at, first), held, len(work.writes[at]), tuple(freed))
    return (instr.op, instr.lane, instr.mb, instr.axis, peer, inner, *flow)


def _price(cost: Cost, work: Numbered, at: int) -> tuple[float, ...]:
    instr = work.instrs[at]
    payload = cost.payload(instr) if instr.op.is_message else 0
    sizes = [sum(map(cost.bytes, values)) for values in (instr.writes, instr.frees)]
    return (cost.seconds(work.rank[at], instr), payload, *sizes)


def _differ(work: Numbered, at: int, index: int, how: str) -> ProgramError:
    place = f"rank {work.rank[at]}, instruction {index} ({work.instrs[at].label})"
    return ProgramError(
        f"{place} {how} than rank 0's ({work.instrs[index].label}) moved there:"
        " only ranks that are alike fold"
    )


def simulate_folded(
    folded: Folded, cost: Cost, *, rendezvous: bool = False, network: Network | None = None
) -> Trace:
    """The spans of rank 0; all other ranks' are the same, with their peers moved (`spread`).

    Raises ProgramError on a deadlock, or if the network does not look alike from every rank.
    """
    traffic = None
    if network is not None:
        network.must_hold(folded.mesh.size)
        traffic = Traffic(_routes(folded, network))
    work = number_ranks([folded.instrs], [folded.holds], _mirrored(folded))
    run = Run(work, cost, rendezvous=rendezvous, traffic=traffic)
    run.finish()
    return trace_of(run, folded.name, folded.mesh.size, network)


def _mirrored(folded: Folded) -> Callable[[int, Instr], tuple[Hashable, int, Numbers]]:
    """A receive from d behind meets rank 0's own send to d ahead; a collective meets itself."""

    def meets(rank: int, instr: Instr) -> tuple[Hashable, int, Numbers]:
        if instr.peer is not None:
            if instr.op == Op.SEND:
                return instr.peer, 2, (0, instr.peer)
            return folded.moved(0, instr.peer, back=True), 2, (instr.peer, 0)
        assert instr.axis is not None  # check() refuses a collective without one
        return instr.axis, 1, folded.mesh.group(0, instr.axis)

    return meets


def spread(folded: Folded, trace: Trace) -> Trace:
    """The trace of every rank from that of rank 0."""
    spans = [_seen_from(folded, s, r) for r in range(folded.mesh.size) for s in trace.spans]
    return replace(trace, spans=tuple(spans))


def _seen_from(folded: Folded, span: Span, rank: int) -> Span:
    if span.axis is not None and span.peers:
        peers = folded.mesh.group(rank, span.axis)
    else:
        peers = tuple(folded.moved(peer, rank) for peer in span.peers)
    return replace(span, rank=rank, peers=peers)


def _routes(folded: Folded, network: Network) -> Callable[[int, int], Route]:
    """Rank 0's route to each distance, over classes of links instead of links."""
    if not _alike(folded, network):
        known = dict(_compared(folded, network))
        return lambda source, target: known[target]

    def routes(source: int, target: int) -> Route:
        links = network.links(source, target)
        kinds = [("way", folded.moved(b, a, back=True)) for a, b in links]
        return route_of(kinds, [network.topology.pace(link) for link in links])

    return routes


def _alike(folded: Folded, network: Network) -> bool:
    """Whether moving every rank by the same distance moves the network onto itself."""
    topology = network.topology
    if network.hosts or topology.ranks != folded.mesh.size:
        return False
    grid = isinstance(topology, Torus) and topology.shape == folded.shape
    return grid or isinstance(topology, FullMesh)


def _compared(folded: Folded, network: Network) -> Iterator[tuple[int, Route]]:
    """Each distance that is sent to, and its route, once all ranks' routes have been compared."""
    ranks = range(folded.mesh.size)
    distances = sorted({i.peer for i in folded.instrs if i.op == Op.SEND and i.peer is not None})
    if len(distances) * len(ranks) > MOST_ROUTES:
        raise ProgramError(
            f"{len(distances)} distances from {len(ranks)} ranks are too many routes to compare:"
            " fold on a mesh, or on a torus of the mesh's own shape"
        )
    owner: dict[Hashable, int] = {}
    for far in distances:
        routes = [network.links(rank, folded.moved(far, rank)) for rank in ranks]
        yield far, _class_route(network, routes, owner, far)


def _class_route(
    network: Network,
    routes: list[tuple[Link, ...]],
    owner: dict[Hashable, int],
    far: int,
) -> Route:
    """One route over classes of links for all ranks' routes of one distance."""
    classes: list[Hashable] = []
    paces: list[Pace] = []
    lengths = {len(route) for route in routes}
    for hop in range(max(lengths)):
        links = {route[hop] for route in routes if hop < len(route)}
        owners = {owner.get(link) for link in links}
        speeds = {network.topology.pace(link) for link in links}
        one_kind = len(lengths) == len(owners) == len(speeds) == 1
        if not one_kind or len(links) < len(routes):
            raise ProgramError(
                f"messages {far} ranks on do not look alike from every rank of {network}:"
                " simulate it unfolded, or place the ranks along a ring of the torus"
            )
        known = owners.pop()
        name = len(owner) if known is None else known
        owner.update(dict.fromkeys(links, name))
        classes.append(name)
        paces.append(speeds.pop())
    return route_of(classes, paces)
