"""The memory river page: two guesses, a rank that is too small, every policy run for real."""

from __future__ import annotations

from functools import partial

import pages
import pytest
from pages import (
    button,
    charts,
    complaints,
    fragments,
    headings,
    in_looks,
    layers,
    skip,
    table,
    until,
    words,
)
from screens import memory_river, memory_river_prices

from parallel_core.cases import program_of
from parallel_core.peak import predicted_peak
from parallel_core.plan import Plan
from parallel_core.trace import Kind
from parallel_core.views.river_prices import POLICIES

open_page = partial(pages.open_page, "memory_river")
no_run_is_left = pages.no_run_is_left  # the fixture, for this file
SMALL = {"layers": 3, "hidden": 32, "heads": 4, "seq": 32, "steps": 4}


def plan(**more):
    """The page's plan for SMALL."""
    fields = {**memory_river.DEFAULTS, **SMALL, **more}
    return Plan.of(**{name: value for name, value in fields.items() if name != "steps"})


def most(one, kind="total"):
    """The highest predicted peak over the ranks of a plan."""
    return max(predicted_peak(one, program_of(one))[kind])


def test_the_answers_stay_hidden_until_both_guesses_are_settled():
    """Which policy, then by how much; then the figures, and how far off the reader was."""
    at = open_page(**SMALL)
    assert not at.exception and not headings(at)
    at.radio(key="memory.which.answer").set_value("offload").run()
    button(at, "Lock my answer").click().run()
    assert not at.exception and not headings(at)
    at.number_input(key="memory.number").set_value(1000.0).run()
    button(at, "Lock my guess").click().run()
    assert not at.exception
    plans = [plan(**fields) for fields in POLICIES.values()]
    sizes = dict(zip(POLICIES, (most(one, "activations") for one in plans), strict=True))
    least = min(sizes, key=sizes.__getitem__)
    assert f"You said offload; it is {least}." in words(at)
    assert f"it is {sizes['keep all'] / sizes[least]:.4g} times" in words(at)
    assert headings(at) == ["One step of one rank", "Bytes won, time paid", "What a layer keeps"]
    rows = table(at, "policy")
    assert list(rows["policy"]) == list(POLICIES) and set(rows["measured"]) == {"not run yet"}
    assert list(table(at, "formula")["kept"].unique()) == ["yes"]


def test_a_rank_that_is_too_small_runs_out_of_memory_and_says_what_would_fit():
    """The failure a reader can reach: which policy would fit, none would, it fits."""
    mib = 2**20
    full, whole = most(plan(recompute="full")), most(plan())
    at = skip(open_page(**SMALL, capacity_mib=full / mib + 0.001))
    assert "Out of memory" in at.error[0].value and "Full would fit" in at.error[0].value
    at = skip(open_page(**SMALL, capacity_mib=full / mib / 2))
    assert "No policy fits" in at.error[0].value
    at = skip(open_page(**SMALL, capacity_mib=whole / mib + 0.001))
    assert not at.error and "It fits" in at.success[0].value


def test_the_table_of_a_layer_says_what_the_policy_computes_again():
    """Selective drops the core; the classic block has no difference with dropout at 16 bits but
    the statistics of its norms."""
    at = skip(open_page(**SMALL, recompute="selective"))
    kept = table(at, "formula").set_index("block")["kept"]
    assert kept["softmax"] == "computed again" and kept["q"] == "yes"
    assert {"softmax dropout", "attn norm mean, 1/std"} < set(table(at, "why")["block"])
    assert "Its backward computes the rest again" in words(at)
    at = skip(open_page(**SMALL, dropout=0.1, dtype="bfloat16"))
    assert set(table(at, "why")["block"]) == {"attn norm mean, 1/std", "mlp norm mean, 1/std"}


def test_the_cursor_names_what_exists_at_an_instruction():
    """?at= opens on a moment; a number beyond the program is told in one sentence."""
    at = skip(open_page(**SMALL, at=2, offload="true"))
    assert "While instruction 2 (" in words(at)
    assert "the host's memory" in words(at)
    owners = table(at, "what")
    assert {"activations", "parameters"} <= set(owners["kind"]) and "layer0 mb0" in set(
        owners["of"]
    )
    at = skip(open_page(**SMALL, at=9999))
    assert not at.exception and "Instruction 9999 is not in this program" in at.error[0].value


