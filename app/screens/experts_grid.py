"""The grid on the page: which step, layer and rank; before a run the router as it is modelled."""

from __future__ import annotations

import json

import streamlit as st
import theme

from parallel_core.plan import Plan
from parallel_core.routing_record import RoutingRecord
from parallel_core.trace import Kind
from parallel_core.views import expert_exchange
from parallel_core.views import expert_grid as view
from parallel_core.views.expert_expected import expected
from parallel_core.views.expert_rows import Loads, Token, loads, tokens
from screens import chrome
from screens.experts_controls import PAGE
from screens.experts_runs import Ran

ALL = "every rank"
LEGEND = (
    "A row is a token, on the rank that its label says; a column is an expert, in the colour of "
    "its rank. Filled: it goes there; with a dot it is there already. Hollow: no place was left."
)


def grid(plan: Plan, here: Ran | None) -> None:
    """Tokens against experts: measured where there is a run, else as the plan lets expect."""
    st.header("Who goes where", anchor=False)
    if here is None:
        record = expected(plan)
        if record is None:
            st.info("These tokens are too many to draw before a run.")
            return
        theme.badge(Kind.MODELLED, "modelled: first logits drawn as the plan draws weights")
        _draw(record, Kind.MODELLED, *_first(record))
        return
    theme.badge(here.kept.done.trace.kind, here.kept.badge)
    step, layer = at_step(here)
    _draw(here.record, Kind.MEASURED, step, layer)
    guess = expected(plan) if step == int(here.steps[0]["step"]) else None
    if guess is not None:
        want = guess.rank_loads(step=0, layer=0)
        got = here.record.rank_loads(step=step, layer=layer)
        chrome.table(
            [
                {"rank": str(r), "rows expected": f"{a:,}", "rows measured": f"{b:,}"}
                for r, (a, b) in enumerate(zip(want, got, strict=True))
            ]
        )


def at_step(here: Ran) -> tuple[int, int]:
    """The step and the layer the reader looks at, kept in the URL."""
    places = st.columns(2)
    shared = {"step": 1, "bind": "query-params"}
    last, layers = len(here.steps) - 1, here.plan.model.layers
    with places[0]:
        step = st.number_input("Step", 0, last, 0, key="at", **shared) if last else 0
    with places[1]:
        layer = (
            st.number_input("Layer", 0, layers - 1, 0, key="layer", **shared) if layers > 1 else 0
        )
    return int(here.steps[int(step)]["step"]), int(layer)


def _first(record: RoutingRecord) -> tuple[int, int]:
    return record.rows[0].step, record.rows[0].layer


def _draw(record: RoutingRecord, kind: Kind, step: int, layer: int) -> None:
    found = tokens(record, step=step, layer=layer)
    counts = loads(record, step=step, layer=layer)
    if not found or len(counts.kept) > view.MOST_EXPERTS:
        st.info(f"The grid shows {view.MOST_EXPERTS} experts at most; the tables below show all.")
    else:
        found = _of_rank(found)
        picture = view.Picture(tokens=found, loads=counts, kind=kind, dark=chrome.dark())
        mount(picture, f"{record.plan.layout} {step} {layer}", "grid")
        st.markdown(LEGEND)
        if record.plan.world_size > record.plan.ep:
            st.markdown(
                f"r0 to r{record.plan.ep - 1} are places in a group of ranks that share the "
                "experts out. The tokens are those of the first group, the loads of all."
            )
        st.markdown(view.in_words(picture))
    with st.expander("Every expert's rows"):
        chrome.table(_rows(counts))


def _of_rank(found: list[Token]) -> list[Token]:
    """Some tokens of every rank, or those of one."""
    ranks = {f"rank {rank}": rank for rank in sorted({token.rank for token in found})}
    chosen = st.selectbox("Tokens of", [ALL, *ranks], key="of", bind="query-params")
    if chosen in ranks:
        found = [token for token in found if token.rank == ranks[str(chosen)]]
    return view.few(found)


def _rows(counts: Loads) -> list[dict[str, str]]:
    return [
        {
            "expert": str(e),
            "on rank": str(e // counts.each),
            "asked for it": f"{asked:,}",
            "went": f"{kept:,}",
            "dropped": f"{asked - kept:,}",
        }
        for e, (asked, kept) in enumerate(zip(counts.asked, counts.kept, strict=True))
    ]


def mount(picture: view.Picture, run: str, name: str) -> None:
    """The figure on the page; the token that is picked lives in the browser."""
    data = expert_exchange.payload(picture, run=run)
    component = st.components.v2.component(
        "shardlab_experts", html='<div id="player"></div>', js=expert_exchange.source()
    )
    component(key=f"{PAGE}.{name}", data=json.dumps(data, separators=(",", ":")).encode())
