"""The tensor loom: layouts give the messages, the messages give the right sums, faults are told."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import product as every_pair

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.check import check
from parallel_core.cli import loom_command
from parallel_core.fields import PlanError
from parallel_core.loom import layout as layout_module
from parallel_core.loom import request as request_module
from parallel_core.loom.by_hand import ACTS, alone, by_hand, inputs, largest_error
from parallel_core.loom.figures import figures, modelled, step_flops
from parallel_core.loom.layout import COLUMNS, ROWS, Layout, message, nonlinear, product
from parallel_core.loom.matrix import assembled, part_of, turned
from parallel_core.loom.proof import prove
from parallel_core.loom.request import MOST_INTEGERS, LoomRequest
from parallel_core.loom.weave import PATTERNS, Kind, weave
from parallel_core.loom.words import edges, place, reads_as
from parallel_core.program import Lane, Op, Program, ProgramError, Value
from parallel_core.trace import Kind as Mark

RIGHT = [name for name, pattern in PATTERNS.items() if not pattern.late]
WAYS = list(every_pair(PATTERNS, (False, True), (False, True)))
every_way = pytest.mark.parametrize(("pattern", "sp", "backward"), WAYS)

requests = st.builds(
    lambda pattern, ranks, units, sp, act, seed: LoomRequest(
        layout=pattern,
        ranks=ranks,
        n=ranks * units[0],
        k=ranks * units[1],
        m=ranks * units[2],
        d=ranks * units[3],
        sp=sp,
        act=act,
        backward=True,
        seed=seed,
    ),
    st.sampled_from(list(PATTERNS)),
    st.sampled_from([2, 3, 4]),
    st.tuples(*[st.integers(1, 3)] * 4),
    st.booleans(),
    st.sampled_from(list(ACTS)),
    st.integers(0, 1000),
)


def worked(request):
    """Every rank's values, and the largest error of each output."""
    whole = inputs(request.weave, request.sizes, request.seed)
    held = by_hand(request.weave, whole, request.act)
    return held, largest_error(request.weave, held, alone(whole, request.act))


# -- the rules of layouts --------------------------------------------------------------------------

X, X_ROWS, X_COLS = (Layout("X", ("n", "k"), cut) for cut in (None, ROWS, COLUMNS))
W, W_ROWS, W_COLS = (Layout("W", ("k", "m"), cut) for cut in (None, ROWS, COLUMNS))
PART = Layout("Y", ("n", "m"), partial=True)


def test_what_a_product_makes_of_the_cuts():
    """Outer cuts stay, an inner cut on both sides leaves parts of a sum."""
    made = {f"{a} @ {b}": str(product(a, b, "Y")) for a, b in
            [(X, W), (X, W_COLS), (X_ROWS, W), (X_COLS, W_ROWS)]}  # fmt: skip
    assert made == {
        "X[n,k] @ W[k,m]": "Y[n,m]",
        "X[n,k] @ W[k,m/tp]": "Y[n,m/tp]",
        "X[n/tp,k] @ W[k,m]": "Y[n/tp,m]",
        "X[n,k/tp] @ W[k/tp,m]": "Y[n,m]+tp",
    }


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (X_COLS, W, "one side alone has cut"),
        (X, W_ROWS, "one side alone has cut"),
        (X_ROWS, W_COLS, "cuts both dims"),
        (PART, Layout("B", ("m", "d")), "multiplies parts of a sum"),
        (W, X, "m does not meet n"),
    ],
)
def test_a_product_that_cannot_be_is_refused_in_one_sentence(a, b, says):
    """Both layouts are named, and what is wrong with them."""
    with pytest.raises(ProgramError, match=says) as error:
        product(a, b, "Y")
    assert str(a) in str(error.value) and str(b) in str(error.value)


