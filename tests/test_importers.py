"""Traces from elsewhere: read right, or refused with one sentence; nothing is unpickled."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parallel_core.analysis.critical_path import critical_path
from parallel_core.analysis.exposed import exposed
from parallel_core.analysis.stuck import STARTED, stuck
from parallel_core.analysis.waits import totals, waits
from parallel_core.exports import chrome_json
from parallel_core.importers.load import LIMIT_BYTES, TraceError, load, load_many
from parallel_core.importers.parts import canonical, rank_of_name, width
from parallel_core.trace import Kind, Provenance, Span, Trace

SAMPLES = Path(__file__).parent / "samples"
MS = 1_000_000


def sample(*names: str) -> list[tuple[str, bytes]]:
    return [(name, (SAMPLES / name).read_bytes()) for name in names]


def profiles() -> Trace:
    return load_many(sample("profile_rank0.json.gz", "profile_rank1.json.gz"))


def own() -> dict[str, Any]:
    span = Span(
        rank=0, step=0, index=0, lane="comm", op="all_reduce", t_post=0, t_start=1, t_done=9,
        axis="dp", peers=(0, 1), seq=0, bytes=64,
    )  # fmt: skip
    prov = Provenance(kind=Kind.MEASURED, title="ours", seed=3, plan={"dp": 2}, notes=("a note",))
    return json.loads(Trace((span,), prov, 2, ({"step": 0, "loss": 1.5},)).to_json())


def text(value: object) -> bytes:
    return json.dumps(value).encode()


# Our own files ----------------------------------------------------------------------------------


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


def nccl_profile(rank: int) -> dict[str, Any]:
    """A device trace, laid out as kineto writes it: host calls, kernels, NCCL's metadata."""

    def call(
        name: str, ts: float, dur: float, id: int, cat: str = "cpu_op", **args: Any
    ) -> dict[str, Any]:
        event = {"ph": "X", "cat": cat, "name": name, "pid": 9, "tid": 9, "ts": ts, "dur": dur}
        return event | {"args": {"External id": id, **args}}

    meta = {
        "Collective name": "_allgather_base", "dtype": "BFloat16", "In msg nelems": 100,
        "Out msg nelems": 800, "Group size": 8, "Process Group Name": "3",
        "Process Group Description": "mesh_dp", "Process Group Ranks": "[0, 1, ..., 7]",
    }  # fmt: skip
    p2p = {"Collective name": "recv", "dtype": "Float", "Out msg nelems": 10, "Src Rank": 1}
    kernel = "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
    return {
        "baseTimeNanoseconds": 1_700_000_000 * 10**9,
        "distributedInfo": {
            "backend": "nccl", "rank": rank, "world_size": 8,
            "pg_config": [{"pg_name": "3", "pg_desc": "mesh_dp", "ranks": list(range(8))}],
        },
        "traceEvents": [
            {"ph": "M", "name": "process_name", "pid": 9, "tid": 0, "args": {"name": "python"}},
            call("ProfilerStep#4", 0, 100, 1, "user_annotation"),
            call("aten::linear", 10, 8, 2),
            call("aten::addmm", 11, 6, 3),
            call("record_param_comms", 20, 1, 4, **meta),
            call("record_param_comms", 22, 1, 5, **p2p),
            {"ph": "s", "cat": "fwdbwd", "id": 1, "pid": 9, "tid": 9, "ts": 11, "name": "fwdbwd"},
            call("gemm<float>", 30, 20, 3, "kernel"),
            call(kernel, 40, 50, 4, "kernel", **meta),
            call("ncclDevKernel_SendRecv(args)", 95, 3, 5, "kernel", **p2p),
        ],
    }  # fmt: skip


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


def test_a_real_flight_record_names_the_rank_that_never_came():
    """gloo's own record of the hang in make_samples.py: rank 1 never posted number 16."""
    run = load_many(sample("flight_rank0.json", "flight_rank1.json"))
    (hang,) = stuck(run)
    assert (hang.waiting, hang.culprits, hang.op) == ((0,), (1,), "all_reduce")
    assert hang.sentence.endswith("rank 1 never posted it: look there first")
    assert max(s.bytes for s in run.spans) == 64 * 32 * 4


def record(*entries: dict[str, Any], ranks: str = "[0, 1]") -> dict[str, Any]:
    """A flight record laid out as torch 2.13 dumps it (version 2.10)."""
    common = {
        "record_id": 0, "pg_id": 0, "process_group": ["0", "default_pg"], "op_id": 1,
        "thread_name": "pt_nccl", "thread_id": "1", "p2p_seq_id": 0, "is_p2p": False,
        "input_sizes": [[8, 4]], "input_dtypes": ["BFloat16"], "output_sizes": [[2, 8, 4]],
        "output_dtypes": ["BFloat16"], "retired": False, "timeout_ms": 600000,
        "time_discovered_started_ns": 0, "time_discovered_completed_ns": 0,
    }  # fmt: skip
    return {
        "version": "2.10", "comm_lib_version": "2.27.5", "pg_status": {},
        "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": ranks}},
        "entries": [common | entry for entry in entries],
    }  # fmt: skip


