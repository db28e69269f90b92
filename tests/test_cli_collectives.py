"""`shardlab collective`: what it promises, prints and refuses, live and simulated."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from unittest import mock

import pytest

from parallel_core.cli import collective_live, main
from parallel_core.collectives import ALGORITHMS
from parallel_core.collectives.costs import seconds
from parallel_core.collectives.forecast import SPELLED_OUT, forecast
from parallel_core.collectives.group import Group
from parallel_core.collectives.report import CollectiveView
from parallel_core.collectives.request import CollectiveRequest
from parallel_core.cost import Link
from parallel_core.hardware.links import wire
from parallel_core.hardware.topologies import topology
from parallel_core.importers.load import load
from parallel_core.program import Op
from parallel_core.trace import Kind

KIB = 1024


def typed(*words):
    """Type `shardlab WORDS` in this process: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    argv = mock.patch.object(sys, "argv", ["shardlab", *words])
    said = contextlib.ExitStack()
    said.enter_context(contextlib.redirect_stdout(out))
    said.enter_context(contextlib.redirect_stderr(err))
    with said, argv, pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture
def live(pool):
    """`live(...)`: the same on the warm pool that all tests share."""
    warm = mock.Mock(side_effect=lambda **_: contextlib.nullcontext(pool))
    with mock.patch.object(collective_live, "Pool", warm):
        yield typed


def report_of(said):
    """stdout as the one JSON object it must be."""
    code, out, err = said
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out, parse_constant=pytest.fail)


# ---------------------------------------------------------------------------- for real


CASES = [
    "all_reduce --algorithm ring --ranks 4 --bytes 64KiB",
    "all_reduce --algorithm halving_doubling --ranks 3 --bytes 4kB --dtype float64",
    "all_reduce --algorithm hierarchical --ranks 4 --node 2 --bytes 4KiB --dtype bfloat16",
    "all_to_all --algorithm bruck --ranks 3 --bytes 12000 --dtype int64",
    "broadcast --algorithm double_tree --ranks 4 --root 2 --segments 3 --bytes 10kB",
    "reduce_scatter --ranks 3 --bytes 4004",
    "send_recv --ranks 2 --bytes 0",
    "barrier --ranks 3",
    "all_reduce --ranks 2 --bytes 1002 --dtype int16",
]


@pytest.mark.live
@pytest.mark.parametrize("words", CASES)
def test_predicted_and_measured_agree_and_the_promise_is_kept(words, live):
    """Messages and bytes are equal exactly, the result is the promised one and torch's."""
    report = report_of(live("collective", *words.split(), "--repeats=2", "--json"))
    assert report["messages"]["predicted"] == report["messages"]["measured"] > 0
    assert report["bytes_sent"]["predicted"] == report["bytes_sent"]["measured"]
    assert report["kept"] and report["equal_on_all_ranks"]
    exact = report["request"]["op"] != "all_reduce" and "reduce" not in words
    assert report["max_rel_error"] <= (0.0 if exact else 0.04)
    apart = report["max_rel_error_to_torch"]
    assert apart is None or apart <= 0.04
    assert report["seconds"]["ours"] > 0 and report["transport"] == "p2p"
    model, asked = report["model"], report["request"]
    link = Link(model["alpha_s"], model["beta_bytes_s"])
    program = CollectiveRequest(**asked)
    assert model["seconds"] == pytest.approx(forecast(program, link).seconds)
    assert model["badge"].startswith("modelled: alpha") and link.beta > 1e6
    assert report["provenance"]["badge"].startswith("measured: gloo")


@pytest.mark.live
def test_bandwidths_follow_nccl_tests(live):
    """Algorithm bandwidth is S over time; bus bandwidth 2(n-1)/n of it for an all-reduce."""
    words = "all_reduce --ranks 4 --bytes 1MiB --repeats 3 --json"
    report = report_of(live("collective", *words.split()))
    for who in ("ours", "torch"):
        rates = report["bandwidth"][who]
        algorithm = (1 << 20) / report["seconds"][who] / 1e9
        assert rates["algorithm_gb_s"] == pytest.approx(algorithm)
        assert rates["bus_gb_s"] == pytest.approx(1.5 * algorithm)
    rates, seconds_ = report["model"]["bandwidth"], report["model"]["seconds"]
    assert rates["bus_gb_s"] == pytest.approx(1.5 * (1 << 20) / seconds_ / 1e9)


