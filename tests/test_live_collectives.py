"""What a student types: integers that are moved and added as promised, timed runs, the link."""

from __future__ import annotations

import re

import pytest

from parallel_core import live
from parallel_core.collectives import TRANSPOSE
from parallel_core.collectives.group import CollectiveError
from parallel_core.collectives.request import CollectiveRequest
from parallel_core.cost import Link
from parallel_core.fields import PlanError
from parallel_core.live_collectives import collective, predicted_trace
from parallel_core.live_link import link, pings
from parallel_core.trace import Kind
from parallel_core.views.player import show

THREE = [[1, 2, 3, 4, 5], [10, 20, 30, 40, 50], [7, 0, 7, 0, 7]]  # chunks of 2, 2 and 1
SQUARE = [[3, 1, 4], [1, 5, 9], [2, 6, 5]]
HOW = {
    "broadcast": "tree",
    "scatter": "naive",
    "gather": "tree",
    "reduce": "naive",
    "all_gather": "ring",
    "reduce_scatter": "ring",
    "all_reduce": "ring",
    "all_to_all": "bruck",
}


@pytest.fixture(scope="module", autouse=True)
def no_rank_is_left():
    """The pool that these runs share belongs to this process; it ends with these tests."""
    yield
    live.pool().close()


def expected(op, rows, chunks):
    """What every rank holds after `op`, written down without the lab: slices and sums."""
    n = len(rows)
    total = [sum(column) for column in zip(*rows, strict=True)]
    nothing = [None] * len(total)
    whole = [x for r in range(n) for x in rows[r][chunks[r]]]

    def only(r, row):
        return [x if chunks[r].start <= i < chunks[r].stop else None for i, x in enumerate(row)]

    return {
        "broadcast": [rows[0]] * n,
        "scatter": [only(r, rows[0]) for r in range(n)],
        "gather": [whole] + [nothing] * (n - 1),
        "reduce": [total] + [nothing] * (n - 1),
        "all_gather": [whole] * n,
        "reduce_scatter": [only(r, total) for r in range(n)],
        "all_reduce": [total] * n,
        "all_to_all": [[x for s in range(n) for x in rows[s][chunks[r]]] for r in range(n)],
    }[op]


@pytest.mark.live
@pytest.mark.parametrize("op", HOW)
def test_integers_end_where_they_should(op):
    """Every op on three ranks, chunks of unequal size, against slices and sums in plain Python."""
    done = collective(op, HOW[op], integers=THREE)
    assert [list(row) for row in done.after] == expected(
        op, THREE, [slice(0, 2), slice(2, 4), slice(4, 5)]
    )
    assert done.report["max_rel_error"] == 0.0 and done.report["equal_on_all_ranks"]
    lines = str(done).splitlines()
    assert len(lines) == 4 and lines[0].startswith(f"{op} by {HOW[op]}: ")


@pytest.mark.live
@pytest.mark.parametrize("op", HOW)
def test_the_table_of_transposes_is_one(op):
    """<op x, y> = <x, transpose(op) y> on real ranks, and not with the op itself in its place."""

    def dot(one, other):
        pairs = [p for a, b in zip(one, other, strict=True) for p in zip(a, b, strict=True)]
        return sum(a * b for a, b in pairs if None not in (a, b))

    x, y = [[5, 1, 1], [2, 2, 8], [1, 3, 1]], SQUARE
    there = collective(op, HOW[op], integers=x)
    back = collective(TRANSPOSE[op], HOW[TRANSPOSE[op]], integers=y)
    assert dot(there.after, y) == dot(there.before, back.after)
    if TRANSPOSE[op] != op:
        again = collective(op, HOW[op], integers=y)
        assert dot(there.after, y) != dot(there.before, again.after)


@pytest.mark.live
def test_the_sums_are_spelled_out_as_they_were_made():
    """Every line's arithmetic is true, every chunk is summed from all ranks, halves agree."""
    rows = [[1], [20], [300]]
    for algorithm in ("naive", "one_shot", "tree"):
        text = collective("all_reduce", algorithm, integers=rows).sums
        for line in text.splitlines():
            left, right = re.fullmatch(r"r\d step\d+   \w+\[[\d,]+\] = (.*) = (\d+)", line).groups()
            assert sum(map(int, left.split(" + "))) == int(right), line
        assert text.rstrip().endswith("= 321")
    ring = collective("all_reduce", "ring", integers=SQUARE)
    assert ring.sums == collective("reduce_scatter", "ring", integers=SQUARE).sums
    assert ring.sums.splitlines()[-3:] == [
        "r0 step1   sum[0] = 3 + 3 = 6",
        "r1 step1   sum[1] = 7 + 5 = 12",
        "r2 step1   sum[2] = 13 + 5 = 18",
    ]
    lists = collective("reduce", "naive", integers=[[1, 2], [30, 40]])
    assert lists.sums == "r0 step0   sum[0] = [1, 2] + [30, 40] = [31, 42]"


