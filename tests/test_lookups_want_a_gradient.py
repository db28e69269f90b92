"""A task that used a tied table by itself must make a gradient of it, or the proof says who."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest

from parallel_core.cases import program_of
from parallel_core.pieces import TABLE
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, ProgramError
from parallel_core.prove import prove


def _without_table(instr: Instr, where: str) -> tuple[Instr, ...]:
    """A backward of one stage that forgets the table; what stands for its gradient is empty."""
    table = tuple(x for x in instr.writes if x.name == "grad" and x.at[0] == TABLE)
    if instr.op != Op.B or instr.where != where or not table:
        return (instr,)
    rest = tuple(x for x in instr.writes if x not in table)
    return replace(instr, writes=rest), Instr(op=Op.WAIT, where="table", writes=table)


@pytest.mark.parametrize("zero", [1, 2, 3])
@pytest.mark.parametrize("stage", ["stage0", "stage1"])
def test_a_table_used_without_a_gradient_is_named(zero, stage):
    """Lookups', or the head's: every forward that read the table wants one."""
    plan = Plan.of(dp=2, pp=2, zero=zero, tied=True, layers=2, microbatches=2, global_batch=4)
    program = program_of(plan)
    assert prove(program)
    ranks = ([_without_table(i, stage) for i in instrs] for instrs in program.ranks)
    with pytest.raises(ProgramError, match=rf"{stage} \(tied\) .* 0 times; once is right"):
        prove(replace(program, ranks=tuple(tuple(chain(*each)) for each in ranks)))
