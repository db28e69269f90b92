"""Where a tensor-parallel task's messages stand among its own work, in shares of its FLOPs.

    F layer   enter  q k v  attention o  leave  enter  gate up  down  leave
    B layer   dleave  down  again  gate up  denter  dleave  o  attention  again  q k v  denter

Each product of a backward is two, for dx and for dw. Without sequence parallelism a forward only
leaves and a backward only comes out again (denter), by all-reduce.

Norms, nonlinearities and dropout are nothing beside the matrix products, and are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from parallel_core import context_moves
from parallel_core.plan import Dialect, Plan, Recompute
from parallel_core.program import Instr, Op

ENTER, LEAVE, DLEAVE, AGAIN, DENTER = "enter", "leave", "dleave", "again", "denter"
"""What a message is for: x into a region, y out of it, dy into it, x once more, dx out of it."""

NUMBER = "number"
"""A number a token: the cross-entropy's."""

LOGITS = "logits"
"""A router's logits of a rank's part of a sequence, for those who choose by whole ones."""

SILENT = ""
"""No message: work between two tasks' parts."""

GRAIN = 1000
"""Shares are told to a thousandth: a program's text holds them exactly."""


@dataclass(frozen=True)
class Work:
    """FLOPs of one layer's forward on one rank."""

    qkv: float
    core: float
    out: float
    into: float
    down: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.qkv + self.core + self.out + self.into + self.down


def work(plan: Plan) -> Work:
    """The products of a layer for one microbatch, on one rank."""
    m, t = plan.model, plan.tp
    token = 2.0 * plan.tokens_here
    kv = plan.kv_here * m.head_dim
    inner = token * m.hidden * m.mlp / t
    if m.experts:
        inner *= m.top_k + m.shared_experts
    return Work(
        qkv=token * m.hidden * (m.hidden / t + 2 * kv),
        core=2 * token * plan.seq * m.hidden / t,
        out=token * m.hidden * m.hidden / t,
        into=inner * (2 if m.dialect == Dialect.LLAMA else 1),
        down=inner,
    )


def uneven(plan: Plan) -> Callable[[int, Instr], float] | None:
    """How many times the ranks' mean work a rank has in a task; None where all have as much."""
    if plan.cp == 1:
        return None
    w, attention = work(plan), context_moves.unevenness(plan)

    def times(rank: int, instr: Instr) -> float:
        if not instr.where.startswith("layer") or instr.op not in (Op.F, Op.B):
            return 1.0
        selective = plan.recompute_in(instr.where) == Recompute.SELECTIVE
        again = w.core if instr.op == Op.B and selective else 0.0
        ahead = 1 if instr.op == Op.F else 2
        part = (ahead * w.core + again) / (ahead * w.total + again)
        member = plan.mesh.coordinate(rank)["cp"] // plan.context.ulysses
        return 1.0 + part * (attention[member] - 1.0)

    return times


Stop = tuple[str, float, float]
"""A message: what it is for, FLOPs before it (since the message before), FLOPs under it."""

Core = tuple[list[Stop], float]
"""Attention's messages, and what of its work is done after the last of them."""


def task(plan: Plan, parts: Iterable[str], *, forward: bool, place: int = 0) -> list[Stop]:
    """The messages of a task that runs these units, or parts of them, in order, with shares of its
    work; `place` is the rank's along cp."""
    stops, total = list[Stop](), 0.0
    for part in parts if forward else reversed([*parts]):
        own, work_here = _part(plan, part, forward, place)
        stops += own
        done = sum(before + under for _, before, under in own)
        stops.append((SILENT, max(work_here - done, 0.0), 0.0))
        total += work_here
    return _shares(plan, stops, total)


def _part(plan: Plan, part: str, forward: bool, place: int) -> tuple[list[Stop], float]:
    """Messages of one unit or part of a layer, work in FLOPs; and all its work."""
    unit, _, what = part.partition(".")
    if unit == "embed":
        rows = float(plan.tokens_here * plan.model.hidden)
        leaves = [(LEAVE, rows, 0.0)] if forward else [(DLEAVE, 0.0, 0.0)] if plan.sp else []
        return leaves, rows
    if unit == "head":
        return _head(plan, forward=forward)
    kind = plan.recompute_in(unit)
    if not what:
        return _layer(plan, kind, forward=forward, place=place)
    w = work(plan)
    if what == "experts":
        again = kind == Recompute.FULL
        return [], (w.into + w.down) * (1 if forward else 2 + again)
    if what == "join":
        return [(LEAVE if forward else DLEAVE, 0.0, 0.0)], 0.0
    return _route(plan, kind, forward=forward, place=place)


