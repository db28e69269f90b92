"""Does every gradient term reach every optimizer exactly once? Proved on names, without numbers.

Each backward instruction contributes one term, named by (unit, rank, microbatch), and each forward
wants it. Reading and
rewriting a gradient carries its terms along, messages and collectives as terms.py says. When an
optimizer updates weights, the gradients it reads must hold every term of those weights once: a
missing one is a reduction forgotten, a double one a reduction done twice. Weights whose gradient
a rank makes must be updated there, unless it received them; no term may go without an update.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from parallel_core.program import Instr, Op, Program, ProgramError, Value
from parallel_core.terms import Bag, Term, carry
from parallel_core.values import GRADIENTS, TABLE

Piece = tuple[int | str, int]
"""A piece of the model by number, or "tie" (the head's share of a tied embedding), and which
slice of it: a rank's place along tp."""

WEIGHTS = frozenset({"w", "ws"})
"""Names of what an optimizer updates: weights, or this rank's shard of them."""

Wanted = dict[Piece, set[Term]]


def prove(program: Program) -> int:
    """The number of terms proved; raises ProgramError naming the term that is wrong."""
    made: Wanted = defaultdict(set)

    def slice_of(rank: int) -> int:
        return program.mesh.coordinate(rank).get("tp", 0)

    def contribute(rank: int, instr: Instr, bag: dict[Value, Bag]) -> None:
        if instr.op == Op.F:
            _forward((rank, slice_of(rank)), instr, made)
        elif instr.op in (Op.B, Op.W):
            _backward((rank, slice_of(rank)), instr, bag, made)

    bags = carry(program, [{} for _ in program.ranks], contribute)
    applied: set[Term] = set()
    proved, updated = 0, _received(program)
    for rank, index, instr in program:
        if instr.op == Op.O:
            at = f"rank {rank}, instruction {index} ({instr.label})"
            terms = _complete(at, instr, bags[rank], _slice(made, slice_of(rank)))
            proved, applied = proved + len(terms), applied | terms
            updated |= {(rank, value.at[0]) for value in instr.reads if value.name in WEIGHTS}
    if not proved:
        raise ProgramError(f"{program.name}: no optimizer reads a gradient")
    _nothing_is_left(made, applied, updated)
    return proved


def _nothing_is_left(made: Wanted, applied: set[Term], updated: set[tuple[int, int | str]]) -> None:
    """Every gradient that is made updates weights, on the rank that makes it."""
    for (piece, _), terms in made.items():
        for where, rank, _ in sorted(terms):
            if piece != "tie" and (rank, piece) not in updated:
                raise ProgramError(f"rank {rank} never updates {where}, whose gradient it makes")
    for where, rank, mb in sorted(set().union(*made.values()) - applied):
        raise ProgramError(f"no update takes the gradient of {where} from rank {rank}, mb{mb}")


def _slice(made: Wanted, place: int) -> dict[int | str, set[Term]]:
    """What was made of one slice, by piece."""
    found: dict[int | str, set[Term]] = defaultdict(set)
    return found | {piece: terms for (piece, at), terms in made.items() if at == place}


def _received(program: Program) -> set[tuple[int, int | str]]:
    """(rank, piece) of weights that a rank gets from elsewhere."""
    return {
        (rank, value.at[0])
        for rank, _, instr in program
        if instr.op == Op.RECV
        for value in instr.writes
        if value.name in WEIGHTS
    }


def _forward(where: tuple[int, int], instr: Instr, made: Wanted) -> None:
    """What keeps something for a backward wants its gradient, whether or not there is one."""
    rank, place = where
    for value in instr.writes:
        if value.name == "saved":
            made[value.at[1], place].add((instr.where, rank, instr.mb or 0))


def _backward(where: tuple[int, int], instr: Instr, bag: dict[Value, Bag], made: Wanted) -> None:
    rank, place = where
    ties = any(value.name == "tie" for value in instr.writes)
    for value in instr.writes:
        if value.name not in GRADIENTS:
            continue
        takes = {value.name} | ({"tie"} if value.name == "grad" and not ties else set())
        before: Bag = Counter()
        for source in instr.reads:
            if source.name in takes:
                before += bag[source]
        tied = value.name == "tie"
        term = (f"{instr.where} (tied)" if tied else instr.where, rank, instr.mb or 0)
        made["tie" if tied else value.at[0], place].add(term)
        bag[value] = before + Counter([term])


def _complete(
    at: str, instr: Instr, bag: dict[Value, Bag], made: dict[int | str, set[Term]]
) -> set[Term]:
    """Every weight that an optimizer updates needs each of its terms once; those terms."""
    found: Bag = Counter()
    for value in instr.reads:
        if value.name in GRADIENTS:
            found += bag.get(value, Counter())
    wanted: set[Term] = set()
    for value in instr.reads:
        if value.name in WEIGHTS:
            wanted |= made[value.at[0]] | (made["tie"] if value.at[0] == 0 else set())
        elif value == TABLE:
            wanted |= made[0] | made["tie"]
    if instr.mb is not None:  # an asynchronous update takes one microbatch's gradient
        wanted = {term for term in wanted if term[2] == instr.mb}
    for term in sorted(wanted):
        if found[term] != 1:
            unit, source, mb = term
            raise ProgramError(
                f"{at} holds the gradient of {unit}"
                f" from rank {source}, microbatch {mb}, {found[term]} times; once is right"
            )
    return wanted
