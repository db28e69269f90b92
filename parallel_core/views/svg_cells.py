"""The cells of an SVG timeline: where a span stands, what it is filled with, what is written on it.

A task of a pipeline carries its letter and microbatch, and in the corner its rank's stage where
there are several (later ones lighter), or an arrow where microbatches come from both ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from parallel_core.analysis.cause import Cause
from parallel_core.program import Lane, Op
from parallel_core.trace import Kind, Span
from parallel_core.views.causes import Wait
from parallel_core.views.palette import PAPER, PHASES, Shade, contrast, mix, phase_of
from parallel_core.views.reading import Units
from parallel_core.views.stages import PORTS, Stages

SHORT = {
    "all_reduce": "AR",
    "all_gather": "AG",
    "reduce_scatter": "RS",
    "all_to_all": "A2A",
    "broadcast": "BC",
    "barrier": "bar",
}
"""What a thin lane has room for."""

LEFT, TOP, CELL, LANE, PITCH = 68, 40, 24, 8, 46
HATCHES = {
    "/": "M-1 7L7 -1M-1 1L1 -1M5 7L7 5",
    "\\": "M-1 -1L7 7M5 -1L7 1M-1 5L1 7",
    ".": "M1 1h1M4 4h1",
    "-": "M0 3h6",
}
HATCH_OF = {
    Cause.LATE_PEER: "\\",
    Cause.LATE_SENDER: "\\",
    Cause.LATE_RECEIVER: "/",
    Cause.LINK_BUSY: ".",
    Cause.WIRE: "-",
    Cause.STRAGGLER: "\\",
}
LIGHTEN = 0.4
"""How much white the last of a rank's chunks gets."""

_PORT = 4  # height of a line of messages where two stand under a rank
_DASHES = {Kind.MODELLED: ' stroke-dasharray="4 2.5"', Kind.QUOTED: ' stroke-dasharray="1 2"'}
_Columns = dict[int, dict[tuple[str, float], float]]
"""Pixel column -> (phase, tone) -> how much of it they cover."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """The page: its size, its scale, its colours, and what the trace is read as."""

    width: int
    span: int
    start: int
    kind: Kind
    dark: bool
    page: str
    ink: str
    units: Units = field(default_factory=Units)
    paper: bool = False
    pipe: Stages = field(default_factory=Stages)

    def x(self, t: float) -> float:
        """Pixels from the left of a moment."""
        return LEFT + (t - self.start) / max(1, self.span) * (self.width - LEFT - 16)

    def shade(self, phase: str) -> Shade:
        """The colours of a phase."""
        return PAPER.get(phase, PHASES[phase]) if self.paper else PHASES[phase]

    def solid(self, phase: str, tone: float = 0.0) -> str:
        """The full colour of a phase, with `tone` (0 to LIGHTEN) of white in it."""
        shade = self.shade(phase)
        return mix("#FFFFFF", shade.dark if self.dark else shade.light, tone)

    def fill(self, phase: str, tone: float = 0.0) -> str:
        """What a cell is filled with: a modelled one is pale."""
        if self.kind != Kind.MODELLED:
            return self.solid(phase, tone)
        share = (0.34 if self.dark else 0.26) * (1 - tone)
        return mix(self.solid(phase), self.page, share)

    def text(self, phase: str, tone: float = 0.0) -> str:
        """The ink on a cell."""
        if self.kind == Kind.MODELLED:
            return self.ink
        if not tone:
            return self.shade(phase).dark_ink if self.dark else self.shade(phase).light_ink
        fill = self.fill(phase, tone)
        return max(("#000000", "#FFFFFF"), key=lambda ink: contrast(ink, fill))

    def edge(self, phase: str) -> str:
        """The line around a cell."""
        if self.kind == Kind.MODELLED:
            return self.solid(phase)
        return self.ink if self.kind == Kind.REPLAYED else "#000000"

    def tone(self, span: Span) -> float:
        """How light a task is: by its chunk, or by its way where there are two."""
        place, most = self.pipe.chunk(span), self.pipe.chunks - 1
        if self.pipe.ways == 2:
            place, most = self.pipe.way(span), 1
        return LIGHTEN * place / most if place > 0 else 0.0


def box(span: Span) -> tuple[int, int]:
    """The top and the height of a span's lane: under the cell messages, going out above in."""
    top = TOP + PITCH * span.rank
    if span.lane == Lane.COMPUTE:
        return top, CELL
    port = PORTS.get(span.lane)
    if port is None or span.lane in (Lane.OUT, Lane.IN):
        return top + CELL + 3, LANE
    return top + CELL + 3 + (_PORT + 1) * (port == "in"), _PORT


def cells(look: Look, rows: Sequence[Span], begun: Sequence[int]) -> Iterable[str]:
    """Wide spans one by one; thin ones as pixel columns in the colour that covers most of each.

    `begun` is when each span's mark begins: a message's, when it is on the wire.
    """
    least = 2 if len(rows) <= 1500 else 10
    columns: dict[tuple[int, int], _Columns] = defaultdict(lambda: defaultdict(dict))
    for span, start in zip(rows, begun, strict=True):
        if span.op == Op.WAIT:
            continue
        x, end = look.x(start), look.x(span.t_done)
        if end - x >= least:
            yield _cell(look, span, x, end - x)
            continue
        lane, key = columns[box(span)], (phase_of(span.op), look.tone(span))
        for at in range(int(x), int(end) + 1):
            part = max(1e-6, min(end, at + 1) - max(x, at))
            lane[at][key] = lane[at].get(key, 0.0) + part
    for (top, height), lane in columns.items():
        yield from _thin(look, top, height, lane)


