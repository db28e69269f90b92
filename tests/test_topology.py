"""Links, pods and topologies: figures from their parts, cuts and loads against brute force."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_core.fields import PlanError
from parallel_core.hardware.devices import DEVICES
from parallel_core.hardware.links import WIRES, wire
from parallel_core.hardware.superpods import A100_POD, H100_POD, PODS
from parallel_core.hardware.topologies import KINDS, topology
from parallel_core.hardware.topology import Topology
from parallel_core.hardware.torus import Torus, coordinates, number, ring_order, shifted

GIB = 2**30
SMALL = (
    "ring:2", "ring:5", "ring:6", "mesh:2", "mesh:5", "mesh:6",
    "torus:2x2", "torus:3x2", "torus:3x3", "torus:4x3", "torus:4x4", "torus:5x2", "torus:2x2x2",
    "torus:3x2x2", "torus:1x4",
    "fat-tree:4", "fat-tree:6,leaf=2", "fat-tree:8,leaf=4,oversubscription=2",
    "fat-tree:9,leaf=3", "fat-tree:4,leaf=4",
    "two-level:1x4", "two-level:2x2", "two-level:2x4,nics=2", "two-level:4x2,nics=1",
)  # fmt: skip
every_small = pytest.mark.parametrize("text", SMALL)


# Links


@pytest.mark.parametrize(
    ("gbps", "milliseconds"), [(450, 2.4), (64, 16.8), (50, 21.5), (12.5, 85.9)]
)
def test_a_gibibyte_takes_as_long_as_worked_out_by_hand(gbps, milliseconds):
    """1 GiB at NVLink 4, PCIe 5, NDR InfiniBand and 100 Gb/s Ethernet, latency left out."""
    assert round(1e3 * GIB / (gbps * 1e9), 1) == milliseconds


@pytest.mark.parametrize(
    ("name", "gbps"),
    [
        ("nvlink2", 150), ("nvlink3", 300), ("nvlink4", 450), ("nvlink5", 900),
        ("pcie3", 15.75), ("pcie4", 31.5), ("pcie5", 63.0), ("pcie6", 121.0),
        ("infiniband-edr", 12.5), ("infiniband-hdr", 25), ("infiniband-ndr", 50),
        ("infiniband-xdr", 100), ("roce-400", 50), ("ethernet-10", 1.25), ("ethernet-800", 100),
        ("ici-v4", 45), ("ici-v5p", 90),
    ],
)  # fmt: skip
def test_a_link_is_its_lanes_times_their_rate(name, gbps):
    """GB/s in one direction, as the catalogues print them to three digits."""
    assert WIRES[name].bandwidth / 1e9 == pytest.approx(gbps, rel=2e-3)


def test_eighteen_nvlinks_are_900_gigabytes_a_second_both_ways():
    assert WIRES["nvlink4"].both_ways == 900e9 == 2 * WIRES["nvswitch4"].bandwidth


@pytest.mark.parametrize(
    ("device", "kind", "name"),
    [
        ("A100-80 SXM", "scale-up", "nvlink3"), ("H100 SXM", "scale-up", "nvlink4"),
        ("B200 SXM", "scale-up", "nvlink5"), ("H100 SXM", "PCIe", "pcie5"),
        ("A100-80 SXM", "network", "infiniband-hdr"), ("H100 SXM", "network", "infiniband-ndr"),
    ],
)  # fmt: skip
def test_links_agree_with_the_published_catalogue_of_devices(device, kind, name):
    assert WIRES[name].bandwidth == pytest.approx(DEVICES[device].links[kind], rel=0.02)


def test_every_link_says_who_says_so_and_has_a_latency():
    for one in WIRES.values():
        assert one.source and one.latency_source and 0 < one.latency < 1e-3 and one.hop > 0
        size = one.half_size
        assert one.seconds(size) == pytest.approx(2 * one.latency) == one.link.alpha * 2


def test_an_unknown_link_is_told_the_closest():
    with pytest.raises(PlanError, match="nearest value that works is nvlink4") as error:
        wire("NVLink4x")
    assert error.value.field == "link" and wire("nvlink4") is WIRES["nvlink4"]


# SuperPods


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.name)
def test_the_figures_of_a_superpod_follow_from_its_parts(pod):
    """Exact where both sides are bandwidths; NVIDIA rounds FLOP/s to two digits."""
    figures = list(pod.figures())
    assert len(figures) == 5 and all(figure.printed and figure.how for figure in figures)
    for figure in figures:
        slack = 0.015 if figure.unit == "FLOP/s" else 1e-12
        assert figure.computed == pytest.approx(figure.printed, rel=slack), figure.name


def test_the_slides_count_in_different_formats():
    """2.5 PF a node is bf16 on the A100; 16 PF is fp8 on the H100, 7.9 in bf16."""
    assert (A100_POD.dtype, H100_POD.dtype) == ("bfloat16", "fp8")
    assert 8 * DEVICES["H100 SXM"].flops("bfloat16") == pytest.approx(7.9e15, rel=0.01)


# Topologies


def test_the_torus_of_the_exercise():
    """4 x 4 x 4 with wrap: 32 links in the bisection, 6 hops across."""
    cube = topology("torus:4x4x4")
    assert (cube.bisection, cube.diameter, cube.ranks) == (32, 6, 64)


@pytest.mark.parametrize(
    ("text", "bisection", "diameter"),
    [
        ("ring:8", 2, 4), ("mesh:8", 16, 1), ("torus:4x4", 8, 4), ("fat-tree:64", 32, 4),
        ("fat-tree:64,oversubscription=2", 16, 4), ("fat-tree:8,leaf=8", 4, 2),
        ("two-level:4x8", 16, 4), ("two-level:4x8,nics=1", 2, 4),
    ],
)  # fmt: skip
def test_bisection_and_diameter_on_paper(text, bisection, diameter):
    one = topology(text)
    assert (one.bisection, one.diameter) == (bisection, diameter)


def cables(one: Topology) -> set[tuple[int, int]]:
    return {(min(link), max(link)) for link in one.links()}


def narrowest_cut(one: Topology) -> int:
    """Over all halves of the hosts and all sides of the switches."""
    joins = cables(one)
    switches = range(one.ranks, one.vertices)
    best = len(joins)
    for half in combinations(range(one.ranks), one.ranks // 2):
        for sides in product((False, True), repeat=len(switches)):
            side = {**dict.fromkeys(half, True), **dict(zip(switches, sides, strict=True))}
            best = min(best, sum(side.get(a, False) != side.get(b, False) for a, b in joins))
    return best


@pytest.mark.parametrize("text", [t for t in SMALL if topology(t).vertices <= 17])
def test_no_cut_is_narrower_than_the_bisection(text):
    """Every way to halve the hosts, every way to place the switches."""
    one = topology(text)
    assert narrowest_cut(one) == one.bisection


@every_small
def test_routes_are_chains_of_links_that_exist(text):
    one = topology(text)
    links = set(one.links())
    assert len(links) == len(list(one.links())) == 2 * len(cables(one))
    for a, b in product(range(one.ranks), repeat=2):
        route = one.route(a, b)
        assert route == () if a == b else (route[0][0], route[-1][1]) == (a, b)
        assert all(first[1] == second[0] for first, second in pairwise(route))
        assert set(route) <= links and len(set(route)) == len(route) <= one.diameter
        assert one.latency(a, b) == pytest.approx(sum(one.pace(x).latency for x in route))


@every_small
def test_torus_routes_are_the_shortest(text):
    """Breadth first over the links finds no shorter way, in a torus or elsewhere."""
    one = topology(text)
    for source in range(one.ranks):
        far, frontier = {source: 0}, [source]
        while frontier:
            reached = {b for a, b in one.links() if a in frontier and b not in far}
            far.update(dict.fromkeys(reached, far[frontier[0]] + 1))
            frontier = list(reached)
        routes = [len(one.route(source, other)) for other in range(one.ranks)]
        shortest = [far[other] for other in range(one.ranks)]
        assert routes == shortest or one.kind == "two-level"  # whose hosts do not forward


@every_small
def test_loads_are_those_of_all_routes_counted(text):
    """The links named stand for all others: none carries more, by time."""
    one = topology(text)
    counted = Counter(
        link for a, b in product(range(one.ranks), repeat=2) for link in one.route(a, b)
    )
    assert all(counted[link] == load for link, load in one.loads().items())
    slowest = max(count / one.pace(link).bandwidth for link, count in counted.items())
    told = max(load / one.pace(link).bandwidth for link, load in one.loads().items())
    assert told == slowest
    longest = max(one.latency(0, b) for b in range(one.ranks))
    assert one.all_to_all(one.ranks * 1e6) == pytest.approx(1e6 * slowest + longest)


def test_a_tie_on_the_torus_is_spread_evenly():
    """Half way round an even dimension: as many routes go up as down, on every cable."""
    assert set(topology("torus:4x4x4").loads().values()) == {32}


def test_an_oversubscribed_tree_takes_twice_as_long_between_leaves():
    whole, half = topology("fat-tree:64"), topology("fat-tree:64,oversubscription=2")
    assert half.loads()[64, 72] == 2 * whole.loads()[64, 72] == 2 * 56


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_a_ring_through_the_torus_steps_from_neighbour_to_neighbour(shape):
    """Odd, even, flat: the closed walk meets every rank once and closes."""
    torus = Torus(shape, WIRES["ici-v4"])
    order = ring_order(torus)
    assert sorted(order) == list(range(torus.ranks))
    if torus.ranks > 1:
        assert all(len(torus.route(a, b)) == 1 for a, b in pairwise((*order, order[0])))


@given(st.data(), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_moving_every_rank_moves_every_route(data, shape):
    """The torus looks the same from each of its ranks, routes and all."""
    torus = Torus(shape, WIRES["ici-v4"])
    ranks = st.integers(0, torus.ranks - 1)
    a, b, by = data.draw(ranks), data.draw(ranks), data.draw(ranks)
    moved = tuple((shifted(u, by, shape), shifted(v, by, shape)) for u, v in torus.route(a, b))
    assert moved == torus.route(shifted(a, by, shape), shifted(b, by, shape))
    assert (
        shifted(shifted(a, by, shape), by, shape, -1) == a == number(coordinates(a, shape), shape)
    )


# What a reader types


@every_small
def test_a_topology_reads_back_from_its_text(text):
    one = topology(text)
    assert topology(one.text) == one and hash(topology(one.text)) == hash(one)
    assert one != topology(one.text, wire=WIRES["loopback"])
    assert len({one.name(vertex) for vertex in range(one.vertices)}) == one.vertices


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("torus:4x", "torus:4x4"), ("tours:4x4", "torus:4x4"), ("mesh:1", "mesh:2"),
        ("ring:99999", "ring:16384"), ("fat-tree:64,oversubscription=3",
        "fat-tree:64,leaf=8,oversubscription=2"), ("fat-tree:64,leaf=7", "fat-tree:64,leaf=8"),
        ("two-level:2x8,nics=3", "two-level:2x8,nics=2"), ("torus:4x4,nics=2", "torus:4x4"),
        ("two-level:8", "two-level:4x8"), ("torus:0x4", "torus:1x4"),
    ],
)  # fmt: skip
def test_a_topology_that_cannot_be_is_told_the_nearest(typed, nearest):
    with pytest.raises(PlanError) as error:
        topology(typed)
    assert error.value.nearest == nearest and "\n" not in str(error.value)
    assert str(error.value).startswith("topology=")


pieces = st.sampled_from([*KINDS, ":", "x", ",", "=", "leaf", "nics", "oversubscription", " ", "é"])


@given(st.text() | st.lists(pieces | st.integers(-3, 10**6).map(str)).map("".join))
def test_whatever_is_typed_gives_a_topology_or_one_that_works(text):
    try:
        one = topology(text)
    except PlanError as error:
        one = topology(str(error.nearest))
        assert "\n" not in str(error)
    assert one.ranks >= 2
