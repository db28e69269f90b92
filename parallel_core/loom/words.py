"""The loom in words: a step in layout notation, and what happens at the edges of the region.

    f   where activations enter     f'  the same under sequence parallelism
    g   where they leave            g'

f copies forward and sums backward, g sums forward and copies backward: a conjugate pair. Under
sequence parallelism f' gathers and its backward scatters a sum, g' the other way round. Shoeybi
et al. 2019, arXiv:1909.08053, section 3; Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from parallel_core.loom.layout import Layout
from parallel_core.loom.weave import PATTERNS, Kind, Step, Weave, weave
from parallel_core.program import Op

NOTHING = "nothing is sent"
LATE = "too late: after the nonlinearity"


def reads_as(weave: Weave, step: Step) -> str:
    """A step in layout notation: `all_reduce Z[n,d]+tp -> Z[n,d]`."""
    said = [
        str(weave.layouts[v].turned if t else weave.layouts[v])
        for v, t in zip(step.reads, step.turned[: len(step.reads)], strict=True)
    ]
    to = weave.layouts[step.writes]
    match step.kind:
        case Kind.PRODUCT:
            return f"{said[0]} @ {said[1]} -> {to}"
        case Kind.ACT:
            return f"act({said[0]}) -> {to}"
        case Kind.SLOPE:
            return f"{said[0]} * act'({said[1]}) -> {to}"
        case Kind.TAKE:
            return f"own block of {said[0]} -> {to}"
    return f"{step.op.value} {said[0]} -> {to}"


@dataclass(frozen=True)
class Edge:
    """Where activations enter or leave: the messages there, forward and backward.

    `letter` is f, g, f' or g' where the two ways are that conjugate pair, else "".
    """

    what: str
    letter: str
    forward: str
    backward: str


CONJUGATES: dict[tuple[Op | None, Op | None], str] = {
    (None, Op.ALL_REDUCE): "f",
    (Op.ALL_REDUCE, None): "g",
    (Op.ALL_GATHER, Op.REDUCE_SCATTER): "f'",
    (Op.REDUCE_SCATTER, Op.ALL_GATHER): "g'",
}
"""(forward, backward) -> the letter of the pair."""


def edges(pattern: str, ranks: int, *, sequence: bool = False) -> tuple[Edge, Edge]:
    """Where X enters and where the result leaves; with the way back, whether or not it is run."""
    both = weave(pattern, ranks, sequence=sequence, backward=True)
    out = both.layouts[both.outputs[0]].name
    return _edge(both, "X", "X enters"), _edge(both, out, f"{out} leaves")


def _edge(both: Weave, name: str, what: str) -> Edge:
    forward, backward = (
        [step for step in half if both.layouts[step.writes].name in (name, f"d{name}")]
        for half in both.moves
    )
    ends = (forward[-1].op if forward else None, backward[-1].op if backward else None)
    said = ["; ".join(reads_as(both, s) for s in half) or NOTHING for half in (forward, backward)]
    return Edge(what, CONJUGATES.get(ends, ""), said[0], said[1])


def place(both: Weave, step: Step) -> str:
    """Where in the region a message sits, in a few words."""
    name = both.layouts[step.writes].name
    if name == "U" and PATTERNS[both.pattern].late:
        return LATE
    if name.removeprefix("d") in ("H", "U"):
        return "inside, at the nonlinearity"
    enters, leaves = edges(both.pattern, both.ranks, sequence=both.sequence)
    edge = enters if name.removeprefix("d") == "X" else leaves
    way = ", on the way back" if name.startswith("d") else ""
    if step.writes.name.endswith("_again"):
        way = ", once more: it was not kept"
    where = f"where {edge.what}{way}"
    return f"{edge.letter}, {where}" if edge.letter else where


def blocks_in_words(layout: Layout, ranks: int) -> str:
    """How a matrix lies, as a sentence's end: `cut by columns into 4 blocks, a block a rank`."""
    if layout.partial:
        return f"{ranks} parts of a sum, one on every rank"
    if layout.cut is None:
        return f"whole on all {ranks} ranks"
    side = ("rows", "columns")[layout.cut]
    return f"cut by {side} into {ranks} blocks, one a rank"
