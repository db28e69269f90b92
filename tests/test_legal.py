"""A reader's order: read in any form, and either legal or refused in one sentence."""

from __future__ import annotations

import time
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise, product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parallel_core.check import check
from parallel_core.cost import UnitCost
from parallel_core.fields import PlanError
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.legal import legal
from parallel_core.pipeline.lower import lower
from parallel_core.pipeline.order import COMPUTES, Order, Task
from parallel_core.pipeline.reading import Form, form_of, read, read_file, write
from parallel_core.pipeline.schedule import Job
from parallel_core.program import Op, ProgramError
from parallel_core.simulate import simulate

LONGEST = 420  # characters of a sentence that a person still reads
AUTOMATIC = "zb-auto"  # searches for its order, which takes too long to ask a hundred times


def orders(p: int, m: int) -> dict[str, Order]:
    """Every schedule of the table that takes p ranks and m microbatches."""
    found = {}
    for name, schedule in SCHEDULES.items():
        if name == AUTOMATIC:
            continue
        try:
            found[name] = schedule.of(Job(p=p, m=m, v=schedule.fewest))
        except PlanError:
            continue
    return found


LEGAL = {(name, p, m): o for p in (2, 3, 4) for m in (4, 6, 8) for name, o in orders(p, m).items()}


@st.composite
def mutated(draw: st.DrawFn) -> Order:
    """A schedule of the table, broken (or not) in one to three places."""
    order = LEGAL[draw(st.sampled_from(sorted(LEGAL)))]
    ranks = [list(tasks) for tasks in order.ranks]
    for _ in range(draw(st.integers(1, 3))):
        full = [rank for rank, tasks in enumerate(ranks) if tasks]
        mine = ranks[draw(st.sampled_from(full))] if full else []
        if not mine:
            break
        at = draw(st.integers(0, len(mine) - 1))
        to = draw(st.integers(0, len(mine) - 1))
        match draw(st.sampled_from(("drop", "double", "swap", "move", "reverse", "change"))):
            case "drop":
                mine.pop(at)
            case "double":
                mine.insert(to, mine[at])
            case "swap":
                mine[at], mine[to] = mine[to], mine[at]
            case "move":
                other = draw(st.sampled_from(ranks))
                other.insert(draw(st.integers(0, len(other))), mine.pop(at))
            case "reverse":
                mine.reverse()
            case _:
                op, mb = draw(st.sampled_from(COMPUTES)), draw(st.sampled_from((0, 1, 5, 999_999)))
                mine[at] = Task(op, mb, draw(st.integers(0, order.stages)))
    return Order(tuple(map(tuple, ranks)), "mutated")


def is_legal(order: Order) -> bool:
    """The rules again, as plainly as they can be said, for orders of a few tasks."""
    count = Counter(task for _, task in order)
    m, stages = order.m, order.stages
    if not m or not all(order.ranks) or m * stages > sum(count.values()):
        return False
    if any(times > 1 for times in count.values()):
        return False
    graph: dict[Task, set[Task]] = {task: set() for task in count}
    for mb, s in product(range(m), range(stages)):
        has = [Task(op, mb, s) for op in COMPUTES if count[Task(op, mb, s)]]
        homes = {rank for rank, task in order if (task.mb, task.stage) == (mb, s)}
        if [t.op for t in has] not in ([Op.F, Op.B], [Op.F, Op.I, Op.W]) or len(homes) > 1:
            return False
        for before, after in pairwise(has):
            graph[after].add(before)
        if s:
            graph[has[0]].add(Task(Op.F, mb, s - 1))
            back = Op.B if count[Task(Op.B, mb, s - 1)] else Op.I
            graph.setdefault(Task(back, mb, s - 1), set()).add(has[1])
    for tasks in order.ranks:
        for before, after in pairwise(tasks):
            graph[after].add(before)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return False
    return True


def one_sentence(error: ProgramError) -> None:
    said = str(error)
    assert said and said == " ".join(said.split()) and len(said) < LONGEST, said
    assert not said.endswith(".") and ". " not in said, said


@pytest.mark.parametrize("key", LEGAL, ids=str)
def test_every_schedule_of_the_table_is_legal(key: tuple[str, int, int]) -> None:
    """What the table makes, `legal` lets through, and so do the rules said plainly."""
    _, p, m = key
    legal(LEGAL[key], p=p, m=m)
    assert is_legal(LEGAL[key])


@settings(max_examples=600, deadline=None)
@given(mutated())
def test_a_mutated_order_runs_to_its_end_or_is_refused_in_one_sentence(order: Order) -> None:
    """Never a hang, never another error; and the verdict is that of the rules said plainly."""
    try:
        legal(order)
    except ProgramError as error:
        one_sentence(error)
        assert "rank" in str(error)
        assert not is_legal(order)
        return
    assert is_legal(order)
    program = lower(order)
    check(program)
    ran = Counter(
        (span.rank, span.label) for span in simulate(program, UnitCost()).spans if span.op in "FBIW"
    )
    assert ran == Counter((rank, f"{t.op} stage{t.stage} mb{t.mb}") for rank, t in order)


