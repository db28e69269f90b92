"""Messages that share links: on paper, by invariants of every run, and folded against unfolded."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_wire import KB, US, WIRE, cost, on

from parallel_core.collectives import names, ring
from parallel_core.collectives import pairwise as turns
from parallel_core.collectives.group import Group
from parallel_core.cost import ModelCost
from parallel_core.fields import PlanError
from parallel_core.hardware.links import WIRES
from parallel_core.hardware.topologies import topology
from parallel_core.hardware.torus import ring_order
from parallel_core.mesh import Mesh
from parallel_core.network import Network, link_use
from parallel_core.program import Instr, Lane, Op, Program, ProgramError, Value
from parallel_core.simulate import Carried, simulate, simulate_on

both = pytest.mark.parametrize("rendezvous", [False, True])


def messages(n: int, *sends: tuple[int, int, int]) -> tuple[Program, ModelCost]:
    """(source, target, bytes) in the order in which both ends book them."""
    ranks: list[list[Instr]] = [[] for _ in range(n)]
    holds: list[list[Value]] = [[] for _ in range(n)]
    keeps: list[list[Value]] = [[] for _ in range(n)]
    for at, (source, target, _) in enumerate(sends):
        out, into = Value("out", (at,)), Value("in", (at,))
        send = Instr(op=Op.SEND, lane=Lane.OUT, peer=target, reads=(out,))
        ranks[source].append(replace(send, frees=send.reads))
        ranks[target].append(Instr(op=Op.RECV, lane=Lane.IN, peer=source, writes=(into,)))
        holds[source].append(out)
        keeps[target].append(into)
    rows = tuple(map(tuple, ranks)), tuple(map(tuple, holds)), tuple(map(tuple, keeps))
    return Program(Mesh((("r", n),)), *rows), cost(lambda value: sends[value.at[0]][2])


def carried(text: str, *sends: tuple[int, int, int], rendezvous: bool = False) -> Carried:
    network = on(text)
    program, clock = messages(network.topology.ranks, *sends)
    return simulate_on(program, clock, network, rendezvous=rendezvous)


def times(run: Carried, op: Op) -> list[tuple[int, int, int]]:
    """(post, start, done) of every send or receive, in nanoseconds."""
    return [(s.t_post, s.t_start, s.t_done) for s in run.trace.spans if s.op == op]


# On paper


@pytest.mark.parametrize(
    ("text", "target", "microseconds"),
    [
        ("ring:8", 1, 1 + 5), ("ring:8", 4, 4 + 5), ("mesh:8", 4, 1 + 5), ("torus:4x4", 10, 4 + 5),
        ("fat-tree:8,leaf=4", 1, 1 + 5), ("fat-tree:8,leaf=4", 7, 1 + 2 * 0.5 + 5),
        ("two-level:2x4", 3, 1 + 5), ("two-level:2x4", 4, 1 + 5),
    ],
)  # fmt: skip
@both
def test_alone_a_message_takes_its_latencies_and_its_bytes_once(
    text, target, microseconds, rendezvous
):
    """Cut through: 5 kB over any number of links cost 5 us once, and a latency a link."""
    run = carried(text, (0, target, 5 * KB), rendezvous=rendezvous)
    (_, start, done), (send,) = times(run, Op.RECV)[0], times(run, Op.SEND)
    assert (start, done) == (0, microseconds * US)
    assert send == (0, 0, done if rendezvous else 5 * US)  # out of the port, still on its way


def test_the_slowest_link_sets_the_pace():
    slow = replace(WIRE, bandwidth=WIRE.bandwidth / 4)
    network = Network(topology("two-level:2x2", wire=WIRE, across=slow))
    program, clock = messages(4, (0, 2, 5 * KB))
    assert simulate(program, clock, network=network).makespan == (1 + 20) * US


def test_two_messages_on_one_link_queue_and_say_so():
    """Ranks 1 and 0 both need the cable 1 > 2: the head of rank 0's gets there 1 us later."""
    run = carried("ring:8", (0, 2, 5 * KB), (1, 2, 5 * KB))
    (far, near), spans = times(run, Op.SEND), run.trace.spans
    assert near == (0, 0, 5 * US)
    assert far == (0, 4 * US, 9 * US)  # stood 4 us before 1 > 2, and is drawn waiting before it
    sentences = {s.rank: s.source for s in spans if s.op == Op.SEND}
    assert sentences == {0: "waited for link 1 > 2", 1: ""}
    links = [(h.rank, h.link, h.asked, h.began, h.ended) for h in run.hops]
    assert links == [
        (0, (0, 1), 0, 0, 5 * US), (1, (1, 2), 0, 0, 5 * US),
        (0, (1, 2), 1 * US, 5 * US, 10 * US),
    ]  # fmt: skip


