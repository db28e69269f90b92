"""The simulator: when does every instruction run, if it costs what a Cost says?

It knows two rules (program.py): a lane is in order, and reads wait for writes. A collective
starts when the last of its group has come; a receive ends when its message has arrived. A send
is *buffered* (done once the bytes are out) or *rendezvous* (it waits for its receive, as NCCL's
and gloo's do): under rendezvous a careless order deadlocks, and the error says who stands where.
A port (Lane.OUT, Lane.IN) is busy for as long as a message takes: it never carries two at once.

Lanes are in order, so no event queue is needed: each lane runs until it meets something that is
not there yet, and whatever writes that wakes it. One visit an instruction. Only messages that
share links (network.py) are taken in order of time, and those only when no lane can go on:
whatever starts later cannot have been first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from parallel_core.cost import Cost, UnitCost
from parallel_core.network import Hop, Network, Traffic
from parallel_core.numbered import Does, number
from parallel_core.program import Instr, Program
from parallel_core.trace import Trace

Place = tuple[int, int]
"""(rank, index): one instruction."""

Seconds = Callable[[int, Instr], float]
_WORK, _WAIT, _MEET, _SEND, _RECV = Does


def simulate(
    program: Program, cost: Cost, *, rendezvous: bool = False, network: Network | None = None
) -> Trace:
    """The program's trace under `cost`; times are nanoseconds since the start.

    On a `network`, SENDs take the links of their routes instead of what `cost` says, and queue
    where a link is busy. Raises ProgramError on a deadlock.
    """
    return simulate_on(program, cost, network, rendezvous=rendezvous).trace


@dataclass(frozen=True)
class Carried:
    """A run on a network: its trace, and every link every message took, in order of time."""

    trace: Trace
    hops: tuple[Hop, ...]


def simulate_on(
    program: Program, cost: Cost, network: Network | None, *, rendezvous: bool = False
) -> Carried:
    """As `simulate`, with what happened on the links."""
    if network is not None:
        network.must_hold(program.mesh.size)
    traffic = None if network is None else Traffic(network.route)
    run = Run(number(program), cost, rendezvous=rendezvous, traffic=traffic)
    run.finish()
    trace = run.trace(program.name, program.mesh.size, str(network or ""))
    return Carried(trace, tuple(traffic.hops) if traffic else ())


def run_order(program: Program, *, rendezvous: bool) -> list[tuple[Place, ...]]:
    """An order in which the program can run; the members of a collective stand together.

    Raises ProgramError on a deadlock.
    """
    work = number(program)
    run = Run(work, UnitCost(), rendezvous=rendezvous)
    run.finish()
    first = _firsts(work)
    places = [(rank, at - first[rank]) for at, rank in enumerate(work.rank)]
    return [tuple([places[at] for at in together]) for together in run.order]
