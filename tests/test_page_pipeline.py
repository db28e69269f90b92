"""The pipeline arena's page: watch, compare, run; every refusal one sentence."""

from __future__ import annotations

from functools import partial

import pages
import pytest
from pages import button, calm, complaints, fragments, in_looks, payloads, table, until, words
from screens.pipeline_controls import Choice, Clock
from screens.pipeline_draft import compact
from screens.pipeline_match import Same, matched, peak

from parallel_core.fields import PlanError
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.figures import figures
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.partial import Board
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.trace import Kind

open_page = partial(pages.open_page, "pipeline")
skipped = partial(pages.skipped, "pipeline")
no_run_is_left = pages.no_run_is_left  # the fixture, for this file
every_schedule = pytest.mark.parametrize("name", list(SCHEDULES))


def metrics(at):
    """The page's big numbers by name."""
    return {found.label: found.value for found in at.metric}


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


def strict_verdict(at):
    """What the page says of the strict run that its controls ask for: headline, the two verdicts,
    and the drawn graph or None."""
    button(at, "Run on 2 processes").click().run()
    at = until(at, lambda page: page.error or 'class="verdict">' in fragments(page))
    assert not at.error, at.error[0].value
    said = dict(table(at, "says").values.tolist())
    return fragments(at), said, next((g for g in payloads(at) if isinstance(g, str)), None)


@pytest.mark.live
def test_the_deadlock_happens_on_real_processes_and_check_had_said_so():
    """1F1B, strictly: both verdicts name the same messages, and the graph is drawn. Where sends
    return at once, or each direction has a lane, the same order trains."""
    small = {"pp": 2, "microbatches": 4}
    told, said, graph = strict_verdict(at := skipped(**small))
    assert "Deadlock<small>Found by the ranks themselves; check had said so" in told
    for rank, message in ((0, "stage0 mb1"), (1, "stage1 mb0")):
        assert f"rank {rank} (compute) waits at send {message}" in said["check, before it runs"]
        assert f"rank {rank} waits at send {message}" in said["2 real processes"]
        assert f">rank {rank}</text>" in graph and message in graph
    assert "0 -> 1 -> 0" in words(at).replace("\\", "") and "<svg" in graph
    assert list(table(at, "stands")["waits for rank"]) == ["1", "0"]
    for passing, says in (("buffered", "On NCCL the same order hangs"), ("cured", "stands behind")):
        told, said, graph = strict_verdict(skipped(passing=passing, **small))
        assert "No deadlock" in told and says in told and graph is None
        assert said["2 real processes"] == "all 2 ranks came to their end"


@pytest.mark.live
def test_an_order_that_never_hangs_is_called_safe_and_my_own_is_run_as_well():
    """GPipe comes to its end strictly; the reader's own 1F1B, read from the URL, does not."""
    told, said, graph = strict_verdict(at := skipped(schedule="gpipe", pp=2, microbatches=4))
    assert "the order is safe under these semantics, and check agrees" in told and graph is None
    assert said["check, before it runs"].startswith("legal") and "The loss" in words(at)
    assert "shardlab deadlock --file mine.txt" in [shown.value for shown in at.code]
    mine = "F0.F1.B0.B1_F0.B0.F1.B1"
    own = skipped(schedule="gpipe", pp=2, microbatches=2, whose="mine", order=mine)
    told, _, graph = strict_verdict(own)
    assert "Deadlock<small>" in told and "<svg" in graph


def test_a_strict_run_that_cannot_be_is_one_sentence(monkeypatch):
    """An unfinished order, a word that is no choice, more ranks than the machine bears."""
    at = skipped(whose="mine")
    assert "is not whole yet" in at.info[0].value
    assert not [b for b in at.button if b.label.startswith("Run on")]
    assert "passing=soon is no choice here" in skipped(passing="soon").error[0].value
    monkeypatch.setattr("parallel_core.machine.most_ranks", lambda: 2)
    at = skipped(pp=4)
    assert "pp=4" in at.error[0].value
    assert not [b for b in at.button if b.label.startswith("Run on")]


@pytest.mark.browser
@pytest.mark.live
@in_looks((390, 8200, "dark"))
def test_the_deadlock_is_reached_and_read_by_keyboard(tab):
    """Enter runs it, the graph takes the focus, and arrows scroll it on a phone; axe has nothing
    to say of it."""
    page = tab.open("/pipelines?pp=2&microbatches=4", "Pipeline arena")
    page.get_by_role("button", name="Skip").click()
    page.get_by_role("button", name="Run on 2 processes").focus()
    page.keyboard.press("Enter")
    graph = page.get_by_role("region", name="Who waits for whom")
    graph.wait_for(timeout=60_000)
    tab.settle()
    graph.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(400)
    assert graph.evaluate("e => e.scrollLeft") > 0
    assert graph.locator("svg").get_attribute("role") == "img"
    # Streamlit's tables scroll without a stop for Tab: the comparison of all schedules is one
    assert not complaints(tab, pages.STREAMLITS_OWN | {"scrollable-region-focusable"})


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
    at = until(at, lambda page: page.error or "max |parallel" in fragments(page), seconds=120)
    assert not at.error, at.error[0].value
    data = payloads(at)[0]
    assert data["layers"]["trace"]["kind"] == Kind.MEASURED and data["layers"]["model"]
    ran = [t.value.to_dict("records") for t in at.table if "planned" in t.value.columns]
    assert [row["planned"] for row in ran[0]] == [row["in flight at most"] for row in ran[0]]
