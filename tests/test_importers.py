"""Other tools' traces: our own, torch.profiler's, and a job's ranks joined on one clock."""

from __future__ import annotations

import gzip
import json

import pytest
from import_samples import MS, nccl_profile, own, profiles, sample, text

from parallel_core.analysis.exposed import exposed
from parallel_core.analysis.waits import totals, waits
from parallel_core.importers.load import TraceError, load, load_many
from parallel_core.trace import Kind, Trace


def test_our_own_trace_comes_back_and_a_measured_one_is_now_recorded():
    """All but the kind is as it was written; what comes from a file was not measured just now."""
    written = Trace.from_json(text(own()))
    read = load("trace.json", gzip.compress(text(own())))
    assert (read.spans, read.metrics, read.world_size) == (
        written.spans,
        written.metrics,
        written.world_size,
    )
    assert read.kind is Kind.RECORDED
    assert read.provenance.plan == {"dp": 2}
    modelled = own()
    modelled["provenance"]["kind"] = "modelled"
    assert load("trace.json", text(modelled)) == Trace.from_json(text(modelled))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shardlab_trace": 99}, "another schema"),
        ({"world_size": 0}, "world_size must be a whole number from 1 to 65536, not 0"),
        ({"world_size": "2"}, "world_size must be a whole number"),
        ({"spans": []}, "spans must be an object, not a list"),
        ({"provenance": {"kind": "invented"}}, "kind must be one of measured, replayed"),
        ({"metrics": [3]}, "metrics must be an object"),
    ],
)
def test_a_broken_trace_of_ours_is_refused_by_field(change, said):
    with pytest.raises(TraceError, match=said):
        load("trace.json", text(own() | change))


@pytest.mark.parametrize(
    ("column", "cells", "said"),
    [
        ("rank", [2], "rank of span 0 must be a whole number from 0 to 1, not 2"),
        ("t_start", [1.5], "t_start of span 0 must be a whole number"),
        ("t_done", [0], "span 0 ends before it starts"),
        ("op", [None], "op of span 0 must be a string, not null"),
        ("peers", [[0, 7]], "peers of span 0 must be a whole number from 0 to 1"),
        ("bytes", [True], "bytes of span 0 must be a whole number"),
        ("bytes", [1, 2], "different lengths"),
        ("colour", ["red"], "unknown column"),
    ],
)
def test_a_broken_column_is_refused_by_name_and_row(column, cells, said):
    data = own()
    data["spans"][column] = cells
    with pytest.raises(TraceError, match=said):
        load("trace.json", text(data))


# torch.profiler ---------------------------------------------------------------------------------


def test_a_real_profile_of_two_gloo_ranks():
    """Lanes, phases, steps, bytes and groups as the two processes ran them (make_samples.py)."""
    run = profiles()
    assert (run.world_size, run.kind, run.provenance.backend) == (2, Kind.RECORDED, "gloo")
    assert run.steps == (1, 2)
    comm = [s for s in run.by_rank[0] if s.lane == "comm" and s.step == 1]
    weights = [64 * 32 * 4, 64 * 4, 8 * 64 * 4, 8 * 4]
    assert [(s.op, s.bytes) for s in comm] == [
        *(("all_reduce", count) for count in weights),
        ("all_gather", 16),
        ("send", 32),
    ]
    assert all(s.axis == "default_pg" and s.peers == (0, 1) for s in comm[:5])
    assert [s.seq for s in comm] == [0, 1, 2, 3, 4, 0]
    assert (comm[5].peers, run.by_rank[1][-1].op) == ((0, 1), "recv")
    phases = [s.op for s in run.by_rank[0] if s.lane == "compute" and s.step == 1]
    assert (phases.count("F"), phases.count("B"), phases.count("O")) == (5, 11, 4)
    wheres = {s.where for s in run.spans if s.op == "B"}
    assert wheres >= {"AddmmBackward0", "ReluBackward0", "AccumulateGrad"}


def test_the_profile_shows_who_slept():
    """Rank 1 slept 20 ms before its all-reduces of both steps: rank 0 waited for it."""
    zero, one = totals(waits(profiles()))
    assert 30 * MS < zero.wait_ns == one.caused_ns
    assert one.wait_ns < 10 * MS
    assert all(use.hidden_ns == 0 for use in exposed(profiles()).ranks)  # all were synchronous


def test_a_profile_of_one_rank_says_what_is_missing():
    """One file of a job of two: the other rank's row stays empty, and the badge says so."""
    run = load(*sample("profile_rank1.json.gz")[0])
    assert (run.world_size, run.by_rank[0]) == (2, ())
    assert "1 of 2 ranks" in run.provenance.badge
    assert waits(run) == ()


