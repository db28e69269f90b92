"""Does a collective keep its promise? Proved on names: every chunk, every term exactly once.

Each input is a term. terms.py carries them through the program; in the end every value promised
must be there, on its rank, with just the terms it was promised (promise.py), each of them once.
"""

from __future__ import annotations

from collections import Counter

from parallel_core.collectives.group import CollectiveError, Group
from parallel_core.collectives.names import chunks
from parallel_core.collectives.promise import promise, term
from parallel_core.program import Program, Value
from parallel_core.terms import Bag, Term, carry


def prove_collective(op: str, program: Program, *, root: int = 0) -> int:
    """The number of terms proved; CollectiveError names the rank, the value and the term at fault.

    The program may be anybody's: only its holds, its keeps and where the terms end up count.
    """
    group = Group(program.mesh.size, root=root)
    promised = promise(op, group, chunks(program))
    for rank in group.ranks:
        _same(rank, "holds", program.holds[rank], promised.holds[rank])
        _same(rank, "keeps", program.keeps[rank], promised.keeps[rank])
    held = [{value: Counter([term(r, value)]) for value in program.holds[r]} for r in group.ranks]
    bags = carry(program, held)
    proved = 0
    for rank, ends in enumerate(promised.ends):
        for value, terms in ends.items():
            if value not in bags[rank]:
                raise CollectiveError(f"{op}: rank {rank} ends without {value}")
            proved += _exactly(f"{op}: {value} of rank {rank}", bags[rank][value], terms)
    return proved


def _same(rank: int, verb: str, has: tuple[Value, ...], should: tuple[Value, ...]) -> None:
    if odd := set(has) ^ set(should):
        one = min(odd)
        says = "but the op does not say so" if one in has else "as the op says it must, not at all"
        raise CollectiveError(f"rank {rank} {verb} {one}, {says}")


def _exactly(what: str, bag: Bag, terms: frozenset[Term]) -> int:
    for one in sorted({*bag, *terms}):
        wanted = int(one in terms)
        if bag[one] != wanted:
            name, rank, index = one
            right = "once is right" if wanted else "it has no place there"
            raise CollectiveError(
                f"{what} holds rank {rank}'s {name}[{index}] {bag[one]} times; {right}"
            )
    return len(terms)