T = 1_700_000_000 * 10**9
DONE = {
    "profiling_name": "nccl:_all_gather_base", "collective_seq_id": 1, "state": "completed",
    "time_created_ns": T, "time_discovered_completed_ns": T + 5 * MS, "duration_ms": 2.0,
}  # fmt: skip
OPEN = {
    "profiling_name": "nccl:all_reduce", "collective_seq_id": 2, "state": "started",
    "time_created_ns": T + 6 * MS, "time_discovered_started_ns": T + 7 * MS,
}  # fmt: skip
SEND = {
    "profiling_name": "nccl:send 0->1", "collective_seq_id": 1, "p2p_seq_id": 1, "is_p2p": True,
    "state": "scheduled", "time_created_ns": T + 8 * MS,
}  # fmt: skip


def test_a_flight_record_of_nccl():
    """Start from the duration, end as discovered, open messages to the record's last moment."""
    run = load("nccl_trace_rank_0.json", text(record(DONE, OPEN, SEND)))
    done, hung, send = run.by_rank[0]
    assert (done.op, done.seq, done.bytes, done.where) == ("all_gather", 1, 64, "")
    assert (done.t_post, done.t_start, done.t_done) == (0, 3 * MS, 5 * MS)
    assert (hung.where, hung.t_start, hung.t_done) == (STARTED, 7 * MS, 8 * MS)
    assert (send.peers, send.axis) == ((0, 1), None)
    assert "watchdog" in run.provenance.badge


def test_a_bundle_of_records_and_a_group_whose_ranks_are_counted_from_zero():
    """{"4": record, "5": record}; `send 0->1` of the group [4, 5] goes from rank 4 to rank 5."""
    bundle = {"4": record(DONE, SEND, ranks="[4, 5]"), "5": record(DONE, ranks="[4, 5]")}
    run = load("job.json", text(bundle))
    assert run.world_size == 6
    assert next(s for s in run.spans if s.op == "send").peers == (4, 5)
    (hang,) = stuck(run)
    assert (hang.waiting, hang.culprits) == ((4,), (5,))


def test_without_a_rank_in_its_name_a_record_is_drawn_as_rank_0_and_says_so():
    assert "tells no rank" in load("dump.json", text(record(DONE))).provenance.badge
    with pytest.raises(TraceError, match="name the files after their ranks"):
        load_many([("a.json", text(record(DONE)))] * 2)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (DONE | {"profiling_name": 3}, "entry 0: profiling_name must be a string, not 3"),
        (DONE | {"time_created_ns": "now"}, "time_created_ns must be a whole number"),
        (DONE | {"input_sizes": [["x"]]}, "input_sizes must be a whole number of at least 0"),
        (DONE | {"input_sizes": [[2**40, 2**40]]}, "larger than any memory"),
        (DONE | {"process_group": "0"}, "process_group must be a list"),
    ],
)
def test_a_broken_record_is_refused_by_entry_and_field(entry, said):
    with pytest.raises(TraceError, match=said):
        load("rank_0.json", text(record(entry)))


# Refusals ---------------------------------------------------------------------------------------