def _route(plan: Plan, kind: str, *, forward: bool, place: int) -> tuple[list[Stop], float]:
    """A layer up to where its tokens leave."""
    none = replace(work(plan), into=0.0, down=0.0)
    stops, total = _layer(plan, kind, forward=forward, place=place, only=none)
    if forward:
        last = max(i for i, stop in enumerate(stops) if stop[0] == LEAVE)
        return stops[:last], total
    if kind == Recompute.FULL:
        return _route_again(plan, none, stops, total)
    return stops[1:], total


def _route_again(plan: Plan, w: Work, stops: list[Stop], total: float) -> tuple[list[Stop], float]:
    """The same backward where attention is run again: the second region's as it is, then the
    forward of the first, and its backward, which finds there what it needs."""
    plain, _ = _layer(plan, Recompute.NONE, forward=False, only=w)
    names = [stop[0] for stop in stops]
    again = stops[: names.index(LEAVE) + 1]
    back = stops[max(i for i, name in enumerate(names) if name == DLEAVE) :]
    return [*plain[1 : [stop[0] for stop in plain].index(DENTER) + 1], *again, *back], total


def _layer(
    plan: Plan, kind: str, *, forward: bool, place: int = 0, only: Work | None = None
) -> tuple[list[Stop], float]:
    """A layer's; `only` where its work is less than all."""
    w = only or work(plan)
    ahead = _with_core(_forward(plan, w), LEAVE, _attention(plan, w.core, place, backward=False))
    if plan.cp > 1 and plan.model.routes_by_sequence:
        second = max(i for i, stop in enumerate(ahead) if stop[0] == ENTER)
        ahead.insert(second + 1, (LOGITS, 0.0, 0.0))
    if forward:
        return ahead, w.total
    again = w.core if kind == Recompute.SELECTIVE else 0.0
    whole = kind == Recompute.FULL
    core = _attention(plan, 2 * w.core, place, backward=True)
    if again:
        core = _then(_attention(plan, w.core, place, backward=False), core)
    back = _backward(plan, w, again, keeps_whole=whole and not plan.overlap_tp)
    back = _with_core(back, DENTER if _keeps(plan, whole) else AGAIN, core, last=True)
    total = 2 * w.total + again + (w.total if whole else 0.0)
    if not whole:
        return back, total
    left = max(w.total - sum(before + under for _, before, under in ahead), 0.0)
    return [*ahead, (SILENT, left, 0.0), *back], total


def _keeps(plan: Plan, whole: bool) -> bool:
    """Whether nothing is gathered again in the backward."""
    return not plan.overlap_tp and (whole or not plan.sp)


def _with_core(stops: list[Stop], name: str, core: Core, *, last: bool = False) -> list[Stop]:
    """The messages of attention put before the first (or last) stop called `name`, whose work
    before it includes the core's; what of the core follows them stays there."""
    messages, after = core
    if not messages:
        return stops
    at = [i for i, stop in enumerate(stops) if stop[0] == name][-1 if last else 0]
    done = sum(before + under for _, before, under in messages) + after
    what, before, under = stops[at]
    first, *rest = messages
    ahead = max(before - done, 0.0)  # what of it comes before attention is not told apart
    return [
        *stops[:at],
        (first[0], first[1] + ahead / 2, first[2]),
        *rest,
        (what, after + ahead / 2, under),
        *stops[at + 1 :],
    ]


def _then(one: Core, other: Core) -> Core:
    (first, rest), (later, after) = one, other
    if not later:
        return other
    name, before, under = later[0]
    return [*first, (name, rest + before, under), *later[1:]], after


BROUGHT = ("kv", "qkv", "da")
"""What has to be there before the first tile, where it does not come hop by hop."""


