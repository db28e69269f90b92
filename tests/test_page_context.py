"""The context ring's page: asks first, says what cannot be, runs for real, counts every byte."""

from __future__ import annotations

import json
import re
from functools import partial

import pages
import pytest
from pages import button, complaints, fragments, headings, in_looks, skip, table, until, words
from screens import context_bench, context_ring

from parallel_core.bench import context_crossover_cases
from parallel_core.context import METHODS
from parallel_core.trace import Kind

open_page = partial(pages.open_page, "context_ring")
no_run_is_left = pages.no_run_is_left  # the fixture, for this file
SMALL = {"layers": 2, "hidden": 32, "heads": 4, "seq": 64, "vocab": 256, "steps": 3}
OPEN = [
    "Who computes what, and when",
    "Bytes of every method",
    "Keys or queries: the crossover",
    "bfloat16, and where its sums are kept",
]
TINY_SWEEP = {"cp": 2, "layers": 1, "hidden": 32, "heads": 2, "seq": 32, "global_batch": 1}


def figure(at):
    """What the animated figure was given."""
    return json.loads(at.get("bidi_component")[0].proto.bytes)


def test_the_answers_stay_hidden_until_both_guesses_are_settled():
    """Who is idle, then what zigzag wins; then the figures, and how far off the reader was."""
    at = open_page(**SMALL)
    assert not at.exception and not headings(at)
    last = context_ring.ANSWERS[2]
    at.radio(key="context.idle.answer").set_value(last).run()
    button(at, "Lock my answer").click().run()
    assert not at.exception and not headings(at)
    at.number_input(key="context.number").set_value(3.5).run()
    button(at, "Lock my guess").click().run()
    assert not at.exception and headings(at) == OPEN
    assert f"You said {last}; it is {context_ring.ANSWERS[0]}." in words(at)
    assert "You said 3.5 times; it is 1.75 times.** 2 times too high." in words(at)
    assert list(table(at, "messages")["method"]) == list(METHODS)


def test_the_answers_are_worked_out_and_not_written_down():
    """From the work of each rank: the first is idle, zigzag wins 2 - 1/N."""
    for n in (2, 3, 4, 8):
        assert context_ring.least(n) == 0
        assert context_ring.wins(n) == pytest.approx(2 - 1 / n)
    assert (context_ring.wins(4), context_ring.wins(8)) == (1.75, 1.875)
    assert context_ring.least(1) == 3


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_drawn_before_any_run(method):
    """Its map, its race against contiguous and zigzag, its bytes."""
    at = skip(open_page(**SMALL, cp_method=method))
    assert not at.exception and not at.error and headings(at) == OPEN
    race = table(at, "ranks wait")
    assert list(race["ring"][:2]) == ["ring", "zigzag"]
    assert list(race["time"][:2]) == ["3.5", "2"]
    assert len(race) == (2 if method in ("ring", "zigzag") else 3)
    assert set(table(at, "messages")["counted in a run"]) == {"not run yet"}


def test_the_command_runs_as_many_steps_as_are_chosen():
    at = skip(open_page(**SMALL | {"steps": 7}))
    (command,) = [code.value for code in at.code if code.value.startswith("shardlab run")]
    assert command.endswith("--steps 7")


def test_the_readers_choices_move_the_figure():
    """Mask, cut, overlap, the price of a byte, the number of ranks: all in the URL."""
    plain = figure(skip(open_page(**SMALL, cp_method="ring")))
    assert (plain["end"], plain["ring"], len(plain["beats"])) == (3.5, 4, 4)
    full = figure(skip(open_page(**SMALL, cp_method="ring", mask="full")))
    assert full["end"] == 4.0
    two = figure(skip(open_page(**SMALL, cp=2)))
    assert (two["end"], two["ring"]) == (1.5, 2)
    slow = figure(skip(open_page(**SMALL, cp_method="ring", balance=1040)))
    alone = figure(skip(open_page(**SMALL, cp_method="ring", balance=1040, overlap_cp="false")))
    assert plain["end"] < slow["end"] < alone["end"]
    at = skip(open_page(**SMALL, cp_method="ring", cut="zigzag"))
    assert "the figure shows another choice" in words(at)
    assert list(table(at, "ranks wait")["time"]) == ["3.5", "2", "2"]


