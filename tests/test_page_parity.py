"""Mesh and parity: the cube shows every rank where it is, the matrix every layout, a press runs."""

from __future__ import annotations

import re
from functools import partial
from itertools import pairwise

import pages
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import button, calm, complaints, fragments, in_looks, table, until, words
from screens import parity, parity_runs

from parallel_core.choices import RANK_ORDERS
from parallel_core.params import param_specs
from parallel_core.parity.matrix import cells, parse
from parallel_core.plan import Plan
from parallel_core.views import mesh_cube, mesh_holds, parity_grid
from parallel_core.views.frame import PAGES
from parallel_core.views.palette import contrast

open_page = partial(pages.open_page, "parity")
no_run_is_left = pages.no_run_is_left  # the fixture, for this file

PLANS = [cell.plan for cell in cells(8) if cell.plan]


# ---------------------------------------------------------------------------- the cube


@given(plan=st.sampled_from(PLANS), node=st.sampled_from([1, 2, 4, 8]), data=st.data())
def test_every_rank_is_drawn_once_and_lines_cross_where_nodes_end(plan, node, data):
    """A box a rank, none on another; a dashed line joins exactly the neighbours on two nodes."""
    axis = data.draw(st.sampled_from([*mesh_cube.shown_axes(plan), "dp"]))
    cube = mesh_cube.Cube(plan=plan, per_node=node, axis=axis)
    picture = mesh_cube.drawing(cube)
    ranks = [int(rank) for rank in re.findall(r"data-rank='(\d+)'", picture)]
    assert sorted(ranks) == list(range(plan.world_size))
    assert len({cube.place(rank) for rank in ranks}) == plan.world_size
    pairs = [pair for group in plan.mesh.groups(axis) for pair in pairwise(group)]
    out = sum(one // node != other // node for one, other in pairs)
    assert len(re.findall(r"<line class='out", picture)) == out
    assert len(re.findall(r"<line class='in", picture)) == len(pairs) - out
    assert ("inside" in mesh_cube.crossing(plan, axis, node)) == (
        all(len({rank // node for rank in group}) == 1 for group in plan.mesh.groups(axis))
    )


@given(plan=st.sampled_from(PLANS))
def test_what_ranks_hold_is_the_whole_model_as_often_as_each_other(plan):
    """Every element of every parameter is owned, each by as many ranks as any other."""
    owners = {spec.name: {} for spec in param_specs(plan)}
    for rank in range(plan.world_size):
        for held in mesh_holds.holds(plan, rank):
            key = (held.part.replace(" padding", ""), held.shard)
            count, _ = owners[held.name].get(key, (0, 0))
            owners[held.name][key] = count + 1, held.owned
    for spec in param_specs(plan):
        parts = {key: found for key, found in owners[spec.name].items() if found[1]}
        assert len({count for count, _ in parts.values()}) == 1, spec.name
        size = sum(owned for _, owned in parts.values())
        padding = size - spec.numel
        assert 0 <= padding < plan.tp * plan.model.hidden + 1, spec.name


def test_axes_that_are_the_same_ranks_are_offered_once():
    """Joins that have the groups of an axis are that axis; those of one rank are none."""
    assert mesh_cube.shown_axes(parse("dp=2,tp=2").plan) == ["tp", "dp"]
    assert mesh_cube.shown_axes(Plan.of(cp=2)) in (["cp"], ["dp"])
    rows = mesh_cube.axis_rows(parse("tp=2,dp=2").plan, 2, {"tp": {"all_reduce": 1024}})
    assert rows[0]["wire"] == "stays inside a node" and rows[0]["a step sends"].endswith("1,024 B")
    assert rows[1]["wire"] == "crosses nodes, each rank on another"


# ---------------------------------------------------------------------------- the matrix


def _grid(dark=False):
    marks = {
        (0, 0): parity_grid.Mark(name="a", state="equal"),
        (1, 0): parity_grid.Mark(name="a + b", state="off", says="step 0, backward"),
        (1, 1): parity_grid.Mark(name='b"<', state="refused", says="does not work"),
    }
    strips = {"Alone": [parity_grid.Mark(name="c")]}
    ways = [("one", "a"), ("two", 'b"<')]
    return parity_grid.Grid(ways=ways, pairs=marks, strips=strips, picked="a", dark=dark)


def test_a_cell_says_its_state_by_sign_and_words():
    """No state is told by colour alone, names are escaped, and what is off is named in words."""
    picture = parity_grid.drawing(_grid())
    assert picture.count("<button") == 4 and "b&quot;&lt;" in picture
    assert picture.count("aria-current") == 2  # the picked cell, and the sheet's rule for it
    assert len({*parity_grid.SIGNS.values()}) == 4  # off and broken share one
    said = parity_grid.in_words(_grid())
    assert "a + b: is off, step 0, backward." in said and "1 equal one process" in said


@pytest.mark.parametrize("dark", [False, True])
def test_signs_can_be_read_on_their_cells(dark):
    """WCAG AA on every filled cell, light and dark."""
    sheet = parity_grid.drawing(_grid(dark))
    pairs = re.findall(r"background: (#\w{6}); color: (#\w{6})", sheet)
    assert len(pairs) == 2
    assert all(contrast(fill, letters) >= 4.5 for fill, letters in pairs)
    assert all(contrast(fill, PAGES[dark]) >= 1.3 for fill, _ in pairs)


def test_every_layout_has_a_cell_of_its_own():
    """The page's grid shows the whole list, each name once."""
    picture = parity_grid.drawing(parity._grid(""))
    names = re.findall(r"data-cell='([^']+)'", picture)
    assert sorted(names) == sorted(parity_runs.matrix())


# ---------------------------------------------------------------------------- the page


def test_the_cube_waits_for_a_guess_and_then_says_what_a_rank_holds():
    """Asked first which axis stays inside a node; then axes, wires and one rank's part."""
    at = open_page(rank=3)
    assert "Which axis" in words(at) and not at.subheader
    button(at, "Skip this").click().run()
    calm(at)
    assert "What rank 3 holds" in [found.value for found in at.subheader]
    rows = table(at, "wire")
    assert list(rows["axis"])[:3] == ["tp", "dp", "pp"]
    assert table(at, "part")["parameter"].iloc[0] == "embed.tokens.weight"


@pytest.mark.parametrize("order", RANK_ORDERS)
def test_the_mesh_turns_with_the_order_of_its_axes(order):
    """The axis named first has neighbouring numbers and stays inside a node of two; the question,
    its answer, the table and the place of a rank all follow."""
    at = open_page(rank_order=order, node=2, rank=1)
    inner, *others = order.split("-")
    ranks = [axis for axis in order.split("-") if axis != "cp"]  # one rank of that here
    assert f"numbered {inner} first, then {', '.join(others[:-1])} and {others[-1]}." in words(at)
    calm(button(at, "Skip this").click().run())
    assert f"**Answer:** {ranks[0]}. Inside a node stay: {ranks[0]}." in words(at)
    assert f"{ranks[0]}, innermost" in words(at)
    rows = table(at, "wire").set_index("axis")
    assert list(rows.index)[:3] == ranks and rows["rank 0's group"][ranks[0]] == "0, 1"
    inside = rows["wire"][ranks] == "stays inside a node"
    assert list(inside) == [True, False, False]
    assert f"stands at {ranks[0]} 1, {ranks[1]} 0, {ranks[2]} 0, on node 0" in words(at)


def test_another_order_of_the_axes_asks_anew():
    """Another order is another question: an answer to the first is none to it."""
    at = open_page()
    assert at.selectbox(key="rank_order").value == "tp-cp-dp-pp"
    calm(button(at, "Skip this").click().run())
    calm(at.selectbox(key="rank_order").set_value("pp-tp-cp-dp").run())
    assert "numbered pp first" in words(at) and not at.subheader


def test_a_refused_cell_gives_the_reason_and_no_button():
    """What cannot be combined says so in the plan's words."""
    refused = next(c for c in parity_runs.matrix().values() if "; the nearest" in c.refused)
    at = open_page(cell=refused.name)
    assert refused.refused.partition(" ")[2].partition(";")[0] in words(at)
    assert not [found for found in at.button if refused.name in found.label]


def test_a_name_that_is_no_layout_is_told():
    """A stale link is one sentence."""
    assert "No layout is called" in " ".join(i.value for i in open_page(cell="nonsense").info)


@pytest.mark.live
def test_a_cell_runs_and_its_errors_are_shown():
    """One press: real ranks, then the number, every tensor, and the command that repeats it."""
    at = open_page(cell="dp-bucketed + tp")
    button(at, "Run dp-bucketed + tp").click().run()
    until(at, lambda at: "equal to" in fragments(at))
    assert parity_runs.found()["dp-bucketed + tp"].state == "equal"
    assert len(table(at, "tensor")) == 20
    assert [c.value for c in at.code] == ["shardlab parity --layout dp=2,tp=2"]
    assert [b for b in at.button if b.label == "Run dp-bucketed + tp again"]


@pytest.mark.live
def test_one_that_is_off_is_looked_at_before_it_is_told(monkeypatch):
    """The page runs it a second time, watched, and shows the sentence."""
    check = partial(parity_runs.Check, target="parity_targets:with_QuietBackward")
    monkeypatch.setattr(parity_runs, "Check", check)
    monkeypatch.setenv("PYTHONPATH", str(pages.__file__).rsplit("/", 1)[0])
    pages.live.close_jobs()
    at = open_page(cell="tp + accumulate")
    button(at, "Run tp + accumulate").click().run()
    until(at, lambda at: at.error)
    assert "reaches layer0 is wrong on rank" in at.error[0].value
    pages.live.close_jobs()
    parity_runs.forget("tp + accumulate")


@pytest.mark.browser
@pytest.mark.live
@in_looks((1280, 4200, "light"), (390, 6200, "dark"))
def test_a_press_on_a_cell_runs_it_and_the_page_is_readable(tab):
    """Mouse and keyboard reach the cells; axe has nothing to say, and nothing is too wide."""
    page = tab.open("/parity?rank=1", "Mesh and parity")
    page.get_by_role("combobox", name="Neighbours").fill("pp-tp")
    page.keyboard.press("Enter")
    page.wait_for_url("**rank_order=pp-tp-cp-dp*")
    page.get_by_text("numbered pp first").first.wait_for(timeout=30_000)
    page.get_by_role("button", name="Skip this").click()
    page.locator("[data-rank='6']").click()
    page.get_by_text("What rank 6 holds").wait_for(timeout=30_000)
    page.locator("[data-cell='zero-1 + ring']").click()
    page.get_by_text("equal to").wait_for(timeout=90_000)
    tab.settle()
    here = page.locator("[data-cell='zero-1 + ring']")
    assert here.get_attribute("aria-current") == "true" and here.inner_text() == "="
    here.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.locator("[data-cell='zero-2 + ring'][aria-current]").wait_for(timeout=30_000)
    page.locator("[data-cell='zero-2 + ring'].equal").wait_for(timeout=90_000)
    tab.settle()
    assert not complaints(tab)
