"""Context parallelism as one figure: the tile map, the ranks' work, the ring, a race on a clock.

Everything is drawn here, whole and still; assets/context.js moves a cursor through it. Bars are
HTML, in per cent of the longest time, so that their letters stay readable on a narrow screen.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from parallel_core import places
from parallel_core.context.layout import Travels
from parallel_core.views.context_clock import Beat, Clock, account
from parallel_core.views.context_map import Paint, tiles
from parallel_core.views.context_sheet import sheet

_RING = 240.0  # side of the ring's drawing
MOST_TIME = 1e-9


def payload(
    clock: Clock, rivals: Sequence[Clock], *, run: str, dark: bool = False
) -> dict[str, Any]:
    """What context.js needs: the figure as HTML, the beats of `clock`, a sentence for each.

    `rivals` race on the same clock below the map. A payload with the same `run` keeps the cursor.
    """
    return {
        "run": run,
        "figure": figure(clock, rivals, dark=dark),
        "end": max(each.total for each in (clock, *rivals)),
        "beats": [
            [-1 if beat.hop is None else beat.hop, beat.start, beat.end, beat.message]
            for beat in clock.beats
        ],
        "says": account(clock),
        "ring": clock.shape.layout.rings,
    }


def figure(clock: Clock, rivals: Sequence[Clock], *, dark: bool = False) -> str:
    """The still picture: style, map, work, ring, race."""
    paint = Paint(clock.shape.layout.ranks, dark)
    return (
        f'{sheet(dark=dark)}<div class="context"><div class="row">{tiles(clock, paint)}'
        f'<div class="side">{work_bars(clock, paint)}{ring(clock, paint)}</div></div>'
        f"{race(rivals, paint)}</div>"
    )


def work_bars(clock: Clock, paint: Paint) -> str:
    """What each rank computes, hop by hop, in tiles."""
    layout, most = clock.shape.layout, max(*clock.totals, MOST_TIME)
    rows = []
    for rank in range(layout.ranks):
        ring_, at, bars = rank // layout.ulysses, 0.0, []
        for beat in clock.beats:
            if beat.hop is not None and beat.tiles[ring_]:
                bars.append(_bar(beat, (at, beat.tiles[ring_], most), paint.style(rank)))
                at += beat.tiles[ring_]
        rows.append(_row(f"r{rank}", "".join(bars), f"{clock.totals[ring_]:.3g}"))
    return f'<div class="work"><h3>Work of each rank, tiles</h3>{"".join(rows)}</div>'


def _bar(beat: Beat, place: tuple[float, float, float], style: str) -> str:
    start, length, whole = place
    left, wide = 100 * start / whole, 100 * length / whole
    words = "" if beat.hop is None or wide < 4 else str(beat.hop)
    return (
        f'<span class="t bar" data-hop="{beat.hop}" style="{style};left:{left:.3f}%;'
        f'width:{wide:.3f}%">{words}</span>'
    )


def _row(name: str, bars: str, total: str) -> str:
    return (
        f'<div class="lane"><span class="name">{name}</span><div class="track">{bars}</div>'
        f'<span class="total">{total}</span></div>'
    )


def ring(clock: Clock, paint: Paint) -> str:
    """The ranks in a circle, and what travels: it lies outside the rank that has it now."""
    layout = clock.shape.layout
    if clock.travels == Travels.NOTHING or layout.rings == 1:
        return ""
    middle, radius = _RING / 2, _RING * 0.27
    size = min(20.0, math.pi * radius / layout.rings * 0.8)
    parts = []
    for member in range(layout.rings):
        turn = 2 * math.pi * member / layout.rings - math.pi / 2
        x, y = middle + radius * math.cos(turn), middle + radius * math.sin(turn)
        name = _members(clock, member)
        style = paint.style(member * layout.ulysses)
        parts.append(
            f'<g class="b" style="{style}"><circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"/>'
            f'<text x="{x:.1f}" y="{y:.1f}">{name}</text></g>'
        )
        guest = "q" if clock.travels == Travels.Q else "kv"
        away = radius + size + 15
        x, y = middle + away * math.cos(turn), middle + away * math.sin(turn)
        parts.append(
            f'<g class="guest b" data-home="{member}" style="{style}">'
            f'<rect x="{x - 13:.1f}" y="{y - 9:.1f}" width="26" height="18" rx="3"/>'
            f'<text x="{x:.1f}" y="{y:.1f}">{guest} {member}</text></g>'
        )
    what = "queries" if clock.travels == Travels.Q else "keys and values"
    says = f"{what} of each of {layout.rings} members travel round a ring, one member a hop"
    return (
        f'<svg class="ring" viewBox="0 0 {_RING:.0f} {_RING:.0f}" role="img"'
        f' data-n="{layout.rings}"'
        f' data-middle="{middle}" data-away="{radius + size + 15:.1f}" aria-label="{says}">'
        f"{''.join(parts)}</svg>"
    )


def race(rivals: Sequence[Clock], paint: Paint) -> str:
    """Each rival's ranks over time, on one axis; a hop waits for its slowest rank."""
    if not rivals:
        return ""
    end = max([MOST_TIME, *(rival.total for rival in rivals)])
    first = min(rival.total for rival in rivals)
    blocks = [_lanes(rival, paint, end, won=rival.total == first) for rival in rivals]
    return f'<div class="race"><h3>The race, in tiles of time</h3>{"".join(blocks)}</div>'


def _lanes(clock: Clock, paint: Paint, end: float, *, won: bool) -> str:
    layout, rows = clock.shape.layout, []
    for member in range(layout.rings):
        bars = [
            _bar(beat, (beat.start, beat.tiles[member], end), paint.style(member * layout.ulysses))
            for beat in clock.beats
            if beat.hop is not None and beat.tiles[member]
        ]
        rows.append(_row(_members(clock, member), "".join(bars), ""))
    wires = "".join(_wire(clock, beat, end) for beat in clock.beats if beat.message)
    if wires:
        rows.append(_row("wire", wires, ""))
    place = 100 * clock.total / end
    flag = f'<span class="end" style="left:{place:.3f}%"></span>'
    words = html.escape(f"{clock.name}: {clock.total:.4g} tiles") + (" ⚑" if won else "")
    idle = f"ranks wait {100 * clock.idle:.0f} % of it"
    return (
        f'<div class="rival" data-end="{clock.total:.9g}"><p><b>{words}</b>, {idle}</p>'
        f'<div class="lanes">{"".join(rows)}<div class="over">{flag}'
        f'<span class="now"></span></div></div></div>'
    )


def _members(clock: Clock, member: int) -> str:
    """The ranks that share a block."""
    first = member * clock.shape.layout.ulysses
    last = first + clock.shape.layout.ulysses - 1
    return f"r{first}" if first == last else f"r{first}–{last}"


def _wire(clock: Clock, beat: Beat, end: float) -> str:
    start = beat.start if clock.overlap or beat.hop is None else beat.end - beat.message
    left, wide = 100 * start / end, 100 * beat.message / end
    return (
        f'<span class="wire" title="{html.escape(beat.what)}" style="left:{left:.3f}%;'
        f'width:{wide:.3f}%"></span>'
    )


@lru_cache(maxsize=1)
def source() -> str:
    """The JavaScript that moves the cursor."""
    return (places.assets() / "context.js").read_text(encoding="utf-8")