def test_a_nonlinearity_of_parts_is_refused():
    """gelu(a + b) is not gelu(a) + gelu(b)."""
    with pytest.raises(ProgramError, match=r"Y\[n,m\]\+tp holds parts of a sum.*sum Y over tp"):
        nonlinear(PART, "U")
    assert nonlinear(W_COLS, "U") == Layout("U", ("k", "m"), COLUMNS)


def test_which_message_rewrites_which_layout():
    """The table at the top of layout.py."""
    whole, rows, cols = (PART.cut_by(cut) for cut in (None, ROWS, COLUMNS))
    assert message(PART, whole) == Op.ALL_REDUCE and message(PART, rows) == Op.REDUCE_SCATTER
    assert message(rows, whole) == message(cols, whole) == Op.ALL_GATHER
    assert message(rows, cols) == message(cols, rows) == Op.ALL_TO_ALL
    assert message(whole, rows) is None and message(whole, cols) is None
    with pytest.raises(ProgramError, match="scattered by rows only"):
        message(PART, cols)


@given(st.sampled_from([None, ROWS, COLUMNS]), st.sampled_from([1, 2, 4]), st.integers(0, 9))
def test_what_the_ranks_hold_puts_together_to_the_whole(cut, ranks, seed):
    """Cut and joined, a matrix is the same; of parts the sum is."""
    whole = [[float(seed + 7 * i + j) for j in range(8)] for i in range(4)]
    layout = Layout("X", ("n", "k"), cut)
    parts = [part_of(whole, layout, rank, ranks) for rank in range(ranks)]
    assert assembled(parts, layout) == whole == turned(turned(whole))
    assert len(parts[0]) * len(parts[0][0]) == 32 // (1 if cut is None else ranks)
    summed = assembled([whole] * ranks, Layout("X", ("n", "k"), partial=True))
    assert summed == [[ranks * x for x in row] for row in whole]


# -- the programs ----------------------------------------------------------------------------------

MESSAGES = """
column              | dX[n,k]+tp ar
column sp           X[n/tp,k] ag | X[n/tp,k] ag, dX[n,k]+tp rs
row                 Y[n,m]+tp ar |
row sp              Y[n,m]+tp rs | dY[n/tp,m] ag
column-row          Z[n,d]+tp ar | dX[n,k]+tp ar
column-row sp       X[n/tp,k] ag, Z[n,d]+tp rs | dZ[n/tp,d] ag, X[n/tp,k] ag, dX[n,k]+tp rs
row-column          H[n,m]+tp ar, Z[n,d/tp] ag | dU[n,m]+tp ar, dX[n,k/tp] ag
row-column sp       X[n/tp,k] aa, H[n,m]+tp ar, Z[n,d/tp] aa | dZ[n/tp,d] aa, dU[n,m]+tp ar, dX[n,k/tp] aa
late-sum            U[n,m]+tp ar, Z[n,d/tp] ag | dU[n,m]+tp ar, dX[n,k/tp] ag
late-sum sp         X[n/tp,k] aa, U[n,m]+tp ar, Z[n,d/tp] aa | dZ[n/tp,d] aa, dU[n,m]+tp ar, dX[n,k/tp] aa
"""  # noqa: E501  (a table)
SHORT = {"all_reduce": "ar", "all_gather": "ag", "reduce_scatter": "rs", "all_to_all": "aa"}


def test_every_layout_sends_just_these_messages():
    """Forward | backward, in order, as written down by hand."""
    lines = []
    for pattern, sp in every_pair(PATTERNS, (False, True)):
        made = weave(pattern, 4, sequence=sp, backward=True)
        halves = [
            ", ".join(f"{made.layouts[s.reads[0]]} {SHORT[s.op.value]}" for s in half)
            for half in made.moves
        ]
        lines.append(f"{pattern}{' sp' * sp} {halves[0]} | {halves[1]}".split())
    assert lines == [line.split() for line in MESSAGES.strip().splitlines()]