def test_more_ranks_than_heads_is_said_and_mended():
    """The failure a reader can reach: Ulysses has no heads left to deal out."""
    at = open_page(**SMALL)
    button(at, "More ranks than heads").click().run()
    assert not at.exception and not headings(at)
    assert "cp=4 must divide the 2 heads of a rank" in at.error[0].value
    button(at, "Use cp=2").click().run()
    assert not at.error and at.number_input(key="cp").value == 2


def test_a_method_that_the_heads_forbid_is_named_among_the_others():
    """Three heads: the rings go on, Ulysses and the hybrid say why they cannot."""
    at = skip(open_page(**{**SMALL, "heads": 1}))
    assert not at.exception and headings(at) == OPEN
    said = [found.value for found in at.warning]
    assert len(said) == 2 and "heads=1 must divide over ulysses=4 ranks" in said[0]
    assert list(table(at, "messages")["method"]) == ["allgather", "ring", "zigzag", "pass-q"]


def test_one_rank_and_nonsense_in_the_address_are_told():
    """Nothing to cut on one rank; a word that is no method falls back to the default."""
    assert "2 to 16 ranks" in open_page(**SMALL, cp=1).info[0].value
    at = open_page(**SMALL, cp_method="spiral", cp="many")
    assert len(at.error) == 2 and not at.exception
    assert not skip(at).exception


def test_grouped_heads_move_the_border_between_keys_and_queries():
    """2G/H of new tokens; with as many key/value heads queries are always the smaller."""
    assert "whatever is cached" in words(skip(open_page(**SMALL)))
    at = skip(open_page(**{**SMALL, "heads": 8, "kv_heads": 1}, balance=1000))
    assert "up to 25 % of new tokens" in words(at) and "1000 FLOPs a byte" in words(at)
    assert "in 12 of 14 rows" in words(at)


@pytest.mark.live
def test_a_run_is_laid_beside_its_prediction():
    """Zigzag, then Ulysses: equal to one process, bytes as predicted, every hop stamped."""
    at = open_page(**SMALL, cp_method="zigzag")
    button(at, "Run").click().run()
    at = until(at, lambda page: "Hop by hop, as it ran" in headings(page))
    assert not at.error and "**They agree to the byte.**" in words(at)
    assert "max |parallel" in fragments(at)
    ran = table(at, "messages").set_index("method")["counted in a run"]
    assert "= predicted" in ran["zigzag"] and ran["ring"] == "not run yet"
    at.segmented_control(key="way").set_value("backward").run()
    rows = table(at, "open for")
    first = [message for rank, message in zip(rows["rank"], rows["message"], strict=True)
             if str(rank) == "0"]  # fmt: skip
    assert first == ["shift kv 0", "shift dkv 0", "shift kv 1", "shift dkv 1", "shift kv 2",
                     "shift dkv 2", "shift dkv 3"]  # fmt: skip
    player = json.loads(at.get("bidi_component")[1].proto.bytes)
    kinds = {name: layer["kind"] for name, layer in player["layers"].items()}
    assert kinds == {"trace": Kind.MEASURED, "own": Kind.REPLAYED, "model": Kind.MODELLED}

    assert "Overlap, on and off" in headings(at)
    still = [float(ms) for ms in re.findall(r"for \*\*([\d.e+]+) ms\*\*", words(at))]
    assert len(still) == 2 and 0 < still[0] < still[1]

    at.selectbox(key="cp_method").set_value("ulysses").run()
    button(at, "Run").click().run()
    at = until(at, lambda page: len(page.session_state["context.runs"]) == 2).run()
    ran = table(at, "messages").set_index("method")["counted in a run"]
    assert "= predicted" in ran["ulysses"] and "= predicted" in ran["zigzag"]
    assert "Overlap, on and off" not in headings(at)  # nothing travels hop by hop
    assert not at.error and "--cp-method ulysses" in " ".join(found.value for found in at.code)
    button(at, "Forget my runs").click().run()
    assert at.session_state["context.runs"] == []


