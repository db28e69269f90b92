"""A stage's tasks laid open into its pieces, where tokens leave in the middle of a layer.

    F stage0 mb0        ->  F stage0.0 mb0, F stage0.1 mb0, F stage0.2 mb0
    B stage0 mb1        ->  B stage0.2 mb1, B stage0.1 mb1, B stage0.0 mb1
    the two as a pair   ->  F stage0.0 mb0, B stage0.2 mb1, F stage0.1 mb0, B stage0.1 mb1, ...

What a task hands to another stage is what its last piece makes. In a pair the one computes while
tokens of the other are on their way: DualPipe's F&B. Where no experts are shared out, a stage is
one piece and its tasks stay as they are. DeepSeek-AI 2024, arXiv:2412.19437, section 3.2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, zip_longest

from parallel_core import values as v
from parallel_core.pieces import Piece, pieces, stage_pieces, stage_sums
from parallel_core.pipeline.lower import Lowering, Weights
from parallel_core.pipeline.order import Task
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Value

COMPUTES = (Op.F, Op.B, Op.I, Op.W)

Group = tuple[Task, list[Instr]]
"""A task with what stands around it: receives before it, a send behind."""


class Stages:
    """The pieces of every stage: `of[s]` are their numbers."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.every, self.of = plan, pieces(plan), stage_pieces(plan)
        self.last = len(self.every) - 1

    def sums(self, s: int) -> list[tuple[str, str, tuple[int, ...]]]:
        """What of a stage's gradient is summed, or travels, together: (name, axis, pieces)."""
        return stage_sums(self.plan, s)

    def piece(self, u: int) -> Piece:
        """Piece number u."""
        return self.every[u]

    def groups(self, found: Iterable[Group], *, pairs: bool) -> Iterator[Group]:
        """Tasks with their instructions laid open; `pairs` merges an F with the B behind it."""
        tasks = iter(found)
        group = next(tasks, None)
        while group is not None:
            (task, instrs), behind = group, next(tasks, None) if pairs else None
            if behind is not None and _pair(task, behind[0]):
                yield task, list(self._together(instrs, behind[1]))
                yield behind[0], []
                behind = None
            else:
                yield task, list(self._all(instrs))
            group = behind or next(tasks, None)

    def _all(self, instrs: Iterable[Instr]) -> Iterator[Instr]:
        for instr in instrs:
            yield from self.opened(instr)

    def _together(self, first: list[Instr], second: list[Instr]) -> Iterator[Instr]:
        """Receives, then the pieces of both in turn, each task's send behind its last piece, but
        never before the other's: messages arrive in the order of the tasks, however many pieces."""
        parted = [_parted(instrs) for instrs in (first, second)]
        for before, _, _ in parted:
            yield from self._all(before)
        done = 0
        opened: list[list[Instr | None]] = []
        for _, instr, after in parted:
            own = [*self.opened(instr)]
            done = max(done, len(own))
            opened.append([*own, *[None] * (done - len(own)), *self._all(after)])
        for both in zip_longest(*opened):
            yield from (one for one in both if one is not None)

    def opened(self, instr: Instr) -> Iterator[Instr]:
        """An instruction of a stage as those of its pieces."""
        if instr.op not in COMPUTES:
            yield _flowing(instr, self._at_end)
            return
        mb, s = instr.mb or 0, int(instr.where.removeprefix("stage"))
        mine = self.of[s] if instr.op == Op.F else self.of[s][::-1]
        for u in mine:
            yield self._one(instr, mb, u, mine)

    def _at_end(self, value: Value) -> tuple[Value, ...]:
        """What a stage hands on is what its last piece does."""
        if value.name in ("act", "dact"):
            return (Value(value.name, (value.at[0], self.of[value.at[1]][-1])),)
        return (value,)

    def _one(self, instr: Instr, mb: int, u: int, mine: tuple[int, ...]) -> Instr:
        """The part of a stage's task that piece u does. Values of the whole stage become the
        piece's own; what comes in belongs to the first piece of `mine`, what goes out to the last;
        between the pieces there is an activation, or its gradient."""
        first, last = u == mine[0], u == mine[-1]
        ahead = instr.op == Op.F
        between = (v.act(mb, u - 1), v.act(mb, u)) if ahead else (v.dact(mb, u), v.dact(mb, u - 1))

        def own(value: Value) -> tuple[Value, ...]:
            match value.name:
                case "w" if not self.every[u].specs:
                    return ()
                case "w" | "grad":
                    return (Value(value.name, (u, *value.at[1:])),)
                case "saved" | "held":
                    return (Value(value.name, (mb, u)),)
                case "act" | "dact":
                    return ()
                case "ids":  # the embedding's, or the labels
                    return (value,) if u in (0, self.last) else ()
                case "loss" | "tie":
                    return (value,) if u == self.last else ()
            return (value,)

        made = replace(_flowing(instr, own), where=self.every[u].name)
        if instr.op == Op.W:
            return made
        comes = not first or any(x.name in ("act", "dact") for x in instr.reads)
        goes = not last or any(x.name in ("act", "dact") for x in instr.writes)
        if comes:
            reads, frees = (between[0], *made.reads), (between[0], *made.frees)
            made = replace(made, reads=reads, frees=frees)
        return replace(made, writes=(*made.writes, between[1])) if goes else made


def _flowing(instr: Instr, names: Callable[[Value], tuple[Value, ...]]) -> Instr:
    """The instruction with other names for what it reads, writes and frees."""
    reads, writes, frees = (
        tuple(chain.from_iterable(map(names, values)))
        for values in (instr.reads, instr.writes, instr.frees)
    )
    return replace(instr, reads=reads, writes=writes, frees=frees)


def _pair(first: Task, second: Task) -> bool:
    """Whether these two overlap: a forward, and a backward of another microbatch."""
    return first.op == Op.F and second.op in (Op.B, Op.I) and first.mb != second.mb


def _parted(instrs: list[Instr]) -> tuple[list[Instr], Instr, list[Instr]]:
    at = next(i for i, instr in enumerate(instrs) if instr.op in COMPUTES)
    return instrs[:at], instrs[at], instrs[at + 1 :]


def groups_of(
    plan: Plan, lowering: Lowering, here: int, weights: Weights | None = None
) -> Iterator[Group]:
    """The tasks of one rank of a pipeline, laid open where experts are shared out; one by one,
    since which weights a task reads may depend on what became of those before it."""
    found = lowering.rank(here, weights)
    return found if plan.ep == 1 else Stages(plan).groups(found, pairs=plan.pairs_tasks)