def _thin(look: Look, top: int, height: int, lane: _Columns) -> Iterable[str]:
    most = {at: max(parts, key=parts.__getitem__) for at, parts in lane.items()}
    for key in sorted(set(most.values()), key=lambda key: (list(PHASES).index(key[0]), key[1])):
        path = "".join(f"M{at}.5 {top}v{height}" for at in lane if most[at] == key)
        colour = look.solid(*key) if height <= _PORT else look.fill(*key)
        yield f'<path d="{path}" stroke="{colour}"/>'


def _cell(look: Look, span: Span, x: float, wide: float) -> str:
    phase, tone = phase_of(span.op), look.tone(span)
    (y, height), hatch = box(span), look.shade(phase).hatch
    if phase == "other" and look.pipe.chunks:  # sums and norms: beside the schedule, not of it
        y, height = y + height // 2, height - height // 2
    shape = f'y="{y}" height="{height}"'
    parts = [f'<rect x="{x:.1f}" {shape} width="{wide:.1f}" fill="{look.fill(phase, tone)}"/>']
    if hatch == "half":
        half = f'<rect x="{x + wide / 2:.1f}" {shape} width="{wide / 2:.1f}" fill='
        parts += [f'{half}"{look.fill("W", tone)}"/>', f'{half}"url(#half)"/>']
    elif hatch == "/":
        parts.append(f'<rect x="{x:.1f}" {shape} width="{wide:.1f}" fill="url(#half)"/>')
    dashes, thick = _DASHES.get(look.kind, ""), 1.5 if look.kind == Kind.MODELLED else 1
    if height <= _PORT:
        dashes, thick = "", 1
    faint = ' stroke-opacity="0.55"' if look.kind in (Kind.MEASURED, Kind.RECORDED) else ""
    parts.append(
        f'<rect x="{x + 0.5:.1f}" y="{y + 0.5}" width="{max(0.5, wide - 1):.1f}" '
        f'height="{height - 1}" fill="none" stroke="{look.edge(phase)}" '
        f'stroke-width="{thick}"{dashes}{faint}/>'
    )
    return "".join(parts) + _letters(look, span, x, wide)


def _letters(look: Look, span: Span, x: float, wide: float) -> str:
    phase, tone = phase_of(span.op), look.tone(span)
    if span.lane != Lane.COMPUTE or (phase == "other" and look.pipe.chunks):
        return ""
    room = wide / 2 if look.shade(phase).hatch == "half" else wide
    letter = PHASES[phase].letter or SHORT.get(span.op, span.op)
    mb = "" if span.mb is None else str(span.mb)
    full = " ".join(word for word in (letter, span.where, mb and f"mb{mb}") if word)
    choice = (full, letter + mb, letter) if look.pipe.chunk(span) < 0 else (letter + mb, mb)
    # 6.2 pixels a letter is the widest of common sans faces at 11 px.
    text = next((t for t in choice if 6.2 * len(t) + 4 - 2 * (len(choice) == 2) <= room), "")
    if not text:
        return ""
    y, colour = box(span)[0], look.text(phase, tone)
    corner = _corner(look, span) if room >= 12 else ""
    mark = corner and (
        f'<text x="{x + room - 3:.1f}" y="{y + 9}" text-anchor="end" font-size="8" '
        f'fill="{colour}">{corner}</text>'
    )
    return (
        f'<text x="{x + room / 2:.1f}" y="{y + (19 if corner else 16)}" text-anchor="middle" '
        f'fill="{colour}">{escape(text)}</text>{mark}'
    )


def _corner(look: Look, span: Span) -> str:
    """Which of the rank's stages, or which way where there are two."""
    chunk = look.pipe.chunk(span)
    if chunk < 0 or look.pipe.chunks < 2:
        return ""
    return "▾▴"[look.pipe.way(span)] if look.pipe.ways == 2 else str(chunk)


def wait_mark(look: Look, span: Span, wait: Wait) -> str:
    """The hatch over a wait; fill and drain stay blank, and so does a message not yet sent."""
    kind = HATCH_OF.get(wait.why)
    x, wide = look.x(wait.start), look.x(wait.end) - look.x(wait.start)
    y, height = box(span)
    if kind is None or wide < 2 or height <= _PORT:
        return ""
    place = f'x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{height}"'
    back = mix(look.ink, look.page, 0.06)
    number = list(HATCHES).index(kind)
    mark = ""
    if wait.why == Cause.STRAGGLER and wide >= 14 and height >= 16:
        mark = (
            f'<circle cx="{x + wide / 2:.1f}" cy="{y + 12}" r="7" fill="{look.page}"/>'
            f'<text x="{x + wide / 2:.1f}" y="{y + 16}" text-anchor="middle" '
            f'font-weight="700" fill="{look.ink}">!</text>'
        )
    return f'<rect {place} fill="{back}"/><rect {place} fill="url(#wait{number})"/>{mark}'