class Bomb:
    """What a pickle could do on opening."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_unopened_and_told_how_to_get_json(protocol):
    """In every protocol, also when it would act on opening, also gzipped, and torch's own."""
    files = [pickle.dumps(value, protocol) for value in ({"entries": []}, Bomb(), [1], ("x",))]
    files += [gzip.compress(files[0]), sample("flight_rank0.pickle")[0][1]]
    for data in files:
        with pytest.raises(TraceError, match=r"is a pickle.*_dump_nccl_trace_json"):
            load("nccl_trace_rank_0", data)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("trace.json", "{}")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "neither JSON nor"),
        (b"\xff\xfe\x00", "neither JSON nor"),
        (b'{"traceEvents": [', "cut off"),
        (b"[" * 100_000, "neither JSON nor"),
        (b"1" * 10_000, "neither JSON nor"),
        (b"[]", "is JSON, but not"),
        (b'{"a": 1}', "is JSON, but not"),
        (b'{"traceEvents": []}', "no op and no message"),
        (b'{"traceEvents": 7}', "traceEvents must be a list, not 7"),
        (gzip.compress(b"{}")[:-6], "cut off"),
        (gzip.compress(b"")[:10] + b"\x07" * 20, "damaged"),
        (zipped(), "is a zip file"),
    ],
)
def test_what_is_no_trace_gets_one_sentence(data, said):
    with pytest.raises(TraceError, match=said) as caught:
        load("upload", data)
    assert str(caught.value).startswith("upload") and "\n" not in str(caught.value)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_gzip_bomb_is_stopped_at_the_limit(layers):
    """200 MiB of nothing in 200 kB: refused without ever holding more than a few limits' worth."""
    bomb = b"".join([gzip.compress(b" " * 100 * 2**20)] * 2)
    for _ in range(layers - 1):
        bomb = gzip.compress(bomb)
    tracemalloc.start()
    with pytest.raises(TraceError, match=r"larger, unpacked|neither JSON"):
        load("bomb.gz", bomb, limit_bytes=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_the_limit_holds_for_plain_files_for_many_values_and_for_all_files_together():
    """Bytes, and values a byte: `[[],[],...` is small on disk and large in memory."""
    profile = text(nccl_profile(0))
    with pytest.raises(TraceError, match="is larger"):
        load("a", profile, limit_bytes=len(profile) - 1)
    with pytest.raises(TraceError, match="too many values"):
        load("a", b"[" + b"[]," * 100_000 + b"[]]", limit_bytes=2**19)
    with pytest.raises(TraceError, match=r"b\.json is larger"):
        load_many([("a.json", profile), ("b.json", profile)], limit_bytes=len(profile) + 100)
    assert load("a", profile, limit_bytes=8 * len(profile)).world_size == 8 < LIMIT_BYTES


def test_strange_text_is_made_fit_for_a_page():
    """Control characters and lone surrogates cannot reach a page; long names are cut."""
    data = own()
    data["spans"]["where"] = ["a\x00b\ud800\n" + "x" * 5000]
    where = load("t\n.json", text(data)).spans[0].where
    assert where.isprintable() and len(where) == 300
    where.encode()


# Names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("_allgather_base", "all_gather"), ("allreduce_coalesced", "all_reduce"),
        ("_reduce_scatter_base", "reduce_scatter"), ("all_to_allv", "all_to_all"),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(args)", "all_reduce"),
        ("ncclDevKernel_SendRecv(args)", "send_recv"), ("recv_", "recv"),
        ("_broadcast_oop", "broadcast"), ("all_reduce_barrier", "barrier"), ("wait", None),
    ],
)  # fmt: skip
def test_messages_of_other_tools_get_our_names(theirs, ours):
    assert canonical(theirs) == ours


def test_element_widths():
    """As torch, C++ and Python spell them."""
    spelled = {"Float": 4, "c10::BFloat16": 2, "long int": 8, "float8_e4m3fn": 1, "Half": 2,
               "unsigned char": 1, "Int": 4, "Bool": 1, "float64": 8, "what": 0}  # fmt: skip
    assert {name: width(name) for name in spelled} == spelled


@pytest.mark.parametrize(
    ("name", "by_word", "by_number"),
    [
        ("nccl_trace_rank_3", 3, 3), ("rank-34.Jul_15_10_52_41.1074.pt.trace.json.gz", 34, 34),
        ("comm_dump_12.json", None, 12), ("vm_4711.1700000000000.pt.trace.json", None, None),
        ("trace.json", None, None), ("Rank7.json", 7, 7),
    ],
)  # fmt: skip
def test_the_rank_in_a_file_name(name, by_word, by_number):
    assert rank_of_name(name, last_number=False) == by_word
    assert rank_of_name(name, last_number=True) == by_number


# Anything at all --------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
BROKEN = [own(), record(DONE, OPEN, SEND), {"1": record(SEND)}, nccl_profile(1)]


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(place for key, v in inner for place in places(v, (*path, key)))]


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A good file with up to three of its values replaced by anything, or removed."""
    value = json.loads(json.dumps(draw(st.sampled_from(BROKEN))))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([p for p in places(value) if p]))
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        if draw(st.booleans()):
            holder[path[-1]] = draw(JSON)
        else:
            del holder[path[-1]]
        if not value:
            break
    return json.dumps(value).encode()


@st.composite
def anything(draw: st.DrawFn) -> bytes:
    """Noise, strange JSON, spoiled traces, bytes cut out of good ones; some of it gzipped."""
    good = json.dumps(draw(st.sampled_from(BROKEN))).encode()
    cut = st.tuples(st.integers(0, len(good)), st.integers(0, len(good)))
    data = draw(
        st.one_of(
            st.binary(max_size=200),
            st.builds(lambda v: json.dumps(v).encode(), JSON),
            spoiled(),
            spoiled(),
            st.builds(lambda c: good[: min(c)] + good[max(c) :], cut),
        )
    )
    packed = draw(st.sampled_from(["no", "no", "gzip", "cut gzip"]))
    return data if packed == "no" else gzip.compress(data)[: None if packed == "gzip" else -5]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(anything(), st.text(max_size=12))
def test_any_bytes_load_or_are_refused_with_one_sentence(data, name):
    """Nothing but TraceError leaves the loader; what it lets in can be analysed and written."""
    try:
        run = load(name, data)
    except TraceError as refusal:
        assert str(refusal) and "\n" not in str(refusal)
        return
    assert run.spans and all(s.t_start <= s.t_done and s.rank < run.world_size for s in run.spans)
    waits(run), exposed(run), stuck(run), critical_path(run), chrome_json(run)
    assert load(name, run.to_json().encode()) == run
