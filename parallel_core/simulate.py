"""The simulator: when does every instruction run, if it costs what a Cost says?

It knows two rules (program.py): a lane is in order, and reads wait for writes. A collective
starts when the last of its group has come; a receive ends when its message has arrived. A send
is *buffered* (done once the bytes are out) or *rendezvous* (it waits for its receive, as NCCL's
and gloo's do): under rendezvous a careless order deadlocks, and the error says who stands where.
A port (Lane.OUT, Lane.IN) is busy for as long as a message takes: it never carries two at once.

clockwork.py says how the times are found, network.py how messages share links.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from parallel_core.clockwork import Run
from parallel_core.collection import collection_paused
from parallel_core.cost import Cost, UnitCost
from parallel_core.inside import opened
from parallel_core.network import Hop, Network, Traffic
from parallel_core.numbered import Does, number
from parallel_core.program import Lane, Op, Program
from parallel_core.trace import Provenance, Span, Trace

Place = tuple[int, int]
"""(rank, index): one instruction."""

_TEXT = {word: word.value for kind in (Op, Lane) for word in kind}


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
    inside = opened(program)
    if inside is not None:
        program, cost = inside.program, inside.cost(cost)
    with collection_paused():
        run = Run(number(program), cost, rendezvous=rendezvous, traffic=traffic)
        run.finish()
        trace = trace_of(run, program.name, program.mesh.size, network)
    if inside is not None:
        trace = inside.closed(trace)
    return Carried(trace, tuple(traffic.hops) if traffic else ())


def run_order(program: Program, *, rendezvous: bool) -> list[tuple[Place, ...]]:
    """An order in which the program can run; the members of a collective stand together.

    Raises ProgramError on a deadlock.
    """
    with collection_paused():
        work = number(program)
        run = Run(work, UnitCost(), rendezvous=rendezvous)
        run.finish()
        places = [(rank, at - run.first[rank]) for at, rank in enumerate(work.rank)]
        return [tuple([places[at] for at in together]) for together in run.order]


def trace_of(run: Run, name: str, world_size: int, network: Network | None) -> Trace:
    """The spans of a finished run."""
    notes = ([] if network is None else [str(network)]) + ["rendezvous sends"] * run.rendezvous
    provenance = Provenance(
        kind=run.cost.kind, title=name, backend=run.cost.text, notes=tuple(notes)
    )
    say = str if network is None else network.say
    queued = {send: f"waited for link {say(link)}" for send, link in run.queued.items()}
    return Trace(tuple(_spans(run, queued)), provenance, world_size)


def _spans(run: Run, queued: dict[int, str]) -> Iterator[Span]:
    """One span an instruction; `queued` says of a send which link it had to wait for."""
    work = run.work
    posts, starts, dones = ([round(1e9 * t) for t in ts] for ts in (run.post, run.start, run.done))
    columns = zip(
        work.instrs, work.rank, work.does, posts, starts, dones, _memory(run), strict=True
    )
    for at, (instr, rank, does, post, start, done, memory) in enumerate(columns):
        first = run.first[rank]
        meets = does >= Does.MEET
        busy = instr.lane is Lane.COMPUTE and does != Does.WAIT
        yield Span(
            rank=rank,
            step=0,
            index=at - first,
            lane=_TEXT[instr.lane],
            op=_TEXT[instr.op],
            where=instr.where,
            mb=instr.mb,
            t_post=post,
            t_start=start,
            t_done=done,
            cpu_ns=done - start if busy else 0,
            bytes=run.cost.payload(instr) if meets else 0,
            axis=instr.axis,
            peers=work.peers[at],
            seq=work.seq[at],
            memory=memory,
            deps=work.deps(at, first),
            source=queued.get(at, ""),
        )


def _memory(run: Run) -> list[int]:
    """Live bytes of its rank after each instruction, in order of their ends."""
    work, count = run.work, len(run.work.instrs)
    known = {value: run.cost.bytes(value) for value in set(work.values)}
    sizes = [known[value] for value in work.values]
    memory = [0] * count
    for rank, held in enumerate(work.held):
        live = sum([sizes[slot] for slot in held])
        last = run.first[rank + 1]
        for at in sorted(range(run.first[rank], last), key=run.done.__getitem__):
            for slot in work.writes[at]:
                live += sizes[slot]
            for slot in work.frees[at]:
                live -= sizes[slot]
            memory[at] = live
    return memory