@pytest.mark.live
def test_a_timed_run_has_its_counts_its_trace_and_its_model():
    """Bytes as predicted, the fastest run, a player; the model is of the same program, dashed."""
    done = collective("all_reduce", "ring", ranks=2, bytes=1 << 16, repeats=4)
    assert done.sent == (1 << 16, 1 << 16)
    assert len(done.seconds) == 3 and done.best == min(done.seconds) > 0
    assert done.before == done.after == () and done.sums == ""
    assert done.trace.kind is Kind.MEASURED and len(done.trace.steps) == 1
    model = done.model(Link(1e-5, 1e9))
    assert model.kind is Kind.MODELLED and len(model.spans) == len(done.trace.spans)
    assert "all_reduce by ring, 2 ranks, 64 KiB" in str(done)
    assert "<iframe" in done._repr_mimebundle_()["text/html"]
    assert done.show(Link(1e-5, 1e9)) is not None


@pytest.mark.parametrize("algorithm", ["naive", "tree", "ring", "two_shot"])
def test_the_player_shows_ranks_that_wait_for_busy_ports(algorithm):
    """Where the peer is late because another message holds its port, no work of it is blamed."""
    asked = CollectiveRequest(op="all_reduce", algorithm=algorithm, ranks=4, bytes=1 << 20)
    shown = show(predicted_trace(asked, Link(1e-5, 1e9)))
    assert "<iframe" in shown._repr_mimebundle_()["text/html"]


def test_what_cannot_be_run_is_refused_in_one_sentence():
    """Lists of different length, an algorithm that is none, a dtype that does not divide."""
    with pytest.raises(CollectiveError, match=r"lists of 1, 2 numbers; every rank needs one"):
        collective("all_reduce", "ring", integers=[[1], [2, 3]])
    with pytest.raises(CollectiveError, match="integers has lists of no numbers"):
        collective("all_reduce", "ring", integers=[])
    with pytest.raises(PlanError, match="algorithm"):
        collective("broadcast", "ring", ranks=2)


@pytest.mark.parametrize("share", [0.25, 0.98, 4])
def test_naive_meets_the_ring_only_where_latencies_overlap(share):
    """Eight ranks: overlapped they cross at 48/49 alpha beta, in series the ring always wins."""
    here = Link(1e-5, 1e9)
    nbytes = int(share * 1e4) // 32 * 32

    def time(algorithm, overlap):
        asked = CollectiveRequest(op="all_reduce", algorithm=algorithm, ranks=8, bytes=nbytes)
        return predicted_trace(asked, here, overlap=overlap).makespan

    naive, ring = time("naive", True), time("ring", True)
    assert (naive < ring) == (nbytes < 48 / 49 * 1e4)
    assert time("ring", False) < time("naive", False)


@pytest.mark.live
def test_the_link_is_measured_and_one_size_is_held_out():
    """Points in order, the held-out size in none of them; laws, and a figure with both."""
    here = link(sizes=(8, 1 << 12, 1 << 16), apart=1 << 14, rounds=2, seconds=0.02)
    assert [size for size, _ in here.points] == [8, 1 << 12, 1 << 16]
    assert [size for size, _ in here.measured] == [8, 1 << 12, 1 << 14, 1 << 16]
    assert here.held_out > 0 and here.plain.beta > 0 and here.ramp.beta > 0
    names = [trace.name for trace in here.figure().data]
    assert [name.split(":")[0] for name in names] == [
        "alpha-beta", "with a ramp", "measured", "measured, in no fit",
    ]  # fmt: skip
    assert "alpha-beta" in repr(here)


def test_a_point_is_the_fastest_tenth_of_the_quietest_sweep():
    """A busy sweep raises the whisker at most, never the point."""
    quiet = {"bytes": 8, "seconds": 5e-5, "low": 4e-5, "high": 9e-5, "trips": 10}
    busy = {"bytes": 8, "seconds": 2e-3, "low": 1e-3, "high": 3e-3, "trips": 10}
    (point,) = pings([[busy], [quiet], [busy]], apart=64)
    assert (point.seconds, point.high, point.fitted) == (4e-5, 5e-5, True)
    assert not pings([[quiet]], apart=8)[0].fitted
