"""Which message a cut needs, and where: the program of a product, forward and back.

    column       X[n,k] @ W[k,m/tp]    -> Y[n,m/tp]          nothing is sent
    row          X[n,k/tp] @ W[k/tp,m] -> Y[n,m]+tp          all_reduce Y (with sp: reduce_scatter)
    column-row   X[n,k] @ A[k,m/tp] -> H; U = act(H); U @ B[m/tp,d] -> Z[n,d]+tp
                                                             all_reduce Z
    row-column   X[n,k/tp] @ A[k/tp,m] -> H[n,m]+tp          all_reduce H, before act
                 U = act(H); U @ B[m,d/tp] -> Z[n,d/tp]      all_gather Z
    late-sum     row-column with act on the parts of H: as many messages and bytes, and wrong

Only the cuts of the weights are written down; the rest follows from layout.py. What enters is
whole (f: nothing is sent), with sp cut by rows (f': all_gather). What leaves is summed (g), with
sp cut by rows again (g'). The way back is the same rules on gradients: where the forward copied,
the backward sums, and the other way round. What was gathered is not kept for the backward but
gathered again. Shoeybi et al. 2019, arXiv:1909.08053; Korthikanti et al. 2022, arXiv:2205.05198.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from parallel_core.loom.layout import (
    AXIS,
    COLUMNS,
    ROWS,
    Layout,
    message,
    nonlinear,
    product,
)
from parallel_core.mesh import Mesh
from parallel_core.program import Instr, Lane, Op, Program, Value


@dataclass(frozen=True)
class Pattern:
    """How the weights are cut, first to last; `late` moves the sum behind the nonlinearity."""

    cuts: tuple[int, ...]
    words: str
    late: bool = False


PATTERNS: dict[str, Pattern] = {
    "column": Pattern((COLUMNS,), "one matrix, cut by columns"),
    "row": Pattern((ROWS,), "one matrix, cut by rows"),
    "column-row": Pattern((COLUMNS, ROWS), "two matrices, the first by columns"),
    "row-column": Pattern((ROWS, COLUMNS), "two matrices, the first by rows"),
    "late-sum": Pattern((ROWS, COLUMNS), "a planted mistake: act on the parts", late=True),
}
"""Layout -> how it cuts; the order is the one to read them in."""


class Kind(StrEnum):
    """What a step does to matrices."""

    PRODUCT = "product"
    ACT = "act"
    SLOPE = "slope"  # gradient times the nonlinearity's derivative
    TAKE = "take"  # a rank's own block of what it has whole
    MOVE = "move"  # a message


@dataclass(frozen=True)
class Step:
    """One instruction, the same on every rank. `turned` says which operands are transposed."""

    kind: Kind
    op: Op
    reads: tuple[Value, ...]
    writes: Value
    turned: tuple[bool, bool] = (False, False)

    @property
    def where(self) -> str:
        """What it makes: its name among the program's instructions."""
        return self.writes.name


@dataclass(frozen=True)
class Weave:
    """A pattern made into a program, and what it needs to be run, drawn and counted.

    `layouts` says how every value lies; `steps` are the instructions of any rank, of which the
    first `turn` are the forward; `outputs` are what comes out, each a value per rank.
    """

    pattern: str
    sequence: bool
    ranks: int
    program: Program
    steps: tuple[Step, ...]
    turn: int
    layouts: Mapping[Value, Layout]
    holds: tuple[Value, ...]
    outputs: tuple[Value, ...]

    def step(self, where: str) -> Step:
        """The step that makes the value of this name."""
        return next(step for step in self.steps if step.where == where)

    @property
    def moves(self) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
        """The messages, forward and backward, in order."""
        halves = self.steps[: self.turn], self.steps[self.turn :]
        forward, backward = (tuple(s for s in half if s.kind == Kind.MOVE) for half in halves)
        return forward, backward


def weave(pattern: str, ranks: int, *, sequence: bool = False, backward: bool = False) -> Weave:
    """The program of a row of PATTERNS over so many ranks; `sequence` cuts activations outside."""
    loom = _Loom()
    out = _forward(loom, PATTERNS[pattern], sequence)
    turn, outputs = len(loom.steps), [out]
    if backward:
        outputs += _backward(loom, tuple(loom.steps), out)
    kept = frozenset((*loom.holds, *outputs))
    instrs = _with_frees([_instr(step) for step in loom.steps], kept)
    keeps = tuple(value for value in loom.layouts if value in kept)
    name = f"{pattern} tp={ranks}" + " sp" * sequence + " with backward" * backward
    program = Program(
        Mesh(((AXIS, ranks),)),
        (instrs,) * ranks,
        (tuple(loom.holds),) * ranks,
        (keeps,) * ranks,
        name,
    )
    return Weave(
        pattern=pattern,
        sequence=sequence,
        ranks=ranks,
        program=program,
        steps=tuple(loom.steps),
        turn=turn,
        layouts=loom.layouts,
        holds=tuple(loom.holds),
        outputs=tuple(outputs),
    )


_FORM = {
    (None, False): "",
    (ROWS, False): "_rows",
    (COLUMNS, False): "_cols",
    (None, True): "_part",
}
"""(cut, partial) -> how an activation's name ends; weights never change their form."""


