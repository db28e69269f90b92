"""Private directories for runs, in memory where the system has one, never left behind.

A directory belongs to whoever holds the lock on the file `lock` inside it. The kernel drops a
lock when its last holder dies, so a directory whose lock is free is nobody's: `sweep` removes it.
A process id in its place could name a stranger by now, or one in another container.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path


def claim() -> tuple[Path, int]:
    """A new directory (mode 0700) and the file descriptor whose lock makes it ours."""
    base = Path(tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-", dir=_home()))
    fd = os.open(base / "lock.new", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.rename(base / "lock.new", base / "lock")  # so a sweep never sees a lock file unlocked
    return base, fd


def sweep() -> None:
    """Remove the directories of owners that died with no time to do it themselves."""
    for base in _home().glob(f"{_prefix()}*"):
        try:
            fd = os.open(base / "lock", os.O_RDWR)
        except OSError:
            continue  # just being claimed, or just being removed
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(base, ignore_errors=True)
        except BlockingIOError:
            pass  # its owner lives
        finally:
            os.close(fd)


def _prefix() -> str:
    return f"shardlab-{os.getuid()}-"


def _home() -> Path:
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
