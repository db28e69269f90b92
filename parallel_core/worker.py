"""The life of a forked worker: cut loose from the supervisor, run the target, report, exit.

    fork -> own process group, own log file, one thread that is pulse and lifeline
         -> target(rank, **args) -> RESULT or FAILURE on its pipe -> os._exit

It always leaves by os._exit: the exit handlers it inherited belong to the supervisor.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from parallel_core.channel import Order, Tag, to_bytes, write_line
from parallel_core.heartbeat import TICK, TICK_S, Row
from parallel_core.rank import Rank, to_owner

_PR_SET_PDEATHSIG = 1


def work(order: Order, rank: int, *, row: Row, lifeline: int, channel: int) -> NoReturn:
    """Run the order's target as `rank` and exit; `channel` is the pipe to the supervisor."""
    try:
        _settle(order, rank)
        _die_with_the_supervisor(row, lifeline)
        emit = to_owner(channel)
        me = Rank(rank, order.world_size, dir=Path(order.dir), row=row, emit=emit)
        result = _target(order)(me, **order.args)
        last = Tag.RESULT.value + to_bytes(result)
        me.close()
    except BaseException as error:  # SystemExit and KeyboardInterrupt end a rank as well
        last = Tag.FAILURE.value + to_bytes(_told(error))
    write_line(channel, last)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _settle(order: Order, rank: int) -> None:
    """Signals, standard streams, threads and import path of a process of its own."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(log_path(order.dir, rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, stream in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, stream)  # 0 and 1 were the supervisor's line to the owner
    os.close(nothing)
    os.close(log)
    faulthandler.enable()  # a crash leaves its Python stack in the log
    torch.set_num_threads(order.threads)
    sys.path[:0] = order.path


def _die_with_the_supervisor(row: Row, lifeline: int) -> None:
    """Start the pulse thread, and ask the kernel too where it can.

    The pipe works everywhere but needs this process to be scheduled and its interpreter to be
    free; the parent-death signal (Linux) needs neither. It fires when the *thread* that forked
    ends, which is sound here alone: the supervisor has one thread.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_pulse, args=(row, lifeline), daemon=True).start()


def _pulse(row: Row, lifeline: int) -> None:
    """Tick until the lifeline ends: its only write end is the supervisor's, so that is its death.

    Readiness on a pipe that nobody writes to is end-of-file. A buffered read would hold a lock
    that Python's own exit waits for.
    """
    while not select.select([lifeline], [], [], TICK_S)[0]:
        row[TICK] += 1
    os.killpg(0, signal.SIGKILL)


def _target(order: Order) -> Callable[..., Any]:
    module, _, name = order.target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _told(error: BaseException) -> dict[str, str]:
    """An exception as the supervisor judges it; `chain` has the causes that led to it as well."""
    chain, seen = error, [f"{type(error).__name__}: {error}"]
    while (cause := chain.__cause__ or chain.__context__) is not None and len(seen) < 20:
        chain = cause
        seen.append(f"{type(chain).__name__}: {chain}")
    detail = "".join(traceback.format_exception(error))
    return {"error": seen[0], "detail": detail, "chain": "\n".join(seen)}


def log_path(directory: str, rank: int) -> str:
    """Where the standard output and error of `rank` go."""
    return os.path.join(directory, f"log-{rank}.txt")
