"""Does every gradient term reach every optimizer exactly once? Proved on names, without numbers.

Each backward instruction contributes one term, named by (unit, rank, microbatch), and each forward
wants it. Reading and
rewriting a gradient carries its terms along, messages and collectives as terms.py says. When an
optimizer updates weights, the gradients it reads must hold every term of those weights once: a
missing one is a reduction forgotten, a double one a reduction done twice. Weights whose gradient
a rank makes must be updated there, unless it received them; no term may go without an update.

Tensor parallelism sums some parts in place, beside their gradients: an update there must also read
marks that hold each term once which they stand for.

    wsum    where tasks cut a sequence over tp: the terms of every slice, since each rank has seen
            a part of the tokens with parameters that are whole everywhere
    csum    where key/value heads are held in copies: those of all ranks with the same heads
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from parallel_core.program import Instr, Op, Program, ProgramError, Value
from parallel_core.terms import Bag, Term, carry
from parallel_core.values import COPIES_SUM, GRADIENTS, TABLE, TABLE_PIECE, WHOLE_SUM

Piece = tuple[int | str, tuple[int, ...]]
"""A piece of the model by number, or "tie" (the head's share of a tied embedding), and which
slice of it: a rank's places along tp, and along any other axis that the program names for it."""

Slice = Callable[[int, int | str], tuple[int, ...]]
"""(rank, piece) -> which slice of the piece it has."""

WEIGHTS = frozenset({"w", "ws"})
"""Names of what an optimizer updates: weights, or this rank's shard of them."""

USED = frozenset({"w", "full"})
"""Names of what a forward uses: weights, or those that were gathered for it."""

Wanted = dict[Piece, set[Term]]


def prove(program: Program) -> int:
    """The number of terms proved; raises ProgramError naming the term that is wrong."""
    made: Wanted = defaultdict(set)

    slice_of = _slices(program)

    def contribute(rank: int, instr: Instr, bag: dict[Value, Bag]) -> None:
        if instr.op == Op.F:
            _forward(rank, instr, made, slice_of)
        elif instr.op in (Op.B, Op.W):
            _backward((rank, instr), bag, made, slice_of)

    bags = carry(program, [{} for _ in program.ranks], contribute)
    applied: set[Term] = set()
    marks = _sums_in_place(program)
    proved, updated, foreign = 0, _received(program), list[tuple[str, Term]]()
    for rank, index, instr in program:
        if instr.op == Op.O:
            at = f"rank {rank}, instruction {index} ({instr.label})"
            own = _wanted(instr, made, partial(_those_of, slice_of, (rank,)))
            mine = _read(instr, bags[rank], GRADIENTS)
            _holds_once(at, "gradient", mine, own)
            foreign += [(at, term) for term in sorted(set(mine) - own)]
            for mark, axis in marks:
                group = program.mesh.group(rank, axis)
                whole = replace(instr, reads=tuple(x for x in instr.reads if x != TABLE))
                sources = _wanted(whole, made, partial(_those_of, slice_of, group))
                what = f"part ({mark}, over {axis})"
                _holds_once(at, what, _read(instr, bags[rank], {mark}), sources)
            proved, applied = proved + len(own), applied | own
            updated |= {(rank, value.at[0]) for value in instr.reads if value.name in WEIGHTS}
    if not proved:
        raise ProgramError(f"{program.name}: no optimizer reads a gradient")
    _nothing_is_left(made, applied, updated)
    for at, (unit, source, mb) in foreign:
        which = f"{unit} from rank {source}, microbatch {mb}"
        raise ProgramError(f"{at} holds the gradient of {which}, which belongs to other weights")
    return proved


def _nothing_is_left(made: Wanted, applied: set[Term], updated: set[tuple[int, int | str]]) -> None:
    """Every gradient that is made updates weights, on the rank that makes it."""
    for (piece, _), terms in made.items():
        for where, rank, _ in sorted(terms):
            if piece != "tie" and (rank, piece) not in updated:
                raise ProgramError(f"rank {rank} never updates {where}, whose gradient it makes")
    for where, rank, mb in sorted(set().union(*made.values()) - applied):
        raise ProgramError(f"no update takes the gradient of {where} from rank {rank}, mb{mb}")


def _slices(program: Program) -> Slice:
    places = [program.mesh.coordinate(rank) for rank in range(program.mesh.size)]
    axes = {piece: [axis for axis, of in program.apart if piece in of] for piece in _every(program)}

    def slice_of(rank: int, piece: int | str) -> tuple[int, ...]:
        place = places[rank]
        return (place.get("tp", 0), *(place[axis] for axis in axes.get(piece, ())))

    return slice_of


def _every(program: Program) -> set[int | str]:
    return {piece for _, mine in program.apart for piece in mine}


def _those_of(slice_of: Slice, group: Sequence[int], piece: int | str) -> set[tuple[int, ...]]:
    return {slice_of(member, piece) for member in group}


def _sums_in_place(program: Program) -> list[tuple[str, str]]:
    """The names of marks that an update must read, and the axis that each is summed over."""
    inner = (m for _, _, task in program if task.op in (Op.F, Op.B) for m in task.inner)
    cuts = any(m.axis == "tp" and m.op != Op.ALL_REDUCE for m in inner)
    found = [(WHOLE_SUM, "tp")] if cuts else []
    return found + ([(COPIES_SUM, "kv_copy")] if program.mesh.degree("kv_copy") > 1 else [])


def _received(program: Program) -> set[tuple[int, int | str]]:
    """(rank, piece) of weights that a rank gets from elsewhere."""
    return {
        (rank, value.at[0])
        for rank, _, instr in program
        if instr.op == Op.RECV
        for value in instr.writes
        if value.name in WEIGHTS
    }


def _forward(rank: int, instr: Instr, made: Wanted, slice_of: Slice) -> None:
    """What keeps something for a backward wants the gradient of the weights that it used, whether
    or not there is one: its own, and a table's that is a piece by itself."""
    own = {value.at[1] for value in instr.writes if value.name == "saved"}
    for value in instr.reads if own else ():
        piece = value.at[0] if value.at else None
        if value.name in USED and piece is not None and piece in own | {TABLE_PIECE}:
            term = (_named(instr, piece), rank, instr.mb or 0)
            made[piece, slice_of(rank, piece)].add(term)


def _backward(
    which: tuple[int, Instr], bag: dict[Value, Bag], made: Wanted, slice_of: Slice
) -> None:
    rank, instr = which
    ties = any(value.name == "tie" for value in instr.writes)
    for value in instr.writes:
        if value.name not in GRADIENTS:
            continue
        takes = {value.name} | ({"tie"} if value.name == "grad" and not ties else set())
        before: Bag = Counter()
        for source in instr.reads:
            if source.name in takes and _same_piece(source, value):
                before += bag[source]
        piece: int | str = "tie" if value.name == "tie" else value.at[0]
        term = (_named(instr, piece), rank, instr.mb or 0)
        made[piece, slice_of(rank, piece)].add(term)
        bag[value] = before + Counter([term])


def _named(instr: Instr, piece: int | str) -> str:
    """What a task's gradient of a piece is called: two of one task are told apart."""
    return f"{instr.where} (tied)" if piece in ("tie", TABLE_PIECE) else instr.where


def _same_piece(before: Value, value: Value) -> bool:
    """Whether a gradient that a backward reads is of what it makes one of, or flows into it."""
    return "tie" in (before.name, value.name) or before.at[0] == value.at[0]


def _wanted(
    instr: Instr, made: Wanted, slices: Callable[[int | str], set[tuple[int, ...]]]
) -> set[Term]:
    """The terms of some slices of every weight that an optimizer updates."""
    pieces: set[int | str] = set()
    for value in instr.reads:
        if value.name in WEIGHTS:
            pieces |= {value.at[0]} | ({"tie"} if value.at[0] == 0 else set())
        elif value == TABLE:
            pieces |= {0, "tie"}
    found = (made.get((piece, place), set()) for piece in pieces for place in slices(piece))
    wanted = set().union(*found)
    if instr.mb is not None:  # an asynchronous update takes one microbatch's gradient
        wanted = {term for term in wanted if term[2] == instr.mb}
    return wanted


def _read(instr: Instr, bag: dict[Value, Bag], names: Collection[str]) -> Bag:
    """All terms in what an instruction reads under these names."""
    found: Bag = Counter()
    for value in instr.reads:
        if value.name in names:
            found += bag.get(value, Counter())
    return found


def _holds_once(at: str, what: str, found: Bag, wanted: set[Term]) -> None:
    for term in sorted(wanted):
        if found[term] != 1:
            unit, source, mb = term
            raise ProgramError(
                f"{at} holds the {what} of {unit}"
                f" from rank {source}, microbatch {mb}, {found[term]} times; once is right"
            )
