"""Drawings of topologies: every link is drawn once, heat is bytes and busy time, words agree."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from made_up_wire import KB, cost, on

from parallel_core.collectives import names
from parallel_core.collectives import pairwise as turns
from parallel_core.collectives.group import Group
from parallel_core.hardware.topologies import topology
from parallel_core.network import Network, Use, link_use
from parallel_core.simulate import simulate_on
from parallel_core.views.frame import GREY, PAGES
from parallel_core.views.palette import VISIONS, contrast, mix, worst_pair
from parallel_core.views.topology import (
    HEAT,
    MOST_LINES,
    MOST_RANKS,
    describe_links,
    link_rows,
    topology_figure,
)
from parallel_core.views.topology_layout import layout

TEXTS = (
    "ring:2", "ring:8", "mesh:5", "torus:4x4", "torus:2x3", "torus:3x3x2", "torus:2x2x2x2",
    "fat-tree:16,leaf=4,oversubscription=2", "fat-tree:4,leaf=4", "two-level:3x4",
    "two-level:2x4,nics=1", "two-level:1x4",
)  # fmt: skip
every = pytest.mark.parametrize("text", TEXTS)


def ran(network: Network) -> tuple[dict, int]:
    """What an all-to-all leaves on the links, and how long it took."""
    n = network.topology.ranks
    program = turns.all_to_all(Group(n))
    run = simulate_on(program, cost(names.value_sizes(program, n * 5 * KB)), network)
    return link_use(run.hops), run.trace.makespan


def lines(figure) -> list:
    return [trace for trace in figure.data if trace.mode == "lines"]


@every
def test_every_link_is_drawn_once_and_every_host_has_a_place_of_its_own(text):
    one = topology(text)
    drawn = layout(one)
    assert sorted(link for line in drawn.lines for link in line.links) == sorted(one.links())
    hosts = [drawn.points[rank] for rank in range(one.ranks)]
    gaps = [math.dist(a, b) for i, a in enumerate(hosts) for b in hosts[:i]]
    assert min(gaps) > 0.9
    assert set(drawn.names) == set(drawn.points)


@pytest.mark.parametrize("dark", [False, True])
@every
def test_what_is_drawn_is_what_the_links_carried(text, dark):
    """Hover, words and table are the run's own numbers; nothing idle looks used."""
    network = on(text)
    uses, span = ran(network)
    one = network.topology
    figure = topology_figure(one, uses, span_ns=span, badge="modelled: here", dark=dark)
    hover = next(trace for trace in figure.data if trace.marker.opacity == 0).hovertext
    drawn = layout(one).lines
    assert len(hover) == len(drawn)
    for line, words in zip(drawn, hover, strict=True):
        used = [link for link in line.links if link in uses]
        assert words.endswith("idle") != bool(used)
    grey = sum(trace.line.color == GREY[dark] for trace in lines(figure))
    assert bool(grey) == any(not set(line.links) & set(uses) for line in drawn)
    rows = link_rows(one, uses, span)
    assert [row["bytes"] for row in rows] == sorted((u.bytes for u in uses.values()), reverse=True)
    assert all(0 < row["busy"] <= 1 for row in rows)
    assert f"{sum(1 for _ in one.links()) - len(uses)} links carried nothing" in describe_links(
        one, uses, span
    )
    assert "modelled: here" in " ".join(a.text for a in figure.layout.annotations)


def test_more_bytes_are_wider_and_more_time_is_deeper():
    """Two links of a ring: one carries four times the bytes, for four times as long."""
    uses = {
        (0, 1): Use(bytes=4000, messages=1, busy_ns=1000),
        (1, 2): Use(bytes=1000, messages=1, busy_ns=250),
    }
    figure = topology_figure(topology("ring:4"), uses, span_ns=1000)
    idle, small, large = sorted(lines(figure), key=lambda trace: trace.line.width)
    assert idle.line.width < small.line.width < large.line.width
    depth = [contrast(trace.line.color, PAGES[False]) for trace in (small, large)]
    assert depth[0] < depth[1]


@pytest.mark.parametrize("dark", [False, True])
def test_heat_is_one_hue_that_everybody_can_read(dark):
    """Each level is told from the next by lightness, with any colour vision and in grey."""
    levels = [mix(HEAT[dark], PAGES[dark], 0.3 + 0.7 * level / 5) for level in range(1, 6)]
    depths = [contrast(colour, PAGES[dark]) for colour in levels]
    assert depths == sorted(depths) and all(b / a > 1.15 for a, b in pairwise(depths))
    assert worst_pair(levels)[0] >= 5 and len(VISIONS) == 4


def test_an_idle_fat_tree_thickens_upward():
    widths = {trace.line.width for trace in lines(topology_figure(topology("fat-tree:16")))}
    assert widths == {1.0, 4.0}


def test_a_link_that_wraps_is_two_stubs():
    torus = topology("torus:4x3")
    stubs = {line.links[0] for line in layout(torus).lines if len(line.segments) == 2}
    assert {(0, 3), (3, 0), (0, 8), (8, 0)} <= stubs and (0, 1) not in stubs
    assert len(stubs) == 2 * (3 + 4)
    (line,) = (line for line in layout(torus).lines if line.links == ((3, 0),))
    (_, out), (into, _) = line.segments
    assert out[0] > 3 and into[0] < 0  # leaves to the right, comes in from the left


def test_hosts_show_the_rank_that_sits_there():
    figure = topology_figure(topology("ring:4"), hosts=(2, 3, 0, 1))
    (points,) = (trace for trace in figure.data if trace.text)
    assert points.text == ("2", "3", "0", "1")


def test_what_is_too_large_is_said_not_drawn():
    huge = topology("torus:16x16x16")
    figure = topology_figure(huge)
    assert not figure.data and f"{MOST_RANKS}" in figure.layout.annotations[0].text
    crowd = topology_figure(topology("mesh:64"))
    assert f"the {MOST_LINES:,} busiest of 4,032" in crowd.layout.annotations[0].text


def test_a_topology_without_traffic_is_described():
    words = describe_links(topology("torus:4x4x4"), {}, 0)
    assert "64 ranks, 384 links, bisection 32, diameter 6. Nothing was sent." in words
