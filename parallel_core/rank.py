"""What a worker sees of its run: its rank, its peers, a heartbeat, and a way to tell its owner.

A target is a plain function, `def target(rank: Rank, **args) -> result`, arguments and result
JSON. The same target runs under `launch.Pool` (forked on this machine, no ports) and under
`torchrun` (one node or many): only how the Rank is made differs.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from parallel_core.channel import Tag, to_bytes, write_line
from parallel_core.heartbeat import CANCEL, INDEX, STEP, Board, Row

Emit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Backend:
    """How messages travel: `name` for torch.distributed, the device of the tensors, and whether
    they are `staged` through host memory on the way; `note` is for the badge.
    """

    name: str
    device: str
    staged: bool = False
    note: str = ""


def choose_backend(world_size: int) -> Backend:
    """The backend for `world_size` ranks on this machine.

    NCCL with a GPU for each rank; gloo staged through host memory where ranks share a GPU, which
    NCCL refuses; gloo on the CPU otherwise. Call it in a rank, never in the supervisor: it wakes
    CUDA, and a process that has woken CUDA must not fork.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus == 0:
        return Backend("gloo", "cpu")
    if gpus >= world_size:
        return Backend("nccl", "cuda")
    note = f"{world_size} ranks share {gpus} GPU: gloo, staged through host memory"
    return Backend("gloo", "cuda", staged=True, note=note)


class Rank:
    """One worker's place in its run.

    `dir` is the run's private directory: shared by the ranks of one Pool run, one per process
    under torchrun. `threads` is its intra-op threads, `local_rank` its number on this machine, of
    `local_size` ranks there.
    """

    def __init__(self, rank: int, world_size: int, *, dir: Path, row: Row, emit: Emit) -> None:
        self.rank, self.world_size, self.dir = rank, world_size, dir
        self.local_rank = int(os.environ.get("LOCAL_RANK", rank))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        self.threads = torch.get_num_threads()
        self.emit = emit  # called with an event (a JSON object) for the owner of the run
        self._row = row
        self._by_file = "TORCHELASTIC_RUN_ID" not in os.environ

    def init(self, backend: str | Backend = "gloo") -> None:
        """Join the default process group of torch.distributed; `close` leaves it.

        Under a Pool the ranks meet in a file of the run's directory: no port is opened for it. A
        rank that has joined already stays as it is.
        """
        if dist.is_initialized():
            return
        chosen = Backend(backend, "cpu") if isinstance(backend, str) else backend
        if chosen.device == "cuda" or chosen.name == "nccl":
            torch.cuda.set_device(self.local_rank % torch.cuda.device_count())
        if self._by_file:
            meet = f"file://{self.dir / 'store'}"
            size = self.world_size
            dist.init_process_group(chosen.name, meet, rank=self.rank, world_size=size)
        else:
            dist.init_process_group(chosen.name)

    def close(self) -> None:
        """Leave the process group, if `init` joined one."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def beat(self, step: int, index: int) -> None:
        """Say that the rank begins instruction `index` of `step`. Costs two stores."""
        self._row[STEP] = step
        self._row[INDEX] = index

    def describe(self, labels: Sequence[str]) -> None:
        """Name the instructions: `labels[index]` is what a sentence about a fault says."""
        (self.dir / f"labels-{self.rank}.json").write_text(json.dumps(list(labels)))

    def cancelled(self) -> bool:
        """Whether the owner asked the run to stop; it is killed a moment later anyway."""
        return bool(self._row[CANCEL])


def torchrun_rank(on_event: Emit | None = None) -> Rank | None:
    """The Rank that torchrun's environment describes, or None if torchrun did not start this.

    Rank 0's events go to `on_event`; the others' go nowhere. torchrun watches the processes, so
    heartbeats have no reader here, and cost what they always cost.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or "RANK" not in os.environ:
        return None
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    emit = on_event if rank == 0 and on_event else _nowhere
    private = Path(tempfile.mkdtemp(prefix=f"shardlab-torchrun-{rank}-"))
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return Rank(rank, size, dir=private, row=Board(1).row(0), emit=emit)


def _leave_with(agent: int) -> None:
    """End this rank when torchrun's agent is gone, which killed outright leaves its workers."""
    while os.getppid() == agent:
        time.sleep(1)
    os._exit(1)


def _nowhere(event: dict[str, Any]) -> None:
    """Drop an event."""


def to_owner(channel: int) -> Emit:
    """An `emit` that writes to the pipe `channel`; threads of one rank may share it."""
    lock = threading.Lock()

    def emit(event: dict[str, Any]) -> None:
        line = Tag.EMIT.value + to_bytes(event)
        with lock:
            write_line(channel, line)

    return emit
