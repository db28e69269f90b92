"""P2, the machine room: from a register to the spine, topologies, and this machine's own link.

Formulas and tables, no torch: the one measurement (screens/ping_pong.py) runs in two workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import streamlit as st

from parallel_core.collectives.quoted import CURVES, quoted_curve
from parallel_core.hardware.hierarchy import GENERATIONS, Rung, hierarchy
from parallel_core.hardware.links import WIRES
from parallel_core.hardware.superpods import PODS, SOURCE
from parallel_core.published import table
from parallel_core.quantities import bytes_text
from parallel_core.trace import Kind
from parallel_core.views import machine_room as views
from screens import chrome, ping_pong, wiring
from screens.wiring import SIZES, rate_of, time_of

BOUND = "query-params"


def page() -> None:
    """The page: one section at a time, its name in the URL."""
    chrome.header(
        "Machine room",
        "Every level a byte may have to cross, from a register to the spine of a cluster: how "
        "long until the first one is there, how many follow a second, and how it is all wired.",
    )
    name = st.segmented_control(
        "Section", list(SECTIONS), default="Levels", required=True, key="room", bind=BOUND
    )
    SECTIONS[name or "Levels"]()
    chrome.share("machine")


def levels() -> None:
    """Latency, bandwidth, and the time of one message, level by level."""
    guess = chrome.predict(
        "machine.ethernet",
        "One GiB goes from GPU to GPU in 2.4 ms over the NVLinks of an H100, at 450 GB/s. How "
        "long does it take over 100 Gb/s Ethernet?",
        unit="ms",
        high=1e6,
    )
    if not guess.settled:
        return
    chrome.reveal(guess, 1e3 * WIRES["ethernet-100"].seconds(2**30), "ms")
    left, right = st.columns(2)
    server = left.selectbox("Server", list(GENERATIONS), key="server", bind=BOUND)
    size = SIZES[right.selectbox("Message", list(SIZES), index=6, key="message", bind=BOUND)]
    left, right = st.columns(2)  # new ones, so that on a phone the controls stay together
    rungs = hierarchy(server)
    badge = f"quoted: {server} server, data sheets and measurements"
    with left:
        bars = _bars(rungs, lambda r: r.latency, lambda r: r.latency_source, time_of)
        _chart(views.levels(bars, views.LATENCY, badge=badge, dark=chrome.dark()), bars, "latency")
    with right:
        bars = _bars(rungs, lambda r: r.bandwidth, lambda r: r.source, rate_of)
        figure = views.levels(bars, views.BANDWIDTH, badge=badge, dark=chrome.dark())
        _chart(figure, bars, "bandwidth")
    bars = _bars(
        rungs, lambda r: r.seconds(size), lambda r: f"{time_of(r.latency)} and "
        f"{bytes_text(size)} at {rate_of(r.bandwidth)}", time_of, Kind.MODELLED,
    )  # fmt: skip
    badge = f"model: latency + {bytes_text(size)} / bandwidth"
    _chart(views.levels(bars, views.DURATION, badge=badge, dark=chrome.dark()), bars, "message")
    st.markdown(
        "Vendors print both directions of a wire together: 18 NVLinks of 25 GB/s each way are "
        '"900 GB/s". Here every bandwidth is one direction. Below `alpha·beta` bytes a message '
        "is all latency, and a wider wire saves nothing."
    )
    with st.expander("Every level, with its sources"):
        chrome.table([_row(rung) for rung in rungs])


def _bars(
    rungs: Iterable[Rung],
    value: Callable[[Rung], float],
    source: Callable[[Rung], str],
    words: Callable[[float], str],
    kind: Kind = Kind.QUOTED,
) -> list[views.Level]:
    return [
        views.Level(
            name=rung.name,
            inside=rung.inside,
            value=value(rung),
            words=words(value(rung)),
            source=source(rung),
            kind=kind,
        )
        for rung in rungs
    ]


def _chart(figure: Any, bars: Iterable[views.Level], key: str) -> None:
    chrome.chart(figure, views.describe_levels(bars), f"machine.{key}")


def _row(rung: Rung) -> dict[str, str]:
    return {
        "level": rung.name,
        "inside": rung.inside,
        "size": "" if rung.size is None else bytes_text(rung.size),
        "latency": f"{time_of(rung.latency)}: {rung.latency_source}",
        "bandwidth": f"{rate_of(rung.bandwidth)}: {rung.source}",
        "latency = bytes at": bytes_text(rung.latency * rung.bandwidth),
    }


def superpods() -> None:
    """Two pods of 256 GPUs, each figure computed from its parts beside the printed one."""
    st.markdown(
        "32 nodes of 8 GPUs. *Bisection* counts both directions of the cut, *reduce* is the rate "
        "at which an all-reduce advances on each GPU: half of a link by messages, a whole one "
        "where the switches add. The A100's figures count bf16, the H100's fp8: look before you "
        "compare."
    )
    for pod in PODS:
        st.markdown(f"**{pod.name}**")
        chrome.table(
            [
                {
                    "figure": f.name,
                    "computed": _amount(f.computed, f.unit),
                    "printed": "" if f.printed is None else _amount(f.printed, f.unit),
                    "how": f.how,
                }
                for f in pod.figures()
            ]
        )
    st.markdown(f"Printed: {SOURCE}. Computed: from the parts in hardware/superpods.py.")


def _amount(value: float, unit: str) -> str:
    return f"{value / 1e15:.3g} PFLOP/s" if unit == "FLOP/s" else f"{value / 1e9:,.6g} GB/s"


def curves() -> None:
    """Published all-reduce curves, and how far two laws fitted to them are off."""
    name = st.selectbox("Published curve", list(CURVES), key="curve", bind=BOUND)
    curve, source = quoted_curve(name), table(name)
    laws = {"plain": "alpha-beta", "ramp": "with a ramp"}
    figure = views.quoted(
        curve.rows(),
        laws,
        badge=f"quoted: {source.title}; dashed: fitted to it",
        dark=chrome.dark(),
    )
    off = curve.errors()
    words = "; ".join(
        f"{laws[key]}: {e['mean']:.0%} off on average, {e['max']:.0%} at worst"
        for key, e in off.items()
    )
    chrome.chart(figure, words, "machine.curve")
    boxes = st.columns(4)
    for at, (key, law) in enumerate(laws.items()):
        boxes[2 * at].metric(f"{law}, mean error", f"{off[key]['mean']:.1%}")
        boxes[2 * at + 1].metric("at worst", f"{off[key]['max']:.1%}")
    st.markdown(
        f"Alpha-beta: {curve.plain}. With a bandwidth that rises with the root of the size: "
        f"{curve.ramp}. Both speak of one hop of a ring. No line fits NCCL: it changes algorithm "
        "and protocol with the size."
    )
    st.markdown(f"{source.source}, {source.url}. {source.notes}")


SECTIONS: dict[str, Callable[[], None]] = {
    "Levels": levels,
    "Topologies": wiring.topologies,
    "This machine": ping_pong.measured,
    "SuperPods": superpods,
    "Published curves": curves,
}
