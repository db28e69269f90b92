"""The topology section of P2: torus against fat tree, and what an all-to-all makes of each.

What is compared has the same cable everywhere, so that only the wiring differs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import streamlit as st

from parallel_core.collectives import build
from parallel_core.collectives.clock import collective_cost
from parallel_core.collectives.group import Group
from parallel_core.hardware.links import WIRES
from parallel_core.hardware.topologies import topology
from parallel_core.hardware.topology import Topology
from parallel_core.network import Network, link_use
from parallel_core.quantities import bytes_text, time_text
from parallel_core.simulate import simulate_on
from parallel_core.trace import Kind
from parallel_core.views.machine_room import ALL_TO_ALL, Level, describe_levels, levels
from parallel_core.views.topology import MOST_RANKS, describe_links, topology_figure
from screens import chrome

BOUND = "query-params"
SIZES = {
    bytes_text(size): size
    for size in (8, 1 << 10, 1 << 16, 1 << 20, 1 << 22, 1 << 26, 1 << 30, 1 << 34)
}

SHAPES = {
    "16": ("ring:16", "torus:4x4", "fat-tree:16", "fat-tree:16,oversubscription=2", "mesh:16"),
    "64": ("ring:64", "torus:4x4x4", "fat-tree:64", "fat-tree:64,oversubscription=2", "mesh:64"),
    "256": ("ring:256", "torus:16x16", "fat-tree:256", "fat-tree:256,oversubscription=2"),
    "4096": ("torus:64x64", "torus:16x16x16", "fat-tree:4096", "fat-tree:4096,oversubscription=2"),
}
"""Ranks -> the topologies that are compared at that size."""

SIMULATED = 64
"""Ranks up to which an all-to-all is simulated message by message."""


def time_of(seconds: float) -> str:
    """Seconds in words."""
    return time_text(1e9 * seconds)


def rate_of(bandwidth: float) -> str:
    """Bytes a second in words, decimal, as vendors print them.

    >>> rate_of(450e9), rate_of(3.35e12)
    ('450 GB/s', '3.35 TB/s')
    """
    small = bandwidth < 1e12
    return f"{bandwidth / 1e9:.3g} GB/s" if small else f"{bandwidth / 1e12:.3g} TB/s"


def topologies() -> None:
    """Torus against fat tree: the narrowest cut, the longest way, an all-to-all."""
    guess = chrome.predict(
        "machine.cut",
        "A 4 x 4 x 4 torus: each of 64 ranks has a cable to its neighbour on both sides of all "
        "three dimensions, and the ends wrap round. Cut it into two halves of 32 ranks. How many "
        "cables do you cut at least?",
        unit="cables",
        high=1e4,
    )
    if not guess.settled:
        return
    chrome.reveal(guess, topology("torus:4x4x4").bisection, "cables")
    left, middle, right = st.columns(3)
    ranks = left.selectbox("Ranks", list(SHAPES), index=1, key="ranks", bind=BOUND)
    names = [name for name in WIRES if name != "loopback"]
    link = middle.selectbox(
        "Cable", names, index=names.index("infiniband-ndr"), key="cable", bind=BOUND,
        help="The same cable everywhere, so that only the wiring differs.",
    )  # fmt: skip
    size = SIZES[
        right.selectbox("Buffer of a rank", list(SIZES), index=5, key="buffer", bind=BOUND)
    ]
    found = {text: topology(text, wire=WIRES[link]) for text in SHAPES[ranks]}
    bars = [_all_to_all(text, each, size) for text, each in found.items()]
    badge = f"model: {WIRES[link]}; the busiest link bounds an all-to-all of {bytes_text(size)}"
    figure = levels(bars, ALL_TO_ALL, badge=badge, dark=chrome.dark())
    chrome.chart(figure, describe_levels(bars), "machine.all-to-all")
    chrome.table([_facts(text, each, size) for text, each in found.items()])
    st.markdown(
        "A torus needs no switch and serves neighbours at full speed; its cut grows with the "
        "surface only. A fat tree keeps half of all ranks' cables in every cut, and pays for it in "
        "switches. A mesh has a cable for every pair, which nobody can afford twice. The times "
        "above are what the busiest link needs at least; below, everybody sends at once and "
        "messages queue."
    )
    _drawing(found, size)


def _all_to_all(text: str, each: Topology, size: int) -> Level:
    seconds = _seconds(each, size)
    return Level(
        name=text.replace(",", ", "),
        inside=f"{each.ranks:,} ranks",
        value=seconds,
        words=time_of(seconds),
        source=f"{each}: its busiest link, and the longest way",
        kind=Kind.MODELLED,
    )


@cache
def _facts_of(each: Topology) -> tuple[int, int]:
    """Cables and diameter, found once: of 4,096 ranks it takes a while."""
    return sum(1 for _ in each.links()) // 2, each.diameter


@cache
def _seconds(each: Topology, size: int) -> float:
    return each.all_to_all(size)


def _facts(text: str, each: Topology, size: int) -> dict[str, Any]:
    cables, diameter = _facts_of(each)
    return {
        "topology": text,
        "cables": cables,
        "bisection, cables": each.bisection,
        "bisection": rate_of(each.bisection_bandwidth),
        "diameter, links": diameter,
        "all-to-all": time_of(_seconds(each, size)),
    }


def _drawing(found: dict[str, Topology], size: int) -> None:
    """One of them drawn, its links as an all-to-all heats them where that can be simulated."""
    small = [text for text, each in found.items() if each.ranks <= MOST_RANKS]
    if not small:
        st.markdown(f"Topologies are drawn up to {MOST_RANKS} ranks.")
        return
    each = found[st.selectbox("Drawn", small, index=1, key="drawn", bind=BOUND)]
    if each.ranks > SIMULATED:
        figure = topology_figure(each, badge=f"model: {each}", dark=chrome.dark())
        chrome.chart(figure, describe_links(each, {}, 0), "machine.drawn")
        return
    program = build("all_to_all", "direct", Group(each.ranks))
    cost = collective_cost(program, size, None)
    done = simulate_on(program, cost, Network(each), rendezvous=True)
    uses, span = link_use(done.hops), done.trace.makespan
    badge = f"model: direct all-to-all,<br>{time_text(span)}, queues simulated"
    figure = topology_figure(each, uses, span_ns=span, badge=badge, dark=chrome.dark())
    words = describe_links(each, uses, span)
    chrome.chart(figure, words, "machine.drawn")
    with st.expander("In words"):
        st.markdown(words)
