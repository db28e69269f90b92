"""Which tensors of a rank's training state exist at each moment of a step, by name and kind.

    stays       what the ledger predicts between steps: weights, gradients, optimizer state
    gathered    full[u,t]: a unit's whole weights, from its gather to the end of its use
    made        grad[u,mb], tie[mb]: a unit's whole gradient, until it is scattered
    landing     the sum of a reduce-scatter: gpart[u,mb], or gshard[u,mb] while the message runs

outline.py counts the same bytes without names; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from parallel_core import values as v
from parallel_core.data.blocks import block_of
from parallel_core.ledger import predicted_memory
from parallel_core.outline import KINDS, effects
from parallel_core.params import units
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Program, Value
from parallel_core.sizes import value_bytes
from parallel_core.trace import Kind, Span, Trace

STAYS = {
    "params": ("its shards of the weights", "the weights, whole"),
    "grads": ("its shards of the gradients", "the gradients, whole"),
    "optimizer": ("the optimizer state of its shards", "the optimizer state, whole"),
}
"""What stays all the time, where it is cut into shards and where it is whole."""

CUT_FROM = {"params": 3, "grads": 2, "optimizer": 1}
"""The first ZeRO stage that cuts a kind into shards."""


@dataclass(frozen=True)
class Tensor:
    """A tensor that exists: its kind (a key of palette.TENSORS), what it is, its bytes."""

    kind: str
    words: str
    size: int


@dataclass(frozen=True)
class Moment:
    """What exists from `time` (nanoseconds) on: instruction `at` has just begun, or is `over`."""

    at: int
    time: int
    label: str
    over: bool
    bytes: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return sum(self.bytes.values())

    @property
    def words(self) -> str:
        """When that is, in words."""
        return f"{'after' if self.over else 'during'} {self.label}"


def moments(plan: Plan, program: Program, trace: Trace, rank: int) -> list[Moment]:
    """The rank's state at each begin and end of a span of one step, in order of time.

    `program` is the plan's. `trace` may be modelled, measured or replayed: it gives the order and
    the times, the plan gives the bytes. A modelled step stands for a later one than the first,
    whose update has yet to make the optimizer's moments.
    """
    instrs, effect = program.ranks[rank], effects(plan)
    before = predicted_memory(plan, stepped=not _first(trace))
    held = dict.fromkeys(KINDS, 0) | {kind: sizes[rank] for kind, sizes in before.items()}
    settled = predicted_memory(plan)["optimizer"][rank]
    found = []
    for span, over in events(trace, rank):
        instr = instrs[span.index]
        does = effect(instr)
        for kind, size in (does.freed if over else does.made).items():
            if kind in held:
                held[kind] += -size if over else size
        if instr.op == Op.O:
            held["optimizer"] = settled
        time = span.t_done if over else span.t_start
        found.append(Moment(span.index, time, instr.label, over, dict(held)))
    return found


def _first(trace: Trace) -> bool:
    """Whether the step shown is the first of a run."""
    return trace.kind is not Kind.MODELLED and 0 in trace.steps


def events(trace: Trace, rank: int) -> list[tuple[Span, bool]]:
    """(span, whether it is over) for each begin and end of a span of the rank.

    At one time: first what ends, then in the program's order what takes no time at all (nobody
    can depend on it before), then what begins.
    """
    keyed = []
    for span in trace.by_rank[rank]:
        begins, ends = (2, 0) if span.duration else (1, 1)
        keyed.append(((span.t_start, begins, span.index, 0), span, False))
        keyed.append(((span.t_done, ends, span.index, 1), span, True))
    return [(span, over) for _, span, over in sorted(keyed, key=lambda event: event[0])]


def existing(plan: Plan, program: Program, trace: Trace, *, rank: int, at: int) -> list[Tensor]:
    """Every tensor of the rank's state that exists while instruction `at` runs."""
    instrs, alive = program.ranks[rank], list[Tensor]()
    for span, over in events(trace, rank):
        for tensor in (gone if over else made)(plan, instrs[span.index]):
            (alive.remove if over else alive.append)(tensor)
        if span.index == at and not over:
            break
    return [*stays(plan, rank), *alive]


def stays(plan: Plan, rank: int) -> list[Tensor]:
    """What the rank holds all through the step."""
    sizes = predicted_memory(plan)
    return [
        Tensor(kind, STAYS[kind][0 if plan.zero >= CUT_FROM[kind] else 1], each[rank])
        for kind, each in sizes.items()
    ]


def made(plan: Plan, instr: Instr) -> list[Tensor]:
    """What has memory of its own and exists from the begin of the instruction."""
    return list(_passing(plan, instr, instr.writes))


def gone(plan: Plan, instr: Instr) -> list[Tensor]:
    """What had, and is let go at its end."""
    return list(_passing(plan, instr, instr.frees))


def _passing(plan: Plan, instr: Instr, values: Iterable[Value]) -> Iterator[Tensor]:
    """Those of the values that have memory of their own for a part of the step.

    The backward that takes in a tied embedding's gradient goes on in the same block, and a sum of
    one microbatch of several lands in a buffer of its own before it is added.
    """
    takes_over = any(value.name == "tie" for value in instr.reads)
    whole = {"full": ("params", "{} gathered whole")}
    if plan.zero >= 2:
        whole |= dict.fromkeys(("grad", "tie"), ("grads", "{}'s whole gradient"))
    names = units(plan.model)
    for value in values:
        unit = value.at[0] if value.at and value.name != "tie" else 0
        if value.name in whole and not (takes_over and value.name in ("grad", "tie")):
            kind, words = whole[value.name]
            size = value_bytes(plan)(v.block(block_of(plan, unit)))
            yield Tensor(kind, words.format(names[unit]), size)
        elif value.name == "saved":
            yield Tensor("activations", f"what {names[value.at[1]]} kept", value_bytes(plan)(value))
        elif value.name == "gpart":
            size = value_bytes(plan)(value)
            if size:  # a block of several units is booked on its first
                yield Tensor("grads", f"{names[unit]}'s summed shard, landing", size)


def peak(found: Iterable[Moment]) -> Moment:
    """The first moment with the most bytes. Raises ValueError where there is none."""
    return max(found, key=lambda moment: moment.total)


def instruction_rows(plan: Plan, program: Program, trace: Trace, rank: int) -> list[dict[str, str]]:
    """The rank's step as a table: gather, use, free, scatter, and the bytes while each runs."""
    instrs = program.ranks[rank]
    return [
        {
            "instruction": f"{moment.at}  {moment.label}",
            "makes (+), frees (−)": "; ".join(_deeds(plan, instrs[moment.at])),
            "bytes": f"{moment.total:,}",
        }
        for moment in moments(plan, program, trace, rank)
        if not moment.over
    ]


def _deeds(plan: Plan, instr: Instr) -> Iterator[str]:
    yield from (f"+ {tensor.words}" for tensor in made(plan, instr))
    yield from (f"− {tensor.words}" for tensor in gone(plan, instr))
