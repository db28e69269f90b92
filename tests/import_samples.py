"""Files of other tools, real and made up, for the tests of the importers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from parallel_core.importers.load import load_many
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
