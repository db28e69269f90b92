"""Tokens against experts, one picture: who chose whom, what was dropped, and who is full.

    rows      tokens, by the rank they are on         tile filled    the expert took it
    columns   experts, by the rank that holds them    tile hollow    it had no place: dropped
    below     rows of each expert and of each rank, with the mean and the capacity as lines

A tile has the colour of the rank that holds the expert; a dot says the token need not travel. What
is modelled is pale under a dashed edge.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from parallel_core.trace import Kind
from parallel_core.views.context_map import Paint
from parallel_core.views.expert_rows import Loads, Token
from parallel_core.views.frame import PAGES, ink
from parallel_core.views.palette import mix

MOST_TOKENS = 64
MOST_EXPERTS = 128
"""Columns that can be told from each other; a wider layer has its tables only."""

_LEFT, _TOP, _WIDE, _GAP = 48.0, 30.0, 304.0, 26.0
_EXPERTS_HIGH, _RANKS_HIGH = 64.0, 54.0


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What is drawn: some tokens, the loads of all, and where they come from."""

    tokens: Sequence[Token]
    loads: Loads
    kind: Kind
    dark: bool = False

    @property
    def each(self) -> float:
        """Width of a column."""
        return min(max(_WIDE / len(self.loads.kept), 4.0), 38.0)

    @property
    def high(self) -> float:
        """Height of a token's row."""
        return 7.0 if len(self.tokens) > 40 else 9.0

    @property
    def wide(self) -> float:
        """Width of all columns."""
        return self.each * len(self.loads.kept)

    @property
    def paint(self) -> Paint:
        """The ranks' colours."""
        return Paint(self.loads.ranks, self.dark)

    def style(self, rank: int) -> str:
        """Fill, edge and ink of what goes to a rank."""
        colour, page = self.paint.colour(rank), PAGES[self.dark]
        edge = mix(colour, ink(self.dark), 0.55)
        fill = mix(colour, page, 0.4) if self.kind is Kind.MODELLED else colour
        return f"--f:{fill};--e:{edge}"


