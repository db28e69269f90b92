"""The classic schedules are complete, ordered, true to their pictures, and refuse in words."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_core.fields import PlanError
from parallel_core.pipeline.gpipe import gpipe
from parallel_core.pipeline.interleaved import interleaved
from parallel_core.pipeline.naive import naive
from parallel_core.pipeline.one_f_one_b import one_f_one_b
from parallel_core.pipeline.order import Order, Task
from parallel_core.pipeline.picture import picture
from parallel_core.pipeline.pipedream import pipedream
from parallel_core.pipeline.zb_h1 import zb_h1
from parallel_core.pipeline.zb_h2 import zb_h2
from parallel_core.program import Op, ProgramError


class Classic(NamedTuple):
    """A schedule by hand: its function, whether it splits B, whether a rank holds v stages."""

    function: Callable[..., Order]
    splits: bool = False
    chunked: bool = False

    def order(self, p: int, m: int, v: int = 2) -> Order:
        return self.function(p, m, v) if self.chunked else self.function(p, m)

    @property
    def docstring(self) -> str:
        """Of the file, where the picture is."""
        return sys.modules[self.function.__module__].__doc__ or ""


CLASSICS = (
    Classic(naive),
    Classic(gpipe),
    Classic(one_f_one_b),
    Classic(pipedream),
    Classic(interleaved, chunked=True),
    Classic(zb_h1, splits=True),
    Classic(zb_h2, splits=True),
)
every_schedule = pytest.mark.parametrize("classic", CLASSICS, ids=lambda c: c.function.__name__)
sizes = {"p": st.integers(1, 6), "m": st.integers(1, 10), "v": st.integers(2, 4)}


def built(classic: Classic, p: int, m: int, v: int) -> Order:
    """The order, of m groups of p where microbatches come in groups."""
    return classic.order(p, m * p, v) if classic.chunked else classic.order(p, m)


def peaks(order: Order) -> list[int]:
    """Per rank the most (microbatch, stage) pairs at once between their F and their B or W."""
    found = []
    for tasks in order.ranks:
        held = most = 0
        for task in tasks:
            held += {Op.F: 1, Op.B: -1, Op.I: 0, Op.W: -1}[task.op]
            most = max(most, held)
        found.append(most)
    return found


@every_schedule
@given(**sizes)
def test_every_task_is_there_once_on_its_rank(classic, p, m, v):
    """Each microbatch passes each stage of its rank by F and by B, or by F, I and W."""
    order = built(classic, p, m, v)
    chunks, mbs = (v, m * p) if classic.chunked else (1, m)
    backward = (Op.I, Op.W) if classic.splits else (Op.B,)
    wanted = Counter(
        (stage % p, Task(op, mb, stage))
        for stage in range(p * chunks)
        for mb in range(mbs)
        for op in (Op.F, *backward)
    )
    assert Counter(order) == wanted
    assert (order.p, order.m, order.stages) == (p, mbs, p * chunks)


@every_schedule
@given(**sizes)
def test_forward_then_input_then_weights(classic, p, m, v):
    """On its rank F stands before B or I, and I before W."""
    turn = {Op.F: 0, Op.B: 1, Op.I: 1, Op.W: 2}
    for tasks in built(classic, p, m, v).ranks:
        stands: dict[tuple[int, int], list[int]] = defaultdict(list)
        for task in tasks:
            stands[task.mb, task.stage].append(turn[task.op])
        assert all(turns == sorted(turns) for turns in stands.values())


@every_schedule
@given(**sizes)
def test_ranks_that_wait_for_each_other_all_arrive(classic, p, m, v):
    """Each rank in its own order, a task as soon as its neighbours' are done: nobody is stuck."""
    order = built(classic, p, m, v)
    left = [list(reversed(tasks)) for tasks in order.ranks]
    done: set[tuple[bool, int, int]] = set()  # (backward, microbatch, stage)
    moved = True
    while moved:
        moved = False
        for tasks in left:
            while tasks:
                task = tasks[-1]
                back = task.op is not Op.F
                needed = task.stage + (1 if back else -1)
                met = not 0 <= needed < order.stages or (back, task.mb, needed) in done
                if task.op is not Op.W and not met:
                    break
                done.add((back, task.mb, task.stage))
                tasks.pop()
                moved = True
    assert not any(left)


@every_schedule
@given(**sizes)
def test_gradients_add_up_from_the_first_microbatch_on(classic, p, m, v):
    """Every stage adds its weight gradients in the order 0, 1, 2, ...: the sums agree bitwise."""
    for tasks in built(classic, p, m, v).ranks:
        added: dict[int, list[int]] = defaultdict(list)
        for task in tasks:
            if task.op in (Op.B, Op.W):
                added[task.stage].append(task.mb)
        assert all(mbs == sorted(mbs) for mbs in added.values())


