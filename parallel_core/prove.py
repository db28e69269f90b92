"""Does every gradient term reach every optimizer exactly once? Proved on names, without numbers.

Each backward instruction contributes one term, named by (unit, rank, microbatch). Reading and
rewriting a gradient carries its terms along, messages and collectives as terms.py says. When an
optimizer reads a gradient, its bag of terms must hold every term of its units once: a missing one
is a reduction forgotten, a double one a reduction done twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from parallel_core.program import Instr, Op, Program, ProgramError, Value
from parallel_core.terms import Bag, Term, carry
from parallel_core.values import GRADIENTS


def prove(program: Program) -> int:
    """The number of terms proved; raises ProgramError naming the term that is wrong."""
    made: dict[str, set[Term]] = defaultdict(set)

    def contribute(rank: int, instr: Instr, bag: dict[Value, Bag]) -> None:
        if instr.op in (Op.B, Op.W):
            _backward(rank, instr, bag, made)

    bags = carry(program, [{} for _ in program.ranks], contribute)
    wanted = sorted(term for terms in made.values() for term in terms)
    optimizers = [(rank, index, instr) for rank, index, instr in program if instr.op == Op.O]
    for rank, index, instr in optimizers:
        _complete(f"rank {rank}, instruction {index} ({instr.label})", instr, bags[rank], wanted)
    if not (optimizers and wanted):
        raise ProgramError(f"{program.name}: no optimizer reads a gradient")
    return len(optimizers) * len(wanted)


def _backward(rank: int, instr: Instr, bag: dict[Value, Bag], made: dict[str, set[Term]]) -> None:
    for value in instr.writes:
        if value.name in GRADIENTS:
            before: Bag = Counter()
            for source in instr.reads:  # a tied share only ever adds to itself
                if source.name == value.name or (value.name, source.name) == ("grad", "tie"):
                    before += bag[source]
            where = instr.where if value.name == "grad" else f"{instr.where} (tied)"
            term = (where, rank, instr.mb or 0)
            made[where].add(term)
            bag[value] = before + Counter([term])


def _complete(at: str, instr: Instr, bag: dict[Value, Bag], wanted: list[Term]) -> None:
    found: Bag = Counter()
    for value in instr.reads:
        if value.name in GRADIENTS:
            found += bag.get(value, Counter())
    for term in wanted:
        if found[term] != 1:
            unit, source, mb = term
            raise ProgramError(
                f"{at} holds the gradient of {unit}"
                f" from rank {source}, microbatch {mb}, {found[term]} times; once is right"
            )
