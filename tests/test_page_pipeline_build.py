"""The pipeline arena's editor: moves, text, the URL and the page, by hand, by key, by touch."""

from __future__ import annotations

from functools import partial
from urllib.parse import parse_qs, urlparse

import pages
import pytest
from pages import button, calm, complaints, in_looks, payloads, words
from screens import pipeline_build
from screens.pipeline_controls import Choice
from screens.pipeline_draft import Draft, compact, expanded, read, text_of

from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.legal import legal
from parallel_core.pipeline.partial import Board
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.program import ProgramError

open_page = partial(pages.open_page, "pipeline")
skipped = partial(pages.skipped, "pipeline")
no_run_is_left = pages.no_run_is_left  # the fixture, for this file
every_schedule = pytest.mark.parametrize("name", list(SCHEDULES))


def query(at, name):
    """A word of the URL; AppTest gives it alone or in a list."""
    found = at.query_params.get(name, "")
    return found if isinstance(found, str) else found[0]


# -- a draft ---------------------------------------------------------------------------------------


def draft(name="1f1b", p=2, m=2):
    """An empty draft on a schedule's board."""
    order = SCHEDULES[name].of(Job(p=p, m=m, v=SCHEDULES[name].fewest))
    return Draft(Board.of(order))


def play(mine, *moves):
    """Place, rank and op by rank and op."""
    for rank, op in moves:
        mine.apply({"do": "place", "rank": rank, "op": op}, Times.even(mine.board.p))
    return mine


def test_moves_undo_and_redo_walk_through_the_states():
    """Back to nothing and forward again; a new move forgets what was undone."""
    mine = play(draft(), (0, "F"), (1, "F"), (1, "B"))
    times = Times.even(2)
    assert text_of(mine.board, mine.ranks) == "rank 0: F0\nrank 1: F0 B0"
    for _ in range(3):
        mine.apply({"do": "undo"}, times)
    assert not any(mine.ranks) and not mine.refused
    mine.apply({"do": "undo"}, times)
    assert mine.refused and mine.says == "there is nothing to undo"
    mine.apply({"do": "redo"}, times)
    assert text_of(mine.board, mine.ranks).startswith("rank 0: F0")
    play(mine, (0, "F"))
    mine.apply({"do": "redo"}, times)
    assert mine.refused


def test_a_refused_move_changes_nothing_and_says_why():
    """The state is the same, the sentence another one."""
    mine = play(draft(), (0, "F"))
    before = mine.ranks
    play(mine, (0, "B"))
    assert mine.refused and mine.ranks == before
    assert mine.says.startswith("rank 0 cannot run B0 yet: stage 1 has not run B0")


def test_reordering_is_judged_too():
    """A task may be dragged where it can run, and nowhere else."""
    mine = play(draft(), (0, "F"), (0, "F"), (1, "F"), (1, "B"), (0, "B"))
    mine.apply({"do": "move", "rank": 0, "from": 2, "to": 1}, Times.even(2))
    assert not mine.refused and text_of(mine.board, mine.ranks).startswith("rank 0: F0 B0 F1")
    mine.apply({"do": "move", "rank": 0, "from": 1, "to": 0}, Times.even(2))
    assert mine.refused and "it has not run F0" in mine.says


@pytest.mark.parametrize(
    "move",
    [
        {},
        {"do": "fly"},
        {"do": "place"},
        {"do": "place", "rank": 9, "op": "F"},
        {"do": "place", "rank": -1, "op": "F"},
        {"do": "place", "rank": 0, "op": "send"},
        {"do": "place", "rank": None, "op": None},
        {"do": "move", "rank": 0, "from": 5, "to": 0},
        {"do": "move", "rank": 0, "from": -1, "to": 0},
        {"do": ["place"]},
    ],
)
def test_whatever_a_browser_sends_changes_nothing_it_should_not(move):
    """A message is a stranger's: no exception, no state that cannot run."""
    mine = play(draft(), (0, "F"))
    before = mine.ranks
    mine.apply(move, Times.even(2))
    assert mine.ranks == before


