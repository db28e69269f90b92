"""The shard bench's page: it asks first, and says what the plan, the program and the run say."""

from __future__ import annotations

from functools import partial

import pages
import pytest
from pages import button, charts, fragments, headings, layers, until, words
from screens import shard_bench, shard_bench_runs

from parallel_core.plan import Plan
from parallel_core.trace import Kind
from parallel_core.views.shards_traffic import at_stage

open_page = partial(pages.open_page, "shard_bench")
no_run_is_left = pages.no_run_is_left  # the fixture, for this file
SMALL = {"dp": 2, "layers": 2, "hidden": 32, "heads": 2, "seq": 32, "steps": 3}


def test_the_answer_stays_hidden_until_the_reader_has_guessed():
    """Before: who shares which shard. After: the ratio, how far off, and the figures."""
    at = open_page(**SMALL)
    assert not at.exception and not headings(at)
    assert "Every rank keeps another of the 2 shards" in words(at)
    at.number_input(key="shard_bench.number").set_value(3.0).run()
    button(at, "Lock my guess").click().run()
    assert not at.exception
    assert "You said 3 times; it is 1.5 times." in words(at)
    assert headings(at) == [
        "What each stage leaves on a rank",
        "Gather, use, free",
        "What it sends",
        "On a real device",
    ]
    table = next(found.value for found in at.table if "largest model" in found.value.columns)
    assert list(table["largest model"]) == ["5 B", "19.1 B", "36.06 B", "320 B"]  # 64 x 80 GB
    at.number_input(key="devices").set_value(32)
    at.number_input(key="billions").set_value(1.0).run()
    nodes = next(found.value for found in at.table if "leaves a node" in found.value.columns)
    flat, hybrid = (nodes.set_index("groups").loc[name] for name in ("1 x 32", "4 x 8"))
    assert (flat["inside"], hybrid["inside"], hybrid["across"]) == (
        "5.81 GB",
        "5.25 GB",
        "0.375 GB",
    )
    assert hybrid["less"] == "1.94 x"


def test_a_rank_that_is_too_small_runs_out_of_memory_and_says_what_would_fit():
    """The failure a reader can reach: by stage, and where no stage helps."""
    plan = Plan.of(**{k: v for k, v in SMALL.items() if k != "steps"}, zero=0)
    between = 1 + max(shard_bench_runs.most(at_stage(plan, 3))["total"]) / 2**20
    at = open_page(**SMALL, zero=0, capacity_mib=0.2)
    button(at, "Skip").click().run()
    assert "Out of memory" in at.error[0].value
    at = open_page(**SMALL, zero=3, capacity_mib=between)
    button(at, "Skip").click().run()
    assert not at.error and "It fits" in at.success[0].value


def test_the_cursor_names_what_exists_at_an_instruction():
    """?at= opens on a moment; a number beyond the program is told in one sentence."""
    at = open_page(**SMALL, at=2)
    button(at, "Skip").click().run()
    assert "While instruction 2 (" in words(at)
    at = open_page(**SMALL, at=9999)
    button(at, "Skip").click().run()
    assert not at.exception and "Instruction 9999 is not in this program" in at.error[0].value


def test_a_pinned_plan_stands_beside_the_chosen_one():
    """Pin, then change: both columns, and the pin is in the address; nonsense there is told."""
    at = open_page(**SMALL)
    button(at, "Skip").click().run()
    button(at, "Pin as B").click().run()
    assert "pin" in at.query_params and "A against B" not in headings(at)
    at.number_input(key="zero").set_value(1).run()
    assert not at.exception and "A against B" in headings(at)
    pair = next(t.value for t in at.table if "A, chosen" in t.value.columns)
    first = pair.set_index("figure").loc["plan"]
    assert first["A, chosen"] == "dp=2 (ZeRO-1)" and first["B, pinned"] == "dp=2 (ZeRO-3)"
    broken = open_page(**SMALL, pin="dp=0")
    assert not broken.exception
    button(broken, "Skip").click().run()
    assert "The pinned plan in the address" in " ".join(e.value for e in broken.error)


def test_one_rank_and_a_step_too_long_are_told():
    """dp=1 shares with nobody; thousands of microbatches are refused before they are laid out."""
    assert "take dp=2 or more" in open_page(dp=1).info[0].value
    long = open_page(dp=2, microbatches=2048, global_batch=4096, seq=8)
    assert not long.exception and "Take fewer ranks" in long.info[0].value


def test_the_presets_are_plans_that_can_be_laid_out():
    """Each preset, taken from the page's defaults, is legal and small enough."""
    for fields in shard_bench.PRESETS.values():
        assert shard_bench._drawable(Plan.of(**fields))


@pytest.mark.live
def test_all_four_stages_run_and_every_byte_is_where_it_was_promised():
    """One press, four real runs: solid bars, equal traffic, readings equal to the outline."""
    at = open_page(**SMALL)
    button(at, "Run all four stages").click().run()
    at = until(at, lambda page: "The ledgers" in {h.value for h in page.subheader}, seconds=120)
    assert "are equal to the prediction to the byte" in words(at)
    assert "They agree to the byte" in words(at)
    traffic = next(t.value for t in at.table if "a rank sends" in t.value.columns)
    line = traffic.set_index("a rank sends").loc["equal"]
    assert list(line) == ["yes"] * 4
    specs = charts(at)
    names = [trace.get("name") for spec in specs for trace in spec["data"]]
    assert "peak, measured" in names and "predicted" in names
    kinds = {name: layer["kind"] for name, layer in layers(at).items()}
    assert kinds == {"trace": Kind.MEASURED, "own": Kind.REPLAYED, "model": Kind.MODELLED}
    page = fragments(at)
    assert "max |parallel" in page