def test_a_policys_button_sets_its_fields_and_a_pinned_plan_stands_beside_it():
    """Pin, then press: both columns, the pin in the address, and its line in the figure."""
    at = skip(open_page(**SMALL))
    button(at, "Pin as B").click().run()
    assert "pin" in at.query_params and "A against B" not in headings(at)
    button(at, "Full, every 2nd layer").click().run()
    assert not at.exception
    assert (at.selectbox(key="recompute").value, at.number_input(key="recompute_every").value) == (
        "full",
        2,
    )
    pair = table(at, "A, chosen").set_index("figure").loc["policy"]
    assert list(pair) == ["full, every 2nd layer", "keep all"]
    assert any(trace.get("name", "").startswith("total of B") for trace in charts(at)[0]["data"])


def test_a_plan_that_is_no_policy_has_a_row_of_its_own():
    """Every third layer, say; and one layer has nothing to offload or to skip."""
    mine = plan(recompute="full", recompute_every=3)
    found = memory_river_prices.prices(mine)
    assert [price.name for price in found] == [*POLICIES, "full, every 3"]
    alone = memory_river_prices.prices(plan(layers=1))
    assert [price.name for price in alone] == ["keep all", "selective", "full"]
    assert not open_page(**{**SMALL, "layers": 1}).exception


def test_a_step_too_long_is_told():
    """Thousands of microbatches are refused before they are laid out."""
    long = open_page(layers=2, microbatches=2048, global_batch=4096, seq=8)
    assert not long.exception and "Take fewer ranks" in long.info[0].value


def all_ran(at):
    """Whether every policy has run, and was held equal."""
    return "equal to the last bit" in words(at) and "not run yet" not in set(
        table(at, "policy")["measured"]
    )


@pytest.mark.live
def test_every_policy_runs_and_every_byte_is_where_it_was_promised():
    """One press, five real runs on two ranks: solid river, measured peaks, the same sums."""
    at = open_page(**SMALL, tp=2, sp="true", recompute="full")
    button(at, "Run every policy").click().run()
    at = until(at, all_ran, seconds=150)
    assert "are equal to the prediction to the byte" in words(at)
    assert "the same to the byte" in words(at) and not at.error
    rows = table(at, "policy").set_index("policy")
    for name in ("keep all", "full"):  # inside a selective backward less is alive than it may be
        assert rows.loc[name, "measured"] == rows.loc[name, "peak of a rank"]
    specs = charts(at)
    names = [trace.get("name") for trace in specs[0]["data"]]
    assert "predicted" in names and "recompute" in names and "collective" in names
    kinds = {name: layer["kind"] for name, layer in layers(at).items()}
    assert kinds == {"trace": Kind.MEASURED, "own": Kind.REPLAYED, "model": Kind.MODELLED}
    assert "max |parallel" in fragments(at)


# -- in a browser ----------------------------------------------------------------------------------


def past_the_guesses(tab, query):
    """The page in a browser, its figures drawn."""
    page = tab.open(f"/memory?{query}", "Memory river")
    for name in ("Skip this", "Skip"):
        page.get_by_role("button", name=name, exact=True).click()
        tab.settle()
    page.get_by_role("heading", name="What a layer keeps").wait_for()
    page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for()
    return page


@pytest.mark.browser
@in_looks((1280, 3600, "light"), (1280, 3600, "dark"), (390, 5000, "light"))
def test_the_open_page_is_clean(tab):
    """With its figures: no console error, no sideways scroll, nothing that axe objects to."""
    page = past_the_guesses(tab, "offload=true&recompute=selective&layers=3&capacity_mib=20")
    page.wait_for_timeout(600)  # charts draw after the script has ended
    assert complaints(tab) == {}


@pytest.mark.browser
def test_a_click_on_a_dot_moves_the_cursor(tab):
    """The instruction under the dot is in the URL, and the page says what exists then."""
    page = past_the_guesses(tab, "layers=3&recompute=full")
    dots = page.locator(".js-plotly-plot").first.locator(".scatterlayer .point")
    dots.nth(2).wait_for()
    dots.nth(2).evaluate("dot => dot.scrollIntoView({block: 'center'})")
    dots.nth(2).hover(force=True)
    page.locator(".hoverlayer .hovertext").first.wait_for()
    dots.nth(2).click(force=True)
    page.get_by_text("While instruction 2 (").wait_for(timeout=10_000)
    tab.settle()
    assert "at=2" in page.url
