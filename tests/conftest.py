"""Fixtures that all tests share: one warm pool, and `on_ranks` to run a function on real ranks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from browser import chromium, server, tab  # noqa: F401  # fixtures, for every test file
from hypothesis import settings

from parallel_core.launch import Pool

settings.register_profile("shared machine", deadline=None)  # an example may stall for a moment
settings.load_profile("shared machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def _slow(config: pytest.Config) -> bool:
    return bool(config.getoption("--slow")) or os.environ.get("SHARDLAB_SLOW") == "1"


@pytest.fixture(scope="session")
def whole_matrix(pytestconfig: pytest.Config) -> bool:
    """Whether a matrix of runs is asked for in full, rather than the sample that covers it."""
    return _slow(pytestconfig)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _slow(config):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow or SHARDLAB_SLOW=1")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def session_of(pid: int) -> list[int]:
    """The processes of the session that `pid` leads: a pool's supervisor and its ranks.

    Zombies count, but for those that are init's to reap: they are dead, and nobody's of ours.
    """
    found = []
    for other in psutil.pids():
        try:
            process = psutil.Process(other)
            dead = process.status() == psutil.STATUS_ZOMBIE and process.ppid() == 1
            if os.getsid(other) == pid and not dead:
                found.append(other)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return found


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """One supervisor for the whole session; afterwards no process and no file of it is left."""
    with Pool(path=[str(Path(__file__).parent)]) as pool:
        yield pool
        supervisor = pool.supervisor_pid
        base = pool.base
    if supervisor is not None:
        assert session_of(supervisor) == [], "a rank outlived its pool"
    assert base is None or not base.exists(), f"{base} was left behind"


@pytest.fixture
def on_ranks(pool: Pool) -> Callable[..., list[Any]]:
    """`on_ranks(n, "module:function", **args)`: what the function returned, by rank."""

    def run(n: int, target: str, **args: Any) -> list[Any]:
        with pool.start(target, n, args) as run:
            return run.wait(timeout=120)

    return run
