"""Real rank processes that start at once, and end with whoever started them.

    with Pool() as pool:
        with pool.start("parallel_core.cases:train", 4, {"steps": 3}) as run:
            for event in run.events():
                ...
            results = run.wait()        # by rank; RunError says in one sentence what went wrong

The pool is one supervisor process (supervisor.py) that has torch imported and forks the ranks;
this side imports no torch, so a page or a command stays light. A run's messages stay on the
loopback interface, its files in a private directory that goes when the run is closed.
"""

from __future__ import annotations

import shutil
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parallel_core import rundir
from parallel_core.channel import Order
from parallel_core.zygote import Zygote


class RunError(RuntimeError):
    """A run that did not finish: the message names the rank, the step and the instruction.

    `rank` is the one at fault (None: no rank is), `detail` its traceback or the end of its log.
    """

    def __init__(self, message: str, *, rank: int | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.rank, self.detail = rank, detail


class RunCancelled(RunError):
    """A run that its owner ended."""


class Run:
    """One run of a target on `world_size` ranks; a context manager that leaves nothing behind."""

    def __init__(self, order: Order, zygote: Zygote) -> None:
        self.id, self.world_size, self.dir = order.run, order.world_size, Path(order.dir)
        self._zygote = zygote
        self._changed = threading.Condition()
        self._events: deque[dict[str, Any]] = deque()
        self._results: list[Any] | None = None
        self._error: RunError | None = None

    @property
    def ended(self) -> bool:
        """Whether the run is over, well or not: no process of it lives then."""
        return self._results is not None or self._error is not None

    def events(self) -> Iterator[dict[str, Any]]:
        """What the ranks emit, each event once and with its `rank`, until the run is over."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._events or self.ended)
                if not self._events:
                    return
                event = self._events.popleft()
            yield event

    def wait(self, timeout: float | None = None) -> list[Any]:
        """What the target returned, by rank.

        Raises RunError when a rank failed, RunCancelled when the run was cancelled, TimeoutError
        when it is still going after `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.ended, timeout):
                raise TimeoutError(f"run {self.id} is still going after {timeout} s")
        if self._error is not None:
            raise self._error
        return list(self._results or [])

    def cancel(self) -> None:
        """End the run now; `wait` then raises RunCancelled. No effect on a run that is over."""
        self._zygote.send({"do": "cancel", "run": self.id})

    def log(self, rank: int, lines: int = 20) -> str:
        """The last lines that `rank` wrote to its standard output and error."""
        try:
            text = (self.dir / f"log-{rank}.txt").read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """Cancel what still runs, and remove the run's directory."""
        if not self.ended:
            self.cancel()
            with self._changed:
                self._changed.wait_for(lambda: self.ended)
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def tell(self, event: Mapping[str, Any]) -> None:
        """Take one event of the supervisor (called by the pool's listening thread)."""
        with self._changed:
            match event["event"]:
                case "emit":
                    self._events.append({"rank": event["rank"], **event["data"]})
                case "done":
                    self._results = event["results"]
                case "cancelled":
                    self._error = RunCancelled(event["message"])
                case "failed":
                    rank, detail = event["rank"], event["detail"]
                    self._error = RunError(event["message"], rank=rank, detail=detail)
            self._changed.notify_all()


class Pool:
    """A warm place to start runs; the supervisor starts with the first one, or with `warm`.

    `preload` names modules that the supervisor imports once for all ranks; they must run no torch
    op when imported. `path` is put before the ranks' sys.path, `threads` is the intra-op threads
    of a rank. Threads may share a pool. When its owner dies, however it dies, all ranks die.
    """

    def __init__(
        self, *, preload: Sequence[str] = (), path: Sequence[str] = (), threads: int = 1
    ) -> None:
        self._preload, self._path, self._threads = tuple(preload), tuple(path), threads
        self._lock = threading.Lock()
        self._zygote: Zygote | None = None
        self._count = 0

    def warm(self) -> None:
        """Start the supervisor without waiting for it, so that the first run finds it ready."""
        with self._lock:
            self._warm_zygote()

    def start(
        self,
        target: str,
        world_size: int,
        args: Mapping[str, Any],
        *,
        stall_s: float = 5.0,
        silence_s: float = 120.0,
    ) -> Run:
        """Run `target` ("module:function", called with a Rank and `args`) on `world_size` ranks.

        A rank that is stopped for `stall_s` seconds ends the run, and so does it when no rank
        begins an instruction or emits anything for `silence_s` seconds (math.inf: never).
        """
        if world_size < 1:
            raise ValueError(f"world_size={world_size} must be at least 1")
        with self._lock:
            zygote = self._warm_zygote()
            self._count += 1
            run = f"r{self._count}"
            directory = zygote.base / run
            directory.mkdir(mode=0o700)
            order = Order(
                run=run,
                target=target,
                world_size=world_size,
                args=dict(args),
                dir=str(directory),
                path=self._path,
                threads=self._threads,
                stall_s=stall_s,
                silence_s=silence_s,
            )
            handle = Run(order, zygote)
            zygote.start(order, handle.tell)
            return handle

    @property
    def supervisor_pid(self) -> int | None:
        """The process id of the supervisor, which is also its session's; None before it starts."""
        return self._zygote.process.pid if self._zygote else None

    @property
    def base(self) -> Path | None:
        """The directory that holds those of the runs; None before the supervisor starts."""
        return self._zygote.base if self._zygote else None

    def close(self) -> None:
        """End every run and the supervisor, and remove their files."""
        with self._lock:
            if self._zygote:
                self._zygote.close()
            self._zygote = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _warm_zygote(self) -> Zygote:
        if self._zygote and self._zygote.lost:
            self._zygote.close()
            self._zygote = None
        if self._zygote is None:
            rundir.sweep()
            self._zygote = Zygote(self._preload)
        return self._zygote
