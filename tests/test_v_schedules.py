"""The V-shaped and the bidirectional schedules keep what their papers promise."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.check import check
from parallel_core.fields import PlanError
from parallel_core.pipeline import v_shape
from parallel_core.pipeline.dualpipe import dualpipe
from parallel_core.pipeline.dualpipe_v import dualpipe_v
from parallel_core.pipeline.figures import figures
from parallel_core.pipeline.formulas import FORMULAS, Beat
from parallel_core.pipeline.gpipe import gpipe
from parallel_core.pipeline.interleaved import interleaved
from parallel_core.pipeline.legal import legal
from parallel_core.pipeline.lower import lower
from parallel_core.pipeline.one_f_one_b import one_f_one_b
from parallel_core.pipeline.order import Order, Task
from parallel_core.pipeline.picture import picture
from parallel_core.pipeline.schedule import Times
from parallel_core.pipeline.v_half import v_half
from parallel_core.pipeline.v_min import v_min
from parallel_core.pipeline.zb_h1 import zb_h1
from parallel_core.pipeline.zb_h2 import zb_h2
from parallel_core.pipeline.zb_v import zb_v
from parallel_core.program import Op
from parallel_core.published import Row, table

exactly = pytest.approx


class Shape(NamedTuple):
    """A schedule of these files, and the sizes near (p, m) that it allows."""

    function: Callable[[int, int], Order]
    folded: bool = True  # into a V; else every rank holds a stage and its mirror
    fewest: Callable[[int], int] = lambda p: 1

    def order(self, p: int, m: int) -> Order:
        return self.function(*self.allowed(p, m))

    def allowed(self, p: int, m: int) -> tuple[int, int]:
        if self.folded:
            return p, max(m, self.fewest(p))
        p += p % 2
        return p, max(m + m % 2, self.fewest(p))


V_SHAPES = (Shape(zb_v), Shape(v_half), Shape(v_min))
DUALS = (
    Shape(dualpipe, folded=False, fewest=lambda p: 2 * p),
    Shape(dualpipe_v, fewest=lambda p: 2 * p),
)
named = {"ids": lambda shape: shape.function.__name__}
every_shape = pytest.mark.parametrize("shape", V_SHAPES + DUALS, **named)
every_v = pytest.mark.parametrize("shape", V_SHAPES, **named)
sizes = {"p": st.integers(1, 9), "m": st.integers(1, 24)}
BUILT = {
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "interleaved": lambda p, m: interleaved(p, m, 2),
    "zb-h1": zb_h1,
    "zb-h2": zb_h2,
    "zb-v": zb_v,
    "v-half": v_half,
    "v-min": v_min,
    "dualpipe": dualpipe,
    "dualpipe-v": dualpipe_v,
}
every_formula = pytest.mark.parametrize("name", FORMULAS)
calm = settings(deadline=None)  # a shared machine may stall for a moment
few = settings(calm, max_examples=20)

# ---------------------------------------------------------------------------- complete and legal


@every_shape
@given(**sizes)
@calm
def test_every_size_gives_a_legal_order(shape, p, m):
    """Each microbatch passes each stage by F and B or F, I and W, in turn, without a deadlock."""
    p, m = shape.allowed(p, m)
    order = shape.function(p, m)
    legal(order, p=p, m=m)
    assert order.stages == (2 * p if shape.folded else p)


@every_shape
@given(p=st.integers(1, 4), m=st.integers(1, 6))
@few
def test_its_program_is_legal(shape, p, m):
    """With messages added, every value is there when it is read, and sends meet receives."""
    check(lower(shape.order(p, m)))


@every_shape
@given(**sizes)
@calm
def test_each_rank_holds_a_stage_and_its_mirror(shape, p, m):
    """Rank r holds r and 2p-1-r of a V of 2p stages, or r and p-1-r of both ways through p."""
    order = shape.order(p, m)
    last = order.stages - 1
    assert order.held == tuple(tuple(sorted((r, last - r))) for r in range(order.p))


@given(p=st.integers(1, 4), m=st.integers(1, 12))
@calm
def test_dualpipe_enters_at_both_ends(p, m):
    """Microbatches of the first half start on rank 0, those of the second on rank p-1."""
    p, m = DUALS[0].allowed(p, m)
    home = dualpipe(p, m).home
    assert all(home[mb, 0] == (0 if mb < m // 2 else p - 1) for mb in range(m))


@every_shape
def test_the_picture_in_its_docstring_is_true(shape):
    """What the file shows is what its function returns."""
    drawn = picture(sys.modules[shape.function.__module__].__doc__)
    assert drawn.order.ranks == shape.function(drawn.p, drawn.m).ranks
    assert drawn.p > 1 and (drawn.v == 2) == shape.folded


def test_the_block_in_the_docstring_is_v_min_s():
    """The beats drawn in v_shape's docstring are those of the block, three times over."""
    drawn = re.findall(r"^    rank \d   (.*)$", v_shape.__doc__, re.M)
    beats = v_shape.Block(steps=(1, 1, 1, 1)).beats(2)
    for row, passes in zip(drawn, beats, strict=True):
        at = {cell: beat for beat, cell in enumerate(row.split())}
        for mb in range(3):
            found = [at[f"{name}{mb}"] for name in ("F", "f", "i", "I")]
            assert found == [beat + v_shape.PERIOD * mb for beat in passes]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: zb_v(0, 4), "pp=0 is too few: a pipeline has at least one rank.* is 1"),
        (lambda: v_half(2, 0), "microbatches=0 is too few"),
        (lambda: v_min(-1, 4), "pp=-1 is too few"),
        (lambda: dualpipe(3, 8), "pp=3 is odd: DualPipe pairs rank r with rank p-1-r; .* is 4"),
        (lambda: dualpipe(4, 9), "microbatches=9 is odd: half of them enter at each end; .* is 10"),
        (lambda: dualpipe(4, 6), "microbatches=6 is too few: DualPipe fills pp=4 .* is 8"),
        (lambda: dualpipe(4, 7), "microbatches=7 is too few.* is 8"),
        (lambda: dualpipe_v(3, 5), "microbatches=5 is too few: DualPipeV .* pp=3 .* is 6"),
    ],
)
def test_what_a_method_does_not_allow_is_refused_with_the_rule(build, said):
    """A refusal names the field, its value, the rule, and what works instead."""
    with pytest.raises(PlanError, match=said):
        build()


