"""The figures: communication is what moves, MFU is one at the peak; print breaks no word."""

from __future__ import annotations

import io
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from parallel_core.analysis.exposed import exposed
from parallel_core.cases import program_of
from parallel_core.cli.compare_command import _print, fitting
from parallel_core.compare.figures import moving
from parallel_core.compare.layouts import contenders
from parallel_core.compare.rate import mfu, model_flops, rate_of
from parallel_core.cost import UnitCost
from parallel_core.meetings import is_message
from parallel_core.plan import Plan
from parallel_core.program import Op
from parallel_core.simulate import simulate

TINY = {"layers": 2, "hidden": 16, "heads": 2, "seq": 16, "global_batch": 4}
LONG = TINY | {"layers": 4, "global_batch": 16}

# -- where the time goes, by a clock that is known -------------------------------------------------

BEATS = {Op.F: 10, Op.B: 20, Op.O: 3} | {op: 1 for op in Op if op.is_message}


@pytest.mark.parametrize("layout", ["pp=2", "pp=4,schedule=gpipe", "dp=2", "dp=2,zero=3"])
def test_communication_is_the_time_in_which_messages_move(layout):
    """A beat each. Waiting for a neighbour's result is idle time: of a pipeline, the bubble."""
    (who,) = contenders([layout], LONG)
    trace = simulate(program_of(who.plan), UnitCost(BEATS))
    beat = next(s.duration for s in trace.spans if s.op == Op.F) / BEATS[Op.F]
    moved = moving(trace)
    sent = [span for span in moved.spans if is_message(span)]
    assert {span.duration for span in sent} == {beat}
    assert [s.t_done for s in moved.spans] == [s.t_done for s in trace.spans]
    for rank, (was, now) in enumerate(zip(exposed(trace).ranks, exposed(moved).ranks, strict=True)):
        assert now.comm_ns <= beat * sum(span.rank == rank for span in sent)
        assert now.compute_ns == was.compute_ns and now.comm_ns <= was.comm_ns
    late = sum(use.comm_ns for use in exposed(trace).ranks) - sum(
        use.comm_ns for use in exposed(moved).ranks
    )
    assert (late > 10 * beat) == (who.plan.pp > 1)


# -- MFU -------------------------------------------------------------------------------------------


def test_model_flops_do_not_know_the_layout_nor_what_is_recomputed():
    """The numerator of MFU is one number, however a step is split."""
    plan = Plan.of(**TINY)
    want = model_flops(plan)
    for layout in ({"tp": 2}, {"dp": 4, "zero": 3}, {"pp": 2}, {"recompute": "full"}):
        assert model_flops(Plan.of(**TINY, **layout)) == want
    weights = plan.model.layers * (4 * 16 * 16 + 3 * 16 * plan.model.mlp) + 256 * 16
    attention = plan.model.layers * 4 * plan.seq * 16
    assert want == 3 * plan.tokens_per_step * (2 * weights + attention)


def test_mfu_is_one_at_the_peak():
    """Twice the ranks at the same speed: half of it."""
    plan, two = Plan.of(**TINY), Plan.of(**TINY, dp=2)
    seconds = model_flops(plan) / 1e9
    assert mfu(plan, seconds, 1e9) == pytest.approx(1.0)
    assert mfu(two, seconds, 1e9) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", None),
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_gpu_is_found_by_its_name_or_has_no_peak(device, name):
    """An ambiguous name gets none rather than a wrong one."""
    found = rate_of(device, None, "bfloat16")
    assert (found.device if found.peak else None) == name
    assert found.source


# -- in print --------------------------------------------------------------------------------------

WORDS = st.text("abcdefgh", min_size=1, max_size=14)
CELLS = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)


@given(data=st.data(), width=st.integers(60, 120))
def test_a_table_in_print_breaks_no_word(data, width):
    """However many columns: each is shown once, no line is too long, and every word is whole."""
    names = data.draw(st.lists(CELLS, min_size=2, max_size=12, unique=True))
    rows = data.draw(st.lists(st.tuples(*[CELLS] * len(names)), min_size=1, max_size=4))
    rows = [dict(zip(names, row, strict=True)) for row in rows]
    parts = fitting(rows, width)
    assert [name for part in parts for name in part] == names[1:]
    out = Console(width=width, file=io.StringIO())
    _print(out, rows, "a title")
    lines = out.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    shown = Counter(word for line in lines for word in re.split(r"[^a-h]+", line))
    for word in (word for row in rows for cell in row.values() for word in cell.split()):
        assert shown[word], word
    assert all(shown[word] for name in names for word in name.split())
