"""Is an order legal? Each rule is one sentence, and the first break of it is named.

    numbered         stages and microbatches count from 0 without a gap; every rank has a task
    once             each microbatch passes each stage by one F, and one B or one I and one W
    at home          its backward runs where its F ran (a copy of a stage on another rank is whole
                     for the microbatches it takes: DualPipe)
    in turn          on that rank F comes before B or I, and I before W
    no deadlock      F(mb, s) waits for F(mb, s - 1), B or I(mb, s) for B or I(mb, s + 1);
                     every rank reaches its end

The order knows no messages, so this is about who waits for whom; `check` reads the messages that
`lower` adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import NamedTuple

from parallel_core.pipeline.order import COMPUTES, Order, Task, runnable
from parallel_core.program import Op, ProgramError

Piece = tuple[int, int]
"""(microbatch, stage): what one microbatch does on one stage."""

SHOWN = 4
"""Ranks that the sentence about a deadlock lists."""


class Place(NamedTuple):
    """Where a task stands: its rank, and its position among the rank's tasks."""

    rank: int
    slot: int


Places = dict[Op, dict[Piece, Place]]


def legal(order: Order, *, p: int | None = None, m: int | None = None) -> None:
    """Raises ProgramError with one sentence that names rank, task and remedy.

    `p` and `m` are the ranks and microbatches it should have, where that was asked for.
    """
    _numbered(order)
    if p is not None and order.p != p:
        raise ProgramError(
            f"the order is for {order.p} ranks where {p} were asked for: give it a line for each"
            f" of the {p}, or ask for {order.p}"
        )
    if m is not None and order.m != m:
        raise ProgramError(
            f"the order is for {order.m} microbatches where {m} were asked for: give each of the"
            f" {m} its tasks, or ask for {order.m}"
        )
    places = _once(order)
    _whole(order, places)
    _at_home_in_turn(order, places)
    _no_deadlock(order, places)


def _say(order: Order, task: Task) -> str:
    """The task as the reader writes it: without its stage where each rank has its own."""
    own = all(held == (rank,) for rank, held in enumerate(order.held))
    return str(task).removeprefix(str(task.stage)) if own else str(task)


def _numbered(order: Order) -> None:
    for rank, tasks in enumerate(order.ranks):
        if not tasks:
            raise ProgramError(f"rank {rank} has no task: give it a stage, or leave its line out")
    if not order.ranks:
        raise ProgramError("the order is empty: write a line of tasks for each rank, as F0 B0")
    _without_gap("stage", {(task.stage, rank) for rank, task in order})
    _without_gap("microbatch", {(task.mb, rank) for rank, task in order})
    for rank, task in order:
        if task.op not in COMPUTES:
            raise ProgramError(f"rank {rank}: {task} is no task; F, B, I and W are")


def _without_gap(noun: str, used: Iterable[tuple[int, int]]) -> None:
    """`used` holds (number, rank)."""
    where = dict(sorted(used, reverse=True))  # the lowest rank that has it
    hole = next(n for n in count() if n not in where)
    beyond = min((n for n in where if n > hole or n < 0), default=None)
    if beyond is not None:
        raise ProgramError(
            f"no rank runs {noun} {hole}, though rank {where[beyond]} runs {noun} {beyond}: number"
            " them from 0 without a gap"
        )


def _once(order: Order) -> Places:
    """Where each task stands; a second one of the same is refused."""
    places: Places = {op: {} for op in COMPUTES}
    for rank, tasks in enumerate(order.ranks):
        for slot, task in enumerate(tasks):
            mine, piece = places[task.op], (task.mb, task.stage)
            if piece in mine:
                raise ProgramError(_twice(order, task, mine[piece].rank, rank))
            mine[piece] = Place(rank, slot)
    return places


def _twice(order: Order, task: Task, first: int, second: int) -> str:
    name = _say(order, task)
    if first == second:
        return f"rank {first} runs {name} twice: keep one of the two"
    return (
        f"rank {second} runs {name}, which rank {first} runs as well: keep one of the two (where a"
        " stage has two copies, each runs its own microbatches whole)"
    )


def _whole(order: Order, places: Places) -> None:
    """Every piece has its F and its backward, in one of the two forms."""
    forward, whole, half, weights = (places[op] for op in COMPUTES)
    pieces = order.m * order.stages
    counted = len(forward) == pieces == len(whole) + len(half)
    if counted and weights.keys() == half.keys() and whole.keys().isdisjoint(half):
        return
    for mb, stage in _pieces(order):
        has = [op for op in COMPUTES if (mb, stage) in places[op]]
        if has in ([Op.F, Op.B], [Op.F, Op.I, Op.W]):
            continue
        rank = min((places[op][mb, stage].rank for op in has), default=None)
        raise ProgramError(_unwhole(order, Task(Op.F, mb, stage), has, rank))