# ---------------------------------------------------------------------------- time and memory


@given(p=st.integers(1, 8), more=st.integers(0, 10))
@few
def test_zb_v_never_waits_once_it_began(p, more):
    """From m = 2p-1 on, if F = I = W: only the fill is left, (p-1)/(6m+p-1) of the time."""
    m = 2 * p - 1 + more
    measured = figures(zb_v(p, m))
    assert measured.internal_idle == exactly([0.0] * p) and measured.bubble_rate == exactly(0.0)
    assert measured.makespan == exactly(3 * m + (p - 1) / 2)
    assert measured.bubble_fraction == exactly((p - 1) / (6 * m + p - 1))


@every_v
@given(**sizes)
@few
def test_no_rank_of_a_v_holds_more_than_the_paper_s_peak(shape, p, m):
    """p, (p+2)//2 and (p+4)//3 microbatches from F to W, and the V is full of them from m = p."""
    order = shape.function(p, m)
    peaks = figures(order).peak_in_flight
    cap = FORMULAS[order.name].peak(p, m, 2)
    assert max(peaks) <= cap
    if m >= 2 * p:
        assert max(peaks) == cap


@given(p=st.integers(3, 9), m=st.integers(0, 9))
@few
def test_the_bubbles_of_v_half_and_v_min(p, m):
    """The docstrings' closed forms, in units of F+I+W = 3; both are below the authors' estimate."""
    m += p
    half, least = (figures(build(p, m)).makespan - 3 * m for build in (v_half, v_min))
    assert half == exactly((3 * p - (4 if p % 2 else 7)) / 6 * 3)
    assert least == exactly((4 * p - (5 if p % 3 else 7)) / 6 * 3)
    even = Beat(f=1, i=1, w=1)
    assert half <= FORMULAS["v-half"].bubble(p, even, 2)
    assert least <= FORMULAS["v-min"].bubble(p, even, 2)