@every_way
@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_every_program_is_legal_and_reads_back(pattern, sp, backward, ranks):
    """check finds nothing, the text form is the program, and every result is kept."""
    made = weave(pattern, ranks, sequence=sp, backward=backward)
    check(made.program)
    assert Program.parse(str(made.program)) == made.program
    assert len(made.outputs) == (1 + 1 + len(PATTERNS[pattern].cuts) if backward else 1)
    assert set(made.outputs) <= set(made.program.keeps[0])


@every_way
def test_parts_may_be_summed_in_place(pattern, sp, backward):
    """Who sums parts is their only reader, and frees them."""
    made = weave(pattern, 4, sequence=sp, backward=backward)
    for instr in made.program.ranks[0]:
        if instr.op == Op.ALL_REDUCE:
            assert instr.frees == instr.reads
            readers = [i for i in made.program.ranks[0] if instr.reads[0] in i.reads]
            assert readers == [instr]


def test_row_first_must_sum_before_the_nonlinearity_and_column_first_need_not():
    """One message against two, one of them before act; as many at any number of ranks."""

    def before_act(pattern):
        kinds = [step.kind for step in weave(pattern, 4).steps]
        return Counter(kinds[: kinds.index(Kind.ACT)])[Kind.MOVE], Counter(kinds)[Kind.MOVE]

    assert before_act("column-row") == (0, 1)
    assert before_act("row-column") == (1, 2)


def test_what_f_gathers_is_freed_and_gathered_again():
    """Under sp the forward keeps the shard alone; the weights' gradient waits for the gather."""
    made = weave("column-row", 4, sequence=True, backward=True)
    instrs = {instr.where: instr for instr in made.program.ranks[0]}
    assert Value("X") in instrs["H_cols"].frees
    assert Value("X_again") in instrs["dA"].reads
    assert instrs["dA"].lane == Lane.COMPUTE and instrs["dX_rows"].lane == Lane.COMM
    order = [instr.where for instr in made.program.ranks[0]]
    assert order.index("dX_rows") < order.index("dA"), "dA runs while dX is on its way"


def test_f_and_g_are_conjugates():
    """Where the forward copies the backward sums, and the other way round."""
    both = {(p, sp): [e.letter for e in edges(p, 4, sequence=sp)]
            for p, sp in every_pair(RIGHT, (False, True))}  # fmt: skip
    assert both == {
        ("column", False): ["f", ""],
        ("column", True): ["f'", ""],
        ("row", False): ["", "g"],
        ("row", True): ["", "g'"],
        ("column-row", False): ["f", "g"],
        ("column-row", True): ["f'", "g'"],
        ("row-column", False): ["", ""],
        ("row-column", True): ["", ""],
    }
    made = weave("column-row", 4, backward=True)
    assert [place(made, s) for half in made.moves for s in half] == [
        "g, where Z leaves",
        "f, where X enters, on the way back",
    ]
    late = weave("late-sum", 4)
    assert place(late, late.moves[0][0]).startswith("too late")


# -- the numbers -----------------------------------------------------------------------------------


@given(requests)
@settings(max_examples=60, deadline=None)
def test_every_legal_layout_gives_what_one_process_gives(request):
    """Result and gradients; with relu on integers exactly."""
    if PATTERNS[request.layout].late:
        return
    held, errors = worked(request)
    assert max(errors.values()) <= (0 if request.act == "relu" else 1e-9), errors
    for value, layout in request.weave.layouts.items():
        for each in held:
            shape = layout.shape(request.sizes, request.ranks)
            assert (len(each[value]), len(each[value][0])) == shape, str(layout)


@pytest.mark.parametrize("act", ACTS)
def test_the_sum_too_late_costs_the_same_and_is_wrong(act):
    """As many messages and bytes as the right order; an error as large as the result."""
    late, right = (
        LoomRequest(layout=p, act=act, backward=True) for p in ("late-sum", "row-column")
    )
    assert [s.op for s in figures(late).forward] == [s.op for s in figures(right).forward]
    assert figures(late).wire == figures(right).wire
    assert max(worked(late)[1].values()) > 10 and max(worked(right)[1].values()) < 1e-9