def _attention(plan: Plan, core: float, place: int, *, backward: bool) -> Core:
    """The messages of attention over cp, and which part of its work `core` is done before and
    beside each; then what is done after them all.

    What has a hop starts after the tiles of the hops before, and is open under its own. Where two
    are open under the same tiles, one follows the other over the link: each has its part of them,
    by its bytes.
    """
    found = context_moves.moves(plan, backward=backward)
    if not found:
        return [], core
    hops = context_moves.shares_of_hops(plan, place) if plan.context.rings > 1 else [1.0]
    beside = Counter[int | None]()  # bytes that travel under the tiles of each hop
    for move in found:
        beside[move.hop] += move.bytes
    stops, done = list[Stop](), 0  # tiles: they are computed in the order of the hops
    for move in found:
        due = move.hop
        if due is None:
            due = 0 if move.what in BROUGHT else len(hops)
        before = core * sum(hops[done:due])
        done, under = max(done, due), 0.0
        if plan.overlap_cp and move.hop is not None:
            under = core * hops[due] * move.bytes / beside[due]
            done = due + 1
        stops.append(
            (f"{move.op.value} {move.axis} {context_moves.value_name(move)}", before, under)
        )
    return stops, core * sum(hops[done:])


def _head(plan: Plan, *, forward: bool) -> tuple[list[Stop], float]:
    """The messages of the head's task: its one product, and the cross-entropy."""
    one = 2.0 * plan.tokens_here * plan.model.hidden * plan.vocab_here
    if forward:
        first = (ENTER, 0.0, one) if plan.overlap_tp else (ENTER, 0.0, 0.0)
        product = 0.0 if plan.overlap_tp else one
        return [first, (NUMBER, product, 0.0), *[(NUMBER, 0.0, 0.0)] * 2], one
    if plan.overlap_tp:
        return [(AGAIN, 0.0, one), (DENTER, 0.0, one)], 2 * one
    return [(AGAIN, 0.0, 0.0), (DENTER, 2 * one, 0.0)], 2 * one


def _forward(plan: Plan, w: Work) -> list[Stop]:
    if plan.overlap_tp:
        return [
            (ENTER, 0.0, w.qkv), (LEAVE, w.core + w.out, 0.0),
            (ENTER, 0.0, w.into), (LEAVE, w.down, 0.0),
        ]  # fmt: skip
    return [
        (ENTER, 0.0, 0.0), (LEAVE, w.qkv + w.core + w.out, 0.0),
        (ENTER, 0.0, 0.0), (LEAVE, w.into + w.down, 0.0),
    ]  # fmt: skip


def _backward(plan: Plan, w: Work, again: float, *, keeps_whole: bool) -> list[Stop]:
    """`keeps_whole`: what had entered is still there, since it was computed a moment ago."""
    core = 2 * w.core + again
    if plan.overlap_tp:
        return [
            (DLEAVE, 0.0, w.down), (AGAIN, w.down, w.into), (DENTER, 0.0, w.into),
            (DLEAVE, 0.0, w.out), (AGAIN, w.out + core, w.qkv), (DENTER, 0.0, w.qkv),
        ]  # fmt: skip
    if keeps_whole or not plan.sp:
        return [
            (DLEAVE, 0.0, 0.0), (DENTER, 2 * (w.down + w.into), 0.0),
            (DLEAVE, 0.0, 0.0), (DENTER, 2 * (w.out + w.qkv) + core, 0.0),
        ]  # fmt: skip
    return [
        (DLEAVE, 0.0, 0.0), (AGAIN, 2 * w.down, 0.0), (DENTER, 2 * w.into, 0.0),
        (DLEAVE, 0.0, 0.0), (AGAIN, 2 * w.out + core, 0.0), (DENTER, 2 * w.qkv, 0.0),
    ]  # fmt: skip


def _shares(plan: Plan, stops: Iterable[Stop], total: float) -> list[Stop]:
    """The messages that there are, as shares of `total` to the grain. Work before one that there
    is not belongs to the next."""
    silent: tuple[str, ...] = () if plan.sp else (ENTER, DLEAVE, AGAIN)
    if plan.tp == 1:
        silent = (ENTER, LEAVE, DLEAVE, AGAIN, DENTER, NUMBER)
    silent = (*silent, SILENT)
    found, owed = [], 0.0
    for name, before, under in stops:
        owed += before
        if name not in silent:
            found.append((name, _grain(owed / (total or 1.0)), _grain(under / (total or 1.0))))
            owed = 0.0
    return found


def _grain(share: float) -> float:
    return round(share * GRAIN) / GRAIN