@every_schedule
def test_text_and_url_bring_every_schedule_back(name):
    """As text, and as the compact form of the address; also when it is only begun."""
    order = SCHEDULES[name].of(Job(p=4, m=8, v=SCHEDULES[name].fewest))
    board = Board.of(order)
    for text in (text_of(board, order.ranks), expanded(compact(board, order.ranks)), str(order)):
        found, ranks = read(text, board)
        assert ranks == order.ranks and found.home == board.home
    begun = play(Draft(board), (0, "F"), (0, "F"))
    assert read(expanded(compact(board, begun.ranks)), board)[1] == begun.ranks


def test_wrong_text_is_one_sentence():
    """What is whole and wrong is judged as a schedule, what is begun as a beginning."""
    board = draft().board
    for text, says in (
        ("F0 X0\nF0", "'X0' is no task"),
        ("F0 B0 F1 B1\nF0 F1 B1 B0", "deadlock"),
        ("B0\nF0", "rank 0 cannot run B0 yet: it has not run F0"),
        ("F0\nF0\nF0", "3 lines for 2 ranks"),
    ):
        with pytest.raises(ProgramError) as refusal:
            read(text, board)
        assert says in str(refusal.value), text


def test_finishing_greedily_makes_it_legal():
    """The ladder's last rung: the rest is placed, what was there stays."""
    mine = play(draft(p=4, m=4), (0, "F"), (0, "F"))
    mine.apply({"do": "finish"}, Times.even(4))
    assert mine.order is not None
    legal(mine.order, p=4, m=4)
    assert mine.order.cells(0)[:2] == ["F0", "F1"]


# -- building --------------------------------------------------------------------------------------


def test_the_editor_opens_on_the_order_in_the_url():
    """A teacher hands out a position: the same cells stand there."""
    at = open_page(view="Build", order="F0.F1_F0__")
    (data,) = payloads(at)
    assert [[cell[3] for cell in rank["cells"]] for rank in data["ranks"]] == [
        ["F0", "F1"],
        ["F0"],
        [],
        [],
    ]
    assert data["par"] == [27.0, "zb-h1"] or data["par"][0] <= 27.0
    assert not data["refused"]


def test_a_wrong_order_in_the_url_is_told():
    """In one sentence, and the board is empty."""
    at = open_page(view="Build", order="B0___")
    (data,) = payloads(at)
    assert data["refused"] and data["says"].startswith("In the address: rank 0 cannot run B0 yet")
    assert not any(rank["cells"] for rank in data["ranks"])


def test_start_from_a_schedule_and_type_another():
    """A named one is there at one press; the box takes text, and refuses it in a sentence."""
    at = open_page(view="Build")
    calm(button(at, "Start from 1f1b").click().run())
    assert "**Legal.** 33 beats" in words(at) and query(at, "order").startswith("F0.F1.F2.F3.B0")
    box = at.text_area(key="pipeline.text")
    calm(box.set_value(box.value.replace("F0 F1", "B0 F1", 1)).run())
    assert at.error[0].value.startswith("Rank 0 cannot run B0 yet")
    assert [cell[3] for cell in payloads(at)[0]["ranks"][0]["cells"]][:2] == ["F0", "F1"]
    other = str(SCHEDULES["zb-h1"].of(Job(p=4, m=8)))
    calm(at.text_area(key="pipeline.text").set_value(other).run())
    assert "**Legal.** 27 beats" in words(at) and not at.error


def test_schedules_on_the_same_board_share_what_was_built():
    """One stage a rank is one board, whichever schedule is chosen; two stages are another."""
    at = open_page(view="Build", order="F0.F1_F0__")
    calm(at.selectbox(key="schedule").set_value("zb-h2").run())
    assert [len(rank["cells"]) for rank in payloads(at)[0]["ranks"]] == [2, 1, 0, 0]
    calm(at.selectbox(key="schedule").set_value("zb-v").run())
    assert [len(rank["cells"]) for rank in payloads(at)[0]["ranks"]] == [0, 0, 0, 0]
    assert not query(at, "order")
    calm(at.selectbox(key="schedule").set_value("1f1b").run())
    assert query(at, "order") == "F0.F1_F0__"


def test_my_own_schedule_races_against_a_named_one():
    """Once it is whole it is one of those to race against: here zb-h1, typed by the reader."""
    order = SCHEDULES["zb-h1"].of(Job(p=4, m=8))
    at = skipped(order=compact(Board.of(order), order.ranks), against="mine")
    assert not at.error
    assert any("mine is 6 beats ahead of 1f1b" in html.proto.body for html in at.get("html"))


