"""The program on lists of numbers: every rank's values, and the same without any ranks.

Slow and plain on purpose. Small integers stay small integers, so that a sum over ranks can be read:
3 + -1 + 4 + 2 = 8.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

from parallel_core.loom.matrix import (
    Matrix,
    assembled,
    multiply,
    part_of,
    times,
    turned,
)
from parallel_core.loom.weave import Kind, Step, Weave
from parallel_core.program import Op, Program, ProgramError, Value
from parallel_core.simulate import run_order

Held = list[dict[Value, Matrix]]
"""Per rank every value it ever held; freed ones are kept."""


def _gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def _gelu_slope(x: float) -> float:
    density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + math.erf(x / math.sqrt(2))) + x * density


ACTS: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "relu": (lambda x: max(x, 0), lambda x: float(x > 0)),
    "gelu": (_gelu, _gelu_slope),
}
"""Name -> the nonlinearity and its derivative. GELU: Hendrycks, Gimpel 2016, arXiv:1606.08415."""

LARGEST = 3
"""Integers are drawn from -LARGEST to LARGEST."""


def integers(name: str, rows: int, columns: int, seed: int = 0) -> Matrix:
    """Small integers that depend on name, shape and seed alone, so every rank draws the same."""
    source = random.Random(f"{seed} {name} {rows} {columns}")
    return [[source.randint(-LARGEST, LARGEST) for _ in range(columns)] for _ in range(rows)]


def inputs(weave: Weave, sizes: Mapping[str, int], seed: int = 0) -> dict[Value, Matrix]:
    """Every held value's global matrix, of small integers."""
    found = {}
    for value in weave.holds:
        layout = weave.layouts[value]
        rows, columns = (sizes[d] for d in layout.dims)
        found[value] = integers(layout.name, rows, columns, seed)
    return found


def by_hand(
    weave: Weave,
    whole: Mapping[Value, Matrix],
    act: str = "relu",
    program: Program | None = None,
) -> Held:
    """Every rank's values if the held ones are cut from `whole`; as the program says."""
    judged = program or weave.program
    held: Held = [
        {v: part_of(m, weave.layouts[v], rank, weave.ranks) for v, m in whole.items()}
        for rank in range(weave.ranks)
    ]
    for together in run_order(judged, rendezvous=False):
        ranks = sorted(rank for rank, _ in together)
        instr = judged.ranks[together[0][0]][together[0][1]]
        step = weave.step(instr.where)
        if instr.op.is_message:
            _meet(step, weave, held)
            continue
        (rank,) = ranks
        held[rank][step.writes] = _alone(step, weave, held[rank], act, rank)
    return held


def alone(whole: Mapping[Value, Matrix], act: str = "relu") -> dict[str, Matrix]:
    """The same product without ranks: Y or Z, and its gradients where one came in; by name."""
    named = {value.name.split("_")[0]: matrix for value, matrix in whole.items()}
    x, function, slope = named["X"], *ACTS[act]
    if "W" in named:
        found = {"Y": multiply(x, named["W"])}
        if "dY" in named:
            found["dX"] = multiply(named["dY"], turned(named["W"]))
            found["dW"] = multiply(turned(x), named["dY"])
        return found
    h = multiply(x, named["A"])
    u = _each(function, h)
    found = {"Z": multiply(u, named["B"])}
    if "dZ" in named:
        du = multiply(named["dZ"], turned(named["B"]))
        dh = [list(map(times, row, each)) for row, each in zip(du, _each(slope, h), strict=True)]
        found["dX"] = multiply(dh, turned(named["A"]))
        found["dA"] = multiply(turned(x), dh)
        found["dB"] = multiply(turned(u), named["dZ"])
    return found


def largest_error(weave: Weave, held: Held, truth: Mapping[str, Matrix]) -> dict[str, float]:
    """By output, max |on the ranks - alone|."""
    errors = {}
    for value in weave.outputs:
        layout = weave.layouts[value]
        ours = assembled([each[value] for each in held], layout)
        pairs = zip(ours, truth[layout.name], strict=True)
        errors[layout.name] = max(
            abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True)
        )
    return errors


def _each(function: Callable[[float], float], a: Matrix) -> Matrix:
    return [[function(x) for x in row] for row in a]


def _alone(step: Step, weave: Weave, held: Mapping[Value, Matrix], act: str, rank: int) -> Matrix:
    """What a step that sends nothing makes on one rank."""
    first, *rest = (
        turned(held[v]) if t else held[v]
        for v, t in zip(step.reads, step.turned[: len(step.reads)], strict=True)
    )
    function, slope = ACTS[act]
    if step.kind == Kind.PRODUCT:
        return multiply(first, rest[0])
    if step.kind == Kind.ACT:
        return _each(function, first)
    if step.kind == Kind.TAKE:
        return part_of(first, weave.layouts[step.writes], rank, weave.ranks)
    slopes = _each(slope, rest[0])
    return [list(map(times, row, each)) for row, each in zip(first, slopes, strict=True)]


def _meet(step: Step, weave: Weave, held: Held) -> None:
    """A message: what every rank has afterwards."""
    before = [each[step.reads[0]] for each in held]
    after = weave.layouts[step.writes]
    if step.op not in (Op.ALL_REDUCE, Op.REDUCE_SCATTER, Op.ALL_GATHER, Op.ALL_TO_ALL):
        raise ProgramError(f"{step.op.value} is no message of a loom")
    whole = assembled(before, weave.layouts[step.reads[0]])
    for rank, each in enumerate(held):
        each[step.writes] = part_of(whole, after, rank, weave.ranks)
