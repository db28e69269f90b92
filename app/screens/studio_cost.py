"""The studio's cost curve: formulas over sizes, the reader's runs, quoted curves."""

from __future__ import annotations

from collections.abc import Iterator

import streamlit as st

from parallel_core.collectives import ALGORITHMS, CollectiveError, build
from parallel_core.collectives.costs import crossover, seconds
from parallel_core.collectives.quoted import QuotedCurve, quoted_curve
from parallel_core.collectives.request import CollectiveRequest
from parallel_core.published import table
from parallel_core.quantities import bytes_text
from parallel_core.trace import Kind
from parallel_core.views.collective_charts import Crossing, Curve, Dot, cost_curve, describe
from screens import chrome, studio_runs
from screens.studio_controls import Choice

SIZES = tuple(2.0**k for k in range(8, 31))
QUOTED = "allreduce_b200"


def section(choice: Choice) -> None:
    """Time over size: who wins where, by the model and in the session's runs."""
    st.header("What it costs", anchor=False)
    request = choice.request
    curves = list(_curves(choice))
    if request.op == "barrier" or not curves:
        st.markdown("Nothing is moved, so size does not matter; every step costs one alpha.")
        return
    crossings = list(_crossings(choice))
    kept = studio_runs.alike(request) if choice.here else []
    dots = [dot for run in kept for dot in _dots(choice, run)]
    shows_quoted = request.op == "all_reduce" and st.toggle(
        "Quoted: NCCL's all-reduce on 8 B200",
        key="quoted",
        bind="query-params",
        help="published bus bandwidths, turned back into times; nothing here was run by us",
    )
    badges = [f"modelled: {choice.wire.link}, {choice.wire.source}; ports, no shared links"]
    badges += [kept[-1].trace.provenance.badge] if kept else []
    curve = quoted_curve(QUOTED) if shows_quoted else None
    if curve is not None:
        curves += [Curve(name="8 B200, NCCL", points=curve.points, kind=Kind.QUOTED)]
        badges += [f"quoted: {table(QUOTED).source}"]
    words = describe(curves, dots, crossings)
    figure = cost_curve(curves, dots, crossings, badges=badges, dark=chrome.dark())
    chrome.chart(figure, " ".join(words), "studio.curve")
    _say(choice, crossings, dots)
    if curve is not None:
        _say_quoted(curve)
    with st.expander("In words"):
        st.markdown("\n".join(f"- {line}" for line in words))
    if studio_runs.runs():
        forget = {"on_click": studio_runs.forget_all, "type": "tertiary"}
        st.button("Forget my runs", key="studio.forget", **forget)


def _role(choice: Choice, algorithm: str) -> str:
    if algorithm == choice.request.algorithm:
        return "chosen"
    return "rival" if choice.rival and algorithm == choice.rival.algorithm else "other"


def _curves(choice: Choice) -> Iterator[Curve]:
    """Every algorithm of the op that takes these ranks and has a closed form."""
    request = choice.request
    for name in ALGORITHMS[request.op]:
        try:
            build(request.op, name, request.group)
            points = [(size, _seconds(choice, name, round(size))) for size in SIZES]
        except CollectiveError:
            continue
        if all(time > 0 for _, time in points):
            yield Curve(name=name, points=points, role=_role(choice, name))


def _seconds(choice: Choice, algorithm: str, nbytes: int) -> float:
    request = choice.request
    link, overlap = choice.wire.link, choice.overlap
    return seconds(request.op, algorithm, request.group, nbytes, link, overlap=overlap)


def _crossings(choice: Choice) -> Iterator[Crossing]:
    """Where the chosen algorithm and its rival take equally long, if they ever do."""
    if choice.rival is None:
        return
    request, one, other = choice.request, choice.request.algorithm, choice.rival.algorithm
    try:
        at = crossover(request.op, one, other, request.group, overlap=choice.overlap)
    except CollectiveError:
        return
    if at is None or at <= 0:
        return
    size = float(at) * choice.wire.link.alpha * choice.wire.link.beta
    if not SIZES[0] <= size <= SIZES[-1]:
        return
    words = f"{one} and {other} cross at {bytes_text(size)}"
    yield Crossing((size, _seconds(choice, one, round(size))), words)


def _dots(choice: Choice, run: studio_runs.Kept) -> Iterator[Dot]:
    request: CollectiveRequest = run.request
    role = _role(choice, request.algorithm)
    label = f"#{run.number}" if role != "other" else f"#{run.number} {request.algorithm}"
    times = run.report["seconds"]
    if request.bytes:
        yield Dot(name=request.algorithm, at=(request.bytes, times["ours"]), label=label, role=role)
        if "torch" in times:
            at = (request.bytes, times["torch"])
            yield Dot(name="torch's own call", at=at, theirs=True)


def _say(choice: Choice, crossings: list[Crossing], dots: list[Dot]) -> None:
    """Who wins where, in a sentence; and what the dots may be held against."""
    said = []
    if choice.rival is not None and not crossings:
        one, other = choice.request.algorithm, choice.rival.algorithm
        times = [_safe(choice, name) for name in (one, other)]
        if None not in times:
            first, last = (one, other) if (times[0] or 0) <= (times[1] or 0) else (other, one)
            said.append(f"By this model {first} never takes longer than {last} in this range.")
    elif choice.rival is None:
        said.append("Choose a rival under *Race against* to see where the two lines cross.")
    if not choice.here:
        said.append("Your runs are not drawn: they went over this machine's links, not these.")
    elif not dots:
        said.append(
            "**Run** puts your own measurements on this chart; runs of small and of large buffers "
            "fit its lines."
        )
    st.markdown(" ".join(said))


def _safe(choice: Choice, algorithm: str) -> float | None:
    try:
        return _seconds(choice, algorithm, choice.request.bytes or 1)
    except CollectiveError:
        return None


def _say_quoted(curve: QuotedCurve) -> None:
    errors = curve.errors()
    plain, ramp = errors["plain"], errors["ramp"]
    st.markdown(
        f"One alpha and one beta, fitted to the quoted points as a ring of {curve.n}, are off by "
        f"{plain['median']:.0%} in the median and {plain['max']:.0%} at worst; a bandwidth that "
        f"rises with size by {ramp['median']:.0%} and {ramp['max']:.0%}. No single line fits NCCL, "
        "which changes its algorithm and protocol with size."
    )
