"""What a collective would take on a cluster that is not here: simulated, no process is started.

    no topology    a link of its own between every two ranks, all alike
    a topology     messages take their routes and queue where links are busy (network.py)

Two all-reduces are the same seen from every rank and are written down as what one rank does, so
that thousands of ranks cost no more than one (folding.py): the *ring*, and *torus*, which goes
along one dimension of a torus after the other. Others are built message by message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from parallel_core.collectives.clock import CollectiveCost, collective_cost, no_link
from parallel_core.collectives.costs import algorithm_bandwidth, bus_bandwidth, counted
from parallel_core.collectives.formulas import FORMULAS
from parallel_core.collectives.request import WIDTHS, CollectiveRequest
from parallel_core.collectives.torus import torus_all_reduce, value_bytes
from parallel_core.cost import Link
from parallel_core.fields import PlanError
from parallel_core.folding import Folded, simulate_folded, spread
from parallel_core.hardware.topology import Link as Cable
from parallel_core.hardware.topology import Topology
from parallel_core.hardware.torus import Torus
from parallel_core.network import Network
from parallel_core.program import Op, Program
from parallel_core.simulate import simulate
from parallel_core.trace import Trace

TORUS = "torus"
"""The all-reduce that goes dimension by dimension; it needs a torus, so it runs nowhere here."""

SPELLED_OUT = 64
"""Up to so many ranks every rank's instructions are laid out, and the trace holds them all."""

MOST_MOVES = 200_000
"""Messages, and chunks of all ranks, that are simulated one by one; more take too long."""


@dataclass(frozen=True)
class Forecast:
    """A simulated collective: its trace, and what was counted on the way.

    `sent` is the bytes that the busiest rank sends, `cable` the link that is busy longest, the
    bytes it carries and the seconds that takes (None without a topology). Where many ranks are
    folded, the trace holds the spans of rank 0 alone.
    """

    request: CollectiveRequest
    algorithm: str
    trace: Trace
    messages: int
    steps: int
    sent: int
    folded: bool
    topology: Topology | None
    cable: tuple[str, int, float] | None = None

    @property
    def seconds(self) -> float:
        """From the first start to the last end."""
        return self.trace.makespan / 1e9

    def report(self) -> dict[str, Any]:
        """What `shardlab collective --simulate --json` prints."""
        asked, seconds = self.request, self.seconds
        return {
            "request": asked.flat() | {"algorithm": self.algorithm, "repeats": 1},
            "steps": self.steps,
            "messages": self.messages,
            "bytes_sent_busiest_rank": self.sent,
            "seconds": seconds,
            "bandwidth": {
                "algorithm_gb_s": algorithm_bandwidth(asked.bytes, seconds) / 1e9,
                "bus_gb_s": bus_bandwidth(asked.op, asked.ranks, asked.bytes, seconds) / 1e9,
            }
            if seconds and asked.op not in ("barrier", "send_recv")
            else {},
            "folded": self.folded,
            "topology": self._topology(),
            "provenance": {
                "kind": self.trace.kind.value,
                "badge": self.trace.provenance.badge,
            },
        }

    def _topology(self) -> dict[str, Any] | None:
        if self.topology is None or self.cable is None:
            return None
        name, carried, busy = self.cable
        return {
            "text": self.topology.text,
            "ranks": self.topology.ranks,
            "bisection_links": self.topology.bisection,
            "bisection_gb_s": self.topology.bisection_bandwidth / 1e9,
            "diameter": self.topology.diameter,
            "busiest_link": {
                "name": name,
                "bytes": carried,
                "busy_share": busy / self.seconds if self.seconds else 0.0,
            },
        }


def forecast(
    request: CollectiveRequest,
    link: Link,
    topology: Topology | None = None,
    *,
    along_dimensions: bool = False,
) -> Forecast:
    """Simulate `request` over `link`s, or on a topology (whose own cables then count).

    `along_dimensions` takes the all-reduce of a torus in place of the request's algorithm. Raises
    PlanError for more ranks or messages than can be simulated, or than the topology has hosts.
    """
    network = None if topology is None else Network(topology)
    if network is not None:
        network.must_hold(request.ranks)
    folded = _folded(request, topology, along_dimensions)
    if folded is not None:
        return _of_folded(request, folded, link, network)
    _must_be_bearable(request, topology)
    program = request.program
    width = WIDTHS[request.dtype]
    wires = link if network is None else None
    cost = collective_cost(program, request.bytes, wires, itemsize=width)
    tally = counted(program, request.elements, itemsize=width)
    return Forecast(
        request,
        request.algorithm,
        simulate(program, cost, rendezvous=True, network=network),
        messages=tally.messages,
        steps=tally.steps,
        sent=tally.sent_max,
        folded=False,
        topology=topology,
        cable=_busiest(topology, _carried(program, cost, topology)) if topology else None,
    )