@few
@given(
    p=st.integers(3, 5),
    times=st.tuples(*[st.integers(1, 9)] * 3),
)
def test_where_more_microbatches_mean_more_bubble(p, times):
    """Never for ZB-V; not for V-Half while W + 2I >= 2F and W + 2F >= 2I; soon for V-Min."""
    f, i, w = times

    def grows(build: Callable[[int, int], Order], f: float, i: float, w: float) -> bool:
        few, many = (
            figures(build(p, m), Times.even(p, tf=f, ti=i, tw=w)).makespan - m * (f + i + w)
            for m in (3 * p, 4 * p)
        )
        return many > few + 1e-6

    assert not grows(zb_v, f, i, w)
    assert not (w + 2 * i >= 2 * f and w + 2 * f >= 2 * i and grows(v_half, f, i, w))
    assert grows(v_min, 10, 13, 7) and not grows(v_half, 10, 13, 7)


@every_v
@given(**sizes)
@few
def test_no_v_is_slower_than_1f1b(shape, p, m):
    """Their smaller memory costs no time where F = I = W."""
    assert figures(shape.function(p, m)).makespan <= figures(one_f_one_b(p, m)).makespan + 1e-6


@given(half=st.integers(1, 5), more=st.integers(0, 6))
@few
def test_dualpipe_holds_p_plus_1(half, more):
    """On every rank; DualPipeV of as many stages holds as many chunks, half as long."""
    p, m = 2 * half, 4 * half + 2 * more
    assert figures(dualpipe(p, m)).peak_in_flight == [p + 1.0] * p
    assert figures(dualpipe_v(half, m)).peak_in_flight == [(p + 1) / 2] * half


def in_pieces(order: Order) -> list[list[tuple[Task, ...]]]:
    """Per rank its tasks, F and the B of another stage behind it as one piece.

    The first pair of the ranks in the middle stays apart, as in the DualPipe repository.
    """
    found = []
    for rank, tasks in enumerate(order.ranks):
        middle = order.stages // 2 in order.held[rank] and order.stages // 2 - 1 in order.held[rank]
        row: list[tuple[Task, ...]] = []
        for task in tasks:
            last = row[-1] if row else ()
            pairs = task.op is Op.B and len(last) == 1 and last[0].op is Op.F
            if pairs and last[0].stage != task.stage and not middle:
                row[-1] = (last[0], task)
            else:
                middle = middle and not pairs
                row.append((task,))
        found.append(row)
    return found


def idle_in_pieces(order: Order, t: Beat) -> float:
    """The fullest rank's idle time if what a pair sends leaves when the whole pair is done."""
    share = order.p / order.stages
    takes = {Op.F: t.f, Op.B: t.b, Op.I: t.i, Op.W: t.w}
    rows, at = in_pieces(order), [0] * order.p
    clock, work = [0.0] * order.p, [0.0] * order.p
    done: dict[tuple[bool, int, int], float] = {}
    while any(at[rank] < len(row) for rank, row in enumerate(rows)):
        before = list(at)
        for rank, row in enumerate(rows):
            while at[rank] < len(row):
                piece = row[at[rank]]
                made = [(x.op is Op.F, x.mb, x.stage) for x in piece if x.op is not Op.W]
                needs = [(f, mb, s - 1 if f else s + 1) for f, mb, s in made]
                needs = [need for need in needs if 0 <= need[2] < order.stages]
                if not all(need in done for need in needs):
                    break
                seconds = share * (t.pair if len(piece) == 2 else takes[piece[0].op])
                clock[rank] = max([clock[rank], *(done[need] for need in needs)]) + seconds
                work[rank] += seconds
                done |= dict.fromkeys(made, clock[rank])
                at[rank] += 1
        assert at != before, "deadlock"
    return max(max(clock) - w for w in work)


