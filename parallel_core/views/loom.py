"""The tensor loom drawn: every step with its matrices before and after, in order.

A product is two matrices and what comes of them, a message what the ranks had before and have
after. With numbers, each step ends in the arithmetic of one cell: 3 + -1 + 4 + 2 = 8. The figure
is HTML without scripts; `account` says the same in sentences.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from parallel_core.loom.layout import Layout, nonlinear
from parallel_core.loom.matrix import Matrix, assembled
from parallel_core.loom.weave import PATTERNS, Kind, Step, Weave
from parallel_core.loom.words import NOTHING, Edge, blocks_in_words, edges, place, reads_as
from parallel_core.program import Op, ProgramError, Value
from parallel_core.views.loom_grid import Picture, card, copies_differ, number_text
from parallel_core.views.loom_sheet import sheet

Held = Sequence[Mapping[Value, Matrix]]
"""Per rank every matrix, by value."""

MOST_RANKS = 8
"""Ranks up to which sums are written out."""


@dataclass(frozen=True, kw_only=True)
class Cloth:
    """What is drawn: a weave, the sizes of its letters, its numbers if there are any.

    `truth` is what one process gets, by matrix name. `rank` and `cell` are what the reader picked.
    """

    weave: Weave
    sizes: Mapping[str, int]
    act: str = "relu"
    held: Held | None = None
    truth: Mapping[str, Matrix] = field(default_factory=dict)
    rank: int | None = None
    cell: tuple[int, int] = (0, 0)

    def parts(self, value: Value) -> Sequence[Matrix] | None:
        """What every rank has of a value; None without numbers."""
        return None if self.held is None else [each[value] for each in self.held]

    def at(self, layout: Layout) -> tuple[int, int]:
        """The picked cell, inside a matrix of this size."""
        rows, columns = (self.sizes[d] for d in layout.dims)
        return self.cell[0] % rows, self.cell[1] % columns


def steps(cloth: Cloth, *, backward: bool = False, dark: bool = False) -> str:
    """The forward, or the way back, as one HTML fragment."""
    weave = cloth.weave
    first = weave.turn if backward else 0
    half = weave.steps[weave.turn :] if backward else weave.steps[: weave.turn]
    rows = [_step(cloth, step, number) for number, step in enumerate(half, first + 1)]
    ends = edges(weave.pattern, weave.ranks, sequence=weave.sequence)
    rows = [_quiet(ends[backward], backward), *rows, _quiet(ends[not backward], backward)]
    chosen = "" if cloth.rank is None else " chosen"
    look = sheet(weave.ranks, chosen=cloth.rank, dark=dark)
    return f'{look}<div class="loom{chosen}">{"".join(rows)}</div>'


def _quiet(edge: Edge, backward: bool) -> str:
    """A line for an edge at which nothing is sent; "" where a message says it itself."""
    if (edge.backward if backward else edge.forward) != NOTHING:
        return ""
    way = "its gradient passes the other way" if backward else "as it is"
    letter = f"<b>{edge.letter}</b>, where" if edge.letter else "Where"
    return f'<p class="edge">{letter} {html.escape(edge.what)}: {NOTHING}, {way}.</p>'


def _step(cloth: Cloth, step: Step, number: int) -> str:
    weave = cloth.weave
    wrong = step.kind == Kind.ACT and PATTERNS[weave.pattern].late
    named = {Kind.MOVE: "step move"}.get(step.kind, "step")
    title = _title(cloth, step)
    says = "<br>".join(map(html.escape, arithmetic(cloth, step)))
    line = f"<p>{says}</p>" if says else ""
    return (
        f'<div class="{named}{" wrong" * wrong}"><h3>{number}. {html.escape(title)}</h3>'
        f'<div class="row">{_sentence(cloth, step)}</div>{line}</div>'
    )


def _title(cloth: Cloth, step: Step) -> str:
    match step.kind:
        case Kind.MOVE:
            return f"{step.op.value} ({place(cloth.weave, step)})"
        case Kind.TAKE:
            return "each rank takes its own block: nothing is sent"
        case Kind.ACT:
            late = PATTERNS[cloth.weave.pattern].late
            return f"{cloth.act} of every element" + (", of parts of a sum" if late else "")
        case Kind.SLOPE:
            return f"times the slope of {cloth.act}"
    product = {Op.F: "each rank multiplies what it has", Op.I: "gradient of the input"}
    return product.get(step.op, "gradient of the weights")


def _sentence(cloth: Cloth, step: Step) -> str:
    sign = {Kind.PRODUCT: "@", Kind.SLOPE: f"· {cloth.act}′"}.get(step.kind, "")
    before = [
        _card(cloth, v, turned=t)
        for v, t in zip(step.reads, step.turned[: len(step.reads)], strict=True)
    ]
    after = "=" if step.kind in (Kind.PRODUCT, Kind.SLOPE) else "→"
    joined = f'<span class="sign">{sign}</span>'.join(before)
    return f'{joined}<span class="sign">{after}</span>{_card(cloth, step.writes, made=True)}'


def _card(cloth: Cloth, value: Value, *, turned: bool = False, made: bool = False) -> str:
    layout, parts = cloth.weave.layouts[value], cloth.parts(value)
    truth = cloth.truth.get(layout.name) if made and not layout.partial else None
    if turned:
        layout = layout.turned
        parts = parts and [[list(c) for c in zip(*part, strict=True)] for part in parts]
    rows, columns = (cloth.sizes[d] for d in layout.dims)
    return card(
        Picture(
            layout=layout,
            shape=(rows, columns),
            ranks=cloth.weave.ranks,
            parts=parts,
            truth=truth,
            cell=cloth.at(layout) if made else None,
        )
    )


def arithmetic(cloth: Cloth, step: Step) -> list[str]:
    """How the picked cell of a step's result came about, a line a sum; [] without numbers."""
    if cloth.held is None or cloth.weave.ranks > MOST_RANKS:
        return []
    layout = cloth.weave.layouts[step.writes]
    i, j = cloth.at(layout)
    name = f"{layout.name}[{i},{j}]"
    return [f"{name} = {said}" for said in _said(cloth, step, (i, j))]