@pytest.mark.live
def test_the_crossover_is_measured_when_asked(monkeypatch):
    """Two real ranks; every case in print, each border, the points in the printed chart."""
    monkeypatch.setattr(context_crossover_cases, "DEFAULTS", TINY_SWEEP)
    monkeypatch.setattr(context_bench, "USUAL", 0.0)
    at = skip(open_page(**SMALL))
    assert "Every case" not in [found.label for found in at.expander]
    button(at, "Measure the crossover here").click().run()
    at = until(at, lambda page: "Every case" in [found.label for found in page.expander])
    assert not at.error and "The times cross at these shares" in words(at)
    first = table(at, "a hop of q").iloc[0]
    assert (first["a hop of kv"], first["a hop of q"]) == ("4,096 bytes", "256 bytes")


@pytest.mark.live
def test_the_error_of_bfloat16_is_measured_when_asked():
    """One real process plays rings of 1 to 32; float32 stays, bfloat16 grows."""
    at = skip(open_page(**SMALL))
    button(at, "Measure the error").click().run()
    at = until(at, lambda page: "Sums kept in float32" in words(page))
    found = re.findall(r"Sums kept in (\w+): ([\d.]+) % on one rank, ([\d.]+) % on 32", words(at))
    assert [kept for kept, *_ in found] == ["float32", "bfloat16"]
    (_, one, many), (_, first, last) = found
    assert one == many and float(last) > 5 * float(first)


# -- in a browser ----------------------------------------------------------------------------------


def past_the_guesses(tab, query):
    """The page in a browser, its figures drawn."""
    page = tab.open(f"/context?{query}", "Context ring")
    for name in ("Skip this", "Skip"):
        page.get_by_role("button", name=name, exact=True).click()
        tab.settle()
    page.get_by_role("heading", name=OPEN[2]).wait_for()
    page.locator(".context .map").wait_for()
    page.locator(".js-plotly-plot .scatterlayer .point").first.wait_for()
    tab.settle()
    return page


@pytest.mark.browser
@in_looks((1280, 4600, "light"), (1280, 4600, "dark"), (390, 6400, "light"))
def test_the_open_page_is_clean(tab):
    """With its figures: no console error, no sideways scroll, nothing that axe objects to."""
    page = past_the_guesses(tab, "cp_method=hybrid&balance=1040&seq=2048")
    page.get_by_role("button", name="Next hop").click()
    page.wait_for_timeout(600)  # charts draw after the script has ended
    assert complaints(tab) == {}


@pytest.mark.browser
def test_the_cursor_goes_hop_by_hop_and_lives_through_a_rerun(tab):
    """Keys step to the next hop; tiles to come are pale; the guests stand one member further."""
    page = past_the_guesses(tab, "cp_method=ring")
    state = lambda: page.evaluate("__shardlab_context.state()")  # noqa: E731  (read again each time)
    assert state()["t"] == state()["end"] == 3.5
    assert page.locator(".map .t.later").count() == 0
    page.get_by_role("button", name="Next hop").focus()
    page.keyboard.press("Enter")
    assert state()["t"] == 0 and page.locator(".map .t.here").count() == 4
    assert page.locator(".map .t.later").count() == 6
    page.keyboard.press("ArrowRight")
    assert state()["t"] == 0.5 and "Hop 1" in state()["says"]
    assert page.locator(".map .t.here").count() == 3
    guest = page.locator(".ring .guest[data-home='0']")
    assert guest.get_attribute("transform") != "translate(0.00 0.00)"
    page.keyboard.press("ArrowRight")
    assert state()["t"] == 1.5
    page.get_by_role("slider").focus()
    page.keyboard.press("End")
    assert state()["t"] == 3.5
    page.keyboard.press("Home")
    assert state()["t"] == 0
    page.get_by_role("button", name="Play", exact=True).click()  # still, for who asked for it
    assert state()["t"] == 0.5 and not state()["playing"]
    assert tab.errors == []
