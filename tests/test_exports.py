"""Chrome JSON that Perfetto opens: the fields the format asks for, and nothing out of place."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from parallel_core.exports import chrome_json, chrome_trace
from parallel_core.trace import Kind, Provenance, Span, Trace


def span(rank: int, op: str, begin: int, end: int, **more: Any) -> Span:
    lane = "comm" if more.get("peers") else "compute"
    facts = {"rank": rank, "step": 0, "index": 0, "op": op, "lane": lane, "t_post": begin}
    return Span(**facts | {"t_start": begin, "t_done": end} | more)


PEERS = (0, 1, 2)
RUN = Trace(
    (
        *(span(r, "F", 1000, 2000 + 500 * r, where="layer0", mb=0, memory=64 * r) for r in PEERS),
        *(
            span(
                r, "all_reduce", 2000 + 500 * r, 4000, index=1, where="bucket0", axis="dp",
                peers=PEERS, seq=0, bytes=4096, t_post=1900 + r, deps=(0,), memory=64 * r,
            )
            for r in PEERS
        ),
        span(0, "send", 5000, 6000, index=2, peers=(0, 1), seq=0, bytes=8),
        span(1, "recv", 4500, 6200, index=2, peers=(0, 1), seq=0, bytes=8),
        span(2, "send", 5000, 6000, index=2, peers=(2, 0), seq=0),  # its receive is missing
    ),
    Provenance(kind=Kind.MODELLED, title="three ranks", plan={"dp": 3}, seed=1),
    3,
)  # fmt: skip


def events(phase: str, run: Trace = RUN) -> list[dict[str, Any]]:
    return [e for e in json.loads(chrome_json(run))["traceEvents"] if e["ph"] == phase]


def test_every_span_is_a_slice_in_microseconds_from_the_start():
    """ph X with name, cat, pid = rank, tid = lane, ts and dur; the rest in args."""
    slices = events("X")
    assert len(slices) == len(RUN.spans)
    first = slices[3]
    assert (first["name"], first["cat"]) == ("all_reduce bucket0", "all_reduce")
    assert (first["pid"], first["tid"], first["ts"], first["dur"]) == (0, 1, 1.0, 2.0)
    assert first["args"] == {
        "step": 0, "index": 1, "bytes": 4096, "axis": "dp", "peers": [0, 1, 2], "seq": 0,
        "deps": [0], "queued_us": 0.1,
    }  # fmt: skip


def test_messages_inside_tasks_are_slices_of_their_own():
    """Each once, within its task's time, and named; under way at once they take two threads."""
    inside = (
        ("all_gather", "tp", "cutregion[0]", 512, 1100, 1400),
        ("shift", "cp", "cp_kv[0]", 64, 1200, 1600),
        ("reduce_scatter", "tp", "region[0]", 512, 1700, 1900),
    )
    run = replace(RUN, spans=(replace(RUN.spans[0], inside=inside), *RUN.spans[1:]))
    tasks, told = events("X"), events("X", run)
    inner = [e for e in told if e["tid"] > 1]
    assert len(told) == len(tasks) + 3 and [e["name"] for e in inner] == [
        "all_gather cutregion[0]", "shift cp_kv[0]", "reduce_scatter region[0]",
    ]  # fmt: skip
    assert [(e["ts"], e["dur"], e["tid"]) for e in inner] == [
        (0.1, 0.3, 2), (0.2, 0.4, 3), (0.7, 0.2, 2),
    ]  # fmt: skip
    assert inner[0]["args"] == {
        "step": 0, "index": 0, "axis": "tp", "bytes": 512, "task": "F layer0 mb0",
    }  # fmt: skip
    names = {e["tid"]: e["args"]["name"] for e in events("M", run) if e["name"] == "thread_name"}
    assert names == {0: "compute", 1: "comm", 2: "inside", 3: "inside 2"}


def test_slices_of_one_thread_do_not_cross():
    """Viewers nest slices by time: two of a thread are disjoint, or one holds the other."""
    threads: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for e in events("X"):
        threads.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["ts"] + e["dur"]))
    for row in threads.values():
        for (a, b), (c, d) in ((x, y) for x in row for y in row if x < y):
            assert b <= c or d <= b, (a, b, c, d)


def test_processes_and_threads_have_names_and_an_order():
    """A process a rank, a thread a lane, compute above comm."""
    named = {(e["name"], e["pid"], e["tid"]): e["args"] for e in events("M")}
    assert named["process_name", 2, 0] == {"name": "rank 2"}
    assert named["process_sort_index", 2, 0] == {"sort_index": 2}
    assert named["thread_name", 1, 0] == {"name": "compute"}
    assert named["thread_name", 1, 1] == {"name": "comm"}
    assert named["thread_sort_index", 1, 1] == {"sort_index": 1}


def test_arrows_join_the_ends_of_complete_messages_inside_their_slices():
    """From the last to post (rank 2) to the two that waited, and from the send to its receive."""
    starts, ends = ({e["id"]: e for e in events(phase)} for phase in "sf")
    assert starts.keys() == ends.keys()
    arrows = Counter((starts[i]["pid"], ends[i]["pid"]) for i in starts)
    assert arrows == {(2, 0): 1, (2, 1): 1, (0, 1): 1}
    slices = events("X")
    for mark in (*starts.values(), *ends.values()):
        around = [
            e
            for e in slices
            if (e["pid"], e["tid"], e["name"]) == (mark["pid"], mark["tid"], mark["name"])
            and e["ts"] <= mark["ts"] < e["ts"] + e["dur"]
        ]
        assert len(around) == 1
    for number, start in starts.items():
        assert (start["name"], start["cat"]) == (start["name"], ends[number]["cat"])
        assert start["ts"] <= ends[number]["ts"] and ends[number]["bp"] == "e"


def test_memory_is_a_counter_track_where_it_is_known():
    """One value after each span, per rank; none at all where the trace knows no memory."""
    counts = events("C")
    assert {(e["pid"], e["args"]["bytes"]) for e in counts} >= {(1, 64), (2, 128)}
    assert [e["ts"] for e in counts] == sorted(e["ts"] for e in counts)
    blind = replace(RUN, spans=tuple(replace(s, memory=0) for s in RUN.spans))
    assert events("C", blind) == []


def test_the_file_says_where_it_comes_from():
    """Kind, badge and plan travel with it."""
    other = chrome_trace(RUN)["otherData"]
    assert (other["kind"], other["title"]) == ("modelled", "three ranks")
    assert other["provenance"] == RUN.provenance.badge
    assert other["plan"] == {"dp": 3}


@pytest.mark.parametrize("run", [RUN, replace(RUN, spans=())])
def test_it_is_strict_json_with_the_fields_the_format_asks_for(run):
    """No NaN; every event has ph, pid, tid, ts and name; a slice has dur of at least 0."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    data = json.loads(chrome_json(run), parse_constant=refuse)
    assert data["displayTimeUnit"] == "ms"
    for event in data["traceEvents"]:
        assert event.keys() >= {"ph", "pid", "tid", "ts", "name"}
        assert event["ts"] >= 0 and event.get("dur", 0) >= 0