@pytest.mark.live
def test_a_type_that_gloo_does_not_know_goes_all_the_same(live):
    """int16: no second opinion from torch, and none is claimed; through messages and memory."""
    for transport in ("p2p", "shm"):
        words = ["all_reduce", f"--transport={transport}", "--ranks=2", "--dtype=int16"]
        report = report_of(live("collective", *words, "--repeats=2", "--json"))
        assert report["kept"] and report["max_rel_error"] == 0
        assert report["max_rel_error_to_torch"] is None and set(report["seconds"]) == {"ours"}


@pytest.mark.live
@pytest.mark.parametrize("algorithm", ["one_shot", "two_shot", None])
def test_through_shared_memory_nothing_is_sent(algorithm, live):
    """The direct all-reduces read all others where they lie: as many bytes as they would send."""
    words = ["all_reduce", "--transport=shm", "--ranks=3", "--bytes=60000", "--repeats=2"]
    chosen = [f"--algorithm={algorithm}"] if algorithm else []
    report = report_of(live("collective", *words, *chosen, "--json"))
    assert report["request"]["algorithm"] == (algorithm or "two_shot")
    assert report["messages"] == {"predicted": 0, "measured": 0}
    assert report["bytes_sent"]["measured"] == [0, 0, 0]
    each = 2 * 60000 if algorithm == "one_shot" else 2 * 60000 * 2 // 3
    assert report["bytes_read"]["predicted"] == [each] * 3
    assert report["kept"] and report["max_rel_error_to_torch"] < 1e-5
    assert report["model"] is None  # no messages, so no link to predict them over
    assert "shared memory" in report["provenance"]["badge"]


@pytest.mark.live
def test_the_files_open_elsewhere_and_a_person_gets_tables(live, tmp_path):
    """The trace has all repeats and reads back; the player is one file; stdout has tables."""
    files = [f"--trace={tmp_path}/a/t.json", f"--html={tmp_path}/a/t.html"]
    code, out, _ = live(
        "collective", "all_gather", "--ranks=3", "--bytes=12kB", "--repeats=2", *files
    )
    assert code == 0
    for words in ("messages", "bytes sent by rank 2", "torch.distributed", "promise kept"):
        assert words in out
    assert "predicted" in out.split("how fast")[1] and "modelled: alpha" in out
    trace = load("t.json", (tmp_path / "a/t.json").read_bytes())
    assert trace.kind is Kind.RECORDED and trace.steps == (0, 1) and trace.world_size == 3
    sends = [s for s in trace.spans if s.op == Op.SEND and s.step == 1]
    assert sum(span.bytes for span in sends) == 3 * 2 * 4000
    assert "default-src 'none'" in (tmp_path / "a/t.html").read_text()


@pytest.mark.live
def test_a_barrier_is_of_no_size_and_hands_over_nothing(live):
    """No bytes in its heading, and torch's barrier, which was timed, is not said to be missing."""
    code, out, _ = live("collective", "barrier", "--ranks=2", "--repeats=2")
    assert code == 0 and out.startswith("barrier by dissemination, 2 ranks\n")
    assert "torch.distributed" in out and "no such call" not in out


@pytest.mark.live
@pytest.mark.parametrize("fault", ["error", "digest"])
def test_a_broken_promise_is_exit_code_1(fault, live, monkeypatch):
    """A result that is off by more than rounding, or differs between ranks, is a failure."""
    told = CollectiveView.finish

    def spoiled(self, results):
        results[0][fault] = {"error": 1e-3, "digest": {"sum[0]": "other bits"}}[fault]
        return told(self, results)

    monkeypatch.setattr(CollectiveView, "finish", spoiled)
    code, out, _ = live("collective", "all_reduce", "--ranks=2", "--bytes=4kB", "--repeats=1")
    assert code == 1 and "promise BROKEN" in out
    assert ("equal to the bit on all ranks: NO" in out) == (fault == "digest")


def test_what_counts_as_rounding_depends_on_the_type():
    """A unit in the last place a rank; integers have none to give away."""
    for dtype, width, off in (("float32", 4, 1e-6), ("float64", 8, 1e-15), ("bfloat16", 2, 0.03)):
        request = CollectiveRequest(dtype=dtype, bytes=16 * width, ranks=9)
        report = {"equal_on_all_ranks": True, "max_rel_error": off}
        assert collective_live._kept(request, report)
        assert not collective_live._kept(request, report | {"max_rel_error": 100 * off})
        assert not collective_live._kept(request, report | {"equal_on_all_ranks": False})
    whole = CollectiveRequest(dtype="int64", bytes=64)
    assert not collective_live._kept(whole, {"equal_on_all_ranks": True, "max_rel_error": 1e-9})


