"""Small worker functions for the tests of the launcher; each is run on real ranks."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Any

import torch
import torch.distributed as dist

from parallel_core.rank import Rank, choose_backend

LABELS = ["F layer0", "all_reduce bucket0"]


def total(rank: Rank) -> list[float]:
    """An all-reduce of rank + 1."""
    rank.init()
    x = torch.full((3,), float(rank.rank + 1))
    dist.all_reduce(x)
    return x.tolist()


def first_sum(rank: Rank) -> float:
    """When the first all-reduce was done, in seconds of the machine-wide clock."""
    rank.init()
    dist.all_reduce(torch.ones(1))
    return time.perf_counter()


def loop(rank: Rank, steps: int = 100_000, size: int = 64) -> int:
    """Steps of a little work and an all-reduce, with a heartbeat each; says where it stands."""
    rank.init()
    rank.describe(LABELS)
    x = torch.ones(size)
    for step in range(steps):
        rank.beat(step, 0)
        time.sleep(0.001)
        rank.beat(step, 1)
        dist.all_reduce(x)
        if rank.rank == 0 and step % 5 == 0:
            rank.emit({"step": step})
    return steps


def pids(rank: Rank, seconds: float = 60.0) -> None:
    """Tell the process id, then sleep."""
    rank.emit({"pid": os.getpid()})
    time.sleep(seconds)


def echo(rank: Rank, **args: Any) -> dict[str, Any]:
    """What a rank knows of itself, and its arguments."""
    backend = choose_backend(rank.world_size).name
    own = {"rank": rank.rank, "world_size": rank.world_size, "threads": torch.get_num_threads()}
    return {**own, "backend": backend, "dir": str(rank.dir), "args": args}


def emit_much(rank: Rank, lines: int, size: int) -> int:
    """Emit `lines` events of `size` characters each."""
    for number in range(lines):
        rank.emit({"number": number, "text": chr(97 + rank.rank) * size})
    return lines


def chatter(rank: Rank) -> None:
    """Write to standard output and error, from Python and from below it."""
    print("hello from print")
    print("hello from stderr", file=sys.stderr)
    os.write(1, b"hello from the descriptor\n")


def raise_in_step(rank: Rank, culprit: int, step: int) -> None:
    """All-reduce until `culprit` raises a ValueError of its own; its peers lose the connection."""
    rank.init()
    rank.describe(LABELS)
    for at in range(1000):
        rank.beat(at, 0)
        if rank.rank == culprit and at == step:
            raise ValueError("the batch is empty\nand a second line")
        rank.beat(at, 1)
        dist.all_reduce(torch.ones(4))


def leave(rank: Rank, culprit: int, code: int) -> None:
    """One rank leaves with an exit code and no result."""
    if rank.rank == culprit:
        os._exit(code)
    time.sleep(60)


def mismatch(rank: Rank) -> None:
    """An all-reduce whose sizes differ: gloo aborts the process."""
    rank.init()
    rank.beat(0, 0)
    dist.all_reduce(torch.ones(4 if rank.rank else 400_000))


def stand(rank: Rank, culprit: int) -> None:
    """One rank begins an instruction that never ends; the others wait for it."""
    rank.init()
    rank.describe(LABELS)
    for step in range(4):
        rank.beat(step, 0)
        if rank.rank == culprit and step == 3:
            time.sleep(600)
        rank.beat(step, 1)
        dist.all_reduce(torch.ones(4))


def hold_interpreter(rank: Rank, culprit: int, seconds: int) -> str:
    """One rank makes a C call that does not let go of the interpreter, so it cannot tick."""
    rank.emit({"pid": os.getpid()})
    if rank.rank == culprit:
        ctypes.PyDLL(None).sleep(seconds)
    else:
        time.sleep(seconds)
    return "done"


def until_cancelled(rank: Rank) -> None:
    """Look at the flag, and leave a mark when it is set."""
    rank.emit({"dir": str(rank.dir)})
    while not rank.cancelled():
        time.sleep(0.005)
    rank.emit({"saw": True})
    time.sleep(60)


def lifeline_alone(rank: Rank) -> None:
    """Give up the kernel's parent-death signal, so that only the lifeline is left; sleep."""
    ctypes.CDLL(None).prctl(1, 0)
    rank.emit({"pid": os.getpid()})
    time.sleep(600)


def grandchild(rank: Rank) -> None:
    """Start a process of its own, tell its id, and end."""
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    rank.emit({"pid": child})


def hold_and_stop(rank: Rank) -> None:
    """Tell the process id, then stop itself as SIGSTOP from outside would."""
    rank.emit({"pid": os.getpid()})
    os.kill(os.getpid(), signal.SIGSTOP)


def nap(rank: Rank, seconds: float, name: str = "") -> str:
    """Sleep, with an event before and after."""
    rank.emit({"name": name})
    time.sleep(seconds)
    rank.emit({"name": name, "done": True})
    return name
