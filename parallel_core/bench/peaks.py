"""Peak bytes of contenders that live in one process: the allocator is asked again and again.

`read` gives the bytes allocated now. What a side keeps between steps is seen when it is made, what
a step adds at most by a thread that looks while it runs. Sampled, so a peak shorter than a look
may be missed: each round keeps the highest of two turns.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from parallel_core.bench.interleave import turns

LOOK_S = 1e-4
"""How long the watcher of the allocator sleeps between two looks."""


@contextmanager
def kept(read: Callable[[], int]) -> Iterator[list[int]]:
    """The bytes that a block leaves behind, in a list of one."""
    gc.collect()
    before, found = read(), list[int]()
    yield found
    gc.collect()
    found.append(read() - before)


def watch(
    steps: Mapping[str, Callable[[], None]],
    keeps: Mapping[str, int],
    rounds: int,
    *,
    read: Callable[[], int],
    meet: Callable[[], None] = lambda: None,
) -> dict[str, list[int]]:
    """Peak bytes of each side, a number a round: what it keeps, and what a step adds to that."""
    found: dict[str, dict[int, int]] = {name: {} for name in steps}
    for number, name in turns(rounds):
        meet()
        gc.collect()
        before = read()
        peak = keeps[name] + highest(steps[name], read) - before
        found[name][number] = max(peak, found[name].get(number, 0))
    return {name: list(each.values()) for name, each in found.items()}


def highest(call: Callable[[], None], read: Callable[[], int]) -> int:
    """The highest reading during a call, by a thread that looks every 0.1 ms."""
    looks, over = [read()], threading.Event()

    def look() -> None:
        while not over.is_set():
            looks[0] = max(looks[0], read())
            time.sleep(LOOK_S)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        call()
    finally:
        over.set()
        watcher.join()
    return max(looks[0], read())
