"""The pipeline arena's page: watch, compare, build by hand, run; every refusal one sentence."""

from __future__ import annotations

import json
import sys
import time
from urllib.parse import parse_qs, urlparse

import pytest
from streamlit.testing.v1 import AppTest

from parallel_core import places
from parallel_core.fields import PlanError
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.figures import figures
from parallel_core.pipeline.legal import legal
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.partial import Board
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.program import ProgramError
from parallel_core.trace import Kind

APP = places.app()
sys.path.insert(0, str(APP))

from screens import live, pipeline_build  # noqa: E402  (needs the line above)
from screens.pipeline_controls import Choice, Clock  # noqa: E402
from screens.pipeline_draft import Draft, compact, expanded, read, text_of  # noqa: E402
from screens.pipeline_match import Same, matched, peak  # noqa: E402

every_schedule = pytest.mark.parametrize("name", list(SCHEDULES))


@pytest.fixture(scope="module", autouse=True)
def no_run_is_left():
    """The runs that the page starts belong to this process; they end with these tests."""
    yield
    live.close_jobs()


def open_page(**query):
    """The page with these words in its URL."""
    path = f"import sys; sys.path.insert(0, {str(APP)!r})\n"
    script = path + "from screens import pipeline\npipeline.page()"
    at = AppTest.from_string(script, default_timeout=60)
    for name, value in query.items():
        at.query_params[name] = str(value)
    return calm(at.run())


def calm(at):
    """The page, if no exception is on it."""
    assert not at.exception, at.exception[0].message
    return at


def button(at, label):
    """The button that reads `label`."""
    return next(found for found in at.button if found.label == label)


def words(at):
    """Every paragraph of the page."""
    return " ".join(found.value for found in at.markdown)


def payloads(at):
    """What each component on the page was given."""
    return [json.loads(found.proto.bytes) for found in at.get("bidi_component")]


def metrics(at):
    """The page's big numbers by name."""
    return {found.label: found.value for found in at.metric}


def skipped(**query):
    """The page after the guess was skipped."""
    at = open_page(**query)
    return calm(button(at, "Skip").click().run())


def query(at, name):
    """A word of the URL; AppTest gives it alone or in a list."""
    found = at.query_params.get(name, "")
    return found if isinstance(found, str) else found[0]


# -- watching --------------------------------------------------------------------------------------


def test_the_timeline_stays_hidden_until_the_reader_has_guessed():
    """Before: the question. After: the simulated timeline, and how far off the guess was."""
    at = open_page()
    assert "which share" in words(at) and not payloads(at) and not at.metric
    at.number_input(key="pipeline.number").set_value(30.0).run()
    calm(button(at, "Lock my guess").click().run())
    assert "You said 30 %; it is 27.27 %." in words(at)
    assert payloads(at)[0]["layers"]["trace"]["kind"] == Kind.MODELLED
    assert metrics(at)["Makespan"] == "33 beats"


@every_schedule
def test_every_schedule_of_the_table_has_its_timeline(name):
    """The table alone makes the page: each opens by its address, with the figures' own numbers."""
    at = skipped(schedule=name)
    assert not at.error
    schedule = SCHEDULES[name]
    order = schedule.of(Job(p=4, m=8, v=schedule.fewest, times=Times.even(4)))
    found = figures(order)
    assert metrics(at)["Makespan"] == f"{found.makespan:g} beats"
    assert metrics(at)["Idle, of all time"] == f"{found.bubble_fraction:.1%}"
    assert metrics(at)["In flight, fullest rank"] == f"{max(found.peak_in_flight):g}"
    listed = " ".join(str(table.value.to_dict()) for table in at.table)
    assert all(other in listed for other in SCHEDULES)


def test_the_slow_stage_matters_under_1f1b_and_not_under_gpipe():
    """40.5 to 45 for ranks 0 to 3 (L7); under GPipe 45 wherever it is."""
    for name, makespans in (("1f1b", (40.5, 42, 43.5, 45)), ("gpipe", (45,) * 4)):
        for slow, makespan in enumerate(makespans):
            choice = Choice(name=name, p=4, m=8, clock=Clock(slow=slow, by=1.5))
            assert choice.seen.figures.makespan == makespan


def test_refusals_of_the_comparison_are_shown_with_their_sentence():
    """With three stages a rank most schedules say what they want instead."""
    at = skipped(schedule="interleaved", virtual_stages=3)
    (shelf,) = [e for e in at.expander if e.label.endswith("refuse these settings")]
    told = " ".join(m.value for m in shelf.markdown)
    assert "**1f1b**" in told and "does not fit 1f1b, which puts 1 on a rank" in told.replace(
        "\\", ""
    )


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"schedule": "hope"}, "schedule=hope is no choice here"),
        ({"pp": "1"}, "pp=1 must be from 2 to 16 on this page"),
        ({"pp": "many"}, "must be a whole number"),
        ({"microbatches": "4000"}, "more than the 4,000 this page lays out"),
        ({"tf": "-1"}, "tf=-1"),
        ({"slow": "9"}, "slow=9 must be below pp=4"),
        ({"schedule": "interleaved", "microbatches": "7"}, "microbatches=7"),
        ({"schedule": "1f1b", "virtual_stages": "2"}, "does not fit 1f1b"),
    ],
)
def test_nonsense_in_the_url_is_one_sentence(asked, says):
    """Never taken, never dropped without a word, never a traceback."""
    at = open_page(**asked)
    assert says in at.error[0].value.replace("\\", "")


