"""`shardlab run` proves a program before a rank starts: a mistake is a sentence, not a hang."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core import data, launch
from parallel_core.cases import program_of
from parallel_core.cli.run_command import PROVED, examine, follow
from parallel_core.parity.matrix import cells
from parallel_core.plan import Plan
from parallel_core.program import Op, Program, ProgramError
from parallel_core.request import Request

ABLE = [cell.plan for cell in cells(8) if cell.plan]


def _unsummed(plan: Plan) -> Program:
    """Every rank updates from its own gradients: legal, and wrong."""
    return data.alone(plan)


def _waiting(plan: Plan) -> Program:
    """The first rank leaves its sums out, and waits for them all the same."""
    right = data.bucketed(plan)
    first = tuple(instr for instr in right.ranks[0] if instr.op != Op.ALL_REDUCE)
    return replace(right, ranks=(first, *right.ranks[1:]))


@pytest.mark.parametrize(
    ("method", "words"),
    [(_unsummed, r"rank 0.*gradient of"), (_waiting, r"rank 0.*wait")],
    ids=["unsummed", "waiting"],
)
def test_a_wrong_method_is_named_before_a_rank_starts(method, words, monkeypatch):
    """A reduction left out by whoever just wrote a method: ProgramError, and no process."""

    def start(*args: object) -> None:
        raise AssertionError("a rank would start")

    monkeypatch.setattr(launch.Pool, "start", start)
    monkeypatch.setitem(data.METHODS, "bucketed", method)
    with pytest.raises(ProgramError, match=words):
        follow(Request.of(dp=2))
    monkeypatch.setitem(data.METHODS, "bucketed", data.bucketed)
    with pytest.raises(AssertionError, match="a rank would start"):
        follow(Request.of(dp=2))


@settings(max_examples=12)
@given(st.sampled_from(ABLE))
def test_every_layout_of_the_matrix_passes(plan):
    """What is right is never refused: any product of axes."""
    examine(program_of(plan))


def test_a_program_too_long_to_wait_for_runs_unproved():
    """Its length alone decides; a short one with the same mistake is refused."""
    plan = Plan.of(dp=2, microbatches=4)
    wrong = _unsummed(plan)
    with pytest.raises(ProgramError):
        examine(wrong)
    times = PROVED // sum(map(len, wrong.ranks)) + 1
    examine(replace(wrong, ranks=tuple(instrs * times for instrs in wrong.ranks)))