# ---------------------------------------------------------------------------- simulated


def test_a_simulation_without_a_topology_is_the_closed_form():
    """alpha-beta on links of their own: the time on paper, to the nanosecond a step."""
    for op, algorithm, n in (("all_reduce", "ring", 6), ("all_to_all", "pairwise", 5)):
        link = wire("nvlink4").link
        request = CollectiveRequest(op=op, algorithm=algorithm, ranks=n, bytes=60 * n * KIB)
        found = forecast(request, link)
        on_paper = seconds(op, algorithm, Group(n), request.bytes, link)
        assert found.seconds == pytest.approx(on_paper, abs=1e-9 * found.steps)


@pytest.mark.parametrize("n", [4, 16, SPELLED_OUT])
def test_folded_equals_unfolded(n, monkeypatch):
    """A ring seen from one rank takes as long, sends as much, and fills its links as much."""
    request = CollectiveRequest(ranks=n, bytes=4 * n * 100)
    place = topology(f"torus:{n}", wire=wire("ici-v5p"))
    for where in (None, place):
        whole = forecast(request, Link(1e-6, 1e9), where).report()
        with monkeypatch.context() as few:
            few.setattr("parallel_core.collectives.forecast.SPELLED_OUT", 2)
            one = forecast(request, Link(1e-6, 1e9), where).report()
        assert one.pop("folded") and not whole.pop("folded")
        assert one.pop("provenance") and whole.pop("provenance")
        assert one == whole


def test_thousands_of_ranks_along_the_dimensions_of_a_torus():
    """16 x 16 x 16: 90 steps, the ring's bytes, bisection and diameter of the shape."""
    words = "all_reduce --simulate --topology torus:16x16x16 --algorithm torus --bytes 64MiB --json"
    report = report_of(typed("collective", *words.split()))
    assert report["request"]["ranks"] == 4096 and report["folded"]
    assert report["steps"] == 90 and report["messages"] == 90 * 4096
    assert report["bytes_sent_busiest_rank"] == 2 * 64 * KIB * KIB * 4095 // 4096
    place = report["topology"]
    assert place["bisection_links"] == 2 * 256 and place["diameter"] == 24
    assert 0 < place["busiest_link"]["busy_share"] <= 1


def test_the_badge_of_a_topology_names_its_own_links_and_no_others():
    """Without a topology alpha and beta; on one the wires whose latency and bandwidth count."""
    words = "all_reduce --simulate --bytes 64kB --link nvlink4 --ranks 8 --json"
    alone = report_of(typed("collective", *words.split()))["provenance"]["badge"]
    assert "alpha 3.33 us, beta 450 GB/s" in alone
    words = words.replace("--ranks 8 ", "")
    for place in ("ring:8", "torus:4x2", "torus:4x2 --algorithm torus", "two-level:2x4"):
        said = report_of(typed("collective", *words.split(), "--topology", *place.split()))
        badge = said["provenance"]["badge"]
        assert "alpha" not in badge and "NVLink 4 (H100, H200), 450 GB/s, 3.33 us" in badge


def test_a_link_that_many_share_is_the_busiest(tmp_path):
    """A tree with half as many cables up: the leaf's cable carries what its hosts send out."""
    words = "all_to_all --algorithm pairwise --simulate --bytes 64kB --link ethernet-100"
    place = "--topology=fat-tree:8,leaf=4,oversubscription=2"
    files = [f"--trace={tmp_path}/t.json"]
    report = report_of(typed("collective", *words.split(), place, *files, "--json"))
    busiest = report["topology"]["busiest_link"]
    # 4 hosts x 4 far hosts x 8 kB, over two cables
    assert busiest["bytes"] == 4 * 4 * 8000 // 2 and "leaf" in busiest["name"]
    assert report["messages"] == 8 * 7
    trace = load("t.json", (tmp_path / "t.json").read_bytes())
    assert len([s for s in trace.spans if s.op == Op.SEND]) == 8 * 7


def test_a_person_gets_the_simulation_as_a_table():
    words = "all_reduce --simulate --topology torus:4x4x4 --link nvlink4"
    code, out, _ = typed("collective", *words.split())
    assert code == 0
    for line in ("steps", "126", "bisection of torus:4x4x4", "32 links", "6 links", "busiest link"):
        assert line in out