@pytest.mark.parametrize("build", [dualpipe, dualpipe_v])
@pytest.mark.parametrize("p", [2, 4, 8])
def test_dualpipe_s_bubble_is_the_published_one(build, p):
    """(p/2-1)(F&B + B - 3W): 6 for p=8, m=20; half of it if messages need not wait for the pair."""
    m, even = 2 * p + 4, Beat(f=1, i=1, w=1, overlapped=3)
    order = build(p, m)
    published = FORMULAS[order.name].bubble(p, even, 1)
    assert idle_in_pieces(order, even) == exactly(published)
    assert max(figures(order).idle) == exactly(published / 2)
    if (build, p) == (dualpipe, 8):
        assert published == 6


# ---------------------------------------------------------------------------- torch's, as data


def torch_s(name: str, p: int, m: int) -> Order:
    """The compute order that torch.distributed.pipelining makes for p ranks with two stages."""
    pipelining = pytest.importorskip("torch.distributed.pipelining.schedules")
    kinds = {
        "FORWARD": Op.F,
        "BACKWARD_INPUT": Op.I,
        "BACKWARD_WEIGHT": Op.W,
        "FULL_BACKWARD": Op.B,
    }
    ops = {getattr(pipelining, kind): op for kind, op in kinds.items()}
    schedule = object.__new__(getattr(pipelining, name))  # without its stages and process group
    schedule.pp_group_size, schedule.num_stages, schedule._n_microbatches = p, 2 * p, m
    ranks = []
    for rank in range(p):
        actions = filter(None, schedule._calculate_single_rank_operations(rank))
        flat = [one for action in actions for one in action.sub_actions or (action,)]
        ranks.append(
            tuple(Task(ops[a.computation_type], a.microbatch_index, a.stage_index) for a in flat)
        )
    return Order(tuple(ranks), name)


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_dualpipe_v_is_torch_s(p):
    """The same tasks in the same order, for m from 2p to 4p."""
    for m in range(2 * p, 4 * p + 1):
        assert dualpipe_v(p, m).ranks == torch_s("ScheduleDualPipeV", p, m).ranks


@pytest.mark.parametrize("p", [1, 2, 3, 4, 6])
def test_zb_v_takes_no_longer_than_torch_s(p):
    """As long from m = 2p-1 on, shorter below, with no more memory."""
    for m in range(1, 3 * p):
        ours, theirs = figures(zb_v(p, m)), figures(torch_s("ScheduleZBVZeroBubble", p, m))
        assert ours.makespan <= theirs.makespan + 1e-6
        assert ours.makespan == exactly(theirs.makespan) or m < 2 * p - 1
        assert max(ours.peak_in_flight) <= p


# ---------------------------------------------------------------------------- formulas

LABELS = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved": "1F1B-I (v)",
    "zb-h1": "ZB-H1/ZB1P",
    "zb-h2": "ZB-H2/ZB2P",
    "zb-v": "ZB-V",
    "v-half": "V-Half",
    "v-min": "V-Min",
    "dualpipe": "DualPipe",
    "dualpipe-v": "DualPipeV",
}


def valued(printed: str, **numbers: float) -> float:
    """What a printed formula comes to: `2TW` is a product, and so is `)(`; `F&B` is one name."""
    text = re.sub(r"\s", "", printed.replace("F&B", "FB"))
    text = re.sub(r"(?<=[\d)])(?=[A-Za-z(])", "*", text)
    return float(eval(text, {"__builtins__": {}}, dict(numbers)))  # our own file


