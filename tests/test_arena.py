"""The arena's engine: a partial order is judged, gone on with, simulated and drawn truly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core import places
from parallel_core.fields import PlanError
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.completion import completed
from parallel_core.pipeline.figures import figures, simulated
from parallel_core.pipeline.legal import legal
from parallel_core.pipeline.order import Order, Task
from parallel_core.pipeline.partial import Board, missing, moves, progress
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.program import Op, ProgramError
from parallel_core.views import arena

NODE = shutil.which("node")
P, M = 4, 8
EMPTY: tuple[tuple[Task, ...], ...] = ((),) * P
every_schedule = pytest.mark.parametrize("name", list(SCHEDULES))


def order_of(name, p=P, m=M):
    """A schedule of the table with the fewest stages a rank."""
    return SCHEDULES[name].of(Job(p=p, m=m, v=SCHEDULES[name].fewest))


def plain(p=2, m=2, cap=None):
    """The board on which every rank has its own stage."""
    return Board({(mb, s): s for mb in range(m) for s in range(p)}, p, cap)


def parsed(*lines):
    """Ranks from text, empty ones too."""
    found = [
        Order.parse(f"rank {r}: {line}").ranks if line else ((),) for r, line in enumerate(lines)
    ]
    return tuple(tuple(Task(t.op, t.mb, rank) for t in row[0]) for rank, row in enumerate(found))


# -- judging ---------------------------------------------------------------------------------------


@every_schedule
def test_every_prefix_in_time_of_every_schedule_is_legal(name):
    """Whatever of a real schedule has begun by some moment is a partial order that can run."""
    order = order_of(name)
    board, trace = Board.of(order), simulated(order, Times.even(P))
    rows = [[s for s in row if s.op in "FBIW"] for row in trace.by_rank]
    for moment in range(0, trace.makespan, max(1, trace.makespan // 12)):
        begun = (sum(s.t_start < moment for s in row) for row in rows)
        ranks = tuple(tasks[:n] for tasks, n in zip(order.ranks, begun, strict=True))
        assert len(progress(board, ranks).done) == sum(map(len, ranks))
    assert missing(progress(board, order.ranks)) == 0
    assert missing(progress(board, EMPTY)) == len(board.home)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_walk_of_offered_moves_always_ends_in_a_legal_schedule(data):
    """Any choice among the moves that are offered leads on, until the order is whole and legal."""
    name = data.draw(st.sampled_from([n for n, s in SCHEDULES.items() if not s.asynchronous]))
    p = data.draw(st.sampled_from([2, 4]))
    try:
        board = Board.of(order_of(name, p, 2 * p))
    except PlanError:
        return
    rows = [[] for _ in range(p)]
    going = progress(board, tuple(map(tuple, rows)))
    while True:
        can = [(r, m.task) for r in range(p) for m in moves(going, r) if not m.why]
        if not can:
            break
        rank, task = data.draw(st.sampled_from(can))
        going.run(rank, task)
        rows[rank].append(task)
    legal(Order(tuple(map(tuple, rows))), p=p, m=board.m)
    assert missing(going) == 0


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(["F0", "F1", "B0", "B1", "I0", "W0"]), max_size=5),
       st.lists(st.sampled_from(["F0", "F1", "B0", "B1", "I1", "W1"]), max_size=5))  # fmt: skip
def test_any_rows_are_taken_or_refused_in_one_sentence(first, second):
    """Never another error, never a hang; what is taken can be simulated."""
    board = plain()
    ranks = parsed(" ".join(first), " ".join(second))
    try:
        progress(board, ranks)
    except ProgramError as error:
        assert "rank" in str(error) and "\n" not in str(error)
        return
    whole = completed(board, ranks, Times.even(2)).order
    legal(whole, p=2, m=2)
    assert all(row[: len(mine)] == mine for row, mine in zip(whole.ranks, ranks, strict=True))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (("F0", "F0 F1"), "rank 1 cannot run F1 yet: stage 0 has not run F1, and nobody"),
        (("F0 B0", "F0"), "rank 0 cannot run B0 yet: stage 1 has not run B0, and nobody"),
        (("F0 F0", ""), "rank 0 cannot run F0: F0 is placed already"),
        (("B0", ""), "rank 0 cannot run B0 yet: it has not run F0"),
        (("F0", "F0 W0"), "rank 1 cannot run W0 yet: it has not run I0"),
        (("F0", "F0 I0 B0"), "rank 1 cannot run B0: I0 is placed already, so W0 is what is left"),
        (("F0", "F0 B0 W0"), "rank 1 cannot run W0: B0, which is I and W in one, is placed"),
        (("F7", ""), "rank 0 cannot run F7: there are microbatches 0 to 1 and stages 0 to 1"),
        (
            ("B0 F0", "F0 B0"),
            "rank 0 cannot run B0 yet: it has not run F0",
        ),
        (
            ("F0 B0 F1", "F0 F1 B0 B1"),
            "rank 0 waits at B0 for rank 1's B0, which comes only after F1, and that waits in turn:"
            " on rank 1 move B0 up or F1 down",
        ),
        (("F0", "F0", ""), "the order has 3 lines for 2 ranks"),
    ],
)
def test_an_illegal_move_is_told_why(rows, says):
    """The sentence names the rank, the task, and what is missing."""
    with pytest.raises(ProgramError) as refusal:
        progress(plain(), parsed(*rows))
    assert says in str(refusal.value)


def test_a_full_rank_is_told_to_run_a_backward_first():
    """With a cap of 1, a second forward on the rank is refused, and taken after the backward."""
    board = plain(cap=1)
    with pytest.raises(ProgramError, match="rank 0 cannot run F1 yet: it holds 1 of the 1 micro"):
        progress(board, parsed("F0 F1", "F0 B0"))
    assert missing(progress(board, parsed("F0 B0 F1", "F0 B0"))) == 2


def test_the_work_of_another_rank_is_not_offered_nor_taken():
    """DualPipe's board: a stage is on two ranks, each for its own microbatches."""
    board = Board({(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 0}, 2)
    going = progress(board, ((), ()))
    assert [str(m.task) for m in moves(going, 0) if not m.why] == ["0F0"]
    assert [str(m.task) for m in moves(going, 1) if not m.why] == ["0F1"]
    with pytest.raises(ProgramError, match="stage 0 of microbatch 0 is rank 0's"):
        progress(board, ((), (Task(Op.F, 0, 0),)))


# -- going on --------------------------------------------------------------------------------------


@every_schedule
def test_the_greedy_rest_keeps_what_is_placed_and_is_legal(name):
    """From any state of any schedule: the same beginning, whole, and within the cap if it can."""
    order = order_of(name)
    board, trace = Board.of(order), simulated(order, Times.even(P))
    rows = [[s for s in row if s.op in "FBIW"] for row in trace.by_rank]
    begun = (sum(s.t_start < trace.makespan // 3 for s in row) for row in rows)
    ranks = tuple(tasks[:n] for tasks, n in zip(order.ranks, begun, strict=True))
    for splits in (False, True):
        found = completed(board, ranks, Times.even(P), splits=splits)
        legal(found.order, p=P, m=M)
        assert found.kept
        assert all(
            row[: len(mine)] == mine for row, mine in zip(found.order.ranks, ranks, strict=True)
        )
        assert board.placement_of(found.order)


@pytest.mark.parametrize("cap", [2, 3, 4])
def test_the_greedy_rest_stays_below_the_cap(cap):
    """No rank ever holds more; a longer way is the price."""
    board = plain(P, M, cap)
    found = completed(board, EMPTY, Times.even(P))
    assert found.kept and max(figures(found.order).peak_in_flight) <= cap


def test_with_no_cap_the_greedy_rest_of_nothing_is_as_short_as_1f1b():
    """33 beats for F = 1, B = 2 on four ranks with eight microbatches."""
    assert figures(completed(plain(P, M), EMPTY, Times.even(P)).order).makespan == 33


# -- drawing ---------------------------------------------------------------------------------------


def sketch_of(order, cut, **more):
    """The first `cut` tasks of each rank placed, as far as they can run."""
    board = Board.of(order, more.pop("cap", None))
    trace = simulated(order, Times.even(order.p))
    rows = [[s for s in row if s.op in "FBIW"] for row in trace.by_rank]
    begun = [sum(s.t_start < cut * 1e9 for s in row) for row in rows]
    ranks = tuple(tasks[:n] for tasks, n in zip(order.ranks, begun, strict=True))
    whole = completed(board, ranks, Times.even(order.p), splits=order.splits).order
    return arena.Sketch(
        board=board, ranks=ranks, trace=simulated(whole, Times.even(order.p)), **more
    ), rows


@every_schedule
@pytest.mark.parametrize("cut", [5, 1000])
def test_what_is_placed_is_drawn_when_the_whole_schedule_runs_it(name, cut):
    """A placed task begins and ends where it does in the schedule it is a part of."""
    sketch, rows = sketch_of(order_of(name), cut)
    data = json.loads(json.dumps(arena.payload(sketch)))
    for rank, row, placed in zip(data["ranks"], rows, sketch.ranks, strict=True):
        for cell, span in zip(rank["cells"], row, strict=False):
            assert cell[:2] == [span.op, span.mb]
            assert cell[4:6] == [span.t_start / 1e9, span.t_done / 1e9]
        assert len(rank["cells"]) == min(len(row), len(placed))
        forwards = [c for c in (*rank["cells"], *rank["ghosts"]) if c[0] == "F"]
        assert len(forwards) == sum(span.op == "F" for span in row)
    assert data["kind"] == "modelled"
    if cut == 1000:
        assert data["missing"] == 0 and not any(r["ghosts"] or r["moves"] for r in data["ranks"])
        assert data["makespan"] == figures(order_of(name)).makespan


@every_schedule
def test_memory_peaks_where_the_figures_say(name):
    """The strip's highest step is the peak in flight of that rank."""
    order = order_of(name)
    sketch, _ = sketch_of(order, 1000)
    peaks = [max(h for _, h in r["holds"]) for r in arena.payload(sketch)["ranks"]]
    assert peaks == pytest.approx(figures(order).peak_in_flight)


def test_a_gap_is_explained_by_what_came_last():
    """1F1B's rank 0 stands between F3 and B0 for rank 1's B0."""
    sketch, _ = sketch_of(order_of("1f1b"), 1000)
    data = arena.payload(sketch)
    cell = next(c for c in data["ranks"][0]["cells"] if c[3] == "B0")
    assert cell[7] == "waits 6 for B0 of rank 1, which ended at 10"
    busy = [c for rank in data["ranks"] for c in rank["cells"] if not c[7]]
    assert busy


def test_the_moves_offered_are_those_that_progress_takes():
    """Every chip without a reason can be placed; every other one is refused with that reason."""
    sketch, _ = sketch_of(order_of("zb-h1"), 5)
    for rank, row in enumerate(arena.payload(sketch)["ranks"]):
        assert row["moves"]
        for op, stage, label, why in row["moves"]:
            task = Task(Op(op), int(label.lstrip("FBIW")), stage)
            rows = list(sketch.ranks)
            rows[rank] = (*rows[rank], task)
            if why:
                with pytest.raises(ProgramError) as refusal:
                    progress(sketch.board, tuple(rows))
                assert str(refusal.value) == why
            else:
                progress(sketch.board, tuple(rows))


def test_the_account_says_it_all_in_words():
    """A line a rank, how long, what is missing, par."""
    sketch, _ = sketch_of(order_of("1f1b"), 2, par=(27.0, "zb-h1"))
    text = arena.account(sketch)
    assert "Rank 0: F0 F1; at most 2 microbatches in memory." in text
    assert "Rank 3: nothing yet" in text
    assert "Of 32 pieces" in text
    assert "Par, the shortest of the table on this board, is 27 beats, by zb-h1." in text


def test_the_critical_path_reaches_from_the_start_to_the_end():
    """Marked cells begin with the first beat and end with the last."""
    sketch, _ = sketch_of(order_of("1f1b"), 1000)
    data = arena.payload(sketch)
    on = [c for rank in data["ranks"] for c in rank["cells"] if c[6]]
    assert min(c[4] for c in on) == 0 and max(c[5] for c in on) == data["makespan"]
    assert sum(c[5] - c[4] for c in on) == pytest.approx(data["makespan"])


# -- the module ------------------------------------------------------------------------------------


@pytest.mark.skipif(NODE is None, reason="needs node: apt install nodejs")
def test_the_editors_own_claims_hold():
    """`node --test`, on the pure functions of the module as it is put together."""
    done = subprocess.run(
        [NODE, "--test", str(places.assets() / "arena.test.mjs")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert done.returncode == 0, done.stdout + done.stderr
