"""The first page: a recorded pipeline plays at once; and the words that all pages share."""

from __future__ import annotations

import pages
import pytest
from pages import headings, layers, words
from screens import controls, predict, start

from parallel_core.plan import Plan
from parallel_core.provenance import title
from parallel_core.trace import Kind


def test_the_first_page_plays_a_recorded_pipeline():
    """Four real ranks under 1F1B, beside the same run with a device for each."""
    at = pages.open_page("start")
    assert {name: one["kind"] for name, one in layers(at).items()} == {
        "trace": Kind.RECORDED,
        "own": Kind.REPLAYED,
    }
    trace, own = start.recorded()
    plan = Plan.of(**trace.provenance.plan)
    assert (plan.pp, plan.world_size, plan.schedule) == (4, 4, "1f1b")
    assert trace.kind is Kind.RECORDED and own.world_size == 4
    assert headings(at)[0] == "A recorded run" and "*1F1B*" in words(at)


@pytest.mark.parametrize(
    ("number", "unit", "says"),
    [(1.0, "times", "1 time"), (1.00001, "times", "1 time"), (1.5, "times", "1.5 times"),
     (1.0, "ms", "1 ms"), (1.0, "× S", "1 × S"), (0.0, "versions", "0 versions")],
)  # fmt: skip
def test_one_is_singular(number, unit, says):
    assert predict.amount(number, unit) == says


def test_an_empty_field_says_what_it_means():
    """A bound or a clip that nobody gave is none; only what other fields give is derived."""
    at = pages.script("controls", "controls.plan_controls(['clip', 'staleness_bound', 'ffn'])")
    asked = {one.key: one.proto.placeholder for one in pages.calm(at.run()).number_input}
    assert asked == {"clip": "any", "staleness_bound": "none", "ffn": "derived"}
    assert set(controls.EMPTY) <= set(controls.declared())


def test_the_first_page_cuts_layers_and_orders_ranks():
    """A link with a pipeline opens on it, ready to run; a schedule without stages is refused."""
    link = {"pp": 2, "dp": 2, "schedule": "zb-h1", "microbatches": 4, "rank_order": "pp-tp-cp-dp"}
    at = pages.open_page("start", **link)
    assert at.number_input(key="pp").value == 2
    chosen = {key: at.selectbox(key=key).value for key in ("schedule", "rank_order")}
    assert chosen == {"schedule": "zb-h1", "rank_order": "pp-tp-cp-dp"}
    assert not pages.button(at, "Run").disabled
    at = pages.open_page("start", **link | {"pp": 1})
    assert "needs stages" in at.error[0].value
    assert pages.button(at, "Run").disabled


def test_the_title_of_a_run_says_what_hides_and_what_is_kept():
    """Overlap, recomputation and offload are in it; what is as usual is not."""
    plain = Plan.of(tp=2, sp=True)
    assert title(plain) == "tp=2 + sp, llama"
    more = plain.but(overlap_tp=True, recompute="full", offload=True)
    assert title(more) == "tp=2 + sp, llama, gathers overlapped, recompute full, offload"
    assert title(Plan.of(cp=2, overlap_cp=False)).endswith("hops not overlapped")