def test_under_rendezvous_the_sender_stays_until_its_message_is_there():
    run = carried("fat-tree:8,leaf=4", (1, 0, 5 * KB), (6, 0, 5 * KB), rendezvous=True)
    assert times(run, Op.RECV) == [(0, 0, 6 * US), (0, 6 * US, 13 * US)]
    assert times(run, Op.SEND) == [(0, 0, 6 * US), (0, 0, 13 * US)]


@pytest.mark.parametrize(
    ("text", "total"), [("fat-tree:4,leaf=4", 1 + 15), ("mesh:4", 1 + 15), ("ring:4", 1 + 15)]
)
def test_what_all_send_to_one_queues_there(text, total):
    """Three messages of 5 us into rank 0: its port takes in one at a time, latencies overlap."""
    run = carried(text, *((rank, 0, 5 * KB) for rank in (1, 2, 3)))
    assert run.trace.makespan == total * US


@both
def test_without_a_network_a_port_takes_in_one_message_at_a_time(rendezvous):
    """A naive gather of n-1 messages takes n-1 times alpha + S/beta at its root."""
    program, clock = messages(4, *((rank, 0, 5 * KB) for rank in (1, 2, 3)))
    assert simulate(program, clock, rendezvous=rendezvous).makespan == 3 * 6 * US


@pytest.mark.parametrize("far", [1, 2, 3, 4])
def test_a_shift_by_d_on_a_ring_takes_d_times_as_long(far):
    """Every cable carries d messages, one after another; then each rank is served alike."""
    run = carried("ring:8", *((r, (r + far) % 8, 50 * KB) for r in range(8)))
    done = {s.t_done for s in run.trace.spans if s.op == Op.RECV}
    assert done == {(far * 50 + 1) * US}
    assert all(use.messages == far for use in link_use(run.hops).values())


@pytest.mark.parametrize("text", ["fat-tree:16,leaf=4", "fat-tree:16,leaf=4,oversubscription=2"])
def test_a_tree_blocks_no_shift_unless_it_is_oversubscribed(text):
    run = carried(text, *((r, (r + 4) % 16, 50 * KB) for r in range(16)))
    slow = 2 if "oversubscription" in text else 1
    assert run.trace.makespan == (slow * 50 + 2) * US


@both
@pytest.mark.parametrize("n", [2, 5, 8])
def test_a_ring_on_a_ring_shares_no_link(n, rendezvous):
    """An all-reduce takes the same time as under alpha-beta alone: 2(n-1)(alpha + S/n beta)."""
    program = ring.all_reduce(Group(n))
    clock = replace(cost(names.value_sizes(program, n * 5 * KB)), flops=lambda instr: 0.0)
    run = simulate_on(program, clock, on(f"ring:{n}"), rendezvous=rendezvous)
    alone = simulate(program, clock, rendezvous=rendezvous)
    assert run.trace.makespan == alone.makespan == 2 * (n - 1) * 6 * US
    assert all(hop.began == hop.asked for hop in run.hops)


def test_placing_the_ranks_along_a_ring_of_the_torus_frees_the_links():
    """Row by row, the hop from one row's end to the next row crosses several links."""
    program = ring.all_reduce(Group(16))
    clock = cost(names.value_sizes(program, 16 * 50 * KB))
    rows = simulate(program, clock, network=on("torus:4x4")).makespan
    snake = on("torus:4x4", *ring_order(on("torus:4x4").topology))
    assert simulate(program, clock, network=snake).makespan == simulate(program, clock).makespan
    assert rows > simulate(program, clock, network=snake).makespan
    assert "ranks placed" in simulate(program, clock, network=snake).provenance.badge


@pytest.mark.parametrize(
    "text", ["ring:6", "mesh:6", "torus:3x2", "fat-tree:6,leaf=2", "two-level:2x3,nics=1"]
)
def test_no_all_to_all_is_faster_than_the_busiest_link(text):
    network = on(text)
    program = turns.all_to_all(Group(6))
    clock = cost(names.value_sizes(program, 6 * 50 * KB))
    took = simulate(program, clock, network=network).makespan / 1e9
    bound = network.topology.all_to_all(6 * 50 * KB)
    assert took >= bound - 5e-6
    assert "mesh" in text or took < 3 * bound


def test_memory_is_counted_in_order_of_time():
    """A receive that ends late counts late, though its lane was simulated first."""
    program, clock = messages(2, (0, 1, 5 * KB), (1, 0, 3 * KB))
    held = [(s.op, s.t_done, s.memory) for s in simulate(program, clock).spans if s.rank == 0]
    assert held == [("send", 6 * US, 3 * KB), ("recv", 4 * US, 8 * KB)]