def _pieces(order: Order) -> Iterator[Piece]:
    return ((mb, stage) for mb in range(order.m) for stage in range(order.stages))


def _unwhole(order: Order, task: Task, has: list[Op], rank: int | None) -> str:
    """Which of a piece's tasks are missing or too many; `has` are those it has, on `rank`."""
    f, b, i, w = (_say(order, Task(op, task.mb, task.stage)) for op in COMPUTES)
    if rank is None:
        holder = next(r for r, held in enumerate(order.held) if task.stage in held)
        return f"rank {holder} never runs {f}: add {f} and then {b} to it"
    if Op.B in has and (Op.I in has or Op.W in has):
        half = i if Op.I in has else w
        return (
            f"rank {rank} runs {b} and {half}, and B is I and W in one: write {b}, or {i} and {w}"
        )
    if Op.F not in has:
        later = b if Op.B in has else i if Op.I in has else w
        return f"rank {rank} runs {later} but no rank runs {f}: add {f} before it"
    if Op.W in has:
        return f"rank {rank} runs {w} but no rank runs {i}: add {i} before it, or make it {b}"
    if Op.I in has:
        return f"rank {rank} runs {i} but no rank runs {w}: add {w} after it, or make it {b}"
    return f"rank {rank} runs {f} but no rank runs {b}: add {b} after it (or {i} and {w})"


def _at_home_in_turn(order: Order, places: Places) -> None:
    for op, needed in ((Op.B, Op.F), (Op.I, Op.F), (Op.W, Op.I)):
        before = places[needed]
        for piece, place in places[op].items():
            earlier = before[piece]
            if earlier.rank == place.rank and earlier.slot < place.slot:
                continue
            late, first = (_say(order, Task(kind, *piece)) for kind in (op, needed))
            if earlier.rank == place.rank:
                raise ProgramError(
                    f"rank {place.rank} runs {late} before {first}: move {first} in front of it"
                )
            raise ProgramError(
                f"rank {place.rank} runs {late}, whose {first} runs on rank {earlier.rank}: what it"
                f" needs was kept there, so move {late} to rank {earlier.rank}"
            )


def _no_deadlock(order: Order, places: Places) -> None:
    """Let every rank go as far as it can; whoever comes to a stop waits for another."""
    ran = [0] * order.p
    for rank, _ in runnable(order):
        ran[rank] += 1
    stuck = {r: tasks[ran[r]] for r, tasks in enumerate(order.ranks) if ran[r] < len(tasks)}
    if stuck:
        raise ProgramError(_deadlock(order, places, stuck))


def _deadlock(order: Order, places: Places, stuck: dict[int, Task]) -> str:
    """The ranks that wait for each other in a circle, then how many wait behind them.

    `stuck` holds per waiting rank the task it stands at.
    """
    missing = {rank: _needed(task, places) for rank, task in stuck.items()}
    runner = {rank: places[t.op][t.mb, t.stage].rank for rank, t in missing.items()}
    circle = _circle(min(stuck), runner)
    parts = []
    for rank in circle[:SHOWN]:
        need, other = missing[rank], runner[rank]
        what = f"rank {rank} waits at {_say(order, stuck[rank])} for stage {need.stage}'s"
        who = "it runs itself" if other == rank else f"rank {other} runs"
        when = f"after {_say(order, stuck[other])}" if stuck[other] != need else "next"
        parts.append(f"{what} {need.op}{need.mb}, which {who} {when}")
    behind = len(stuck) - len(parts)
    more = f"; {behind} more wait with them" if behind else ""
    return f"deadlock: {'; '.join(parts)}{more}: move up one of the tasks waited for"


def _needed(task: Task, places: Places) -> Task:
    """What a waiting task waits for."""
    if task.op is Op.F:
        return Task(Op.F, task.mb, task.stage - 1)
    piece = (task.mb, task.stage + 1)
    return Task(Op.B if piece in places[Op.B] else Op.I, *piece)


def _circle(start: int, follows: dict[int, int]) -> list[int]:
    """The circle that leads on from `start`, from its lowest rank."""
    path = [start]
    while follows[path[-1]] not in path:
        path.append(follows[path[-1]])
    circle = path[path.index(follows[path[-1]]) :]
    first = circle.index(min(circle))
    return circle[first:] + circle[:first]
