"""The bug museum's page: a gallery, a guess, a real run, and who noticed."""

from __future__ import annotations

from functools import partial

import pages
import pytest
from pages import button, charts, complaints, headings, in_looks, until, words
from screens import museum

from parallel_core.museum.exhibits import EXHIBITS, ROOMS
from parallel_core.museum.request import OTHER, PLANTED, RIGHT
from parallel_core.views import museum as view

open_page = partial(pages.open_page, "museum")
no_run_is_left = pages.no_run_is_left  # the fixture, for this file
KEY = "museum.norms-unsummed"


def captions(at):
    return " ".join(found.value for found in at.caption)


# -- the figures -----------------------------------------------------------------------------------


def made_up():
    """Three short curves and two tensors, none measured."""
    steps = [{"step": s, "loss": 5.0 - s, "grad_norm": 1.0 + s} for s in range(3)]
    rows = [{"name": "a", "error": 0.0}, {"name": "b", "error": 1e-15}]
    wrong = [{"name": "a", "error": 0.5}, {"name": "b", "error": 1e-15}]
    return {RIGHT: steps, PLANTED: steps[:1], OTHER: steps}, {RIGHT: rows, PLANTED: wrong}


@pytest.mark.parametrize("dark", [False, True])
def test_a_figure_draws_what_it_is_given(dark):
    """Every step is a point, every tensor a mark; an error of 0 has a place on the log axis."""
    curves, tensors = made_up()
    drawn = view.curves(curves, "grad_norm", badge="made up", dark=dark)
    assert [list(line.y) for line in drawn.data] == [[1.0, 2.0, 3.0], [1.0], [1.0, 2.0, 3.0]]
    assert len({line.marker.symbol for line in drawn.data}) == 3, "not by colour alone"
    drawn = view.probe(tensors, 1e-10, badge="made up", dark=dark)
    assert [list(line.x) for line in drawn.data] == [[view.LEAST, 1e-15], [0.5, 1e-15]]
    said = view.told_probe(tensors, 1e-10)
    assert "right 0 of 2" in said and "with the bug 1 of 2" in said and "a at 5.0e-01" in said


# -- the page --------------------------------------------------------------------------------------


def test_the_gallery_hangs_every_exhibit_and_tells_no_answer():
    """One button each, by rooms; a press opens it."""
    at = open_page()
    assert headings(at) == list(ROOMS)
    for exhibit in EXHIBITS.values():
        assert button(at, exhibit.title)
        assert all(source.name in captions(at) for source in exhibit.sources)
        assert exhibit.silent not in words(at)
    button(at, EXHIBITS["loss-times-cp"].title).click().run()
    assert headings(at) == [EXHIBITS["loss-times-cp"].title]
    button(at, "All exhibits").click().run()
    assert headings(at) == list(ROOMS)


def test_nothing_is_revealed_before_a_run():
    """A guess alone opens nothing: there is nothing yet that was measured."""
    at = open_page(bug="norms-unsummed")
    exhibit = EXHIBITS["norms-unsummed"]
    at.radio(key=f"{KEY}.answer").set_value(museum.ANSWERS["gradient norm", "probe"]).run()
    button(at, "Lock my answer").click().run()
    assert "Now run it" in words(at) and not charts(at)
    assert exhibit.cure not in words(at) and exhibit.silent not in words(at)


def test_an_exhibit_that_is_not_there_is_told():
    """One sentence, and the gallery; nonsense in other fields falls back."""
    at = open_page(bug="*off*by*one")
    assert "There is no exhibit" in at.error[0].value and headings(at) == list(ROOMS)
    at = open_page(bug="loss-times-cp", steps="many")
    assert not at.exception and at.number_input(key="steps").value == 20


@pytest.mark.live
def test_a_run_reveals_who_noticed_and_the_source():
    """A wrong guess is told; curves, probe and public issues follow; asleep, nobody notices."""
    at = open_page(bug="norms-unsummed", steps=3)
    at.radio(key=f"{KEY}.answer").set_value(museum.ANSWERS["gradient norm", "probe"]).run()
    button(at, "Lock my answer").click().run()
    button(at, "Plant it and run 3 steps").click().run()
    at = until(at, lambda page: "The probe, tensor by tensor" in headings(page))
    exhibit = EXHIBITS["norms-unsummed"]
    said = words(at)
    assert "You said the gradient norm and the probe; it is the probe alone." in said
    assert exhibit.silent in said and exhibit.cure in said
    assert all(source.url in said for source in exhibit.sources)
    assert list(pages.table(at, "witness")["notices"]) == ["no", "no", "yes"]
    badges = [str(one).replace("<br>", " ") for one in charts(at)]  # wrapped for a narrow screen
    assert len(badges) == 5 and all("planted on purpose" in badge for badge in badges)
    assert "shardlab museum --bug norms-unsummed --steps 3" in [one.value for one in at.code]
    run = at.query_params["run"]
    other = open_page(bug="norms-unsummed", steps=3, run=run if isinstance(run, str) else run[0])
    assert "The probe, tensor by tensor" in headings(other), "a link to a run opens on it"

    at.toggle(key="asleep").set_value(True).run()
    assert "The probe, tensor by tensor" not in headings(at)
    button(at, "Plant it and run 3 steps").click().run()
    at = until(at, lambda page: "The probe, tensor by tensor" in headings(page))
    assert "it is nobody." in words(at) and "With sp=False the code is right." in words(at)
    button(at, "All exhibits").click().run()
    assert "Seen." in captions(at)


# -- in a browser ----------------------------------------------------------------------------------


@pytest.mark.browser
@in_looks((1280, 1500, "light"), (1280, 1500, "dark"), (390, 3200, "light"))
def test_the_gallery_is_clean(tab):
    """No console error, no sideways scroll, nothing that axe objects to."""
    tab.open("/museum", "Bug museum")
    tab.page.wait_for_timeout(400)
    assert complaints(tab) == {}


@pytest.mark.browser
@in_looks((1280, 4600, "dark"), (390, 6600, "light"))
def test_a_revealed_exhibit_is_clean(tab):
    """After a real run, by keys alone."""
    page = tab.open("/museum?bug=norms-unsummed&steps=2", "Bug museum")
    start = page.get_by_role("button", name="Plant it and run 2 steps")
    start.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="The probe, tensor by tensor").wait_for(timeout=90_000)
    page.locator(".js-plotly-plot .scatterlayer .point").first.wait_for()
    tab.settle()
    page.wait_for_timeout(800)
    assert complaints(tab) == {}