@given(requests)
@settings(max_examples=40, deadline=None)
def test_the_proof_agrees_with_the_numbers(request):
    """Every part of every sum is proved for the right layouts; the late sum is refused."""
    made = request.weave
    if PATTERNS[request.layout].late:
        with pytest.raises(ProgramError, match=r"act U_part reads H_part, in which rank \d's part"):
            prove(made)
        return
    sums = [s for s in made.steps if s.kind == Kind.PRODUCT and made.layouts[s.writes].partial]
    assert prove(made) == request.ranks * len(sums)


def planted(made, change):
    """The program with `change(instrs)` done to every rank's instructions."""
    ranks = tuple(tuple(change(list(instrs))) for instrs in made.program.ranks)
    return replace(made.program, ranks=ranks)


def test_a_sum_that_is_skipped_or_made_twice_is_named():
    """The proof says which rank reads what, and whose part is missing or counted twice."""
    made = weave("column-row", 4)

    def skip(instrs):
        last = instrs[-1]
        return [*instrs[:-1], replace(last, op=Op.F, axis=None, lane=Lane.COMPUTE)]

    with pytest.raises(ProgramError, match="in which rank 0's part is missing"):
        prove(made, planted(made, skip))

    def twice(instrs):
        *rest, last = instrs
        half = Value("Z_half")
        first = replace(last, writes=(half,))
        return [*rest, first, replace(last, reads=(half,), frees=(half,))]

    doubled = planted(made, twice)
    check(doubled)  # legal as messages go: only the proof can tell
    with pytest.raises(ProgramError, match=r"the end keeps Z, in which rank 0's part counts 4"):
        prove(made, doubled)


def test_a_rank_that_leaves_out_its_message_is_told():
    """check names who never joins."""
    made = weave("column-row", 2)
    ranks = made.program.ranks
    without = tuple(i for i in ranks[1] if not i.op.is_message)
    keeps = (made.program.keeps[0], (*made.holds, Value("Z_part")))
    broken = replace(made.program, ranks=(ranks[0], without), keeps=keeps)
    with pytest.raises(ProgramError, match="rank 1 never joins all_reduce Z on tp"):
        check(broken)


# -- the figures -----------------------------------------------------------------------------------

CLASSIC = {"n": 4096, "k": 4096, "m": 4096, "numbers": "normal"}


def test_4096_by_4096_cut_four_ways():
    """W is 64 MiB: 16 a rank; a quarter of 2 x 4096^3 FLOPs; by rows 64 MiB a rank are summed."""
    column, row = (figures(LoomRequest(layout=p, **CLASSIC)) for p in ("column", "row"))
    for found in (column, row):
        assert found.weight_bytes == 16 * 2**20
        assert found.flops == 2 * 4096**3 // 4
    assert (column.output_bytes, row.output_bytes) == (16 * 2**20, 64 * 2**20)
    assert (column.input_bytes, row.input_bytes) == (64 * 2**20, 16 * 2**20)
    assert column.forward == ()
    (sent,) = row.forward
    assert sent.payload == 64 * 2**20 and sent.wire == 2 * 3 * 64 * 2**20


@given(requests)
@settings(max_examples=40, deadline=None)
def test_the_work_is_divided_and_not_multiplied(request):
    """All ranks together make the FLOPs of one process: 2nkm a product, thrice with backward."""
    sizes, figure = request.sizes, figures(request)
    once = 2 * sizes["n"] * sizes["k"] * sizes["m"]
    if len(PATTERNS[request.layout].cuts) == 2:
        once += 2 * sizes["n"] * sizes["m"] * sizes["d"]
    assert figure.flops * request.ranks == 3 * once


