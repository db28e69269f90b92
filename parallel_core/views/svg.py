"""A timeline as SVG text: no browser, no JavaScript, the same bytes for the same trace.

The grammar is the player's: a row a rank, a thin lane a row for messages, letters and hatches
beside every colour, waits hatched by cause, and the line that says where the marks come from.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from parallel_core.program import Lane, Op
from parallel_core.quantities import time_text
from parallel_core.trace import Kind, Span, Trace
from parallel_core.views.account import account
from parallel_core.views.causes import Wait, Why, message_ids, ordered, waits
from parallel_core.views.palette import PHASES, mix, phase_of

SHORT = {
    "all_reduce": "AR",
    "all_gather": "AG",
    "reduce_scatter": "RS",
    "all_to_all": "A2A",
    "broadcast": "BC",
    "barrier": "bar",
}
"""What a thin lane has room for."""

_LEFT, _TOP, _CELL, _LANE, _PITCH = 68, 40, 24, 8, 46
_HATCHES = {
    "/": "M-1 7L7 -1M-1 1L1 -1M5 7L7 5",
    "\\": "M-1 -1L7 7M5 -1L7 1M-1 5L1 7",
    ".": "M1 1h1M4 4h1",
    "-": "M0 3h6",
}
_HATCH_OF = {
    Why.LATE_PEER: "\\",
    Why.LATE_RECEIVER: "/",
    Why.LINK_BUSY: ".",
    Why.WIRE: "-",
    Why.STRAGGLER: "\\",
}
_DASHES = {Kind.MODELLED: ' stroke-dasharray="4 2.5"', Kind.QUOTED: ' stroke-dasharray="1 2"'}


_Columns = dict[int, dict[str, float]]
"""Pixel column -> phase -> how much of it the phase covers."""


@dataclass(frozen=True)
class _Look:
    """The page: its size, its scale, its colours."""

    width: int
    span: int
    start: int
    kind: Kind
    dark: bool
    page: str
    ink: str

    def x(self, t: float) -> float:
        return _LEFT + (t - self.start) / max(1, self.span) * (self.width - _LEFT - 16)

    def fill(self, phase: str) -> str:
        shade = PHASES[phase].dark if self.dark else PHASES[phase].light
        share = 0.34 if self.dark else 0.26
        return mix(shade, self.page, share) if self.kind == Kind.MODELLED else shade

    def text(self, phase: str) -> str:
        if self.kind == Kind.MODELLED:
            return self.ink
        return PHASES[phase].dark_ink if self.dark else PHASES[phase].light_ink

    def edge(self, phase: str) -> str:
        if self.kind == Kind.MODELLED:
            return PHASES[phase].dark if self.dark else PHASES[phase].light
        return self.ink if self.kind == Kind.REPLAYED else "#000000"


def timeline(
    trace: Trace,
    *,
    width: int = 960,
    step: int | None = None,
    dark: bool = False,
    title: str = "",
) -> str:
    """The trace (or one `step` of it) as one `<svg>` element, `width` pixels wide."""
    trace = trace if step is None else trace.only(step)
    page, ink = ("#12161C", "#E6EAF0") if dark else ("#FFFFFF", "#16202C")
    look = _Look(width, trace.makespan, trace.start, trace.kind, dark, page, ink)
    rows = ordered(trace)
    bottom = _TOP + _PITCH * trace.world_size
    legend = _legend(look, rows, bottom + 34)
    height = bottom + 34 + 18 * (1 + legend.count("<!--line-->")) + 16
    name = escape(title or trace.provenance.title or "Trace")
    muted = mix(ink, page, 0.62)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" font-family="system-ui, sans-serif" '
        f'font-size="11"><title>{name}</title><desc>{escape(account(trace))}</desc>',
        _patterns(look),
        f'<rect width="{width}" height="{height}" fill="{page}"/>',
        f'<text x="16" y="22" font-size="14" font-weight="600" fill="{ink}">{name}</text>',
        *_axis(look, bottom, muted),
        *_labels(look, trace.world_size),
        *_cells(look, rows),
        *(_wait(look, rows[wait.row], wait) for wait in waits(rows, message_ids(rows))),
        legend,
        f'<text x="{width - 16}" y="{height - 12}" text-anchor="end" fill="{muted}">'
        f"{escape(trace.provenance.badge)}</text></svg>",
    ]
    return "\n".join(part for part in parts if part)


def _patterns(look: _Look) -> str:
    def one(name: str, path: str, colour: str) -> str:
        return (
            f'<pattern id="{name}" width="6" height="6" patternUnits="userSpaceOnUse">'
            f'<path d="{path}" stroke="{colour}" fill="none"/></pattern>'
        )

    quiet = mix(look.ink, look.page, 0.5)
    each = [one(f"wait{n}", path, quiet) for n, path in enumerate(_HATCHES.values())]
    strong = mix("#000000", look.fill("W"), 0.35)
    return f"<defs>{one('half', _HATCHES['/'], strong)}{''.join(each)}</defs>"


def _axis(look: _Look, bottom: int, muted: str) -> Iterable[str]:
    grid = mix(look.ink, look.page, 0.1)
    rough = max(1.0, look.span / (look.width / 120))
    power = 10 ** math.floor(math.log10(rough))
    every = next(k * power for k in (1, 2, 5, 10) if k * power >= rough * 0.999)
    for number in range(math.floor(look.span / every) + 1):
        t = look.start + number * every
        x = look.x(t)
        yield f'<path d="M{x:.1f} {_TOP - 4}V{bottom}" stroke="{grid}"/>'
        text = time_text(t - look.start, look.span)
        anchor = "end" if x > look.width - 30 else "middle"
        yield f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="{anchor}" fill="{muted}">'
        yield f"{text}</text>"


def _labels(look: _Look, ranks: int) -> Iterable[str]:
    track = mix(look.ink, look.page, 0.045)
    wide = look.width - _LEFT - 16
    for rank in range(ranks):
        y = _TOP + _PITCH * rank
        yield f'<rect x="{_LEFT}" y="{y}" width="{wide}" height="{_CELL}" fill="{track}"/>'
        yield f'<text x="{_LEFT - 12}" y="{y + 16}" text-anchor="end" font-weight="600" '
        yield f'fill="{look.ink}">rank {rank}</text>'


def _box(span: Span) -> tuple[int, int]:
    """The top and the height of a span's lane."""
    top = _TOP + _PITCH * span.rank
    return (top, _CELL) if span.lane == Lane.COMPUTE else (top + _CELL + 3, _LANE)