# ---------------------------------------------------------------------------- refused


WRONG = {
    "all_reduce --bytes 64QB": ("bytes='64QB' must be a number and a unit", "64MiB"),
    "all_reduce --bytes 3": ("bytes=3 must be a multiple of the 4 bytes of one float32", "0"),
    "all_reduce --bytes -1kB": ("bytes='-1kB' must be a number and a unit", "64MiB"),
    "all_reduce --algorithm pairwise": ("algorithm=pairwise is no algorithm of all_reduce", ""),
    "all_redcue": ("op='all_redcue' must be one of", "all_reduce"),
    "": ("op=nothing must be given; shardlab collective --list", "all_reduce"),
    "all_reduce --ranks 3000": ("ranks=3000 is more ranks than this machine bears live", ""),
    "all_reduce --ranks two": ("ranks='two' must be a whole number", "4"),
    "all_reduce --bytes 1TiB": ("bytes=1099511627776 needs about", ""),
    "all_reduce --root 4": ("root=4 must be below ranks=4", "3"),
    "all_reduce --topology torus:4x4": ("topology=torus:4x4 describes a cluster", "none"),
    "all_reduce --transport tcp": ("transport=tcp must be one of p2p, shm", "p2p"),
    "all_reduce --transport shm --algorithm ring": ("algorithm=ring is no algorithm through", ""),
    "all_gather --transport shm": ("op=all_gather does not run through shared memory", ""),
    "all_reduce --transport shm --trace t.json": ("transport=shm sends no messages", "p2p"),
    "all_reduce --simulate --transport shm": ("transport=shm cannot be simulated", "p2p"),
    "all_reduce --simulate --repeats 3": ("repeats=3 changes nothing in a simulation", "1"),
    "all_reduce --simulate --across pcie5": ("across=pcie5 joins the nodes of a two-level", ""),
    "all_reduce --simulate --link nvlonk4": ("link='nvlonk4' must be one of", "nvlink4"),
    "all_reduce --simulate --topology torus:4y4": ("topology='torus:4y4' needs its size", ""),
    "all_reduce --simulate --topology ring:4 --ranks 5": ("ranks=5 is too many for the 4", "4"),
    "all_reduce --simulate --algorithm torus": ("topology=none must be a torus of the 4", ""),
    "all_reduce --simulate --algorithm torus --topology torus:3x3 --bytes 40": (
        "bytes=40 must divide into 9 equal blocks", "36",
    ),
    "barrier --simulate --algorithm torus --topology torus:2x2": ("op=barrier has no", ""),
    "all_reduce --simulate --algorithm tree --ranks 65536 --segments 0": ("segments=0 must", "1"),
    "all_reduce --simulate --algorithm two_shot --ranks 4096": ("ranks=4096 is ", ""),
    "all_reduce --simulate --topology torus:64x64": ("algorithm=ring on 4,096 ranks is", "torus"),
    "all_to_all --simulate --topology torus:64x64": ("ranks=4096 is ", "256"),
    "all_reduce --simulate --ranks 4096 --trace t.json": ("ranks=4096 are folded into one", "64"),
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_choice_is_one_sentence(words, tmp_path, monkeypatch):
    """Field, value, rule, the nearest value that works; exit code 2; no process is started."""
    monkeypatch.chdir(tmp_path)
    start, nearest = WRONG[words]
    with mock.patch.object(collective_live, "Pool", side_effect=AssertionError("a run began")):
        code, out, err = typed("collective", *words.split())
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"shardlab: {start}"), err
    assert f"the nearest value that works is {nearest}" in err
    assert not list(tmp_path.iterdir())


def test_ranks_that_an_algorithm_does_not_allow():
    code, _, err = typed("collective", "all_gather", "--algorithm=doubling", "--ranks=3")
    assert code == 2 and err.count("\n") == 1 and "power of two" in err


def test_every_op_is_listed():
    """As a table for people, as JSON for programs; both name every algorithm."""
    listed = report_of(typed("collective", "--list", "--json"))
    assert {op: set(row["algorithms"]) for op, row in listed.items()} == {
        op: set(names) for op, names in ALGORITHMS.items()
    }
    assert listed["all_gather"]["transpose"] == "reduce_scatter"
    out = typed("collective", "--list")[1]
    assert all(name in out for names in ALGORITHMS.values() for name in names)