@given(requests)
@settings(max_examples=40, deadline=None)
def test_sequence_parallelism_moves_the_same_bytes_forward(request):
    """Column then row with d = k: reduce-scatter and all-gather are an all-reduce; back, a third
    more gather."""
    plain, cut = (
        figures(replace(request, layout="column-row", d=request.k, sp=sp)) for sp in (False, True)
    )
    assert plain.wire[0] == cut.wire[0]
    assert cut.wire[1] * 2 == plain.wire[1] * 3  # what entered is gathered once more


def test_the_model_is_a_trace_of_the_program():
    """One span an instruction, modelled; products take their FLOPs over the rate."""
    request = LoomRequest(backward=True)
    trace = modelled(request, rate=1e9)
    assert trace.kind is Mark.MODELLED
    assert len(trace.by_rank[0]) == len(request.weave.steps)
    for span in trace.by_rank[0]:
        step = request.weave.steps[span.index]
        if step.kind == Kind.PRODUCT:
            assert span.duration == step_flops(request, step)


# -- asking ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            {"layout": "row", "k": 6},
            r"k=6 must be a multiple of ranks=4, since X\[n,k/tp\] cuts it",
        ),
        ({"layout": "column", "m": 2}, r"m=2 .*; the nearest value that works is 4"),
        ({"n": 5, "sp": True}, r"n=5 must be a multiple of ranks=4"),
        ({"layout": "row-column", "d": 6}, r"d=6 must be a multiple"),
        ({"layout": "rows"}, "layout='rows' must be one of column, row, column-row"),
        ({"k": 1024, "m": 1024}, "numbers=integers draws them one by one"),
        ({"ranks": 1}, "ranks=1 must be a whole number from 2"),
    ],
)
def test_what_cannot_be_cut_is_one_sentence(asked, says):
    """The field, the value, the layout that needs it, and what works."""
    with pytest.raises(PlanError, match=says) as error:
        LoomRequest(**asked)
    mended = {**asked, error.value.field: error.value.nearest}
    LoomRequest(**mended)


def test_too_many_ranks_or_bytes_are_refused_before_a_run():
    """A request may be larger than this machine, but not live."""
    with pytest.raises(PlanError, match="more ranks than this machine bears"):
        LoomRequest(ranks=1024, m=1024).checked()
    with pytest.raises(PlanError, match="are free"):
        LoomRequest(layout="row", n=65536, k=65536, m=65536, numbers="normal").checked()
    assert LoomRequest().checked().shown and not LoomRequest(k=64, m=64).shown
    assert MOST_INTEGERS >= 256 * 256


@given(requests)
@settings(max_examples=40, deadline=None)
def test_the_command_line_asks_for_the_same(request):
    """What the page prints runs what the page shows."""
    words = request.command().split()[2:]
    said = CliRunner().invoke(loom_command.command, [*words, "--simulate", "--json"])
    assert said.exit_code == 0, said.output
    assert json.loads(said.output)["request"] == request.flat()


def test_the_command_shows_layouts_and_steps():
    """--list has every layout; --simulate prints each step, the counts, and the refusal."""
    listed = CliRunner().invoke(loom_command.command, ["--list"])
    assert all(name in listed.output for name in PATTERNS)
    said = CliRunner().invoke(loom_command.command, ["--layout", "late-sum", "--simulate"]).output
    made = weave("late-sum", 4)
    assert all(reads_as(made, step) in said for step in made.steps)
    assert "not proved: rank" in said and "messages, forward" in said


def test_docstrings_are_true():
    """The examples in them run."""
    for module in (layout_module, request_module):
        assert not doctest.testmod(module).failed


def test_nothing_of_it_loads_torch():
    """The programs, the proof, the figures and the command."""
    code = (
        "import sys, parallel_core.loom.report, parallel_core.views.loom\n"
        "import parallel_core.cli.loom_command\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