def _cells(look: _Look, rows: Sequence[Span]) -> Iterable[str]:
    """Wide spans one by one; thin ones as pixel columns in the colour that covers most of each."""
    least = 2 if len(rows) <= 1500 else 10
    columns: dict[tuple[int, int], _Columns] = defaultdict(lambda: defaultdict(dict))
    for span in rows:
        if span.op == Op.WAIT:
            continue
        x, end = look.x(span.t_start), look.x(span.t_done)
        if end - x >= least:
            yield _cell(look, span, x, end - x)
            continue
        lane, phase = columns[_box(span)], phase_of(span.op)
        for at in range(int(x), int(end) + 1):
            part = max(1e-6, min(end, at + 1) - max(x, at))
            lane[at][phase] = lane[at].get(phase, 0.0) + part
    for (top, height), lane in columns.items():
        for phase in PHASES:
            mine = [at for at, parts in lane.items() if max(parts, key=parts.__getitem__) == phase]
            path = "".join(f"M{at}.5 {top}v{height}" for at in mine)
            if path:
                yield f'<path d="{path}" stroke="{look.fill(phase)}"/>'


def _cell(look: _Look, span: Span, x: float, wide: float) -> str:
    phase = phase_of(span.op)
    (y, height), hatch = _box(span), PHASES[phase].hatch
    shape = f'y="{y}" height="{height}"'
    parts = [f'<rect x="{x:.1f}" {shape} width="{wide:.1f}" fill="{look.fill(phase)}"/>']
    if hatch == "half":
        half = f'<rect x="{x + wide / 2:.1f}" {shape} width="{wide / 2:.1f}" fill='
        parts += [f'{half}"{look.fill("W")}"/>', f'{half}"url(#half)"/>']
    elif hatch == "/":
        parts.append(f'<rect x="{x:.1f}" {shape} width="{wide:.1f}" fill="url(#half)"/>')
    dashes, thick = _DASHES.get(look.kind, ""), 1.5 if look.kind == Kind.MODELLED else 1
    faint = ' stroke-opacity="0.55"' if look.kind in (Kind.MEASURED, Kind.RECORDED) else ""
    parts.append(
        f'<rect x="{x + 0.5:.1f}" y="{y + 0.5}" width="{max(0.5, wide - 1):.1f}" '
        f'height="{height - 1}" fill="none" stroke="{look.edge(phase)}" '
        f'stroke-width="{thick}"{dashes}{faint}/>'
    )
    return "".join(parts) + _letters(look, span, x, wide)


