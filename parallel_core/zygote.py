"""The supervisor process as its owner holds it: the line to it, and a thread that listens.

This side imports no torch. The supervisor gets its environment here, before it imports anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from parallel_core import rundir
from parallel_core.channel import Lines, Order, to_bytes, write_line

_CLOSE_S = 5.0  # a supervisor that has not gone by then is killed; its ranks go with it

_TORCHRUN = re.compile(r"TORCHELASTIC_|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)$|MASTER_")

Tell = Callable[[dict[str, Any]], None]


class Zygote:
    """The supervisor process, seen from its owner: a line to it, and a thread that listens."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.base, self._lock_fd = rundir.claim()
        self.lost = False
        self._runs: dict[str, Tell] = {}
        self._lock = threading.Lock()  # of `lost` and `_runs`; never held while a pipe may block
        self._writing = threading.Lock()
        command = [sys.executable, "-P", "-m", "parallel_core.supervisor", str(self.base), *modules]
        with open(self.base / "supervisor.txt", "wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env=_environment(),
                pass_fds=[self._lock_fd],
                start_new_session=True,  # a Ctrl-C in the terminal is the owner's to handle
            )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(self, order: Order, tell: Tell) -> None:
        """Have the order carried out; its events go to `tell`, from the listening thread."""
        with self._lock:
            self._runs[order.run] = tell
        if not self.send(order.request()):
            self._lose()

    def send(self, request: dict[str, Any]) -> bool:
        """Hand over a request; False when the supervisor is gone."""
        assert self.process.stdin is not None
        line = to_bytes(request)
        with self._writing, contextlib.suppress(OSError, ValueError):
            write_line(self.process.stdin.fileno(), line)
            return True
        return False

    def _listen(self) -> None:
        assert self.process.stdout is not None
        lines, fd = Lines(), self.process.stdout.fileno()
        while chunk := os.read(fd, 1 << 20):  # a buffered read would hold a lock at our own exit
            for line in lines.feed(chunk):
                self._hear(json.loads(line))
        self._lose()

    def _hear(self, event: dict[str, Any]) -> None:
        if "run" not in event:
            return
        with self._lock:
            tell = self._runs[event["run"]]
            if event["event"] != "emit":
                del self._runs[event["run"]]
        tell(event)

    def _lose(self) -> None:
        """The supervisor is gone: every run that still went has failed."""
        with self._lock:
            self.lost = True
            runs, self._runs = list(self._runs.values()), {}
        if runs:
            message, detail = self._epitaph()
            for tell in runs:
                tell({"event": "failed", "message": message, "rank": None, "detail": detail})

    def _epitaph(self) -> tuple[str, str]:
        """One sentence on the supervisor's end, and the end of its own log."""
        code = self.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        log = ""
        with contextlib.suppress(OSError):
            log = (self.base / "supervisor.txt").read_text(errors="replace")[-4000:]
        why = f" ({log.strip().splitlines()[-1]})" if log.strip() else ""
        return f"the supervisor of the ranks {how}{why}, and they ended with it", log

    def close(self) -> None:
        """Close our end of its line, which ends it; wait until it and its files are gone."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with self._writing:
            self.process.stdin.close()
        try:
            self.process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join()
        self.process.stdout.close()
        shutil.rmtree(self.base, ignore_errors=True)
        os.close(self._lock_fd)


def _environment() -> dict[str, str]:
    """The supervisor's environment: loopback only, one thread, this package importable.

    What torchrun may have set for the owner is left out: the ranks here are not torchrun's.
    """
    kept = {name: value for name, value in os.environ.items() if not _TORCHRUN.match(name)}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    paths = [kept["PYTHONPATH"]] if kept.get("PYTHONPATH") else []
    root = Path(__file__).parent.parent
    if root.name not in ("site-packages", "dist-packages"):  # these must not come before Python's
        paths.append(str(root))
    loopback = {"GLOO_SOCKET_IFNAME": _loopback(), "PYTHONPATH": os.pathsep.join(paths)}
    return {**kept, **threads, **loopback}


def _loopback() -> str:
    """The name of the interface of 127.0.0.1; gloo listens on every interface if not told one."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.family == socket.AF_INET and a.address == "127.0.0.1" for a in addresses):
            return str(name)
    return "lo0" if sys.platform == "darwin" else "lo"