def _folded(
    request: CollectiveRequest, topology: Topology | None, along_dimensions: bool
) -> Folded | None:
    """The request as what one rank does, where that is all there is to know."""
    if along_dimensions:
        shape = _shape(request, topology)
        return torus_all_reduce([size for size in shape if size > 1])
    ring = (request.op, request.algorithm) == ("all_reduce", "ring")
    equal = request.elements % request.ranks == 0
    plain = topology is None or (isinstance(topology, Torus) and topology.shape == (request.ranks,))
    if ring and equal and plain and request.ranks > SPELLED_OUT:
        return torus_all_reduce((request.ranks,))
    return None


def _shape(request: CollectiveRequest, topology: Topology | None) -> tuple[int, ...]:
    """The torus to go along; PlanError if it is none, or not full, or its blocks are not equal."""
    if request.op != "all_reduce":
        raise PlanError("op", request.op, "has no algorithm that goes along a torus", "all_reduce")
    if not isinstance(topology, Torus) or topology.ranks != request.ranks:
        text = "none" if topology is None else topology.text
        rule = f"must be a torus of the {request.ranks} ranks, for algorithm={TORUS}"
        raise PlanError("topology", text, rule, f"torus:{request.ranks}")
    if request.elements % request.ranks:
        near = max(request.elements // request.ranks, 1) * request.ranks * WIDTHS[request.dtype]
        rule = f"must divide into {request.ranks} equal blocks, for algorithm={TORUS}"
        raise PlanError("bytes", request.bytes, rule, near)
    return topology.shape


def _of_folded(
    request: CollectiveRequest, folded: Folded, link: Link, network: Network | None
) -> Forecast:
    shape = folded.shape
    cost = CollectiveCost(
        size=value_bytes(shape, request.bytes),
        wires=no_link if network else lambda source, target: link,
        text="adds free" if network else f"{link}, adds free",
    )
    sends = [instr for instr in folded.instrs if instr.op == Op.SEND]
    topology = network.topology if network else None
    carried: Counter[Cable] = Counter()
    if topology is not None:
        # links that differ by a move of the whole torus carry the same: one stands for its class
        for instr in sends:
            for a, b in topology.route(0, instr.peer or 0):
                carried[0, folded.moved(b, a, back=True)] += cost.payload(instr)
    trace = simulate_folded(folded, cost, rendezvous=True, network=network)
    return Forecast(
        request,
        "ring" if len(shape) == 1 else TORUS,
        spread(folded, trace) if request.ranks <= SPELLED_OUT else trace,
        messages=len(sends) * request.ranks,
        steps=len(sends),
        sent=sum(map(cost.payload, sends)),
        folded=True,
        topology=topology,
        cable=_busiest(topology, carried) if topology else None,
    )


def _carried(program: Program, cost: CollectiveCost, topology: Topology) -> Counter[Cable]:
    """Bytes over every link of the topology that is used."""
    between: Counter[Cable] = Counter()
    for source, target, size in _messages(program, cost):
        between[source, target] += size
    carried: Counter[Cable] = Counter()
    for (source, target), size in between.items():
        for cable in topology.route(source, target):
            carried[cable] += size
    return carried


def _messages(program: Program, cost: CollectiveCost) -> Iterator[tuple[int, int, int]]:
    """Source, target and bytes of every message."""
    for rank, _, instr in program:
        if instr.op == Op.SEND and instr.peer is not None:
            yield rank, instr.peer, cost.payload(instr)


def _busiest(topology: Topology, carried: Counter[Cable]) -> tuple[str, int, float]:
    """Name, bytes and busy seconds of the link that needs longest for its bytes."""
    busy = {cable: size / topology.pace(cable).bandwidth for cable, size in carried.items()}
    if not busy:
        return "none", 0, 0.0
    worst = max(busy, key=lambda cable: busy[cable])
    name = " > ".join(topology.name(vertex) for vertex in worst)
    return name, carried[worst], busy[worst]


def _must_be_bearable(request: CollectiveRequest, topology: Topology | None) -> None:
    moves = _moves(request, request.ranks)
    if moves <= MOST_MOVES:
        return
    rule = f"is {moves:,} messages and chunks, more than the {MOST_MOVES:,} simulated one by one"
    full = isinstance(topology, Torus) and topology.ranks == request.ranks
    if full and request.op == "all_reduce":
        raise PlanError("algorithm", request.algorithm, f"on {request.ranks:,} ranks {rule}", TORUS)
    near = request.ranks
    while near > 2 and _moves(request, near) > MOST_MOVES:
        near = max(near // 2, 2)
    raise PlanError("ranks", request.ranks, rule, near)


def _moves(request: CollectiveRequest, ranks: int) -> int:
    """Messages of so many ranks, and the chunks that each of them keeps account of."""
    formula, group = (
        FORMULAS[request.op][request.algorithm],
        replace(request.group, n=ranks, root=0),
    )
    return formula.messages(group) + formula.chunks(group) * ranks