def test_a_network_that_is_too_small_is_named():
    program, clock = messages(4, (0, 1, 5))
    with pytest.raises(PlanError, match="ranks=4 is too many for the 2 hosts of ring:2"):
        simulate(program, clock, network=on("ring:2"))
    with pytest.raises(ValueError, match="one host twice"):
        on("ring:4", 0, 1, 1, 2)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        on("ring:4", 0, 1, 2, 4)


def test_a_deadlock_on_a_network_is_told_as_without():
    program, clock = messages(2, (0, 1, 5), (1, 0, 5))
    one_lane = tuple(tuple(replace(i, lane=Lane.COMM) for i in row) for row in program.ranks)
    crossed = replace(program, ranks=(one_lane[0], one_lane[1][::-1]))
    with pytest.raises(ProgramError, match=r"deadlock: rank 0 \(comm\) waits at send <>1; rank 1"):
        simulate(crossed, clock, network=on("ring:2"), rendezvous=True)
    assert simulate(crossed, clock, network=on("ring:2")).makespan > 0


def test_a_wire_of_the_catalogue_gives_the_alpha_and_beta_of_its_network():
    """The same ring under the Link of a wire and on a ring of that wire."""
    program = ring.all_reduce(Group(4))
    wire = WIRES["ici-v5p"]
    clock = cost(names.value_sizes(program, 4 * KB), wire.link)
    network = Network(topology("ring:4", wire=wire))
    assert simulate(program, clock, network=network).makespan == simulate(program, clock).makespan


# Invariants of every run


def lawful(run: Carried, network: Network) -> None:
    """A link serves one message at a time, in order of asking, and never idles while one asks."""
    by_link, by_send = defaultdict(list), defaultdict(list)
    for hop in run.hops:
        by_link[hop.link].append(hop)
        by_send[hop.rank, hop.at].append(hop)
    for hops in by_link.values():
        for before, after in pairwise(hops):
            assert before.asked <= after.asked
            assert after.began == max(before.ended, after.asked)
        assert hops[0].began == hops[0].asked
    spans = {(s.rank, s.index): s for s in run.trace.spans if s.op == Op.SEND}
    assert set(by_send) == set(spans)
    for place, hops in by_send.items():
        span = spans[place]
        assert [hop.link for hop in hops] == list(network.links(*span.peers))
        assert {hop.size for hop in hops} == {span.bytes}
        for before, after in pairwise(hops):
            step = network.topology.pace(before.link).latency
            assert after.asked == pytest.approx(before.began + 1e9 * step, abs=1)
        assert span.t_post <= span.t_start <= span.t_done and span.t_post <= hops[0].asked
        assert hops[0].asked <= max(span.t_start, *(h.began for h in hops))
        assert bool(span.source) == any(hop.began > hop.asked for hop in hops)


texts = st.sampled_from(
    ["ring:6", "mesh:6", "torus:3x2", "fat-tree:6,leaf=2", "fat-tree:6,leaf=2,oversubscription=2",
     "two-level:2x3,nics=1", "two-level:3x2"]
)  # fmt: skip
ranks = st.integers(0, 5)
sends = st.lists(st.tuples(ranks, ranks, st.integers(0, 20).map(lambda k: k * KB)), max_size=30)


@given(texts, sends, st.booleans())
@settings(deadline=None)
def test_every_run_obeys_the_links(text, sends, rendezvous):
    """Any messages on any topology: lawful links, lanes in order, every receive after its send."""
    real = [send for send in sends if send[0] != send[1]]
    run = carried(text, *real, rendezvous=rendezvous)
    lawful(run, on(text))
    lanes, ends = defaultdict(list), defaultdict(list)
    for span in run.trace.spans:
        lanes[span.rank, span.lane].append(span)
        ends[span.peers, span.seq].append(span)
    for row in lanes.values():
        assert all(a.t_done <= b.t_start for a, b in pairwise(row))
    for send, receive in ends.values():
        if send.op == Op.RECV:
            send, receive = receive, send
        wire = on(text).route(*send.peers)
        least = 1e9 * (wire.latency + send.bytes / wire.slowest)
        assert receive.t_done >= send.t_start + least - 2
    moved = sum(size * len(on(text).links(a, b)) for a, b, size in real)
    assert sum(use.bytes for use in link_use(run.hops).values()) == moved


def test_an_unlawful_run_is_noticed():
    """The rules above can fail: one message let past the queue breaks them."""
    run = carried("ring:8", (0, 2, 5 * KB), (1, 2, 5 * KB))
    lawful(run, on("ring:8"))
    pushed = tuple(h._replace(began=h.asked, ended=h.asked + h.ended - h.began) for h in run.hops)
    with pytest.raises(AssertionError):
        lawful(Carried(run.trace, pushed), on("ring:8"))


@given(sends)
@settings(deadline=None)
def test_two_identical_runs_are_identical(sends):
    real = [send for send in sends if send[0] != send[1]]
    assert carried("torus:3x2", *real) == carried("torus:3x2", *real)