def test_one_press_mends_what_a_schedule_refuses():
    """Interleaved wants groups of p microbatches: the button takes the nearest number."""
    at = open_page(schedule="interleaved", microbatches=7)
    mend = next(b for b in at.button if b.label.startswith("Use microbatches="))
    calm(mend.click().run())
    assert not at.error


def test_two_schedules_race_on_one_axis():
    """zb-h1 beats 1f1b by 6 beats; the race has both in one picture."""
    at = skipped(against="zb-h1")
    assert any("zb-h1 is 6 beats ahead of 1f1b" in html.proto.body for html in at.get("html"))
    assert any("race" in data and data["world_size"] == 8 for data in payloads(at))


def test_the_same_order_deadlocks_without_asynchronous_sends():
    """1F1B with blocking messages is the classic deadlock, told in one sentence; GPipe runs."""
    at = skipped(blocking="true")
    assert at.error[0].value.startswith("Deadlock: rank 0 (compute) waits at send")
    at = skipped(schedule="gpipe", blocking="true")
    assert not at.error and "It does, in 33 beats." in words(at)


# -- what is held equal ----------------------------------------------------------------------------


@every_schedule
def test_what_is_said_to_be_equal_is_equal(name):
    """Devices: p and m. Stages: their number, and the time each takes. Memory: below the peak."""
    choice = Choice(name="1f1b", p=4, m=8)
    for same in Same:
        try:
            other, sentence = matched(choice, name, same)
        except PlanError:
            assert same is not Same.DEVICES
            continue
        assert sentence.endswith(".")
        if same is Same.DEVICES:
            assert (other.p, other.m) == (4, 8)
        if same is Same.STAGES:
            assert other.order.stages == 4
            assert other.p * other.clock.tf / 4 == choice.clock.tf
        if same is Same.MEMORY:
            assert peak(other.order) <= peak(choice.order) == 4 and other.m <= 8


def test_gpipe_in_the_memory_of_1f1b_takes_half_of_the_microbatches():
    """Four in flight: GPipe must flush after four of the eight."""
    other, sentence = matched(Choice(name="1f1b", p=4, m=8), "gpipe", Same.MEMORY)
    assert other.m == 4 and "gpipe takes 4 of the 8" in sentence


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


# -- running ---------------------------------------------------------------------------------------


def test_an_unfinished_schedule_is_not_run():
    """It says what is missing instead of a button."""
    at = open_page(view="Run", whose="mine")
    assert "is not whole yet" in at.info[0].value
    assert not [b for b in at.button if b.label == "Run on real ranks"]


@pytest.mark.live
def test_my_own_schedule_runs_on_real_ranks_and_equals_one_process():
    """Two ranks run the typed order; the proof, the plan over it, planned and counted in flight."""
    mine = Order.parse("F0 F1 B0 F2 B1 F3 I2 W2 B3\nF0 B0 F1 B1 F2 I2 F3 W2 B3")
    board = Board({(mb, s): s for mb in range(4) for s in range(2)}, 2)
    at = open_page(
        view="Run", whose="mine", pp=2, microbatches=4, layers=2, hidden=64, seq=32, steps=3,
        order=compact(board, mine.ranks),
    )  # fmt: skip
    assert not at.error and not at.info
    calm(button(at, "Run on real ranks").click().run())
    end = time.monotonic() + 120
    while not any("max |parallel" in html.proto.body for html in at.get("html")):
        assert time.monotonic() < end, words(at)
        assert not at.error, at.error[0].value
        time.sleep(0.3)
        at = calm(at.run())
    assert not at.error
    data = payloads(at)[0]
    assert data["layers"]["trace"]["kind"] == Kind.MEASURED and data["layers"]["model"]
    ran = [t.value.to_dict("records") for t in at.table if "planned" in t.value.columns]
    assert [row["planned"] for row in ran[0]] == [row["in flight at most"] for row in ran[0]]


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
@pytest.mark.parametrize("tab", [{"width": 390, "height": 1800, "scheme": "dark"}], indirect=True)
def test_a_phone_builds_by_touch_and_finds_a_clean_page(tab):
    """Taps place; a drag is judged; no sideways scroll, no complaint of axe or of the console."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
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
    wide = page.evaluate(
        """() => [...document.querySelectorAll('html, [data-testid=stMain]')]
            .map(e => e.scrollWidth - e.clientWidth)"""
    )
    found = axe.Axe().run(page).response["violations"]
    ours = [
        v["id"] for v in found if v["id"] not in ("list", "listitem", "presentation-role-conflict")
    ]
    assert ours == [] and max(wide) <= 0 and tab.errors == []
