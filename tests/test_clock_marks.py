"""How sure another node's clock is: drawn to scale, carried in every trace, told in words."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from player_traces import UNSURE, two_nodes

from parallel_core.exports import chrome_trace
from parallel_core.importers.decode import TraceError
from parallel_core.importers.own import read_own
from parallel_core.node_clock import NodeClock, Reading, offsets
from parallel_core.trace import Trace
from parallel_core.views.clocks import legend_words
from parallel_core.views.player import payload, race_payload
from parallel_core.views.svg import timeline
from parallel_core.views.svg_cells import LEFT

WIDE = 960
SVG = "{http://www.w3.org/2000/svg}"


def marks(picture: str, name: str) -> list[ElementTree.Element]:
    """The elements of a class."""
    return [e for e in ElementTree.fromstring(picture).iter() if e.get("class") == name]


def test_the_bar_and_the_fringe_are_as_long_as_the_uncertainty() -> None:
    """Twice 5 of 100 µs is a tenth of the axis; twice as unsure is twice as long."""
    axis = WIDE - LEFT - 16
    for unsure in (UNSURE, 2 * UNSURE):
        picture = timeline(two_nodes(unsure), width=WIDE)
        wide = 2 * unsure / 100_000 * axis
        for bar in marks(picture, "unsure"):
            first, end = bar.get("d").removeprefix("M").split("M")[0].split("H")
            assert float(end) - float(first.split()[0]) == pytest.approx(wide, abs=0.1)
        for fringe in marks(picture, "fringe"):
            assert float(fringe.get("width")) == pytest.approx(wide, abs=0.1)


def test_the_fringe_lies_around_both_ends_of_what_crosses_nodes_alone() -> None:
    """Of the other node's two ranks; the sum within a node has none, nor has the first node."""
    picture = timeline(two_nodes(), width=WIDE)
    assert len(marks(picture, "unsure")) == 2 and len(marks(picture, "fringe")) == 4
    centres = {
        round(float(f.get("x")) + float(f.get("width")) / 2) for f in marks(picture, "fringe")
    }
    axis = WIDE - LEFT - 16
    assert centres == {round(LEFT + axis * part) for part in (0.6, 0.8)}
    tops = {float(f.get("y")) for f in marks(picture, "fringe")}
    assert len(tops) == 2 and min(tops) > 100, "rows of ranks 2 and 3"


def test_the_legend_and_the_bar_say_how_it_was_measured() -> None:
    """To scale, by what, how much; the offset by its sign."""
    picture = timeline(two_nodes(), width=WIDE)
    text = "".join(ElementTree.fromstring(picture).itertext())
    assert "how sure another node's clock is, to scale (± 5 µs: ping-pong" in text
    assert "rank 3 is on node 1, whose clock was -7 ms; its times are ± 5 µs" in text
    two = two_nodes().provenance
    more = replace(two, clocks=(*two.clocks, replace(two.clocks[0], node=2, unsure_ns=9_000)))
    assert "± 9 µs at most" in legend_words(more)


def test_one_machine_draws_nothing_of_it() -> None:
    """Neither bar, fringe nor legend entry."""
    picture = timeline(two_nodes(0), width=WIDE)
    assert not marks(picture, "unsure") and not marks(picture, "fringe")
    assert "clock" not in picture


def test_a_long_badge_is_whole_on_the_page() -> None:
    """It takes as many lines as it needs, above each other."""
    trace = two_nodes()
    note = "node 1 was -7.00 ms, ± 5.00 µs " * 12
    long = replace(trace, provenance=replace(trace.provenance, notes=(note.strip(),)))
    root = ElementTree.fromstring(timeline(long, width=WIDE))
    said = [
        t for t in root.iter(f"{SVG}text") if t.get("text-anchor") == "end" and "node 1" in t.text
    ]
    assert " ".join(t.text for t in said) == long.provenance.badge and len(said) >= 3
    heights = [float(t.get("y")) for t in said]
    assert heights == sorted(heights) and heights[-1] < float(root.get("height"))
    assert all(6 * len(t.text) <= WIDE - 32 for t in said)


def test_the_player_gets_the_clocks_of_what_was_measured() -> None:
    """Node, offset, uncertainty and ranks; a race keeps them by deck."""
    (deck,) = payload(two_nodes())["layers"]["trace"]["decks"]
    assert deck["clocks"] == [[1, -7_000_000, UNSURE, [2, 3]]]
    (plain,) = payload(two_nodes(0))["layers"]["trace"]["decks"]
    assert plain["clocks"] == []
    decks = race_payload({"one": two_nodes(0), "two": two_nodes()})["layers"]["trace"]["decks"]
    assert [len(deck["clocks"]) for deck in decks] == [0, 1]


def test_a_trace_keeps_its_clocks_in_its_file() -> None:
    """Written and read back, by ourselves and as a stranger's."""
    trace = two_nodes()
    text = trace.to_json()
    assert Trace.from_json(text) == trace
    assert read_own("a file", json.loads(text)).provenance.clocks == trace.provenance.clocks


@pytest.mark.parametrize(
    ("field", "value"),
    [("ranks", [4]), ("unsure_ns", -1), ("off_ns", "soon"), ("node", None), ("ranks", 2)],
)
def test_a_strangers_wrong_clock_is_refused_by_name(field: str, value: object) -> None:
    """The sentence names the field."""
    data = json.loads(two_nodes().to_json())
    data["provenance"]["clocks"][0][field] = value
    with pytest.raises(TraceError, match=f"clocks: {field}"):
        read_own("a file", data)


def test_perfetto_gets_it_as_a_label_and_with_every_slice() -> None:
    """Of the other node's ranks alone."""
    events = chrome_trace(two_nodes())["traceEvents"]
    labels = {e["pid"]: e["args"]["labels"] for e in events if e["name"] == "process_labels"}
    assert labels[0] == "measured" and labels[3] == "measured, node 1's clock ± 5 µs"
    told = {e["pid"] for e in events if e["ph"] == "X" and "clock_unsure_us" in e["args"]}
    assert told == {2, 3}
    assert {e["args"].get("clock_unsure_us") for e in events if e["ph"] == "X"} == {None, 5.0}


def test_a_clock_belongs_to_all_ranks_of_its_node() -> None:
    """What was read before the run is the offset, the worse of both readings the uncertainty; two
    ranks of one node are not unsure of each other."""
    before = Reading(at_ns=0, off_ns=30, unsure_ns=4)
    read = [
        NodeClock(node=node, before=before, after=replace(before, unsure_ns=5 + node))
        for node in (1, 2)
    ]
    found = offsets(read, [0, 1, 2, 1])
    assert [clock.ranks for clock in found] == [(1, 3), (2,)]
    assert [(clock.off_ns, clock.unsure_ns) for clock in found] == [(30, 6), (30, 7)]
    source = replace(two_nodes().provenance, clocks=found)
    pairs = [(0, 0), (0, 1), (1, 3), (1, 2), (2, 0)]
    assert [source.unsure_between(*pair) for pair in pairs] == [0, 6, 0, 13, 7]
