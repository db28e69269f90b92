"""P7, the tensor loom: matrices cut over ranks, where they must be summed, and what that sends."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import streamlit as st
import theme

from parallel_core.fields import PlanError
from parallel_core.loom import by_hand
from parallel_core.loom.figures import figures, modelled, value_bytes
from parallel_core.loom.matrix import Matrix
from parallel_core.loom.request import LoomRequest
from parallel_core.loom.weave import PATTERNS, Kind
from parallel_core.loom.words import edges
from parallel_core.program import Value
from parallel_core.trace import Kind as Mark
from parallel_core.views import loom as view
from screens import chrome, live
from screens import tensor_loom_results as results
from screens import tensor_loom_runs as runs
from screens.predict_choice import choose_one, reveal_choice
from screens.tensor_loom_controls import choose, picked

PAGE = "loom"
ORDER = f"{PAGE}.order"
ORDERS = {"column, then row": "column-row", "row, then column": "row-column"}
ANSWERS = (*ORDERS, "both of them", "neither")
WHY = (
    "Rows first leave parts of a sum on the ranks, and a nonlinearity of a sum is not the sum of "
    "its parts' nonlinearities. Columns first leave whole elements: each rank goes on with its own."
)


def page() -> None:
    """Choose a cut, predict what it sends, look at every number, run it for real."""
    chrome.header(
        "Tensor loom",
        "One product is too large for one rank, so every rank multiplies with a part of the "
        "matrix. How it is cut decides what must be sent, and when.",
    )
    live.warm()
    request = choose()
    if request is None:
        return
    _held(request)
    here = runs.current()
    key = f"{PAGE}.{request.layout}.{request.sp}"
    guess = _predict(request, key)
    order = _predict_order()
    if not (here is not None and here.going):
        _button(request, key, guess, order)
    if here is not None and here.going:
        runs.watch(here)
    done = runs.find(request)
    if not (guess.settled or done is not None):
        return
    chrome.reveal(guess, len(request.weave.moves[0]), "messages")
    if order.settled:
        reveal_choice(order, ANSWERS, _right_order(), WHY)
    _picture(request, done)
    _edges(request)
    if done is not None:
        results.counted(done)
    results.compared(request)
    results.in_time(request, done)
    _take_away(request, done)


# -- asking ----------------------------------------------------------------------------------------


def _held(request: LoomRequest) -> None:
    """What every rank starts with."""
    weave, sizes = request.weave, request.sizes
    rows = []
    for value in weave.holds:
        layout = weave.layouts[value]
        rows_, columns = layout.shape(sizes, request.ranks)
        size = value_bytes(request, value)
        rows.append(f"`{layout}`, {rows_} × {columns} on a rank ({results.bytes_text(size)})")
    letters = ", ".join(f"{name}={size:,}" for name, size in sizes.items())
    st.markdown(
        f"**{request.layout}**: {PATTERNS[request.layout].words}. At the start: "
        f"{'; '.join(rows)}. Here {letters}, tp={request.ranks}; `/tp` is cut over the ranks, "
        "`+tp` a part of a sum on each."
    )


def _predict(request: LoomRequest, key: str) -> chrome.Guess:
    sp = ", with sequence parallelism" if request.sp else ""
    return chrome.predict(
        key,
        f"Layout {request.layout}{sp}: how many messages (collectives) does a rank take part in, "
        "forward?",
        unit="messages",
        high=100.0,
    )


def _predict_order() -> chrome.Guess:
    return choose_one(
        ORDER,
        "Two products with a nonlinearity between, `Z = act(X A) B`. Which way of cutting A and "
        "B has to send something before the nonlinearity?",
        ANSWERS,
    )


def _right_order() -> int:
    """The answer, from the programs: whose messages come before the nonlinearity."""
    early = [_sends_before_act(pattern) for pattern in ORDERS.values()]
    return early.index(True) if sum(early) == 1 else 2 if all(early) else 3


def _sends_before_act(pattern: str) -> bool:
    kinds = [step.kind for step in LoomRequest(layout=pattern).weave.steps]
    return Kind.MOVE in kinds[: kinds.index(Kind.ACT)]


def _button(request: LoomRequest, key: str, guess: chrome.Guess, order: chrome.Guess) -> None:
    """Run: what was guessed so far is locked first."""
    if not st.button("Run", type="primary", key=f"{PAGE}.start", icon=":material/play_arrow:"):
        return
    try:
        request.checked()
    except PlanError as error:
        chrome.complain(error)
        return
    chrome.commit({key: guess, ORDER: order})
    runs.start(request)


# -- showing ---------------------------------------------------------------------------------------


def _picture(request: LoomRequest, done: runs.Kept | None) -> None:
    """Every step with its matrices, as worked by hand or as the ranks had them."""
    st.header("Step by step", anchor=False)
    measured = done is not None and done.values is not None
    kinds = (["by hand"] if _workable(request) else []) + ["measured"] * measured
    kind = kinds[-1] if kinds else ""
    if len(kinds) > 1:
        kind = st.radio("Show", kinds, index=1, horizontal=True, key="show", bind="query-params")
    rank, cell = picked(request, numbers=bool(kind))
    held = done.values if kind == "measured" and done is not None else None
    truth: dict[str, Matrix] = {}
    if _workable(request):
        inputs = _inputs(request)
        held = held or by_hand.by_hand(request.weave, inputs, request.act)
        truth = by_hand.alone(inputs, request.act)
    cloth = view.Cloth(
        weave=request.weave,
        sizes=request.sizes,
        act=request.act,
        held=held,
        truth=truth,
        rank=rank,
        cell=cell,
    )
    if kind == "measured" and done is not None:
        chrome.badge(done.trace)
    else:
        said = "worked by hand in one process" if held else "the blocks alone"
        theme.badge(Mark.MODELLED, f"modelled: {said}")
    if view.refused(cloth):
        st.warning(chrome.sentence(view.refused(cloth)))
    st.html(view.steps(cloth, dark=chrome.dark()))
    if request.backward:
        st.header("The gradient's way back", anchor=False)
        st.html(view.steps(cloth, backward=True, dark=chrome.dark()))
    with st.expander("In words"):
        st.markdown(view.account(cloth))


def _workable(request: LoomRequest) -> bool:
    """Whether it can be worked out number by number here, without torch."""
    return request.numbers == "integers" and request.shown


@lru_cache(maxsize=32)
def _inputs(request: LoomRequest) -> dict[Value, Matrix]:
    return by_hand.inputs(request.weave, request.sizes, request.seed)


def _edges(request: LoomRequest) -> None:
    """The conjugate pairs at the two edges."""
    st.header("The edges of the region, both ways", anchor=False)
    rows = [
        {
            "edge": edge.what,
            "pair": edge.letter or "no pair",
            "forward": edge.forward,
            "backward": edge.backward,
        }
        for edge in edges(request.layout, request.ranks, sequence=request.sp)
    ]
    chrome.table(rows)
    st.markdown(
        "**f** copies forward and sums backward; **g** sums forward and copies backward. Under "
        "sequence parallelism **f'** gathers and its way back scatters a sum, **g'** the other "
        "way round. What f' gathered is not kept: the way back gathers it once more."
    )
    if request.layout == "column-row" and not request.n % request.ranks:
        plain, cut = (figures(replace(request, sp=sp)).wire[0] for sp in (False, True))
        same = "An all-reduce is a reduce-scatter and an all-gather: " * (plain == cut)
        st.markdown(
            f"{same}forward {results.bytes_text(plain)} leave all ranks without sequence "
            f"parallelism, and {results.bytes_text(cut)} with it."
        )


def _take_away(request: LoomRequest, done: runs.Kept | None) -> None:
    results.whole_model()
    st.caption("The same from a terminal:")
    st.code(request.command(), language=None, wrap_lines=True)
    if runs.runs():
        forget: dict[str, Any] = {"on_click": runs.forget_all, "type": "tertiary"}
        st.button("Forget my runs", key=f"{PAGE}.forget", **forget)
    trace = modelled(request) if done is None else done.trace
    chrome.export(trace, f"loom_{request.layout}", PAGE)
