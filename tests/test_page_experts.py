"""The experts' page: asks first, draws what a plan lets expect, runs for real, shows the cure."""

from __future__ import annotations

import json
from functools import partial

import pages
import pytest
from pages import button, complaints, fragments, headings, in_looks, skip, table, until, words
from screens import experts, experts_controls, experts_pair

from parallel_core.plan import Plan
from parallel_core.trace import Kind

open_page = partial(pages.open_page, "experts")
no_run_is_left = pages.no_run_is_left  # the fixture, for this file
SMALL = {"layers": 2, "hidden": 32, "seq": 32, "global_batch": 8, "steps": 4}
OPEN = ["Who goes where", "Bytes of the all-to-alls", "Ways to dispatch", "Uncured and cured"]
RAN = [
    "Counted in the run", "Who goes where", "Over the steps", "The slowest rank",
    "Bytes of the all-to-alls", "Ways to dispatch", "Another placement",
    "On the host, and ahead of time", "Uncured and cured",
    "The whole step",
]  # fmt: skip


def grids(at):
    """What the grids on the page were given."""
    every = [json.loads(found.proto.bytes) for found in at.get("bidi_component")]
    return [data for data in every if "says" in data]


def runs_of(at):
    """How many runs the page has kept."""
    return len(at.session_state["experts.runs"]) if "experts.runs" in at.session_state else 0


def test_the_answers_stay_hidden_until_both_guesses_are_settled():
    """Who is waited for is the run's to tell; what a capacity drops is known at once."""
    at = open_page(**SMALL)
    assert not headings(at)
    at.radio(key="experts.slow.answer").set_value(experts.ANSWERS[3]).run()
    button(at, "Lock my answer").click().run()
    assert not headings(at)
    at.number_input(key="experts.number").set_value(0.0).run()
    button(at, "Lock my guess").click().run()
    assert not at.exception and headings(at) == OPEN
    assert f"You said {experts.ANSWERS[3]}.** A run of yours will show" in words(at)
    assert "You said 0 %; it is 13.05 %." in words(at)


def test_the_command_trains_as_many_steps_as_were_chosen():
    """Before any run, the command shown is the run's."""
    for steps in (4, 7):
        at = skip(open_page(**SMALL | {"steps": steps}))
        assert f"--steps {steps}" in " ".join(found.value for found in at.code)


def test_the_sample_drawn_is_told_from_the_loads_counted():
    """64 tokens are drawn, the rows below are those of the whole step: the words say which."""
    at = skip(open_page(**SMALL))
    assert "sample tokens against 8 experts" in words(at)
    assert "all tokens of the step in this layer" in words(at)


def test_the_share_of_dropped_tokens_is_worked_out():
    """Eight experts, 64 tokens, as many places: the overflow of a binomial."""
    assert experts.lost() == pytest.approx(13.05, abs=0.01)


@pytest.mark.parametrize("name", [n for n in experts_controls.PRESETS if not n.startswith("6")])
def test_every_preset_is_drawn_before_any_run(name):
    """Its grid, bytes and ways; modelled, and said to be."""
    at = open_page(**SMALL)
    button(at, name).click().run()
    at = skip(at)
    assert not at.exception and not at.error and headings(at) == OPEN
    (grid,) = grids(at)
    assert len(grid["says"]) > 30 and "modelled" in fragments(at)
    assert next(iter(table(at, "dispatch")["dispatch"])) == "flat"


def test_fields_show_up_where_they_say_something():
    """A capacity for routers that have one, a rate for a bias, a weight for a loss."""
    shown = lambda at: {box.key for box in at.number_input} & set(experts_controls.FOLLOWS)  # noqa: E731
    assert shown(open_page(**SMALL)) == set()
    assert shown(open_page(**SMALL, router="capacity")) == {"capacity"}
    assert shown(open_page(**SMALL, balance="bias")) == {"bias_rate"}
    assert shown(open_page(**SMALL, balance="aux")) == {"aux_loss"}


def test_experts_that_cannot_be_dealt_out_are_said_and_mended():
    """The failure a reader can reach, with the nearest that works."""
    at = open_page(**SMALL)
    button(at, "6 experts on 4 ranks").click().run()
    assert not at.exception and "ep=4 must divide experts=6" in at.error[0].value
    button(at, "Use ep=2").click().run()
    assert not at.error and at.number_input(key="ep").value == 2


def test_one_rank_and_nonsense_in_the_address_are_told():
    """Nothing travels on one rank; a word that is no router falls back to the default."""
    assert "2 to 16 ranks" in open_page(**SMALL, ep=1).info[0].value
    at = open_page(**SMALL, router="lottery", experts="many")
    assert len(at.error) == 2 and not skip(at).exception


def test_a_capacity_leaves_hollow_tiles_and_a_line():
    """Dropped choices are drawn, counted, and said of their tokens."""
    at = skip(open_page(**SMALL, router="capacity", capacity=1.0, skew=0.5))
    (grid,) = grids(at)
    assert "<g class='d'" in grid["figure"] and "class='capacity'" in grid["figure"]
    assert any("no place in expert" in says for says in grid["says"])
    assert "choices are dropped" in words(at)


