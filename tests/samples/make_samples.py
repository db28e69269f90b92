"""Record the sample files of the importers' tests, for real: two gloo ranks, torch.profiler.

    python tests/samples/make_samples.py

Writes profile_rank0.json.gz and profile_rank1.json.gz (two steps; rank 1 sleeps 20 ms before its
all-reduces), and flight_rank0.json, flight_rank1.json and flight_rank0.pickle (rank 1 never posts
the last all-reduce). What would tell of the machine is removed: its name and its paths.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch._C import _distributed_c10d as c10d
from torch.profiler import ProfilerActivity, profile, schedule

HERE = Path(__file__).parent
PRIVATE = ("host_name", "traceName", "trace_id")


def _step(rank: int, net: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One training step with a message of each kind."""
    optimizer.zero_grad()
    net(torch.ones(16, 32)).square().mean().backward()
    if rank == 1:
        time.sleep(0.02)
    for parameter in net.parameters():
        dist.all_reduce(parameter.grad)
    optimizer.step()
    dist.all_gather([torch.empty(4), torch.empty(4)], torch.ones(4))
    if rank == 0:
        dist.send(torch.ones(8), 1)
    else:
        dist.recv(torch.empty(8), 0)


def _profile(rank: int) -> dict[str, Any]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "trace.json")
        with profile(
            activities=[ProfilerActivity.CPU],
            record_shapes=True,
            schedule=schedule(wait=0, warmup=1, active=2, repeat=1),
            on_trace_ready=lambda done: done.export_chrome_trace(str(out)),
        ) as prof:
            for _ in range(3):
                _step(rank, net, optimizer)
                prof.step()
        return json.loads(out.read_text())


def _rank(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    trace = {k: v for k, v in _profile(rank).items() if k not in PRIVATE}
    packed = gzip.compress(json.dumps(trace, separators=(",", ":")).encode(), mtime=0)
    (HERE / f"profile_rank{rank}.json.gz").write_bytes(packed)

    missed = dist.all_reduce(torch.ones(1024), async_op=True) if rank == 0 else None
    time.sleep(0.5)
    (HERE / f"flight_rank{rank}.json").write_bytes(c10d._dump_fr_trace_json())
    if missed is not None:
        (HERE / "flight_rank0.pickle").write_bytes(c10d._dump_fr_trace(True, False, True))
        missed.wait()
    else:
        dist.all_reduce(torch.ones(1024))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (f"{folder}/store",), nprocs=2)
