"""The measurement table: layouts of one model side by side, and their losses over many steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import streamlit as st

from parallel_core.compare import curves, layouts
from parallel_core.compare.layouts import Contender, Turns, borne, contenders
from parallel_core.fields import PlanError
from parallel_core.trace import Kind
from parallel_core.views import compare_curves, compare_table
from screens import chrome, live
from screens import compare_runs as runs
from screens.compare_runs import PAGE

MODEL = ("layers", "hidden", "heads", "seq", "global_batch", "dtype")
DEFAULTS = {"layers": 4, "hidden": 64, "heads": 4, "seq": 64, "global_batch": 16}
USUAL = "; ".join(layouts.USUAL)
CURVES = "; ".join(curves.USUAL)
STEPS = 100  # of a curve, where `shardlab compare --curves` takes 500


def page() -> None:
    """Name layouts, predict, run them by turns, and read the table."""
    chrome.header(
        "Compare",
        "The same model, the same data, the same start; only how a step is split differs. What "
        "does each way of splitting win, and what does it pay?",
    )
    live.warm()
    base, found, turns = _controls()
    run = runs.current()
    going = run is not None
    guess = _predict()
    with st.container(horizontal=True):
        icon = {"disabled": going or found is None, "icon": ":material/play_arrow:"}
        if st.button("Run them by turns", type="primary", key=f"{PAGE}.run", **icon) and found:
            if not guess.settled:
                chrome.settle(PAGE, guess.value)
            runs.begin_table(found, turns)
    if run is not None:
        live.watch(run, _growing, PAGE)
    _table(guess)
    _curves(base, going=going)


# -- asking ----------------------------------------------------------------------------------------


def _controls() -> tuple[dict[str, Any], list[Contender] | None, Turns]:
    text = st.text_input(
        "Layouts, parted by ;", USUAL, key=f"{PAGE}.layouts", bind="query-params",
        help="fields that say how a step is split, parted by commas; dp=1 is one process",
    )  # fmt: skip
    with st.expander("Model, batch, type, rounds"):
        values = chrome.plan_controls(MODEL, defaults=DEFAULTS)
        count = {"key": f"{PAGE}.rounds", "bind": "query-params"}
        many = st.number_input("Rounds, each layout one turn", 1, 20, 3, **count)
        count["key"] = f"{PAGE}.steps"
        steps = st.number_input("Steps a turn, the first left out", 2, 50, 4, **count)
    turns = Turns(steps=int(steps), rounds=int(many))
    return values, _contenders(text, values), turns


def _contenders(text: str, base: dict[str, Any], also: tuple[str, ...] = ()) -> Any:
    """The layouts in that text; None after the one sentence that says what is wrong."""
    words = [word.strip() for word in text.split(";") if word.strip()]
    try:
        if not words:
            raise PlanError("layouts", "''", "must name one layout at least", layouts.ALONE)
        return list(borne(contenders(words, base, also=also)))
    except PlanError as error:
        chrome.complain(error, PAGE, mend=False)
        return None


def _predict() -> chrome.Guess:
    return chrome.predict(
        PAGE,
        "Data parallelism on four ranks (dp=4), each with a device of its own: how many times the "
        "throughput of one process will it have here?",
        unit="times",
        high=100.0,
    )


def _growing(run: live.Follower) -> None:
    st.caption(runs.words())


# -- showing ---------------------------------------------------------------------------------------


def _table(guess: chrome.Guess) -> None:
    report = runs.found("table")
    if report is None or not guess.settled:
        st.markdown("The table opens after the runs: about a minute for nine layouts.")
        return
    _answer(guess, report)
    st.header("Where a step goes", anchor=False)
    badge = f"{Kind.REPLAYED}: {compare_table.machine_words(report)}"
    figure = compare_table.bars(report, [badge], dark=chrome.dark())
    chrome.chart(figure, compare_table.bars_in_words(report), f"{PAGE}.bars")
    st.header("Speed", anchor=False)
    _grid(compare_table.rows(report, compare_table.SPEED))
    st.markdown(chrome.plain(compare_table.mfu_words(report)))
    st.header("What it costs and brings", anchor=False)
    _grid(compare_table.rows(report, compare_table.PRICE))
    st.header("What the textbook expects", anchor=False)
    seen = sum(found["seen"] for found in report["expectations"])
    every = len(report["expectations"])
    st.markdown(
        f"{seen} of {every} expectations are seen here, counted layout by layout; those that show "
        "the same share a line."
    )
    st.markdown("\n".join(_lines(report)))
    st.header("Recap", anchor=False)
    for row in compare_table.recap(report):
        layout, *words = row.items()
        lines = [f"- *{name}*: {chrome.plain(said)}" for name, said in words]
        st.markdown("\n".join([f"**{chrome.plain(layout[1])}**", "", *lines]))
    _download(report, "compare.json", "table")


def _grid(rows: list[dict[str, str]]) -> None:
    """A wide table, as high as its rows: it scrolls by itself."""
    chrome.table(rows, first=0, height=36 * len(rows) + 40)


def _lines(report: dict[str, Any]) -> Iterator[str]:
    """The expectations as a list: on a narrow screen a table of them would not be read."""
    for row in compare_table.expectations(report):
        says, figure, of, against, ratio, here = map(chrome.plain, row.values())
        times = f", {ratio} times" if ratio else ""
        seen, comma, why = here.partition(",")
        said = f"{figure}, {of} against {against}{times}: **{seen}**{comma}{why}"
        yield f"- {says[:1].upper()}{says[1:]}: {said}"


def _answer(guess: chrome.Guess, report: dict[str, Any]) -> None:
    claim = "data parallelism multiplies throughput"
    for each in report["expectations"]:
        if each["says"] == claim and each["layout"] == "dp=4" and each["ratio"]:
            chrome.reveal(guess, each["ratio"]["median"], "times")


def _curves(base: dict[str, Any], *, going: bool) -> None:
    st.header("Losses over many steps", anchor=False)
    st.markdown(
        "Splitting changes the order in which terms are summed, nothing else. In float64 that "
        "should be invisible however long one trains; in bfloat16 the type itself shows."
    )
    text = st.text_input(
        "Curves, parted by ;", CURVES, key=f"{PAGE}.curves_of", bind="query-params",
        help="as above; a curve may name its dtype as well",
    )  # fmt: skip
    limits = {"key": f"{PAGE}.curve_steps", "bind": "query-params"}
    steps = st.number_input("Steps of each curve", 2, 1000, STEPS, **limits)
    found = _contenders(text, curves.SMALL, curves.ALSO)
    icon = {"disabled": going or found is None, "icon": ":material/show_chart:"}
    if st.button("Run the curves", key=f"{PAGE}.run_curves", **icon) and found:
        runs.begin_curves(found, int(steps))
    report = runs.found("curves")
    if report is None:
        return
    said = compare_curves.in_words(report)
    badges = [f"{Kind.MEASURED}: {compare_curves.machine_words(report)}"]
    figure = compare_curves.losses(report["lines"], badges, dark=chrome.dark())
    chrome.chart(figure, said, f"{PAGE}.losses")
    if len(report["lines"]) > 1:
        figure = compare_curves.distances(report["lines"], badges, dark=chrome.dark())
        chrome.chart(figure, said, f"{PAGE}.distances")
    st.markdown(said)
    _grid(compare_curves.rows(report["lines"]))
    _download(report, "curves.json", "curves")


def _download(report: dict[str, Any], name: str, key: str) -> None:
    with st.container(horizontal=True):
        st.download_button(
            "JSON", json.dumps(report), name, "application/json", key=f"{PAGE}.{key}.download",
            on_click="ignore", icon=":material/download:",
        )  # fmt: skip
        chrome.share(f"{PAGE}.{key}")