def printed_bubble(name: str, row: Row, t: Beat, p: int, v: int) -> float | None:
    """The published bubble time in our units; None where the table has no formula for it."""
    if name in ("zb-v", "v-half", "v-min"):
        return None
    dual = name.startswith("dualpipe")
    stages, share = (2 * p, 0.5) if name == "dualpipe-v" else (p, 1.0)
    letters = {"F": t.f, "B": t.b, "W": t.w, "FB": t.pair, "PP": stages}
    if not dual:
        letters = {"TF": t.f, "TB": t.i, "TW": t.w, "p": p, "v": v}
    return share * valued(row["bubble_time"], **letters)


@every_formula
@given(
    p=st.integers(1, 9),
    v=st.integers(2, 4),
    times=st.tuples(*[st.integers(1, 9)] * 4),
)
@calm
def test_each_formula_is_the_published_one(name, p, v, times):
    """Bubble time, activations and copies are what the published table prints."""
    row = table("zb_formulas").row(schedule=LABELS[name])
    line, t, m = FORMULAS[name], Beat(f=times[0], i=times[1], w=times[2], overlapped=times[3]), 99
    wanted = printed_bubble(name, row, t, p, v)
    if wanted is not None:
        assert line.bubble(p, t, v) == exactly(wanted)
    if name == "dualpipe-v":  # counted in stages, of which a rank has two
        assert line.peak(p, m, v) == (2 * p + 1) / 2 and row["activation_per_device"] == "PP+1"
        return
    printed = row["activation_per_device"].removesuffix(" (+x)")
    published = valued(printed, p=p, PP=p, m=m, v=v)
    extra = 4 / 3 if row["activation_per_device"].endswith("(+x)") else 0
    assert published <= line.peak(p, m, v) + 1e-9 and line.peak(p, m, v) <= published + extra + 1e-9
    assert f"{line.copies}x" == row["params_per_device"]


def test_the_table_has_a_line_for_each_published_schedule():
    """Nothing of the published table is left out, and nothing is added."""
    assert FORMULAS.keys() == LABELS.keys() == BUILT.keys()
    assert sorted(LABELS.values()) == sorted(table("zb_formulas").column("schedule"))


@pytest.mark.parametrize(("name", "bubble"), [("1f1b", 21), ("zb-h1", 7), ("dualpipe", 6)])
def test_eight_ranks_with_b_twice_f(name, bubble):
    """p=8, F=1, B=2, W=1, F&B=3, the example beside DualPipe's table."""
    assert FORMULAS[name].bubble(8, Beat(f=1, i=1, w=1, overlapped=3), 1) == bubble


@every_formula
@pytest.mark.parametrize("p", [2, 4, 6])
def test_the_schedules_keep_their_formulas(name, p):
    """Peaks, copies and messages of the orders themselves; bubbles, where times leave no doubt."""
    m, v, line = 4 * p, 2, FORMULAS[name]
    order = BUILT[name](p, m)
    measured = figures(order)
    assert max(measured.peak_in_flight) == exactly(line.peak(p, m, v))
    assert sum(map(len, order.held)) == line.copies * order.stages
    sends = sum(instr.op is Op.SEND for rank in lower(order).ranks for instr in rank)
    wraps = v - 1 if name == "interleaved" else 0  # from the last rank back to the first
    assert sends == 2 * m * ((p - 1) * line.messages(v) + wraps)


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v"])
@pytest.mark.parametrize("times", [(1, 1, 1), (4, 5, 2), (2, 3, 1)])
def test_simulated_bubbles_are_the_formula_s(name, times):
    """Idle time of the fullest rank; inside the rank for the two that slide past the barrier."""
    p, m = 4, 16
    f, i, w = times
    wanted = FORMULAS[name].bubble(p, Beat(f=f, i=i, w=w), 2)
    measured = figures(BUILT[name](p, m), Times.even(p, tf=f, ti=i, tw=w))
    inside = name in ("zb-h2", "zb-v")
    if wanted is not None:
        assert max(measured.internal_idle if inside else measured.idle) == exactly(wanted)
