"""Is a program legal? Each rule is one sentence, and the first break of it is named.

    written before read     a value is read only after its one write (or held at the start)
    written once            a name is a moment: nothing is written twice
    freed once, last        nothing is read after its free, and nothing is left over at the end
    messages meet           per group the same collectives in the same order; per (source,
                            destination) as many sends as receives (NCCL matches them in order)
    no deadlock             every lane reaches its end, also when a send waits for its receive

The order within a lane is the program's; across lanes only values order things. So a value may be
freed on one lane only if its readers on the others are known to be done by then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from parallel_core.inside import opened
from parallel_core.program import Instr, Lane, Op, Program, ProgramError, Value
from parallel_core.simulate import run_order

Place = tuple[int, Instr]
"""An instruction and its index on its rank."""


def check(program: Program) -> None:
    """Raises ProgramError with one sentence if the program breaks a rule."""
    for rank in range(program.mesh.size):
        _values_live_once(program, rank)
        _frees_come_last(program, rank)
    inside = opened(program)
    whole = program if inside is None else inside.program  # ranks meet inside their tasks as well
    _collectives_agree(whole)
    _sends_meet_receives(whole)
    run_order(whole, rendezvous=True)  # raises on deadlock


def _at(rank: int, index: int, instr: Instr) -> str:
    return f"rank {rank}, instruction {index} ({instr.label})"


def _values_live_once(program: Program, rank: int) -> None:
    writer: dict[Value, int] = dict.fromkeys(program.holds[rank], -1)
    for index, instr in enumerate(program.ranks[rank]):
        if len(set(instr.frees)) < len(instr.frees):
            raise ProgramError(f"{_at(rank, index, instr)} frees a value twice: name it once")
        for value in instr.writes:
            if value in writer:
                raise ProgramError(
                    f"{_at(rank, index, instr)} writes {value} a second time: give it a new name"
                )
            writer[value] = index
    freed: dict[Value, int] = {}
    for index, instr in enumerate(program.ranks[rank]):
        for value in (*instr.reads, *instr.frees):
            _is_there(value, writer, freed, _at(rank, index, instr), index)
        for value in instr.frees:
            freed[value] = index
    left = [value for value in writer if value not in freed]
    over = set(left) - set(program.keeps[rank])
    if over:
        raise ProgramError(
            f"rank {rank} never frees {min(over)}: free it after its last use, or keep it"
        )
    if missing := set(program.keeps[rank]) - set(left):
        raise ProgramError(f"rank {rank} promises to keep {min(missing)} but does not have it")


def _frees_come_last(program: Program, rank: int) -> None:
    """No lane frees what another lane may still be reading."""
    known = _finished_before(program.ranks[rank])
    readers: dict[Value, list[int]] = defaultdict(list)
    for index, instr in enumerate(program.ranks[rank]):
        for value in instr.reads:
            readers[value].append(index)
    for index, instr in enumerate(program.ranks[rank]):
        for value in instr.frees:
            for reader in readers[value]:
                other = program.ranks[rank][reader]
                if reader != index and known[index].get(other.lane, -1) < reader:
                    raise ProgramError(
                        f"{_at(rank, index, instr)} frees {value} while instruction {reader}"
                        f" ({other.label}) on the {other.lane.value} lane may still read it: let"
                        " the later of the two free it"
                    )


def _finished_before(instrs: Sequence[Instr]) -> list[dict[Lane, int]]:
    """Per instruction and lane, the last index that is surely done when the instruction starts."""
    known: list[dict[Lane, int]] = []
    writer: dict[Value, int] = {}
    last: dict[Lane, int] = {}
    for index, instr in enumerate(instrs):
        causes = {writer[value] for value in instr.reads if value in writer}
        causes |= {last[instr.lane]} if instr.lane in last else set()
        mine: dict[Lane, int] = {}
        for cause in causes:
            for lane, done in (*known[cause].items(), (instrs[cause].lane, cause)):
                mine[lane] = max(mine.get(lane, -1), done)
        known.append(mine)
        last[instr.lane] = index
        writer.update(dict.fromkeys(instr.writes, index))
    return known


def _is_there(
    value: Value, writer: dict[Value, int], freed: dict[Value, int], at: str, index: int
) -> None:
    if value not in writer:
        raise ProgramError(f"{at} reads {value}, which nothing on this rank writes")
    if writer[value] >= index:
        raise ProgramError(f"{at} reads {value} before instruction {writer[value]} writes it")
    if value in freed:
        raise ProgramError(f"{at} uses {value} after instruction {freed[value]} freed it")


def _collectives_agree(program: Program) -> None:
    calls: dict[tuple[str, int], list[tuple[int, Instr]]] = defaultdict(list)
    for rank, index, instr in program:
        if instr.op.is_collective:
            if instr.axis is None:
                raise ProgramError(f"{_at(rank, index, instr)} names no mesh axis: give it one")
            calls[instr.axis, rank].append((index, instr))
    for axis in program.mesh.names:
        for group in program.mesh.groups(axis):
            first = group[0]
            for rank in group[1:]:
                _same_calls(calls[axis, first], calls[axis, rank], axis, (first, rank))


def _same_calls(
    ours: list[tuple[int, Instr]],
    theirs: list[tuple[int, Instr]],
    axis: str,
    ranks: tuple[int, int],
) -> None:
    for (i, a), (j, b) in zip(ours, theirs, strict=False):
        if (a.op, a.where, len(a.writes)) != (b.op, b.where, len(b.writes)):
            raise ProgramError(
                f"collectives on {axis} differ: {_at(ranks[0], i, a)} meets {_at(ranks[1], j, b)};"
                " every rank of a group must call them in one order"
            )
    if len(ours) != len(theirs):
        short = ranks[0] if len(ours) < len(theirs) else ranks[1]
        index, instr = max(ours, theirs, key=len)[min(len(ours), len(theirs))]
        raise ProgramError(
            f"rank {short} never joins {instr.label} on {axis} (instruction {index} of the others)"
        )


def _sends_meet_receives(program: Program) -> None:
    lines: dict[tuple[int, int], tuple[list[Place], list[Place]]] = defaultdict(lambda: ([], []))
    for rank, index, instr in program:
        if not instr.op.is_p2p:
            continue
        if instr.peer is None or not 0 <= instr.peer < program.mesh.size or instr.peer == rank:
            raise ProgramError(f"{_at(rank, index, instr)} has no other rank as its peer")
        if instr.op == Op.SEND:
            lines[rank, instr.peer][0].append((index, instr))
        else:
            lines[instr.peer, rank][1].append((index, instr))
    for (source, destination), (sends, receives) in lines.items():
        extra = len(sends) - len(receives)
        if extra:
            more, fewer = ("sends", "receives") if extra > 0 else ("receives", "sends")
            raise ProgramError(
                f"from rank {source} to rank {destination} there are {abs(extra)} more {more}"
                f" than {fewer}"
            )
        _first_in_first_out((source, destination), sends, receives)


def _first_in_first_out(pair: tuple[int, int], sends: list[Place], receives: list[Place]) -> None:
    """The k-th receive of a pair takes the k-th send: the same `where` and microbatch on both.

    Values are a rank's own: their names, and how many a message is cut into, may differ.
    """
    for (i, send), (j, receive) in zip(sends, receives, strict=True):
        if (send.where, send.mb) != (receive.where, receive.mb):
            raise ProgramError(
                f"messages from rank {pair[0]} to rank {pair[1]} arrive in the order they are sent:"
                f" {_at(pair[0], i, send)} sends {_list(send.reads)} where"
                f" {_at(pair[1], j, receive)} expects {_list(receive.writes)}"
            )


def _list(values: tuple[Value, ...]) -> str:
    return " ".join(map(str, values)) or "nothing"
