"""A parameter server: one rank keeps the weights, the workers pull them and push gradients.

Synchronous, the server sums one gradient of every worker and updates once. Asynchronous, each
gradient is an update of its own, applied as it arrives, and its worker goes on at once:

    speeds 1,1,2   worker 0   0>0  1>2  3>5  6>7
                   worker 1   0>1  2>3  4>6  7>8
                   worker 2   0>4       5>9

`version > number`: a gradient on weights after so many updates, and which update it became.
Between a pull and its push others push, and the gradient is as many versions old: its staleness.
While all W workers are at work, each update makes the W - 1 other gradients one version older, so
the mean is W - 1 whatever the speeds; they only decide who the old ones are. Dean et al. 2012,
"Large Scale Distributed Deep Networks". A bound on how far a worker may be ahead of the slowest
makes the fast ones wait: Ho et al. 2013, "More Effective Distributed ML via a Stale Synchronous
Parallel Parameter Server".

Nouns. The *desk* is the server's rule, the same in a simulation and in a run: who may have the
weights now. An *update* is one gradient applied. A push asks for the next pull; no other request
is made.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from parallel_core.program import ProgramError


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """The gradient of `worker`, computed on weights of `version`, applied as update `number`.

    `number` is also the version it is applied to. `seconds` is when the update was over, since
    the start; 0 where only the order counts.
    """

    number: int
    worker: int
    version: int
    seconds: float = 0.0

    @property
    def staleness(self) -> int:
        """How many updates of others came between its pull and its push."""
        return self.number - self.version


class Desk:
    """Who may have the weights: everybody, until `total` gradients have been asked for.

    All workers are at work then, so without a bound the last updates are one of each.

    With a `bound`, a worker that has pushed more than `bound` gradients more than the slowest
    waits until that one has caught up; with 0 nobody begins a gradient before all have pushed.
    """

    def __init__(self, workers: int, total: int, bound: int | None = None) -> None:
        self.total, self.bound = total, bound
        self.applied = 0
        self._pushed = [0] * workers
        self._waiting = list(range(workers))
        self._handed = 0
        self._version: dict[int, int] = {}  # of the weights each busy worker has

    def hand_out(self) -> list[int]:
        """The workers that get the newest weights now, in the order in which they asked."""
        going = []
        for worker in list(self._waiting):
            ahead = self._pushed[worker] - min(self._pushed)
            if self._handed < self.total and (self.bound is None or ahead <= self.bound):
                going.append(worker)
                self._waiting.remove(worker)
                self._version[worker] = self.applied
                self._handed += 1
        return going

    def send_home(self) -> list[int]:
        """The workers that are told to stop: those waiting when all gradients are asked for."""
        if self._handed < self.total:
            return []
        home, self._waiting = self._waiting, []
        return home

    def must_be_at_work(self, worker: int) -> None:
        """Raises ProgramError if no push of this worker can come."""
        if worker not in self._version:
            busy = ", ".join(map(str, sorted(self._version))) or "nobody"
            raise ProgramError(
                f"update {self.applied} cannot come from worker {worker}, which has no weights"
                f" then: give an order in which it comes from one of those at work ({busy})"
            )

    def apply(self, worker: int, seconds: float = 0.0) -> Update:
        """Take a push; raises ProgramError if that worker is at no gradient."""
        self.must_be_at_work(worker)
        version = self._version.pop(worker)
        update = Update(number=self.applied, worker=worker, version=version, seconds=seconds)
        self.applied += 1
        self._pushed[worker] += 1
        self._waiting.append(worker)
        return update


def order_of(
    speeds: Sequence[float], updates: int, *, service: float = 0.0, bound: int | None = None
) -> list[Update]:
    """The updates of workers whose gradients take `speeds` seconds each, by events.

    The server takes pushes in order of arrival (the lower rank first at the same moment), each
    for `service` seconds; then its worker has the next weights, if `bound` (see Desk) allows.

    >>> [update.worker for update in order_of((1, 1, 3), 7)]
    [0, 1, 0, 1, 0, 1, 2]
    """
    desk = Desk(len(speeds), updates, bound)
    arrivals = [(speeds[worker], worker) for worker in desk.hand_out()]
    heapq.heapify(arrivals)
    done, free = [], 0.0
    while arrivals:
        arrived, worker = heapq.heappop(arrivals)
        free = max(free, arrived) + service
        done.append(desk.apply(worker, free))
        for going in desk.hand_out():
            heapq.heappush(arrivals, (free + speeds[going], going))
    return done


def in_order(
    workers: Sequence[int], count: int, *, total: int | None = None, bound: int | None = None
) -> list[Update]:
    """The updates of `count` workers that push in the order given; raises ProgramError if the
    order cannot be. `total` are those of the whole run, where `workers` is its beginning."""
    desk = Desk(count, len(workers) if total is None else total, bound)
    done = []
    for worker in workers:
        desk.hand_out()
        done.append(desk.apply(worker))
    return done


@dataclass(frozen=True)
class Staleness:
    """How old the gradients of a run were.

    `mean`, `by_worker` (None where a worker has no settled update) and `histogram` (staleness ->
    updates of each worker) are of the settled updates, which are `settled` = [first, end): warm-up
    and end are left out. `total` is the sum over all updates, which `expected_total` knows exactly.
    """

    mean: float
    by_worker: tuple[float | None, ...]
    histogram: dict[int, tuple[int, ...]]
    settled: tuple[int, int]
    total: int


def settled(updates: Sequence[Update], workers: int) -> tuple[int, int]:
    """[first, end) of the updates in which every worker was at work and had been once round.

    The warm-up ends when every worker has pushed once; at the end, the last `workers` gradients
    are those that come in while no more are asked for. All updates where nothing else is left.
    """
    seen: set[int] = set()
    first, end = len(updates), len(updates) - workers
    for update in updates:
        seen.add(update.worker)
        if len(seen) == workers:
            first = update.number + 1
            break
    return (first, end) if first < end else (0, len(updates))


def staleness(updates: Sequence[Update], workers: int) -> Staleness:
    """Mean, per worker and histogram of the settled updates of a run, first update first."""
    first, end = settled(updates, workers)
    counts = [Counter[int]() for _ in range(workers)]
    for update in updates[first:end]:
        counts[update.worker][update.staleness] += 1
    ages = sorted(set().union(*counts))
    return Staleness(
        mean=_mean(sum(counts, Counter())) or 0.0,
        by_worker=tuple(_mean(count) for count in counts),
        histogram={age: tuple(count[age] for count in counts) for age in ages},
        settled=(first, end),
        total=sum(update.staleness for update in updates),
    )


def expected_total(workers: int, updates: int) -> int:
    """The staleness of all updates of a run summed, whatever the order (without a bound).

    Each update makes every gradient at work one version older: W - 1 of them, and fewer only for
    the last W updates, when W - 2, ... 0 others are left.
    """
    busy = min(workers, updates)
    return updates * (busy - 1) - busy * (busy - 1) // 2


def _mean(counts: Counter[int]) -> float | None:
    total = counts.total()
    return sum(age * count for age, count in counts.items()) / total if total else None