def test_a_pair_differs_in_its_cure_alone():
    """What is uncured has nothing that evens it; a cure the reader has set keeps its numbers."""
    plan = Plan.of(dp=4, ep=4, experts=8, skew=0.5, balance="aux", aux_loss=0.25, shared_experts=1)
    bare = experts_controls.plain(plan)
    assert bare == Plan.of(dp=4, ep=4, experts=8, skew=0.5, shared_experts=1)
    for name, fields in experts_pair.CURES.items():
        cured = bare.but(**fields)
        differs = {k for k, x in cured.flat().items() if bare.flat()[k] != x}
        assert differs and differs <= set(fields), name


@pytest.mark.live
def test_a_pair_of_runs_is_laid_side_by_side():
    """Four real ranks, twice: equal to one process, bytes as predicted, rank 0 flooded then not."""
    at = open_page(**{**SMALL, "seq": 64, "steps": 6}, cure="an auxiliary loss", skew=0.5)
    at.session_state["aux_loss"] = 1.0
    button(at, "Run uncured, then cured").click().run()
    at = until(at, lambda page: runs_of(page) == 2).run()
    assert not at.error and headings(at) == RAN
    assert "Predicted from the routing, and counted by the ranks: **They agree to the byte.**" in (
        words(at)
    )
    assert "max |parallel" in fragments(at) and "**They agree to the byte.**" in words(at)
    rows = table(at, "rows of its experts")
    assert len(rows) == 4 and "is the slowest" in words(at)
    figures = table(at, "figure").set_index("figure")
    uncured, cured = (figures.loc["the same, mean of the last half"][name] for name in
                      ("uncured", "an auxiliary loss"))  # fmt: skip
    assert float(cured) < float(uncured)
    assert len(grids(at)) == 3  # the chosen run's, and one of each of the pair
    placements = table(at, "placement").set_index("placement")["fullest / mean, then"]
    assert float(placements["replicated, 1 spare"]) <= float(placements["static"])
    kept = table(at, "hits, LRU")
    assert len(kept) == 3 and list(kept["hits, LRU"]) == list(kept["hits, Belady"])
    assert "on measured routing" in fragments(at)
    assert "following" in set(table(at, "sent for nothing")["guess"])
    assert "places experts statically" in words(at)
    players = [json.loads(found.proto.bytes) for found in at.get("bidi_component")]
    (player,) = [data for data in players if "layers" in data]
    kinds = {name: layer["kind"] for name, layer in player["layers"].items()}
    assert kinds == {"trace": Kind.MEASURED, "own": Kind.REPLAYED, "model": Kind.MODELLED}
    assert "--ep 4" in " ".join(found.value for found in at.code)

    at.number_input(key="at").set_value(5).run()
    assert not at.exception and "rows expected" not in [
        c for t in at.table for c in t.value.columns
    ]
    button(at, "Forget my runs").click().run()
    assert at.session_state["experts.runs"] == []


@pytest.mark.live
def test_dualpipe_computes_while_tokens_travel():
    """Two stages of two expert ranks: the page says what part of the messages is hidden."""
    at = open_page(**SMALL)
    button(at, "DualPipe hides it").click().run()
    button(at, "Run").click().run()
    at = until(at, lambda page: "The whole step" in headings(page))
    assert not at.error and "under other work" in words(at)
    assert [str(rank) for rank in table(at, "rows of its experts")["rank"]] == list("0123")


# -- in a browser ----------------------------------------------------------------------------------


def past_the_guesses(tab, query):
    """The page in a browser, its figures drawn."""
    page = tab.open(f"/experts?{query}", "Expert exchange")
    for name in ("Skip this", "Skip"):
        page.get_by_role("button", name=name, exact=True).click()
        tab.settle()
    page.get_by_role("heading", name=OPEN[-1]).wait_for()
    page.locator(".experts svg").first.wait_for()
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    tab.settle()
    return page


@pytest.mark.browser
@in_looks((1280, 3400, "light"), (1280, 3400, "dark"), (390, 5000, "light"))
def test_the_open_page_is_clean(tab):
    """With its figures: no console error, no sideways scroll, nothing that axe objects to."""
    page = past_the_guesses(tab, "router=capacity&capacity=1&experts=16&skew=0.2")
    page.wait_for_timeout(600)  # charts draw after the script has ended
    assert complaints(tab) == {}


@pytest.mark.browser
def test_the_tokens_are_walked_by_keys(tab):
    """Down and up go from token to token, and each is told."""
    page = past_the_guesses(tab, "router=capacity&capacity=1")
    state = lambda: page.evaluate("__shardlab_experts.state()")  # noqa: E731  (read again each time)
    assert state()["at"] == -1
    page.locator(".stage").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert state()["at"] == 1 and "on r0" in state()["says"]
    assert page.locator(".token.here").count() == 1
    page.keyboard.press("End")
    assert "on r3" in state()["says"]
    page.keyboard.press("Escape")
    assert state()["at"] == -1 and page.locator(".token.here").count() == 0
    assert tab.errors == []
