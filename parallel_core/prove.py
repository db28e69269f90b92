"""Does every gradient term reach every optimizer exactly once? Proved on names, without numbers.

Each backward instruction contributes one term, named by (unit, rank, microbatch). Reading and
rewriting a gradient carries its terms along; a collective adds up, place by place, what the
ranks of its group hand over. When an optimizer reads a gradient, its bag of terms must hold
every term of its units once: a missing one is a reduction forgotten, a double one a reduction
done twice. (The idea of names as proof: Sasha Rush, LLM Training Puzzles, 2023.)
"""

from __future__ import annotations

from collections import Counter

from parallel_core.program import Instr, Op, Program, ProgramError, Value
from parallel_core.simulate import run_order
from parallel_core.values import GRADIENTS

Term = tuple[str, int, int]
Bag = Counter[Term]


def prove(program: Program) -> int:
    """The number of terms proved; raises ProgramError naming the term that is wrong."""
    bags: list[dict[Value, Bag]] = [{} for _ in program.ranks]
    made: dict[str, set[Term]] = {}
    order = run_order(program, rendezvous=False)
    for together in order:
        _carry(program, together, bags, made)
    done = 0
    for rank, index, instr in program:
        if instr.op == Op.O:
            done += _complete(rank, index, instr, bags[rank], made)
    if not done:
        raise ProgramError(f"{program.name}: no optimizer reads a gradient")
    return done


def _carry(
    program: Program,
    together: tuple[tuple[int, int], ...],
    bags: list[dict[Value, Bag]],
    made: dict[str, set[Term]],
) -> None:
    """One compute instruction of one rank, or one collective of a whole group."""
    instrs = [(rank, program.ranks[rank][index]) for rank, index in together]
    first = instrs[0][1]
    if first.op == Op.ALL_REDUCE and first.reads[0].name in GRADIENTS:
        for place in range(len(first.writes)):
            total: Bag = Counter()
            for rank, instr in instrs:
                total += bags[rank].get(instr.reads[place], Counter())
            for rank, instr in instrs:
                bags[rank][instr.writes[place]] = total
    elif first.op in (Op.B, Op.W):
        for rank, instr in instrs:
            _contribute(rank, instr, bags[rank], made)


def _contribute(rank: int, instr: Instr, bag: dict[Value, Bag], made: dict[str, set[Term]]) -> None:
    for value in instr.writes:
        if value.name in GRADIENTS:
            before: Bag = Counter()
            for source in instr.reads:  # a tied share only ever adds to itself
                if source.name == value.name or (value.name, source.name) == ("grad", "tie"):
                    before += bag[source]
            where = instr.where if value.name == "grad" else f"{instr.where} (tied)"
            term = (where, rank, instr.mb or 0)
            made.setdefault(where, set()).add(term)
            bag[value] = before + Counter([term])


def _complete(
    rank: int, index: int, instr: Instr, bag: dict[Value, Bag], made: dict[str, set[Term]]
) -> int:
    found: Bag = Counter()
    for value in instr.reads:
        if value.name in GRADIENTS:
            found += bag.get(value, Counter())
    wanted = [term for terms in made.values() for term in terms]
    for term in sorted(wanted):
        if found[term] != 1:
            unit, source, mb = term
            raise ProgramError(
                f"rank {rank}, instruction {index} ({instr.label}) holds the gradient of {unit}"
                f" from rank {source}, microbatch {mb}, {found[term]} times; once is right"
            )
    return len(wanted)
