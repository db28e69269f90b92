"""The attention matrix of a sequence that is cut: which rank computes which tile at which hop.

    rows      queries, with the rank that holds them        a tile's colour   the rank that has it
    columns   keys, with the rank that holds them           its number        the hop

Under a causal mask the upper half is blank. Where heads are dealt out there is a matrix for each
share of them. A drawing is SVG with its own style; assets/context.js only sets classes on it, so
without scripts it is the finished picture.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

from parallel_core.context.layout import Layout, Step, Travels, tile_map
from parallel_core.views.context_clock import Clock
from parallel_core.views.frame import PAGES, ink
from parallel_core.views.hues import hues
from parallel_core.views.palette import contrast, mix

SIDE, EDGE = 300.0, 28.0  # of all matrices together, and of the band that says who holds what
PALE = 0.3
"""How much of a rank's hue is in a tile that is still to come."""

_READABLE = 11.0  # the smallest tile that carries its number


@dataclass(frozen=True)
class Paint:
    """Colours of so many ranks on a light or a dark page."""

    ranks: int
    dark: bool = False

    def colour(self, rank: int) -> str:
        """The fill of what a rank has."""
        return hues(self.ranks)[rank][self.dark]

    def style(self, rank: int) -> str:
        """The same as CSS: fill (c), its ink (i), and the paler one (p) of what is to come."""
        fill = self.colour(rank)
        letters = max(("#000000", "#FFFFFF"), key=lambda each: contrast(each, fill))
        return f"--c:{fill};--i:{letters};--p:{mix(fill, PAGES[self.dark], PALE)}"

    @property
    def line(self) -> str:
        """The colour of thin lines."""
        return mix(ink(self.dark), PAGES[self.dark], 0.3)


def drawn(layout: Layout, *, causal: bool, travels: Travels) -> list[Step]:
    """The tiles of the map that hold a token: a chunk of padding has no tile."""
    steps = tile_map(layout, causal, travels)
    return [s for s in steps if max(s.q_chunk, s.k_chunk) * layout.chunk < layout.seq]


def rank_of(layout: Layout, step: Step, share: int = 0) -> int:
    """The rank that computes a tile for the heads of one share."""
    return step.ring * layout.ulysses + share


def heads_of(clock: Clock, share: int) -> str:
    """Which query heads a share of Ulysses has, in words."""
    each = clock.shape.heads // clock.shape.layout.ulysses
    first, last = share * each, share * each + each - 1
    return f"head {first}" if each == 1 else f"heads {first}–{last}"


def tiles(clock: Clock, paint: Paint) -> str:
    """The map as an SVG fragment: a matrix for each share of the heads."""
    layout = clock.shape.layout
    shares = layout.ulysses
    across = math.ceil(math.sqrt(shares))
    down = math.ceil(shares / across)
    caption = 15.0 if shares > 1 else 0.0
    size = SIDE / across
    parts = []
    for share in range(shares):
        x, y = share % across * (size + 8), share // across * (size + caption + 8)
        parts.append(f'<g transform="translate({x:.1f} {y:.1f})">')
        if shares > 1:
            parts.append(f'<text class="cap" x="0" y="10">{heads_of(clock, share)}</text>')
        parts.append(f'<g transform="translate(0 {caption:.1f})">')
        parts += _matrix(clock, paint, share, size)
        parts.append("</g></g>")
    wide, high = across * (size + 8), down * (size + caption + 8)
    says = html.escape(in_words(clock))
    return (
        f'<svg class="map" viewBox="0 0 {wide:.0f} {high:.0f}" role="img" aria-label="{says}">'
        f"{''.join(parts)}</svg>"
    )


def _matrix(clock: Clock, paint: Paint, share: int, size: float) -> list[str]:
    layout = clock.shape.layout
    edge = EDGE if layout.ulysses == 1 else 14.0
    count = layout.rings * (2 if layout.zigzag else 1)
    each = (size - edge) / count
    parts = _bands(layout, paint, share, (edge, each))
    parts.append(
        f'<rect class="frame" x="{edge}" y="{edge}" width="{size - edge:.1f}"'
        f' height="{size - edge:.1f}" stroke="{paint.line}"/>'
    )
    for step in drawn(layout, causal=clock.causal, travels=clock.travels):
        parts.append(_tile(clock, paint, step, (share, edge, each)))
    return parts


def _bands(layout: Layout, paint: Paint, share: int, sizes: tuple[float, float]) -> list[str]:
    """Along the left and the top: the rank that has these heads of a block."""
    edge, each = sizes
    parts, thick = [], edge - 15.0
    if edge == EDGE:
        middle = edge + (SIDE - edge) / 2
        parts.append(f'<text class="axis" x="{middle:.0f}" y="6">keys</text>')
        turned = f'transform="translate(6 {middle:.0f}) rotate(-90)"'
        parts.append(f'<text class="axis" {turned}>queries</text>')
    else:
        thick = edge - 2.0
    for ring in range(layout.rings):
        rank = ring * layout.ulysses + share
        style, name = paint.style(rank), str(rank)
        for chunk in layout.chunks(ring):
            at = edge + chunk * each
            top = (at, edge - thick, each, thick)
            left = (edge - thick, at, thick, each)
            parts += [
                _band(place, style, name if min(each, thick) >= _READABLE else "")
                for place in (top, left)
            ]
    return parts


def _band(place: tuple[float, float, float, float], style: str, name: str) -> str:
    x, y, wide, high = place
    words = f'<text x="{x + wide / 2:.1f}" y="{y + high / 2:.1f}">{name}</text>' if name else ""
    return (
        f'<g class="b" style="{style}"><rect x="{x:.1f}" y="{y:.1f}" width="{wide - 0.6:.1f}"'
        f' height="{high - 0.6:.1f}"/>{words}</g>'
    )


def _tile(clock: Clock, paint: Paint, step: Step, place: tuple[int, float, float]) -> str:
    share, edge, each = place
    rank = rank_of(clock.shape.layout, step, share)
    x, y = edge + step.k_chunk * each, edge + step.q_chunk * each
    if step.diagonal:
        corners = [(x, y), (x, y + each), (x + each, y + each)]
        middle = (x + 0.32 * each, y + 0.7 * each)
    else:
        corners = [(x, y), (x + each, y), (x + each, y + each), (x, y + each)]
        middle = (x + each / 2, y + each / 2)
    outline = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
    half = each * (0.62 if step.diagonal else 1)
    words = ""
    if half >= _READABLE:
        words = f'<text x="{middle[0]:.1f}" y="{middle[1]:.1f}">{step.hop}</text>'
    says = f"rank {rank}, hop {step.hop}: queries {step.q_chunk}, keys {step.k_chunk}"
    return (
        f'<g class="t" data-hop="{step.hop}" style="{paint.style(rank)}"><title>{says}</title>'
        f'<polygon points="{outline}"/>{words}</g>'
    )


def in_words(clock: Clock) -> str:
    """The map in a few sentences: who computes the most tiles, and what a tile is."""
    layout = clock.shape.layout
    cut = "zigzag" if layout.zigzag else "contiguous"
    mask = "causal" if clock.causal else "full"
    each = ", ".join(f"{total:.3g}" for total in clock.totals)
    said = f"Attention matrix of {layout.seq:,} tokens, {mask} mask, cut {cut}, {clock.method}. "
    if layout.ulysses > 1:
        said += f"{layout.ulysses} ranks share a block of positions and deal out its heads. "
    holds = f"Work of {'a rank of each block' if layout.ulysses > 1 else 'the ranks in order'}"
    return f"{said}{holds}: {each} tiles."