def _said(cloth: Cloth, step: Step, at: tuple[int, int]) -> Iterator[str]:
    layouts, (i, j) = cloth.weave.layouts, at
    before, after = layouts[step.reads[0]], layouts[step.writes]
    parts, made = cloth.parts(step.reads[0]), cloth.parts(step.writes)
    assert parts is not None and made is not None
    result = assembled(made, after)[i][j]
    if step.kind == Kind.MOVE and before.partial:
        terms = " + ".join(_signed(part[i][j]) for part in parts)
        yield f"{terms} = {number_text(result)}, a part from each rank"
    elif step.kind == Kind.ACT and before.partial:
        for rank, part in enumerate(parts):
            made_here = number_text(made[rank][i][j])
            yield f"{cloth.act}({number_text(part[i][j])}) = {made_here} on rank {rank}"
    elif step.kind == Kind.ACT:
        yield f"{cloth.act}({number_text(assembled(parts, before)[i][j])}) = {number_text(result)}"
    elif step.kind == Kind.PRODUCT:
        yield from _product(cloth, step, at)


def _product(cloth: Cloth, step: Step, at: tuple[int, int]) -> Iterator[str]:
    """The products that a rank adds: its own few, where the inner dim is cut."""
    left, right = (_operand(cloth, v, t) for v, t in zip(step.reads, step.turned, strict=True))
    (i, j), ranks = at, cloth.weave.ranks
    pairs = [(left[i][x], right[x][j]) for x in range(len(right))]
    if not cloth.weave.layouts[step.writes].partial:
        yield f"{_dot(pairs)} = {number_text(sum(a * b for a, b in pairs))}"
        return
    each = len(pairs) // ranks
    shown = range(ranks) if cloth.rank is None else (cloth.rank,)
    for rank in shown:
        mine = pairs[rank * each : (rank + 1) * each]
        yield f"{_dot(mine)} = {number_text(sum(a * b for a, b in mine))} on rank {rank}"


def _operand(cloth: Cloth, value: Value, turned: bool) -> Matrix:
    parts = cloth.parts(value)
    assert parts is not None
    whole = assembled(parts, cloth.weave.layouts[value])
    return [list(column) for column in zip(*whole, strict=True)] if turned else whole


def _dot(pairs: Sequence[tuple[float, float]]) -> str:
    return " + ".join(f"{_signed(a)}·{_signed(b)}" for a, b in pairs)


def _signed(x: float) -> str:
    return f"({number_text(x)})" if x < 0 else number_text(x)


def refused(cloth: Cloth) -> str:
    """Why the rules of layouts would not allow this program; "" where they do."""
    for step in cloth.weave.steps:
        before = cloth.weave.layouts[step.reads[0]]
        if step.kind == Kind.ACT and before.partial:
            try:
                nonlinear(before, "U")
            except ProgramError as error:
                return str(error)
    return ""


def account(cloth: Cloth) -> str:
    """The figure in sentences, a line a step, as Markdown."""
    weave = cloth.weave
    lines = []
    for number, step in enumerate(weave.steps, 1):
        layout = weave.layouts[step.writes]
        lies = blocks_in_words(layout, weave.ranks)
        if copies_differ(cloth.parts(step.writes), layout):
            lies += ", where the copies differ"
        says = "; ".join(arithmetic(cloth, step))
        ends = f" `{says}`." if says else ""
        title = _title(cloth, step)
        said = f"{number}. {title[0].upper()}{title[1:]}: `{reads_as(weave, step)}`."
        lines.append(f"{said} {layout.name} is then {lies}.{ends}")
    return "\n".join(lines)