def few(found: Sequence[Token], most: int = MOST_TOKENS) -> list[Token]:
    """As many tokens of every rank, the first ones, `most` together."""
    ranks = sorted({token.rank for token in found})
    share = max(most // max(len(ranks), 1), 1)
    return [t for rank in ranks for t in [t for t in found if t.rank == rank][:share]]


def drawing(picture: Picture) -> str:
    """The whole figure as one SVG with its own style."""
    grid_high = picture.high * len(picture.tokens)
    y_experts = _TOP + grid_high + _GAP
    y_ranks = y_experts + _EXPERTS_HIGH + _GAP + 8
    whole = (_LEFT + picture.wide + 6, y_ranks + _RANKS_HIGH + 20)
    parts = [
        *_heads(picture),
        *_rows(picture),
        *_borders(picture, (_TOP, y_experts - _GAP)),
        *_borders(picture, (y_experts, y_experts + _EXPERTS_HIGH)),
        *_expert_bars(picture, y_experts),
        *_rank_bars(picture, y_ranks),
    ]
    most = 1.45 * whole[0]
    return (
        f"{_sheet(picture)}<div class='experts'><svg viewBox='0 0 {whole[0]:.0f} {whole[1]:.0f}'"
        f" style='max-width:{most:.0f}px' role='img' aria-label='{html.escape(in_words(picture))}'>"
        f"{''.join(parts)}</svg></div>"
    )


def in_words(picture: Picture) -> str:
    """The figure in a few sentences."""
    loads = picture.loads
    each = ", ".join(f"{n:,} on rank {r}" for r, n in enumerate(loads.rank_loads))
    said = (
        f"Drawn: {len(picture.tokens)} sample tokens against {len(loads.kept)} experts on "
        f"{loads.ranks} ranks. Counted over all tokens of the step in this layer, rows of the "
        f"ranks' experts: {each}. The fullest has {loads.imbalance:.2f} times the mean."
    )
    if loads.room is not None:
        said += (
            f" An expert takes {loads.room:,} rows at most; {loads.dropped:,} of"
            f" {sum(loads.asked):,} choices are dropped."
        )
    return said


def _heads(picture: Picture) -> list[str]:
    """Ranks, then experts, along the top."""
    loads, parts = picture.loads, []
    for rank in range(loads.ranks):
        x = _LEFT + rank * loads.each * picture.each
        wide = loads.each * picture.each
        name = f"r{rank}" if wide >= 16 else str(rank) if wide >= 9 else ""
        parts.append(
            f"<g class='b' style='{picture.paint.style(rank)}'><rect x='{x + 0.4:.1f}' y='2'"
            f" width='{wide - 0.8:.1f}' height='13'/><text x='{x + wide / 2:.1f}' y='8.5'>{name}"
            "</text></g>"
        )
    if picture.each >= 12:
        parts += [
            f"<text class='n' x='{_LEFT + (e + 0.5) * picture.each:.1f}' y='22'>{e}</text>"
            for e in range(len(loads.kept))
        ]
    return parts


def _rows(picture: Picture) -> list[str]:
    """A row a token, a tile a choice; the rank's number where its first one is."""
    parts: list[str] = []
    rank = None
    for at, token in enumerate(picture.tokens):
        y = _TOP + at * picture.high
        if token.rank != rank:
            rank = token.rank
            parts.append(
                f"<line class='heavy' x1='0' x2='{_LEFT + picture.wide}' y1='{y}' y2='{y}'/>"
            )
            parts.append(f"<text class='l' x='2' y='{y + 9}'>on r{token.home}</text>")
        tiles = "".join(_tile(picture, token, expert, went, y) for expert, went in token.choices)
        parts.append(
            f"<g class='token' data-at='{at}'><rect class='row' x='{_LEFT}' y='{y + 0.5:.1f}'"
            f" width='{picture.wide:.1f}' height='{picture.high - 1:.1f}'/>{tiles}</g>"
        )
    end = _TOP + len(picture.tokens) * picture.high
    return [
        *parts,
        f"<line class='heavy' x1='0' x2='{_LEFT + picture.wide}' y1='{end}' y2='{end}'/>",
    ]


def _tile(picture: Picture, token: Token, expert: int, went: bool, y: float) -> str:
    owner = expert // picture.loads.each
    x, wide, high = _LEFT + expert * picture.each, picture.each, picture.high
    says = f"token {token.position} on r{token.home}, expert {expert} on r{owner}: "
    says += ("stays" if owner == token.home else "travels") if went else "dropped, no place left"
    dot = ""
    if went and owner == token.home and min(wide, high) >= 7:
        dot = f"<circle class='home' cx='{x + wide / 2:.1f}' cy='{y + high / 2:.1f}' r='1.6'/>"
    return (
        f"<g class='{'t' if went else 'd'}' style='{picture.style(owner)}'><title>{says}</title>"
        f"<rect x='{x + 1:.1f}' y='{y + 1:.1f}' width='{wide - 2:.1f}' height='{high - 2:.1f}'/>"
        f"{dot}</g>"
    )


def _borders(picture: Picture, stretch: tuple[float, float]) -> list[str]:
    """A heavy line wherever the experts of another rank begin."""
    wide = picture.loads.each * picture.each
    top, end = stretch
    places = [_LEFT + rank * wide for rank in range(picture.loads.ranks + 1)]
    return [
        f"<line class='heavy' x1='{x:.1f}' x2='{x:.1f}' y1='{top}' y2='{end}'/>" for x in places
    ]


def _expert_bars(picture: Picture, top: float) -> list[str]:
    loads = picture.loads
    mean = sum(loads.kept) / len(loads.kept)
    most = max(*loads.asked, mean, loads.room or 0, 1)
    parts = [f"<text class='l' x='2' y='{top - 6}'>rows of each expert</text>"]
    for expert, (asked, kept) in enumerate(zip(loads.asked, loads.kept, strict=True)):
        place = (_LEFT + expert * picture.each, picture.each, top)
        says = f"expert {expert}: {kept:,} rows" + f", {asked - kept:,} dropped" * (asked > kept)
        scale = _EXPERTS_HIGH / most
        style = picture.style(expert // loads.each)
        parts.append(_bar(place, (kept * scale, asked * scale, _EXPERTS_HIGH), style, says))
    lines = [("mean", mean)] + ([("capacity", float(loads.room))] if loads.room else [])
    return parts + _lines(picture, lines, (top, _EXPERTS_HIGH / most, _EXPERTS_HIGH))


def _rank_bars(picture: Picture, top: float) -> list[str]:
    loads = picture.loads
    kept, asked = loads.rank_loads, loads.by_rank(loads.asked)
    mean = sum(kept) / len(kept)
    roof = None if loads.room is None else float(loads.room * loads.each)
    most = max(*asked, mean, roof or 0, 1)
    parts = [f"<text class='l' x='2' y='{top - 12}'>rows of each rank</text>"]
    wide, scale = loads.each * picture.each, _RANKS_HIGH / most
    for rank, (got, wanted) in enumerate(zip(kept, asked, strict=True)):
        x = _LEFT + rank * wide
        says = f"rank {rank}: {got:,} rows" + f", {wanted - got:,} dropped" * (wanted > got)
        sizes = (got * scale, wanted * scale, _RANKS_HIGH)
        parts.append(_bar((x, wide, top), sizes, picture.style(rank), says))
        if wide >= 24:
            below = top + _RANKS_HIGH + 11
            parts.append(f"<text class='n' x='{x + wide / 2:.1f}' y='{below}'>{got:,}</text>")
    lines = [("mean", mean)] + ([("capacity", roof)] if roof else [])
    return parts + _lines(picture, lines, (top, scale, _RANKS_HIGH))


def _bar(
    place: tuple[float, float, float], sizes: tuple[float, float, float], style: str, says: str
) -> str:
    """Rows that went, filled; on top of them, hollow, those that were dropped."""
    (x, wide, top), (kept, asked, high) = place, sizes
    shape = f"x='{x + 1:.1f}' width='{wide - 2:.1f}'"
    dropped = ""
    if asked > kept:
        dropped = (
            f"<rect class='lost' {shape} y='{top + high - asked:.1f}' height='{asked - kept:.1f}'/>"
        )
    return (
        f"<g class='t' style='{style}'><title>{says}</title>{dropped}"
        f"<rect {shape} y='{top + high - kept:.1f}' height='{kept:.1f}'/></g>"
    )


def _lines(
    picture: Picture, lines: Sequence[tuple[str, float]], scale: tuple[float, float, float]
) -> list[str]:
    """Mean and capacity across the bars, each with its name on the left."""
    top, per_row, high = scale
    base, parts = top + high, []
    names: list[float] = []
    parts.append(
        f"<line class='base' x1='{_LEFT}' x2='{_LEFT + picture.wide}' y1='{base}' y2='{base}'/>"
    )
    for name, value in lines:
        y = base - value * per_row
        at = min(max(y + 3, top + 6), base)
        if names and abs(at - names[0]) < 9:  # two names on one spot: the second above or below
            at = names[0] - 9 if at <= names[0] else names[0] + 9
        names.append(at)
        parts.append(
            f"<line class='{name}' x1='{_LEFT}' x2='{_LEFT + picture.wide}' y1='{y:.1f}'"
            f" y2='{y:.1f}'><title>{name}: {value:,.6g} rows</title></line>"
            f"<text class='l' x='2' y='{at:.1f}'>{name}</text>"
        )
    return parts


def _sheet(picture: Picture) -> str:
    letters, page = ink(picture.dark), PAGES[picture.dark]
    dashed = "stroke-dasharray: 2.5 1.5;" if picture.kind is Kind.MODELLED else ""
    return (
        "<style>.experts svg { width: 100%; height: auto; display: block; font-family: inherit; }"
        f".experts text {{ font-size: 9.5px; fill: {letters}; }}"
        ".experts text.n, .experts .b text { text-anchor: middle;"
        " font-variant-numeric: tabular-nums; } .experts text.n { font-size: 8.5px; }"
        ".experts .b text { dominant-baseline: central; fill: var(--i); }"
        ".experts .b rect { fill: var(--c); }"
        f".experts .t rect {{ fill: var(--f); stroke: var(--e); stroke-width: .8; {dashed} }}"
        f".experts .d rect, .experts .t rect.lost {{ fill: {page}; stroke: {letters};"
        " stroke-width: 1.1; stroke-dasharray: none; }"
        f".experts .row {{ fill: {mix(letters, page, 0.05)}; }}"
        f".experts .token.here .row {{ fill: {mix(letters, page, 0.3)}; }}"
        ".experts.picked .token:not(.here) .t { opacity: .45; }"
        f".stage {{ border-radius: .4rem; }} .says {{ color: {letters}; font-size: .9rem;"
        " min-height: 1.5em; margin: .3rem 0 0; }"
        ".stage:focus-visible { outline: 3px solid #1f77d0; outline-offset: 2px; }"
        f".experts .home {{ fill: {letters}; stroke: {page}; stroke-width: .7; }}"
        f".experts .heavy {{ stroke: {letters}; stroke-width: 1.6; }}"
        f".experts .base {{ stroke: {letters}; stroke-width: 1; }}"
        f".experts .mean {{ stroke: {letters}; stroke-width: 1.3; stroke-dasharray: 5 3; }}"
        f".experts .capacity {{ stroke: {letters}; stroke-width: 2.2; }}</style>"
    )
