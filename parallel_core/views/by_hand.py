"""A collective worked through by hand, on anything that can be added.

Messages and additions without a clock: whoever can go on goes on, until nobody can. The same lines
carry small integers (12 + 7 = 19) and bags of terms (whose contributions a value holds).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from parallel_core.program import Instr, Op, Program, ProgramError, Value

Thing = TypeVar("Thing")


def by_hand(
    program: Program,
    start: Sequence[Mapping[Value, Thing]],
    add: Callable[[Sequence[Thing]], Thing],
) -> list[dict[Value, Thing]]:
    """Per rank everything it ever holds, if it starts with `start`; freed values are kept.

    Raises ProgramError for an op that is neither a message nor an addition, and where ranks wait
    for each other.
    """
    held = [dict(values) for values in start]
    wires: dict[tuple[int, int], deque[list[Thing]]] = defaultdict(deque)
    lanes = [(rank, lane) for rank in range(program.mesh.size) for lane in _lanes(program, rank)]
    moved = True
    while moved:
        moved = False
        for rank, lane in lanes:
            while lane and _can(rank, lane[0], held[rank], wires):
                _do(rank, lane.popleft(), held[rank], wires, add)
                moved = True
    for rank, lane in lanes:
        if lane:
            raise ProgramError(f"rank {rank} waits at {lane[0].label} for ever: nobody sends it")
    return held


def _lanes(program: Program, rank: int) -> list[deque[Instr]]:
    found: dict[str, deque[Instr]] = {}
    for instr in program.ranks[rank]:
        if not (instr.op.is_p2p or instr.op in (Op.ADD, Op.WAIT)):
            raise ProgramError(
                f"rank {rank} has {instr.label}: spell it out in sends, receives and additions"
            )
        found.setdefault(instr.lane, deque()).append(instr)
    return list(found.values())


def _can(
    rank: int,
    instr: Instr,
    held: Mapping[Value, Thing],
    wires: Mapping[tuple[int, int], deque[list[Thing]]],
) -> bool:
    if instr.op == Op.RECV:
        return bool(wires.get((instr.peer or 0, rank)))
    return all(value in held for value in instr.reads)


def _do(
    rank: int,
    instr: Instr,
    held: dict[Value, Thing],
    wires: dict[tuple[int, int], deque[list[Thing]]],
    add: Callable[[Sequence[Thing]], Thing],
) -> None:
    things = [held[value] for value in instr.reads]
    if instr.op == Op.SEND:
        wires[rank, instr.peer or 0].append(things)
    elif instr.op == Op.RECV:
        held.update(zip(instr.writes, wires[instr.peer or 0, rank].popleft(), strict=True))
    elif instr.op == Op.ADD:
        row = len(instr.writes)
        held.update((value, add(things[c::row])) for c, value in enumerate(instr.writes))