ILLEGAL = {
    "F0 F1 B0 B1\nF0 F1 B0": "rank 1 runs F1 but no rank runs B1: add B1",
    "F0 B0 B1\nF0 F1 B0 B1": "rank 0 runs B1 but no rank runs F1: add F1 before it",
    "F0 B0 F1 B1\nF1 B1": "rank 1 never runs F0: add F0 and then B0",
    "F0 F0 B0": "rank 0 runs F0 twice: keep one",
    "0F0 0B0\n1F0 0F0 1B0": "rank 1 runs 0F0, which rank 0 runs as well: keep one",
    "F0 B0\nF2 B2": "no rank runs microbatch 1, though rank 1 runs microbatch 2",
    "0F0 0B0\n2F0 2B0": "no rank runs stage 1, though rank 1 runs stage 2",
    "F0 B0\nB0 F0": "rank 1 runs B0 before F0: move F0 in front",
    "F0 W0 I0": "rank 0 runs W0 before I0: move I0 in front",
    "F0 W0": "rank 0 runs W0 but no rank runs I0: add I0 before it",
    "F0 I0": "rank 0 runs I0 but no rank runs W0: add W0 after it",
    "F0 B0 W0": "rank 0 runs B0 and W0, and B is I and W in one: write B0, or I0 and W0",
    "0F0\n1F0 1B0 0B0": "rank 1 runs 0B0, whose 0F0 runs on rank 0",
    "": "the order is empty",
    "F0 B0\n,,\n2F0 2B0": "rank 1 has no task",
    "F0 B0 F1 B1\nF0 F1 B0 B1": "deadlock: rank 0 waits at B0 for stage 1's B0, which rank 1 runs"
    " after F1; rank 1 waits at F1 for stage 0's F1, which rank 0 runs after B0: move up",
    "1F0 0F0 1B0 0B0": "deadlock: rank 0 waits at 1F0 for stage 0's F0, which it runs itself after"
    " 1F0: move up",
    "0F0 0B0 2F0 2B0\n1F0 1B0": "deadlock: rank 0 waits at 0B0 for stage 1's B0, which rank 1 runs"
    " next; rank 1 waits at 1B0 for stage 2's B0, which rank 0 runs after 0B0: move up",
}


@pytest.mark.parametrize("text", ILLEGAL)
def test_the_sentence_names_rank_task_and_remedy(text: str) -> None:
    """Each rule has its sentence."""
    with pytest.raises(ProgramError) as caught:
        legal(read(text))
    one_sentence(caught.value)
    assert str(caught.value).startswith(ILLEGAL[text])


def test_the_sizes_that_were_asked_for_are_held_against_the_order() -> None:
    """Fewer lines than ranks, or fewer microbatches than asked, are named with both numbers."""
    order = read("F0 F1 B0 B1\nF0 B0 F1 B1")
    for sizes, said in (({"p": 3}, "2 ranks where 3"), ({"m": 4}, "2 microbatches where 4")):
        with pytest.raises(ProgramError, match=said):
            legal(order, **sizes)


def test_a_long_circle_is_told_shortly() -> None:
    """16 ranks that wait for each other are no wall of text."""
    p = 16
    lines = []
    for r in range(p):  # all wait for their first F1, rank 0 for what comes round from rank 15
        first = "0F0 16F0 0F1 16F1" if r == 0 else f"{r}F1 {r}F0 {p + r}F1 {p + r}F0"
        lines.append(f"{first} {p + r}B0 {r}B0 {p + r}B1 {r}B1")
    with pytest.raises(ProgramError, match=r"deadlock: rank 0 waits at 16F0 .* 12 more") as caught:
        legal(read("\n".join(lines)))
    one_sentence(caught.value)


def test_half_a_million_tasks_take_seconds() -> None:
    """p=64, m=1024, v=4: a check that a page can afford."""
    p, m, v = 64, 1024, 4
    forward = [[Task(Op.F, i, c * p + r) for c in range(v) for i in range(m)] for r in range(p)]
    back = [[Task(Op.B, t.mb, t.stage) for t in reversed(tasks)] for tasks in forward]
    order = Order(tuple((*f, *b) for f, b in zip(forward, back, strict=True)))
    start = time.process_time()
    legal(order)
    assert time.process_time() - start < 8  # 1.5 s on an idle core


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("key", LEGAL, ids=str)
def test_what_is_written_is_read_back(key: tuple[str, int, int], form: Form) -> None:
    """Every order in every form, told apart by its look."""
    text = write(LEGAL[key], form)
    assert form_of(text) is form
    assert read(text).ranks == LEGAL[key].ranks