def _letters(look: _Look, span: Span, x: float, wide: float) -> str:
    phase = phase_of(span.op)
    if span.lane != Lane.COMPUTE:
        return ""
    room = wide / 2 if PHASES[phase].hatch == "half" else wide
    letter = PHASES[phase].letter or SHORT.get(span.op, span.op)
    mb = "" if span.mb is None else str(span.mb)
    full = " ".join(word for word in (letter, span.where, mb and f"mb{mb}") if word)
    # 6.2 pixels a letter is the widest of common sans faces at 11 px.
    text = next((t for t in (full, letter + mb, letter) if 6.2 * len(t) + 4 <= room), "")
    if not text:
        return ""
    return (
        f'<text x="{x + room / 2:.1f}" y="{_box(span)[0] + 16}" text-anchor="middle" '
        f'fill="{look.text(phase)}">{escape(text)}</text>'
    )


def _wait(look: _Look, span: Span, wait: Wait) -> str:
    """The hatch over a wait; fill and drain stay blank."""
    kind = _HATCH_OF.get(wait.why)
    x, wide = look.x(wait.start), look.x(wait.end) - look.x(wait.start)
    if kind is None or wide < 2:
        return ""
    y, height = _box(span)
    place = f'x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{height}"'
    back = mix(look.ink, look.page, 0.06)
    number = list(_HATCHES).index(kind)
    mark = ""
    if wait.why == Why.STRAGGLER and wide >= 14 and height >= 16:
        mark = (
            f'<circle cx="{x + wide / 2:.1f}" cy="{y + 12}" r="7" fill="{look.page}"/>'
            f'<text x="{x + wide / 2:.1f}" y="{y + 16}" text-anchor="middle" '
            f'font-weight="700" fill="{look.ink}">!</text>'
        )
    return f'<rect {place} fill="{back}"/><rect {place} fill="url(#wait{number})"/>{mark}'


def _legend(look: _Look, rows: Sequence[Span], y: int) -> str:
    """Swatches of what is in the picture, in as many lines as they need."""
    used = {phase_of(span.op) for span in rows if span.op != Op.WAIT}
    causes = {wait.why for wait in waits(rows, message_ids(rows))}
    words = [(look.fill(phase), PHASES[phase].meaning) for phase in PHASES if phase in used]
    words += [
        (f"url(#wait{list(_HATCHES).index(hatch)})", f"waits: {why.value}")
        for why, hatch in _HATCH_OF.items()
        if why in causes
    ]
    x, parts = 16.0, []
    for fill, text in words:
        wide = 34 + 6.2 * len(text)
        if x + wide > look.width - 16:
            x, y = 16.0, y + 18
            parts.append("<!--line-->")
        parts.append(
            f'<rect x="{x:.0f}" y="{y - 9}" width="16" height="11" fill="{fill}" '
            f'stroke="{look.ink}" stroke-opacity="0.4"/>'
            f'<text x="{x + 21:.0f}" y="{y}" fill="{look.ink}">{escape(text)}</text>'
        )
        x += wide
    return "".join(parts)