def test_a_large_table_is_simulated_when_asked():
    """Eight ranks, 32 microbatches: the timeline at once, the other schedules at a switch."""
    at = skipped(pp=8, microbatches=32)
    before = len(at.table)
    (switch,) = [t for t in at.toggle if t.label.startswith("Simulate all")]
    calm(switch.set_value(True).run())
    assert len(at.table) == before + 1


def test_another_number_of_ranks_in_the_text_is_told():
    """An order for two ranks on a board of four: which to change."""
    at = open_page(view="Build")
    two = str(SCHEDULES["1f1b"].of(Job(p=2, m=8)))
    calm(at.text_area(key="pipeline.text").set_value(two).run())
    assert "the order is for 2 ranks where 4 were asked for" in at.error[0].value.lower()


def test_par_is_the_best_that_stands_on_the_same_board():
    """Interleaving puts other stages on the ranks, so it is no par for one stage a rank."""
    choice = Choice(name="1f1b", p=4, m=8)
    best = pipeline_build.par(choice, Board.of(choice.order))
    assert best == (27, "zb-h1"), "zb-h2 and zb-auto take 27 as well, and hold more"
    capped = Choice(name="1f1b", p=4, m=8, cap=2)
    tight = pipeline_build.par(capped, Board.of(choice.order))
    assert tight is None or tight[0] > 27


# -- in a browser ----------------------------------------------------------------------------------


@pytest.mark.browser
def test_a_schedule_is_built_by_keyboard_told_undone_and_kept_in_the_url(tab):
    """F F, down, F, B: the last one is refused in words; undo; a reload restores what stands."""
    page = tab.open("/pipelines?view=Build", "Pipeline arena")
    page.locator(".tray").wait_for()
    state = "() => __shardlab_arena.state()"
    settled = (
        "n => __shardlab_arena.state().revision >= n && __shardlab_arena.state().waiting === null"
    )
    page.get_by_role("application").focus()
    for key in ("f", "f", "ArrowDown", "f"):
        page.keyboard.press(key)
    page.wait_for_function("() => __shardlab_arena.state().cells.flat().length === 3")
    page.wait_for_function(settled, arg=1)
    page.keyboard.press("b")
    page.get_by_text(
        "Rank 1 cannot run B0 yet: stage 2 has not run B0, and nobody has placed it."
    ).wait_for()
    assert page.evaluate(state)["cells"] == [["F0", "F1"], ["F0"], [], []]
    page.keyboard.press("Backspace")
    page.wait_for_function("() => __shardlab_arena.state().cells.flat().length === 2")
    page.keyboard.press("Control+y")
    page.wait_for_function("() => __shardlab_arena.state().cells.flat().length === 3")
    tab.settle()
    assert parse_qs(urlparse(page.url).query)["order"] == ["F0.F1_F0__"]
    page.reload()
    page.locator(".tray").wait_for()
    page.wait_for_function("() => globalThis.__shardlab_arena !== undefined")
    assert page.evaluate(state)["cells"] == [["F0", "F1"], ["F0"], [], []]
    assert tab.errors == [] and tab.strangers() == []


@pytest.mark.browser
@in_looks((390, 1800, "dark"))
def test_a_phone_builds_by_touch_and_finds_a_clean_page(tab):
    """Taps place; a drag is judged; no sideways scroll, no complaint of axe or of the console."""
    page = tab.open("/pipelines?view=Build&pp=2&microbatches=2", "Pipeline arena")
    for chip in ("F0", "F1"):
        page.get_by_role("button", name=chip, exact=True).click()
        page.wait_for_function("text => __shardlab_arena.state().cells[0].includes(text)", arg=chip)
    page.get_by_role("button", name="B0", exact=True).click(force=True)
    page.get_by_text("Rank 0 cannot run B0 yet: stage 1 has not run B0").wait_for()
    box = page.locator('svg .cell[data-at="0 1"]').bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] - box["width"], middle, steps=5)
    page.mouse.up()
    page.wait_for_function("() => __shardlab_arena.state().cells[0].join() === 'F1,F0'")
    tab.settle()
    known = {*pages.STREAMLITS_OWN, "presentation-role-conflict"}
    assert complaints(tab, known) == {}