TORCH = {"GPipe": 1, "Interleaved1F1B": 2, "InterleavedZeroBubble": 2, "ZBVZeroBubble": 2}
TORCH["DualPipeV"] = 2
"""Its 1F1B is left out: torch 2.13 lists the last rank's forwards off by one."""


@pytest.mark.parametrize(("name", "v"), TORCH.items())
def test_torchs_own_schedules_are_read_and_written(name: str, v: int) -> None:
    """The rows its `_dump_csv` writes, idle and overlapped cells too; and torch reads ours."""
    pipelining = pytest.importorskip("torch.distributed.pipelining.schedules")
    from torch.distributed.pipelining._schedule_visualizer import get_schedule_ops

    rows = get_schedule_ops(name, 4, 8, num_stages_per_rank=v)
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    cells = [[cell for cell in row if "REDUCE_GRAD" not in cell] for row in cells]
    order = read("\n".join(map(",".join, cells)))
    legal(order, p=4, m=8)
    flat = [[part for cell in row for part in _leaves(cell)] for row in cells]
    assert [list(map(str, tasks)) for tasks in order.ranks] == flat
    for line, tasks in zip(write(order, Form.CSV).splitlines(), order.ranks, strict=True):
        actions = [pipelining._Action.from_str(cell) for cell in line.split(",")]
        assert [(a.stage_index, a.microbatch_index) for a in actions] == [
            (t.stage, t.mb) for t in tasks
        ]


def _leaves(cell: str) -> list[str]:
    return [part for part in cell.removesuffix("OVERLAP_F_B").strip("()").split(";") if part]


UNREADABLE = {
    "F0 B0\nF0 X0": "line 2, cell 2: 'X0' is no task: write F0",
    "0F0,,0SEND_F0": "line 1, cell 3: '0SEND_F0' is communication",
    "0F0,0B0,0REDUCE_GRAD": "line 1, cell 3: '0REDUCE_GRAD' is communication",
    "(0F0;3Q1)OVERLAP_F_B": "line 1, cell 1: '3Q1' is no task",
    "F0 B0\nrank 0 F0 B0": "line 2 says rank 0 where rank 1 is next",
    '{"ranks": [["F0", 3]]}': "rank 0, cell 2 is no string",
    '{"ranks": [["F0", "B0"],': "line 1, column 25: this is no JSON",
    '{"ranks": "F0"}': 'the JSON has no "ranks"',
    '["F0"]': "rank 0 of the JSON is no list",
    '[["F0", "Z1"]]': "rank 0, cell 2: 'Z1' is no task",
    "[" * 100_000: "the JSON is no order",
    f"F1{'0' * 5000}": "line 1, cell 1: 'F1000",
}


@pytest.mark.parametrize("text", UNREADABLE, ids=lambda text: text[:20])
def test_a_wrong_cell_is_named_with_its_line(text: str) -> None:
    """One sentence, wherever the mistake stands."""
    with pytest.raises(ProgramError) as caught:
        read(text)
    one_sentence(caught.value)
    assert str(caught.value).startswith(UNREADABLE[text])


@settings(max_examples=300, deadline=None)
@example("(\t)")
@given(st.text(st.sampled_from('FBIWfx0123456789 ,;()#\n"[]{}:rank_OVERLAP\t-'), max_size=80))
def test_any_text_is_an_order_or_one_sentence(text: str) -> None:
    """Whatever is typed: an Order, or a ProgramError; then `legal` gives its own verdict."""
    try:
        order = read(text)
        legal(order)
    except ProgramError as error:
        one_sentence(error)
    else:
        assert is_legal(order)


def test_the_three_forms_of_one_order_are_equal() -> None:
    """Comments, labels, blank cells and quotes change nothing."""
    text = "# mine\nrank 0: F0 F1 B0 B1  # first\n\nrank 1: F0 B0 F1 B1\n"
    csv = '0F0,0F1,,"0B0",0B1\n,1F0,1B0,1F1,1B1\n,,,,\n'
    said = '{"name": "mine", "ranks": [["F0", "F1", null, "B0", "B1"], ["F0","B0","F1","B1"]]}'
    printed = '{"name": "mine", "p": 2, "order": [["F0","F1","B0","B1"],["F0","B0","F1","B1"]]}'
    assert read(text).ranks == read(csv).ranks == read(said).ranks == read(printed).ranks
    assert read(said).name == "mine"


def test_a_file_is_named_after_itself_and_must_be_text(tmp_path) -> None:
    """`mine.txt` is the order "mine"; bytes that are no text get a sentence."""
    mine = tmp_path / "mine.txt"
    mine.write_text("F0 B0\n", encoding="utf-8-sig")
    assert read_file(mine) == Order(((Task(Op.F, 0, 0), Task(Op.B, 0, 0)),), "mine")
    mine.write_bytes(b"\xff\xfe\x00F")
    with pytest.raises(ProgramError, match=r"mine\.txt is no text"):
        read_file(mine)
