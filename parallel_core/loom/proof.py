"""Is every part of every sum in it exactly once, before anything that is not linear touches it?

A product whose inner dim is cut makes one term on each rank. Messages carry the terms along as
terms.py says. A nonlinearity, another product and the end of the program must find either no terms
or all of a sum's, once each: then the value stands for the whole sum. Proved on names, without
numbers, so it holds for every size.
"""

from __future__ import annotations

from collections import Counter

from parallel_core.loom.weave import Kind, Weave
from parallel_core.program import Instr, Program, ProgramError, Value
from parallel_core.terms import Bag, Term, carry


def prove(weave: Weave, program: Program | None = None) -> int:
    """The number of terms proved; ProgramError names what uses a sum that is not complete.

    `program` stands in for the weave's own: the same instructions, changed by somebody.
    """
    judged = program or weave.program
    made: set[Term] = set()
    found: set[Term] = set()

    def contribute(rank: int, instr: Instr, bags: dict[Value, Bag]) -> None:
        step = weave.step(instr.where)
        for value in instr.reads:
            at = f"rank {rank}: {step.kind.value} {instr.where} reads {value}"
            found.update(_whole(at, bags.get(value, Counter()), judged))
        terms: list[Term] = []
        if step.kind == Kind.PRODUCT and weave.layouts[step.writes].partial:
            terms = [(instr.where, rank, 0)]
        made.update(terms)
        bags[step.writes] = Counter(terms)

    bags = carry(judged, [{} for _ in judged.ranks], contribute)
    for rank, held in enumerate(bags):
        for value in weave.outputs:
            at = f"rank {rank}: the end keeps {value}"
            found.update(_whole(at, held.get(value, Counter()), judged))
    for name, rank, _ in sorted(made - found):
        raise ProgramError(f"no result has the part of {name} from rank {rank}: sum it in")
    return len(found)


def _whole(at: str, bag: Bag, program: Program) -> set[Term]:
    """The terms of a bag that is empty or a complete sum; ProgramError for any other."""
    names = {term[0] for term in bag}
    wanted = {(name, rank, 0) for name in names for rank in range(program.mesh.size)}
    for term in sorted(wanted):
        if bag[term] != 1:
            times = f"counts {bag[term]} times" if bag[term] else "is missing"
            raise ProgramError(
                f"{at}, in which rank {term[1]}'s part {times}: sum the parts once, before it"
            )
    return wanted
