"""The measurement table's page: asks first, runs by turns, shows every figure, draws the curves."""

from __future__ import annotations

from functools import partial
from urllib.parse import urlencode

import pages
import pytest
from pages import button, charts, complaints, headings, in_looks, table, until, words
from screens import compare, compare_runs

open_page = partial(pages.open_page, "compare")
no_run_is_left = pages.no_run_is_left  # the fixture, for this file
QUERY = {
    "compare.layouts": "dp=1; dp=2",
    "compare.rounds": 1,
    "compare.steps": 2,
    "layers": 1,
    "hidden": 16,
    "heads": 2,
    "seq": 16,
    "global_batch": 4,
    "compare.curves_of": "dtype=float64; dp=2,dtype=float64; dtype=bfloat16",
    "compare.curve_steps": 4,
}


@pytest.mark.live
def test_layouts_run_by_turns_and_fill_the_table():
    """Every section, each layout in it; MFU with its formula."""
    at = open_page(**QUERY)
    assert headings(at) == ["Losses over many steps"] and not at.error
    button(at, "Run them by turns").click().run()
    at = until(at, lambda page: "Speed" in headings(page))
    assert headings(at)[:5] == [
        "Where a step goes",
        "Speed",
        "What it costs and brings",
        "What the textbook expects",
        "Recap",
    ]
    assert list(table(at, "latency (wall, ms)")["layout"]) == ["dp=1", "dp=2"]
    assert table(at, "sent")["sent"].iloc[0] == "0 B"
    said = words(at)
    assert "MFU = model FLOPs of a step" in said and "measured by the roofline" in said
    assert "expectations are seen here" in said
    assert len(charts(at)) == 1


@pytest.mark.live
def test_curves_run_one_after_the_other():
    """Losses and their distances; layouts of one type coincide."""
    at = open_page(**QUERY)
    button(at, "Run the curves").click().run()
    at = until(at, lambda page: len(charts(page)) == 2)
    assert list(table(at, "last loss")["curve"]) == QUERY["compare.curves_of"].split("; ")
    assert "In float64, 2 layouts stay within" in words(at)


def test_a_layout_that_cannot_be_is_told_and_cannot_be_run():
    """One sentence, and the button sleeps."""
    at = open_page(**{**QUERY, "compare.layouts": "dp=1; dp=3"})
    assert "must be a multiple" in at.error[0].value
    assert button(at, "Run them by turns").disabled
    assert not button(at, "Run the curves").disabled
    assert "must name one layout" in open_page(**{**QUERY, "compare.layouts": " ; "}).error[0].value


@pytest.mark.live
def test_a_failed_run_ends_the_comparison(monkeypatch):
    """What was waiting waits no more; the page can be asked again."""
    at = open_page(**QUERY)
    button(at, "Run them by turns").click().run()
    at.session_state[f"{compare_runs.PAGE}.going"].turns[1:] = [compare_runs.Turn("dp=2", broken())]
    at = until(at, lambda page: bool(page.error))
    assert f"{compare_runs.PAGE}.going" not in at.session_state
    at = at.run()
    assert not button(at, "Run them by turns").disabled


def broken():
    """A request whose ranks fail: its target refuses the plan."""
    from parallel_core.plan import Plan
    from parallel_core.request import Request

    return Request(plan=Plan.of(dp=2), steps=1, save_weights="/proc/no/such/place")


def test_the_usual_text_names_the_usual_layouts():
    """What stands in the box is what the command runs."""
    assert compare.USUAL.split("; ")[0] == "dp=1" and "gpipe" in compare.USUAL


# -- in a browser ----------------------------------------------------------------------------------


@pytest.mark.browser
@in_looks((1280, 4600, "light"), (1280, 4600, "dark"), (390, 8000, "light"))
def test_the_full_page_is_clean(tab):
    """With table and curves: no console error, no sideways scroll, nothing that axe objects to."""
    page = tab.open(f"/compare?{urlencode(QUERY)}", "Compare")
    page.get_by_role("button", name="Run them by turns").click()
    page.get_by_role("heading", name="Recap").wait_for(timeout=60_000)
    page.get_by_role("button", name="Run the curves").click()
    page.get_by_text("In float64, 2 layouts stay within").wait_for(timeout=60_000)
    tab.settle()
    page.wait_for_timeout(600)  # charts draw after the script has ended
    assert complaints(tab) == {}