def test_a_device_profile_reads_kernels_and_nccl_metadata():
    """Kernels carry the name of the op that launched them; a cut list of ranks is looked up."""
    run = load("trace.json", text(nccl_profile(0)))
    gemm, gather, recv = run.by_rank[0]
    assert (gemm.op, gemm.where, gemm.source, gemm.step) == ("F", "linear", "gemm<float>", 4)
    assert (gather.op, gather.axis, gather.peers) == ("all_gather", "mesh_dp", tuple(range(8)))
    assert (gather.bytes, gather.duration, gather.t_start - gather.t_post) == (200, 50_000, 20_000)
    assert (recv.op, recv.peers, recv.bytes) == ("recv", (1, 0), 40)
    assert exposed(run).ranks[0].hidden_ns == 10_000
    assert "host ops left out" in run.provenance.badge
    assert run.provenance.date == "2023-11-14"


@pytest.mark.parametrize(
    ("ranks", "peers"),
    [
        ("[0, 2, 4, 6]", (0, 2, 4, 6)),
        ([0, 4], (0, 4)),
        ("", tuple(range(8))),
        ("[]", tuple(range(8))),
    ],
)
def test_the_ranks_of_a_group_come_from_the_message_or_from_its_groups_list(ranks, peers):
    data = nccl_profile(0)
    for event in data["traceEvents"][4], data["traceEvents"][8]:
        event["args"]["Process Group Ranks"] = ranks
    assert load("trace.json", text(data)).by_rank[0][1].peers == peers


def test_a_group_larger_than_a_job_is_refused():
    data = nccl_profile(0)
    data["traceEvents"][8]["args"]["Process Group Ranks"] = "[0, 999999]"
    with pytest.raises(TraceError, match="group 3 is larger than a job can be"):
        load("trace.json", text(data))


def test_gloo_messages_of_a_job_with_several_groups_are_marked_as_uncertain():
    """gloo's profile does not say which group a message belongs to; the badge does."""
    data = json.loads(gzip.decompress(sample("profile_rank0.json.gz")[0][1]))
    groups = data["distributedInfo"]["pg_config"]
    groups.append({"pg_name": "1", "pg_desc": "dp", "ranks": [0, 2]})
    assert "names no group" in load("trace.json", text(data)).provenance.badge


def test_a_host_profile_of_nccl_has_the_calls_that_posted_its_messages():
    """Without a device the kernels are unknown: the messages are the host's calls."""
    data = nccl_profile(0)
    data["traceEvents"] = [e for e in data["traceEvents"] if e.get("cat") != "kernel"]
    linear, gather, recv = load("trace.json", text(data)).by_rank[0]
    assert (linear.op, linear.where, linear.lane) == ("F", "linear", "compute")
    assert (gather.op, gather.duration, gather.bytes) == ("all_gather", 1000, 200)
    assert recv.peers == (1, 0)


@pytest.mark.parametrize("time", ["NaN", "Infinity", "-Infinity", "1e17", "1" + "0" * 400, '"3"'])
@pytest.mark.parametrize("field", ["ts", "dur"])
def test_a_profile_with_an_impossible_time_is_refused(field, time):
    """Not a number, endless, thousands of years: the event and the field are named."""
    data = nccl_profile(0)
    data["traceEvents"][7][field] = "HERE"
    with pytest.raises(TraceError, match=f"event 7: {field} must be a number"):
        load("trace.json", text(data).replace(b'"HERE"', time.encode()))


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("void at::native::fill<4, at::F<int> >(int, at::F<int>)", "fill"),
        ("gemm<float>", "gemm"),
        ("void at::native::(anonymous namespace)::cat<int>(int)", "cat"),
        ("Memcpy HtoD (Pageable -> Device)", "Memcpy HtoD (Pageable -> Device)"),
        ("triton_poi_fused_add_0", "triton_poi_fused_add_0"),
    ],
)
def test_a_kernel_without_a_host_op_is_called_by_its_own_short_name(kernel, name):
    """No namespaces, template arguments or parameters; the whole name is its source."""
    data = nccl_profile(0)
    data["traceEvents"] = [data["traceEvents"][7] | {"name": kernel, "args": {}}]
    (span,) = load("trace.json", text(data)).spans
    assert (span.op, span.source) == (name, kernel)


def test_ranks_are_joined_on_the_wall_clock():
    """The second rank's profile began a millisecond later; its base time says so."""
    later = nccl_profile(1)
    later["baseTimeNanoseconds"] += MS
    later["distributedInfo"]["rank"] = 1
    run = load_many([("a.json", text(nccl_profile(0))), ("b.json", text(later))])
    assert run.by_rank[1][0].t_start - run.by_rank[0][0].t_start == MS


def test_files_that_are_no_one_job_are_refused():
    """Twice the same rank, two kinds, a whole trace beside another file, or nothing."""
    one = ("a.json", text(nccl_profile(0)))
    with pytest.raises(TraceError, match="two files say they are rank 0"):
        load_many([one, one])
    with pytest.raises(TraceError, match=r"flight recorder and torch\.profiler"):
        load_many([one, *sample("flight_rank1.json")])
    with pytest.raises(TraceError, match="load it alone"):
        load_many([one, ("ours.json", text(own()))])
    with pytest.raises(TraceError, match="choose at least one"):
        load_many([])


# Flight records ---------------------------------------------------------------------------------
