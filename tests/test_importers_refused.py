"""Whatever the bytes, a file loads or is refused with one sentence."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tracemalloc
import zipfile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from import_samples import DONE, OPEN, SEND, nccl_profile, own, record, sample, text

from parallel_core.analysis.critical_path import critical_path
from parallel_core.analysis.exposed import exposed
from parallel_core.analysis.stuck import stuck
from parallel_core.analysis.waits import waits
from parallel_core.exports import chrome_json
from parallel_core.importers.load import LIMIT_BYTES, TraceError, load, load_many
from parallel_core.importers.parts import canonical, rank_of_name, width


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
