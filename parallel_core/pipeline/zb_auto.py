"""zb-auto: a zero-bubble order for the times and the memory a pipeline really has.

    p=4 m=8    rank 0   F0 F1 F2 F3 I0 W0 F4 I1 W1 F5 I2 W2 F6 I3 W3 F7 I4 W4 I5 W5 I6 W6 I7 W7
               rank 1   F0 F1 F2 I0 F3 I1 W0 F4 I2 W1 F5 I3 W2 F6 I4 W3 F7 I5 W4 I6 W5 I7 W6 W7
               rank 2   F0 F1 I0 F2 I1 F3 I2 W0 F4 I3 W1 F5 I4 W2 F6 I5 W3 F7 I6 W4 I7 W5 W6 W7
               rank 3   F0 I0 F1 I1 F2 I2 F3 I3 W0 F4 I4 W1 F5 I5 W2 F6 I6 W3 F7 I7 W4 W5 W6 W7

Given equal times and memory for p microbatches, as here, it finds ZB-H1 again; but it takes the
times of every rank and any cap, and finds an order in two passes. First the pipeline is *played*,
event by event, under a few dozen rules its ranks might follow, and by ZB-H1 and ZB-H2 where they
fit the memory; the best play wins. Then a *search* grows partial orders, all of one length at a
time, and drops those that can no longer beat it. Small pipelines are searched in full, so that
nothing shorter exists; the larger they are, the fewer partial orders the search can keep, and the
more often the best play stands.

Price: thinking before the first step (seconds for p = 16, m = 128; a minute for p = 64, m = 1,024),
an order that fits these times only, and memory: whatever the cap allows may be used. Bubble is sold
for microbatches in flight.

Qi et al. 2023, arXiv:2401.10241, section 3.1: rules such as theirs, a search in place of their
integer program.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush, nsmallest
from itertools import accumulate
from operator import itemgetter, le
from typing import NamedTuple

from parallel_core.fields import PlanError
from parallel_core.pipeline.order import Order, Task
from parallel_core.pipeline.rules import sized
from parallel_core.pipeline.schedule import Times
from parallel_core.pipeline.zb_h1 import zb_h1
from parallel_core.pipeline.zb_h2 import zb_h2
from parallel_core.program import Op

EFFORT = 20_000
"""How many partial orders the search may keep, over all lengths together."""

NEVER = math.inf
EXACT = 1e-9
"""Sums of the same times in another order differ by less than this share."""


def zb_auto(
    p: int, m: int, *, times: Times | None = None, cap: float | None = None, kept: float = 1.0
) -> Order:
    """The shortest order found for m microbatches on p ranks, one stage each, W apart from I.

    Shortest is when the last task of all ends (an optimizer's barrier waits for it); among equals,
    the longest span of a rank from its first task to its last. `times` is a beat for each task if
    left out. No rank holds more than `cap` microbatches (None: all m) from their F to their W;
    between I and W one counts for `kept` (I frees what only it needed; the paper's M_W / M_B).
    The same arguments give the same order. PlanError where a size, the cap, `kept` or the number
    of times is impossible.
    """
    work = _Work(p, m, times or Times.even(p), m if cap is None else cap, kept)
    plays = [_play(work, rule) for rule in RULES]
    plays += [ranks for order in (zb_h1(p, m), zb_h2(p, m)) if (ranks := _follow(work, order))]
    ranks = _search(work, min(plays, key=work.score))
    return Order(tuple(tuple(_tasks(at, rank.word)) for at, rank in enumerate(ranks)), "zb-auto")


def _tasks(stage: int, word: str) -> Iterator[Task]:
    """FFIW -> F0 F1 I0 W0."""
    done: Counter[str] = Counter()
    for letter in word:
        yield Task(Op(letter), done[letter], stage)
        done[letter] += 1


class _Rank(NamedTuple):
    """A rank part way through. Microbatches pass each op first to last, so counts say which."""

    free: float = 0.0  # when its last task so far ends
    f: int = 0  # how many F are done; I and W likewise
    i: int = 0
    w: int = 0
    to_f: tuple[float, ...] = ()  # when the inputs of its next F are there, as far as known
    to_i: tuple[float, ...] = ()
    word: str = ""  # what it did, a letter a task

    @property
    def clock(self) -> Iterator[float]:
        """All times that the future of this rank depends on."""
        yield self.free
        for arrival in (*self.to_f, *self.to_i):
            yield max(arrival, self.free)


Ranks = list[_Rank]
_OPS = (Op.F, Op.I, Op.W)
_WAY = {Op.F: 1, Op.I: -1, Op.W: 0}
"""To which neighbour the output of a task goes."""


@dataclass(frozen=True)
class _Work:
    """What is to be put in order, and the rules of the game."""

    p: int
    m: int
    times: Times
    cap: float
    kept: float

    def __post_init__(self) -> None:
        sized(self.p, self.m)
        for given in map(len, (self.times.f, self.times.i, self.times.w)):
            if given != self.p:
                raise PlanError("pp", self.p, f"needs a time for every rank, not {given}", given)
        if not self.cap >= 1:
            raise PlanError("cap", self.cap, "leaves no room for one microbatch on a rank", 1)
        if not 0 <= self.kept <= 1:
            raise PlanError("kept", self.kept, "must be a share, from 0 to 1", int(self.kept > 1))

    def begin(self) -> Ranks:
        """Nothing is done, and every microbatch waits before rank 0."""
        return [_Rank(to_f=(0.0,) * self.m), *[_Rank()] * (self.p - 1)]

    def starts(self, rank: _Rank) -> tuple[float, float, float]:
        """When the rank could start its next F, I and W; NEVER if that is not known."""
        held = rank.f - rank.i + self.kept * (rank.i - rank.w)
        room = held + 1 <= self.cap + EXACT
        return (
            max(rank.free, rank.to_f[0]) if rank.to_f and room else NEVER,
            max(rank.free, rank.to_i[0]) if rank.to_i else NEVER,
            rank.free if rank.w < rank.i else NEVER,
        )

    def after(self, ranks: Ranks, at: int, op: Op) -> Ranks:
        """The ranks once rank `at` has done its next `op`, as early as it can."""
        free, f, i, w, to_f, to_i, word = ranks[at]
        later = list(ranks)
        word += op.value
        match op:
            case Op.F:
                free = max(free, to_f[0]) + self.times.f[at]
                later[at] = _Rank(free, f + 1, i, w, to_f[1:], to_i, word)
                self._send(later, at, at + _WAY[op])
            case Op.I:
                free = max(free, to_i[0]) + self.times.i[at]
                later[at] = _Rank(free, f, i + 1, w, to_f, to_i[1:], word)
                self._send(later, at, at + _WAY[op])
            case _:
                later[at] = _Rank(free + self.times.w[at], f, i, w + 1, to_f, to_i, word)
        return later

    def _send(self, ranks: Ranks, at: int, to: int) -> None:
        """Tell a neighbour when the output of the task just done is there."""
        end = ranks[at].free
        if to == self.p:  # the loss turns round on the last rank
            ranks[at] = ranks[at]._replace(to_i=(*ranks[at].to_i, end))
        elif to > at:
            ranks[to] = ranks[to]._replace(to_f=(*ranks[to].to_f, end + self.times.comm))
        elif to >= 0:
            ranks[to] = ranks[to]._replace(to_i=(*ranks[to].to_i, end + self.times.comm))

    def score(self, ranks: Ranks) -> tuple[float, float]:
        """(makespan, longest span) of a finished order, rounded so that equals compare equal."""
        # every rank begins with F0, as soon as that has come down the pipeline
        starts = accumulate((f + self.times.comm for f in self.times.f), initial=0.0)
        makespan = max(rank.free for rank in ranks)
        span = max(rank.free - start for rank, start in zip(ranks, starts, strict=False))
        return float(f"{makespan:.9g}"), float(f"{span:.9g}")

    def promise(self, ranks: Ranks) -> tuple[float, float]:
        """No way on from here ends sooner than the first; the second breaks ties, less is better.

        A rank still has all its own work to do; and after its last I that gradient travels up to
        rank 0, which ends with a W.
        """
        ends, drain = [], self.times.w[0]
        for at, rank in enumerate(ranks):
            f, i, w = (self.m - done for done in (rank.f, rank.i, rank.w))
            inputs = rank.free + f * self.times.f[at] + i * self.times.i[at]
            ends.append(max(inputs + w * self.times.w[at], inputs + drain if i else 0.0))
            drain += self.times.comm + self.times.i[at]
        return max(ends), sum(ends)


@dataclass(frozen=True)
class _Rule:
    """How ranks choose while the pipeline is played."""

    ahead: float | None  # F before the first I: one, and so many more a rank behind; None: all
    first: Op | None  # which goes first when F and I are both ready; None: they take turns
    patience: float  # W fills a wait at least so many times as long as itself

    def choose(self, work: _Work, ranks: Ranks, at: int, now: float) -> tuple[float, Op]:
        """What the rank does next, and when; NEVER while it knows of nothing to do."""
        rank = ranks[at]
        f, i, w = work.starts(rank)
        if self.ahead is not None and rank.i == 0:
            f = f if rank.f < 1 + self.ahead * (work.p - 1 - at) else NEVER
        wait = min(f, i) - now
        if w < NEVER and wait > 0 and wait >= self.patience * work.times.w[at]:
            return now, Op.W
        if max(f, i) <= now:
            turn = Op.F if rank.word.rstrip("W").endswith("I") else Op.I
            return now, self.first or turn
        return (f, Op.F) if f < i else (i, Op.I)


RULES = tuple(
    _Rule(ahead, first, patience)
    for ahead in (1, 1.5, 2, 2.5, None)  # 1F1B has 1, ZB-H2 has 2
    for first in (Op.I, Op.F, None)
    for patience in (0, 0.25, 0.5, 0.75, 1)
)


def _play(work: _Work, rule: _Rule) -> Ranks:
    """Every rank follows the rule, in order of time; the ranks when all is done."""
    ranks = work.begin()
    wakes = [(0.0, 0)]
    while wakes:
        now, at = heappop(wakes)
        if now < ranks[at].free:
            continue  # it found work since
        when, op = rule.choose(work, ranks, at, now)
        if now < when < NEVER:
            heappush(wakes, (when, at))
        elif when <= now:
            ranks = work.after(ranks, at, op)
            heappush(wakes, (ranks[at].free, at))
            to = at + _WAY[op]
            if to != at and 0 <= to < work.p:
                heappush(wakes, (max(ranks[at].free, ranks[to].free), to))
    return ranks


def _follow(work: _Work, order: Order) -> Ranks | None:
    """The ranks when all have done what the order says; None if it needs more memory."""
    ranks, turns = work.begin(), list(range(work.p))
    while turns:
        at = turns.pop()
        for task in order.ranks[at][len(ranks[at].word) :]:
            if work.starts(ranks[at])[_OPS.index(task.op)] == NEVER:
                break
            ranks = work.after(ranks, at, task.op)
            to = at + _WAY[task.op]
            if to != at and 0 <= to < work.p:
                turns.append(to)
    return ranks if all(rank.w == work.m for rank in ranks) else None


def _search(work: _Work, best: Ranks) -> Ranks:
    """An order with a makespan below that of `best`, or else `best`.

    All partial orders grow by a task. Of those with the same tasks done, one that is behind
    another on every clock cannot win. Where too many are left, those with the best promise stay.
    """
    length = 3 * work.p * work.m
    goal = work.score(best)[0] * (1 - EXACT)
    level = [work.begin()]
    for _ in range(length):
        grown = (ranks for before in level for ranks in _grown(work, before))
        hopeful = [ranks for ranks in grown if work.promise(ranks)[0] < goal]
        level = nsmallest(EFFORT // length, _fastest(hopeful), key=work.promise)
    return min([best, *level], key=work.score)


def _grown(work: _Work, ranks: Ranks) -> Iterator[Ranks]:
    """`ranks` after one more task, in every way that matters (Giffler and Thompson 1960).

    Of all tasks that could be next somewhere, one would end first. Its rank does that one, or one
    that it could start before that end: to idle until then, or longer, would gain nothing.
    """
    end, first, at = NEVER, Op.F, 0
    options = [list(zip(_OPS, work.starts(rank), strict=True)) for rank in ranks]
    for rank, tasks in enumerate(options):
        for op, start in tasks:
            if start + work.times.whole(rank, op) < end:
                end, first, at = start + work.times.whole(rank, op), op, rank
    for op, start in options[at]:
        if op is first or start < end:
            yield work.after(ranks, at, op)


def _fastest(states: Iterable[Ranks]) -> Iterator[Ranks]:
    """Of states with the same tasks done, those that are ahead of each other on some clock."""
    alike: dict[object, list[tuple[tuple[float, ...], Ranks]]] = defaultdict(list)
    for ranks in states:
        clocks = tuple(time for rank in ranks for time in rank.clock)
        alike[tuple(rank[1:4] for rank in ranks)].append((clocks, ranks))
    for group in alike.values():
        kept: list[tuple[float, ...]] = []
        for clocks, ranks in sorted(group, key=itemgetter(0)):
            if not any(all(map(le, other, clocks)) for other in kept):
                kept.append(clocks)
                yield ranks