@dataclass
class _Loom:
    """What has been written down so far."""

    steps: list[Step] = field(default_factory=list)
    layouts: dict[Value, Layout] = field(default_factory=dict)
    holds: list[Value] = field(default_factory=list)
    gathered: dict[Value, Value] = field(default_factory=dict)  # whole -> the rows it came from

    def hold(self, layout: Layout, *, weight: bool = False) -> Value:
        value = self._named(layout, "" if weight else None)
        self.holds.append(value)
        return value

    def multiply(
        self, op: Op, a: Value, b: Value, name: str, *, turned: tuple[bool, bool] = (False, False)
    ) -> Value:
        left, right = (
            self.layouts[v].turned if t else self.layouts[v]
            for v, t in zip((a, b), turned, strict=True)
        )
        made = self._named(product(left, right, name), "" if op == Op.W else None)
        self.steps.append(Step(Kind.PRODUCT, op, (a, b), made, turned))
        return made

    def act(self, h: Value, *, late: bool) -> Value:
        layout = self.layouts[h]
        # the planted mistake goes past the rule, which would refuse it with a sentence
        made = self._named(replace(layout, name="U") if late else nonlinear(layout, "U"))
        self.steps.append(Step(Kind.ACT, Op.F, (h,), made))
        return made

    def slope(self, grad: Value, h: Value) -> Value:
        made = self._named(self.layouts[h].gradient)
        self.steps.append(Step(Kind.SLOPE, Op.I, (grad, h), made))
        return made

    def bring(self, value: Value, to: Layout, *, op: Op = Op.F, again: bool = False) -> Value:
        """The value in another layout: by a message, by taking a block, or as it is."""
        here = self.layouts[value]
        if here == to:
            return value
        meets = message(here, to)
        made = self._named(to, "_again" if again else None)
        kind = Kind.TAKE if meets is None else Kind.MOVE
        self.steps.append(Step(kind, meets or op, (value,), made))
        if meets == Op.ALL_GATHER and here.cut == ROWS:
            self.gathered[made] = value
        return made

    def kept(self, value: Value) -> Value:
        """The value as the backward reads it: what was gathered is gathered again."""
        if value not in self.gathered:
            return value
        return self.bring(self.gathered[value], self.layouts[value], again=True)

    def _named(self, layout: Layout, ending: str | None = None) -> Value:
        form = _FORM[layout.cut, layout.partial] if ending is None else ending
        value = Value(layout.name + form)
        assert value not in self.layouts, f"{value} is written twice"
        self.layouts[value] = layout
        return value


def _forward(loom: _Loom, pattern: Pattern, sequence: bool) -> Value:
    """The steps up to what leaves the region; its value."""
    single = len(pattern.cuts) == 1
    weights = ["W"] if single else ["A", "B"]
    outside = ROWS if sequence else None
    first = COLUMNS if single and pattern.cuts[0] == ROWS else outside  # as a column left it
    x = loom.hold(Layout("X", ("n", "k"), first))
    dims = [("k", "m")] if single else [("k", "m"), ("m", "d")]
    held = [
        loom.hold(Layout(name, both, cut), weight=True)
        for name, both, cut in zip(weights, dims, pattern.cuts, strict=True)
    ]
    for at, (weight, cut) in enumerate(zip(held, pattern.cuts, strict=True)):
        wanted = COLUMNS if cut == ROWS else None
        x = loom.bring(x, loom.layouts[x].cut_by(wanted))
        x = loom.multiply(Op.F, x, weight, ("Y" if single else "HZ"[at]))
        if at + 1 < len(held):
            if loom.layouts[x].partial and not pattern.late:
                x = loom.bring(x, loom.layouts[x].cut_by(None))
            x = loom.act(x, late=pattern.late)
    if pattern.cuts == (COLUMNS,):
        return x  # left as it is: what follows works on its own columns
    return loom.bring(x, loom.layouts[x].cut_by(outside))


def _backward(loom: _Loom, forward: tuple[Step, ...], out: Value) -> list[Value]:
    """The forward's steps turned round, last first; the gradients that come out."""
    grad = loom.hold(loom.layouts[out].gradient)
    waiting: list[tuple[Value, Value]] = []  # weight gradients: they run while dx is on its way
    weights: list[Value] = []

    def flush() -> None:
        while waiting:
            x, dy = waiting.pop()
            name = "d" + weight_of[x]
            weights.append(loom.multiply(Op.W, x, dy, name, turned=(True, False)))

    weight_of: dict[Value, str] = {}
    for step in reversed(forward):
        first = step.reads[0]
        if step.kind in (Kind.MOVE, Kind.TAKE):
            grad = loom.bring(grad, loom.layouts[first].gradient, op=Op.I)
            continue
        grad = loom.bring(grad, loom.layouts[step.writes].gradient, op=Op.I)
        flush()
        if step.kind == Kind.ACT:
            grad = loom.slope(grad, first)
            continue
        weight, x = step.reads[1], loom.kept(first)
        weight_of[x] = weight.name
        waiting.append((x, grad))
        name = loom.layouts[first].gradient.name
        grad = loom.multiply(Op.I, grad, weight, name, turned=(False, True))
    grad = loom.bring(grad, loom.layouts[loom.holds[0]].gradient, op=Op.I)
    flush()
    return [grad, *reversed(weights)]


def _instr(step: Step) -> Instr:
    meets = step.kind == Kind.MOVE
    return Instr(
        op=step.op,
        where=step.where,
        lane=Lane.COMM if meets else Lane.COMPUTE,
        axis=AXIS if meets else None,
        reads=step.reads,
        writes=(step.writes,),
    )


def _with_frees(instrs: list[Instr], kept: frozenset[Value]) -> tuple[Instr, ...]:
    """A value that is not kept goes with its last reader; all its readers are on one lane."""
    last = {value: at for at, instr in enumerate(instrs) for value in instr.reads}
    return tuple(
        replace(instr, frees=tuple(v for v in instr.reads if last[v] == at and v not in kept))
        for at, instr in enumerate(instrs)
    )