@every_schedule
def test_the_picture_in_its_docstring_is_true(classic):
    """What a reader sees on top of the file is what the function returns."""
    drawn = picture(classic.docstring)
    assert drawn.p > 1 and drawn.m > 1 and (drawn.v > 1) == classic.chunked
    assert str(drawn.order) == str(classic.order(drawn.p, drawn.m, drawn.v))
    assert drawn.order.ranks == classic.order(drawn.p, drawn.m, drawn.v).ranks


@every_schedule
def test_a_docstring_names_the_paper(classic):
    """Each file ends its explanation with where the method comes from."""
    assert "arXiv:" in classic.docstring


@given(p=st.integers(1, 9), m=st.integers(1, 24))
def test_the_most_a_rank_holds_is_the_formula(p, m):
    """Each docstring's formula for microbatches in flight, m < p included."""
    ranks = range(p)
    assert peaks(naive(p, m)) == [1] * p
    assert peaks(gpipe(p, m)) == [m] * p
    assert peaks(one_f_one_b(p, m)) == [min(p - rank, m) for rank in ranks]
    assert peaks(zb_h1(p, m)) == [min(p, m)] * p
    assert peaks(zb_h2(p, m)) == [min(2 * p - 1, m)] * p


@given(p=st.integers(1, 6), groups=st.integers(1, 5), v=st.integers(2, 4))
def test_the_most_chunks_in_flight_under_interleaving(p, groups, v):
    """Rank r holds one chunk more than it warms up with, or all of them."""
    m = groups * p
    most = [min(2 * (p - 1 - rank) + (v - 1) * p + 1, v * m) for rank in range(p)]
    assert peaks(interleaved(p, m, v)) == most


def test_interleaving_holds_more_than_1f1b():
    """At p=4, m=8, v=2 rank 0 holds 11 half-stages: 5.5 microbatches, where 1F1B holds 4."""
    assert peaks(interleaved(4, 8, 2)) == [11, 9, 7, 5]
    assert peaks(one_f_one_b(4, 8)) == [4, 3, 2, 1]


@given(p=st.integers(1, 6), m=st.integers(1, 10))
def test_pipedream_computes_what_1f1b_does_and_is_stale_by_its_depth(p, m):
    """Backwards done before a forward are its version: min(i, p-1-r) are still to come."""
    order = pipedream(p, m)
    assert order.ranks == one_f_one_b(p, m).ranks
    for rank, tasks in enumerate(order.ranks):
        done = 0
        for task in tasks:
            if task.op is Op.B:
                done += 1
            else:
                assert done == max(0, task.mb - (p - 1 - rank))


@every_schedule
@pytest.mark.parametrize(
    ("sizes_", "field"), [((0, 4), "pp"), ((-1, 4), "pp"), ((2, 0), "microbatches")]
)
def test_no_rank_or_no_microbatch_is_refused(classic, sizes_, field):
    """The sentence names the field, the rule and what works."""
    with pytest.raises(PlanError, match=r"a pipeline has at least one .* works is 1") as refused:
        classic.order(*sizes_)
    assert (refused.value.field, refused.value.nearest) == (field, 1)


def test_interleaving_refuses_what_it_cannot_cut():
    """One stage a rank is no interleaving, and a group of microbatches is as large as p."""
    with pytest.raises(PlanError, match=r"virtual_stages=1 .*at least 2 stages on a rank"):
        interleaved(4, 8, 1)
    for m, nearest in ((9, 8), (11, 12), (1, 4)):
        with pytest.raises(PlanError, match=r"does not come in groups of pp=4.*") as refused:
            interleaved(4, m, 2)
        assert (refused.value.field, refused.value.nearest) == ("microbatches", nearest)
        assert interleaved(4, nearest, 2).m == nearest


def test_a_picture_that_is_none_says_what_is_missing():
    """No picture, and a picture without all its ranks, are told apart."""
    with pytest.raises(ProgramError, match=r"no picture here; write `p=3 m=4"):
        picture("Only words, as in p=3 m=4 rank and file.")
    with pytest.raises(ProgramError, match=r"says p=3 but shows ranks \[0, 2\]; write 0 to 2"):
        picture("    p=3 m=1    rank 0   F0 B0\n               rank 2   F0 B0\n")


def test_a_wrong_picture_is_noticed():
    """Two cells changed about in a true picture make it another order."""
    text = Classic(gpipe).docstring.replace("F2 F3 B0", "F2 B0 F3", 1)
    assert picture(text).order.ranks != gpipe(3, 4).ranks
