"""The zygote: a process that has torch imported and forks the ranks of every run.

    owner (app, notebook kernel, command)
      '- supervisor     own session, one thread, never runs a torch op; a select loop
           |- run r1: rank 0, rank 1, ...     a process group a run
           '- run r2: ...

Why fork: a forked rank has torch imported already and meets its peers in 0.1 s, where a spawned
one takes seconds. Fork is safe from a process with one thread that never ran an op; that is this
process and all it does. Why not multiprocessing's forkserver: it outlives nobody either, but its
children cannot tell us where they stand, and their deaths reach us as "connection reset".

Nobody is left behind: the owner's death closes our stdin, our death closes the lifeline that
every rank listens on, and a run's end kills its process group.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import shutil
import signal
import sys
import time
from types import FrameType
from typing import Any

from parallel_core.channel import Lines, Order, to_bytes, write_line
from parallel_core.crew import Crew, State

IDLE_S, WATCH_S, DOUBT_S = 1.0, 0.1, 0.01  # how long the loop sleeps at most
PAUSE_S = 1.0  # a turn longer than this means that we were paused ourselves
_PRELOAD = ("torch.distributed", "torch.optim", "torch._dynamo")  # imported lazily otherwise


class Supervisor:
    """The loop: requests from the owner, lines from the ranks, and a turn of every run."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._owner = os.getppid()
        self._lifeline, self._hold = os.pipe()  # ranks read the one, we alone keep the other
        self._requests = Lines()
        self._crews: dict[str, Crew] = {}

    def serve(self) -> None:
        """Work until the owner is gone, then leave nothing: no process, no file."""
        turn = time.monotonic()
        while self._owner_lives(self._wait()):
            now = time.monotonic()
            for crew in list(self._crews.values()):
                if now - turn > PAUSE_S:
                    crew.forgive(now)
                crew.judge(now)
                if crew.state is State.ENDED:
                    del self._crews[crew.order.run]
            turn = time.monotonic()

    def _wait(self) -> list[int]:
        """Sleep until somebody speaks, but no longer than the most anxious run allows."""
        states = {crew.state for crew in self._crews.values()}
        patience = WATCH_S if states else IDLE_S
        if states - {State.RUNNING}:
            patience = DOUBT_S
        pipes = [pipe for crew in self._crews.values() for pipe in crew.pipes]
        ready, _, _ = select.select([0, *pipes], [], [], patience)
        for crew in self._crews.values():
            crew.listen(ready)
        return ready

    def _owner_lives(self, ready: list[int]) -> bool:
        """Obey the owner's requests; False once it closed its end or is gone."""
        if 0 in ready:
            chunk = os.read(0, 1 << 20)
            if not chunk:
                return False
            for line in self._requests.feed(chunk):
                self._obey(json.loads(line))
        return os.getppid() == self._owner  # a forked child of the owner may hold the pipe open

    def _obey(self, request: dict[str, Any]) -> None:
        match request["do"]:
            case "start":
                self._start(Order.of(request))
            case "cancel" if request["run"] in self._crews:
                self._crews[request["run"]].cancel()

    def _start(self, order: Order) -> None:
        pipes = [pipe for crew in self._crews.values() for pipe in crew.pipes]
        crew = Crew(order, tell)
        try:
            crew.fork(self._lifeline, [self._hold, *pipes])
        except OSError as error:
            crew.kill()
            message = f"{order.world_size} ranks could not be started: {error.strerror}"
            tell(event="failed", run=order.run, message=message, rank=None, detail="")
        else:
            self._crews[order.run] = crew

    def end(self) -> None:
        """Kill and reap every rank, remove every file."""
        for crew in self._crews.values():
            crew.kill()
        shutil.rmtree(self._base, ignore_errors=True)


def tell(*, event: str, **fields: Any) -> None:
    """One event for the owner; a value that is bytes is JSON already and goes through unread."""
    raw = {name: value for name, value in fields.items() if isinstance(value, bytes)}
    rest = {name: value for name, value in fields.items() if name not in raw}
    line = to_bytes({"event": event, **rest})
    for name, value in raw.items():
        line = line[:-1] + b',"' + name.encode() + b'":' + value + b"}"
    write_line(1, line)


def main() -> None:
    """`python -m parallel_core.supervisor BASE [MODULE ...]`: import, say ready, serve."""
    base, *modules = sys.argv[1:]
    signal.signal(signal.SIGTERM, _leave)
    supervisor = Supervisor(base)
    try:
        for module in (*_PRELOAD, *modules):
            importlib.import_module(module)
        gc.collect()
        gc.freeze()  # a rank's collector would touch, and so copy, every page it shares with us
        tell(event="ready")
        supervisor.serve()
    except (BrokenPipeError, SystemExit):
        pass  # the owner is gone, or somebody asked us to go
    supervisor.end()
    os._exit(0)  # nothing is left to do, and torch takes 0.15 s to be torn down


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
