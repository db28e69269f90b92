"""The tensor loom's page: asks first, shows every number, runs for real, and is readable."""

from __future__ import annotations

import re
from functools import partial
from html.parser import HTMLParser

import pages
import pytest
from pages import button, complaints, fragments, headings, in_looks, until, words
from screens import tensor_loom, tensor_loom_controls

from parallel_core.loom.by_hand import alone, by_hand, inputs
from parallel_core.loom.request import LoomRequest
from parallel_core.loom.weave import PATTERNS
from parallel_core.program import Value
from parallel_core.trace import Kind
from parallel_core.views.hues import hues
from parallel_core.views.loom import Cloth, account, refused, steps
from parallel_core.views.loom_grid import number_text
from parallel_core.views.loom_sheet import TINT
from parallel_core.views.palette import contrast, mix

open_page = partial(pages.open_page, "tensor_loom")
no_run_is_left = pages.no_run_is_left  # the fixture, for this file

# -- the figure ------------------------------------------------------------------------------------


class Tables(HTMLParser):
    """Every table of a fragment: its label, and its cells as (classes, text)."""

    def __init__(self, text):
        super().__init__()
        self.tables, self._cell = [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "table":
            self.tables.append((given["aria-label"], []))
        if tag == "td":
            self._cell = (set(given["class"].split()), "")
            self.tables[-1][1].append(self._cell)

    def handle_data(self, data):
        if self._cell is not None:
            self.tables[-1][1][-1] = (self._cell[0], data)
            self._cell = None


def cloth(**more):
    """A request's figure, worked by hand."""
    request = LoomRequest(**more)
    whole = inputs(request.weave, request.sizes)
    held = by_hand(request.weave, whole, request.act)
    return Cloth(
        weave=request.weave,
        sizes=request.sizes,
        act=request.act,
        held=held,
        truth=alone(whole, request.act),
    )


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_number_drawn_is_one_that_a_rank_has(pattern):
    """Each table of the figure is a matrix of the program, cell by cell, under its owner."""
    made = cloth(layout=pattern, backward=True)
    found = Tables(steps(made)).tables + Tables(steps(made, backward=True)).tables
    parts = dict(re.findall(r"^(\S+), rank (\d+)$", label)[0] for label, _ in found if "rank " in
                 label and "ranks" not in label) or None  # fmt: skip
    assert (parts is not None) == ("+tp" in "".join(map(str, made.weave.layouts.values())))
    for step in made.weave.steps:
        layout = made.weave.layouts[step.writes]
        mine = [each[step.writes] for each in made.held]
        for rank, matrix in enumerate(mine):
            want = [number_text(x) for row in matrix for x in row]
            tables = [cells for label, cells in found if label.startswith(f"{layout},")]
            if layout.partial:
                tables = [cells for label, cells in found if label == f"{layout}, rank {rank}"]
            drawn = [[t for names, t in cells if f"r{rank}" in names] for cells in tables]
            assert want in drawn, (str(layout), rank)


def test_a_sum_is_written_out_under_its_message():
    """The terms of one cell, a part from each rank, and what they make."""
    made = cloth(layout="column-row")
    terms = [each[Value("Z_part")][0][0] for each in made.held]
    said = " + ".join(f"({number_text(x)})" if x < 0 else number_text(x) for x in terms)
    assert f"Z[0,0] = {said} = {number_text(sum(terms))}, a part from each rank" in steps(made)
    other = cloth(layout="column-row")
    moved = Cloth(**{**other.__dict__, "cell": (2, 1)})
    assert "Z[2,1] = " in steps(moved) and "Z[0,0] = " not in steps(moved)


def test_the_late_sum_marks_each_wrong_cell_and_says_the_rule():
    """As many marks as cells that differ from one process; none in a right layout."""
    late = cloth(layout="late-sum")
    wrong = [each for rows in zip(late.held[0][Value("Z")], late.truth["Z"], strict=True)
             for each in zip(*rows, strict=True) if each[0] != each[1]]  # fmt: skip
    (cells,) = [c for label, c in Tables(steps(late)).tables if label.startswith("Z[n,d],")]
    assert len(wrong) == sum("off" in names for names, _ in cells) > 3
    assert "sum H over tp before it" in refused(late) and "too late" in steps(late)
    right = cloth(layout="row-column", backward=True)
    assert not refused(right)
    assert not any("off" in names for _, cells in Tables(steps(right)).tables for names, _ in cells)


def test_copies_that_differ_are_drawn_one_by_one():
    """After the late sum the slope is each rank's own: no stack of equal cards is drawn."""
    late = cloth(layout="late-sum", backward=True)
    back = Tables(steps(late, backward=True)).tables
    assert {f"dH[n,m], rank {r}" for r in range(4)} <= {label for label, _ in back}
    assert "where the copies differ" in account(late)
    assert "copies differ" not in account(cloth(layout="row-column", backward=True))


def test_the_account_has_a_sentence_a_step_and_large_matrices_are_blocks():
    """The same in words; without numbers the sizes of the blocks stand in the cells."""
    made = cloth(layout="row-column", backward=True)
    assert len(account(made).splitlines()) == len(made.weave.steps)
    request = LoomRequest(layout="row", n=512, k=4096, m=4096, numbers="normal")
    figure = steps(Cloth(weave=request.weave, sizes=request.sizes))
    texts = {text for _, cells in Tables(figure).tables for _, text in cells}
    assert texts == {"512 × 1024", "1024 × 4096", "512 × 4096"}


@pytest.mark.parametrize("dark", [False, True])
def test_numbers_are_readable_on_every_tint(dark):
    """At least 4.5 to 1 on light and dark, for as many ranks as the page takes."""
    page, ink = ("#11161B", "#F2F2F2") if dark else ("#FFFFFF", "#1B1E23")
    for pair in hues(tensor_loom_controls.MOST_RANKS) + hues(8):
        assert contrast(mix(pair[dark], page, TINT), ink) >= 4.5


# -- the page --------------------------------------------------------------------------------------


def test_the_answers_stay_hidden_until_the_reader_has_guessed():
    """Before: what each rank holds. After both: how far off, and which order sums before act."""
    at = open_page(layout="row-column")
    assert not at.exception and not headings(at) and "`A[k/tp,m]`, 1 × 8 on a rank" in words(at)
    at.number_input(key="loom.row-column.False.number").set_value(1.0).run()
    button(at, "Lock my guess").click().run()
    assert "You said 1 message; it is 2 messages." in words(at) and "Answer" not in words(at)
    at.radio(key="loom.order.answer").set_value("column, then row").run()
    button(at, "Lock my answer").click().run()
    assert "**You said column, then row; it is row, then column.**" in words(at)
    assert headings(at) == [
        "Step by step",
        "The edges of the region, both ways",
        "Every layout at this size",
        "In time",
        "A whole transformer",
    ]
    assert "(memory?tp=2)" in words(at), "the way on, to a whole transformer"
    button(at, "Choose again").click().run()
    at.radio(key="loom.order.answer").set_value("row, then column").run()
    button(at, "Lock my answer").click().run()
    assert "**row, then column: right.**" in words(at)


def test_the_right_order_is_found_in_the_programs():
    """The answer of the second question is not written down."""
    assert tensor_loom.ANSWERS[tensor_loom._right_order()] == "row, then column"
    assert not tensor_loom._sends_before_act("column-row")


def test_every_layout_is_drawn_before_any_run():
    """By hand, as modelled, forward and back; the late sum with the rule it breaks."""
    for pattern in PATTERNS:
        at = open_page(layout=pattern, backward="true", ranks=2)
        button(at, "Skip").click().run()
        assert not at.exception and "The gradient's way back" in headings(at)
        assert "worked by hand in one process" in fragments(at)
        warned = [found.value for found in at.warning]
        assert bool(warned) == PATTERNS[pattern].late
        table = next(found.value for found in at.table if "error, measured" in found.value.columns)
        assert list(table["layout"]) == list(PATTERNS)
        assert set(table["error, measured"]) == {"not run yet"}


def test_the_url_brings_the_choices_and_nonsense_is_told():
    """What a teacher hands out; a rank that is not there falls back to all."""
    at = open_page(layout="column", ranks=2, m=6, sp="true", rank=1, row=3)
    assert not at.error and at.number_input(key="m").value == 6 and at.toggle(key="sp").value
    button(at, "Skip").click().run()
    assert at.number_input(key="row").value == 3 and "loom chosen" in fragments(at)
    at = open_page(layout="cloth", ranks="many", rank=9)
    assert len(at.error) == 2 and not at.exception
    button(at, "Skip").click().run()
    assert not at.exception and "loom chosen" not in fragments(at)
    assert "at most 16 on this page" in open_page(ranks=64).error[0].value


def test_what_cannot_be_cut_is_said_and_mended():
    """One sentence, one press; and a preset puts all of its choices in."""
    at = open_page(layout="row", k=6)
    assert at.error[0].value.startswith("k=6 must be a multiple of ranks=4")
    button(at, "Use k=4").click().run()
    assert not at.error and at.number_input(key="k").value == 4
    button(at, "4096 × 4096, by rows").click().run()
    assert not at.error and at.number_input(key="m").value == 4096
    button(at, "Skip").click().run()
    assert not at.exception and "1024 × 4096" in fragments(at) and "16 MiB" in words(at)


@pytest.mark.live
def test_a_run_is_laid_beside_its_prediction():
    """Measured numbers, the error, equal counts; then the late sum fails in numbers alone."""
    at = open_page(layout="column-row", ranks=2, backward="true")
    button(at, "Run").click().run()
    at = until(at, lambda page: "Counted in the run" in headings(page))
    assert at.radio(key="show").value == "measured"
    assert "max |parallel − single| = 0<" in fragments(at) and "gloo, 2 ranks" in fragments(at)
    assert "counted in the run: **equal**" in words(at)
    (kept,) = at.session_state["loom.kept"]
    assert kept.trace.kind is Kind.MEASURED and kept.values is not None
    at.radio(key="show").set_value("by hand").run()
    assert "worked by hand" in fragments(at)

    run = at.query_params["run"]
    run = run if isinstance(run, str) else run[0]
    other = open_page(layout="column-row", ranks=2, backward="true", run=run)
    assert "Counted in the run" in headings(other), "a link to a run opens on it"

    at.selectbox(key="layout").set_value("late-sum").run()
    button(at, "Run").click().run()
    at = until(at, lambda page: len(page.session_state["loom.kept"]) == 2).run()
    assert "not the same result" in fragments(at)
    assert any("only the numbers are wrong" in found.value for found in at.error)
    assert "counted in the run: **equal**" in words(at)
    table = next(found.value for found in at.table if "error, measured" in found.value.columns)
    ran = dict(zip(table["layout"], table["error, measured"], strict=True))
    assert ran["column-row"] == "0" and float(ran["late-sum"]) > 1
    button(at, "Forget my runs").click().run()
    assert at.session_state["loom.kept"] == []


def test_a_run_that_nobody_knows_is_told():
    """A link of an earlier server: one sentence, and the page goes on."""
    at = open_page(run="abc-j9")
    assert not at.exception and "not known any more" in at.info[0].value
    assert "run" not in at.query_params


# -- in a browser ----------------------------------------------------------------------------------


@pytest.mark.browser
@in_looks((1280, 6000, "dark"), (390, 7000, "light"))
def test_the_open_page_is_clean_and_fits(tab):
    """With the whole figure open: no error, no sideways scroll, axe content, reached by keys."""
    page = tab.open("/loom?layout=late-sum&backward=true", "Tensor loom")
    skip = page.get_by_role("button", name="Skip", exact=True)
    skip.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Step by step").wait_for()
    page.locator(".loom figure").first.wait_for()
    tab.settle()
    page.wait_for_timeout(500)
    assert complaints(tab) == {}
    one = page.get_by_role("radio", name="1", exact=True)
    one.focus()
    page.keyboard.press("Enter")
    page.locator(".loom.chosen").first.wait_for()
    assert "rank=1" in page.url
    tinted = "e => getComputedStyle(e).backgroundColor"
    clear = "rgba(0, 0, 0, 0)"
    cell = page.locator(".loom td.r0:not(.r1)").first
    assert cell.evaluate(tinted) == clear, "the others are outlined"
    assert page.locator(".loom td.r1").first.evaluate(tinted) != clear
    assert tab.errors == [] and tab.strangers() == []
