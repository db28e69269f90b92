"""A timeline as SVG text: no browser, no JavaScript, the same bytes for the same trace.

The grammar is the player's: a row a rank, thin lanes under it for messages, letters and hatches
beside every colour, waits hatched by cause, and the line that says where the marks come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from textwrap import wrap
from typing import Unpack
from xml.sax.saxutils import escape

from parallel_core.program import Op
from parallel_core.trace import Span, Trace
from parallel_core.views.account import account
from parallel_core.views.causes import Wait, message_ids, ordered, waits
from parallel_core.views.clocks import bars, fringes, legend_words
from parallel_core.views.outcome import result
from parallel_core.views.palette import PHASES, mix, phase_of
from parallel_core.views.reading import BEAT, Reading, Units, bubble_text
from parallel_core.views.stages import ramps, stages
from parallel_core.views.svg_cells import (
    CELL,
    HATCH_OF,
    HATCHES,
    LEFT,
    PITCH,
    SHORT,
    TOP,
    Look,
    box,
    cells,
    wait_mark,
)

__all__ = ["SHORT", "stacked", "timeline"]


def timeline(
    trace: Trace,
    *,
    width: int = 960,
    step: int | None = None,
    dark: bool = False,
    title: str = "",
    **reading: Unpack[Reading],
) -> str:
    """The trace (or one `step` of it) as one `<svg>` element, `width` pixels wide."""
    trace = trace if step is None else trace.only(step)
    look = _look(trace, width, dark, reading)
    return _drawn(trace, look, title or trace.provenance.title or "Trace", reading)[0]


def stacked(
    runs: Mapping[str, Trace],
    *,
    width: int = 960,
    dark: bool = False,
    title: str = "",
    called: bool = True,
    **reading: Unpack[Reading],
) -> str:
    """Several traces on one time axis, one below the other, and who ended first, if `called`."""
    longest = max(trace.makespan for trace in runs.values())
    parts, bottom = [], 28
    for name, trace in runs.items():
        look = replace(_look(trace, width, dark, reading), span=longest)
        head = f"{name}: {look.units.time(trace.makespan)}"
        picture, height = _drawn(trace, look, head, _of(reading, name))
        parts.append(f'<svg y="{bottom}"{picture.removeprefix("<svg")}')
        bottom += height
    says = escape(result(runs, reading, called=called))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{bottom}" '
            f'viewBox="0 0 {width} {bottom}" role="img" font-family="system-ui, sans-serif" '
            f'font-size="12"><title>{escape(title or "A race")}</title><desc>{says}</desc>',
            f'<rect width="{width}" height="{bottom}" fill="{look.page}"/>',
            f'<text x="16" y="20" fill="{look.ink}">⚑ {says}</text>',
            *parts,
            "</svg>",
        ]
    )


def _of(reading: Reading, name: str) -> Reading:
    """The reading of one run of a race: its own bubbles."""
    bubbles = reading.get("bubbles")
    own = bubbles.get(name) if isinstance(bubbles, dict) else bubbles
    rest = reading.copy()
    rest.pop("bubbles", None)
    return rest if own is None else {**rest, "bubbles": own}


def _look(trace: Trace, width: int, dark: bool, reading: Reading) -> Look:
    page, ink = ("#12161C", "#E6EAF0") if dark else ("#FFFFFF", "#16202C")
    pipe = stages(trace.spans)
    return Look(
        width=width,
        span=trace.makespan,
        start=trace.start,
        kind=trace.kind,
        dark=dark,
        page=page,
        ink=ink,
        units=Units.of(reading, pipe.share),
        paper=reading.get("colours") == "paper",
        pipe=pipe,
    )


def _drawn(trace: Trace, look: Look, title: str, reading: Reading) -> tuple[str, int]:
    """The `<svg>` element and its height."""
    width, ink, page = look.width, look.ink, look.page
    rows = ordered(trace)
    ids = message_ids(rows)
    found = waits(rows, ids)
    bottom = TOP + PITCH * trace.world_size
    begun, source = _begun(rows, ids), trace.provenance
    legend = _legend(look, rows, found, bottom + 34, unsure=legend_words(source))
    badge = wrap(source.badge, (width - 32) // 6)
    height = bottom + 34 + 18 * (1 + legend.count("<!--line-->")) + 16 + 14 * (len(badge) - 1)
    name, muted = escape(title), mix(ink, page, 0.62)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" font-family="system-ui, sans-serif" '
        f'font-size="11"><title>{name}</title>'
        f"<desc>{escape(account(trace, reading=reading, found=found))}</desc>",
        _patterns(look),
        f'<rect width="{width}" height="{height}" fill="{page}"/>',
        f'<text x="16" y="22" font-size="14" font-weight="600" fill="{ink}">{name}</text>',
        *_axis(look, bottom, muted),
        *_ramps(look, trace, bottom, muted),
        *_bubble(look, reading, muted),
        *_labels(look, trace.world_size),
        *cells(look, rows, begun),
        *(wait_mark(look, rows[wait.row], wait) for wait in found),
        *fringes(look, rows, ids, begun=begun, source=source),
        *bars(look, trace.world_size, source),
        legend,
        _badge(badge, look, height, muted) + "</svg>",
    ]
    return "\n".join(part for part in parts if part), height


def _badge(lines: Sequence[str], look: Look, height: int, muted: str) -> str:
    """The badge's lines at the lower right, the last one lowest."""
    return "".join(
        f'<text x="{look.width - 16}" y="{height - 12 - 14 * lift}" text-anchor="end" '
        f'fill="{muted}">{escape(line)}</text>'
        for lift, line in zip(range(len(lines) - 1, -1, -1), lines, strict=True)
    )


def _begun(rows: Sequence[Span], ids: Sequence[int]) -> list[int]:
    """When each mark begins: of a message in a pipeline's port, when its last end was posted."""
    posted: dict[int, int] = {}
    for span, message in zip(rows, ids, strict=True):
        posted[message] = max(span.t_post, posted.get(message, span.t_post))
    begun = []
    for span, message in zip(rows, ids, strict=True):
        late = min(span.t_done, max(span.t_start, posted[message]))
        begun.append(late if message >= 0 and box(span)[1] < 8 else span.t_start)
    return begun


def _patterns(look: Look) -> str:
    def one(name: str, path: str, colour: str) -> str:
        return (
            f'<pattern id="{name}" width="6" height="6" patternUnits="userSpaceOnUse">'
            f'<path d="{path}" stroke="{colour}" fill="none"/></pattern>'
        )

    quiet = mix(look.ink, look.page, 0.5)
    each = [one(f"wait{n}", path, quiet) for n, path in enumerate(HATCHES.values())]
    strong = mix("#000000", look.fill("W"), 0.35)
    return f"<defs>{one('half', HATCHES['/'], strong)}{''.join(each)}</defs>"


def _axis(look: Look, bottom: int, muted: str) -> Iterable[str]:
    grid = mix(look.ink, look.page, 0.1)
    rough = max(1.0, look.span / (look.width / 120))
    if look.units.beats:
        rough = max(rough, BEAT)
    power = 10 ** math.floor(math.log10(rough))
    every = next(k * power for k in (1, 2, 5, 10) if k * power >= rough * 0.999)
    for number in range(math.floor(look.span / every) + 1):
        t = look.start + number * every
        x = look.x(t)
        yield f'<path d="M{x:.1f} {TOP - 4}V{bottom}" stroke="{grid}"/>'
        text = look.units.time(t - look.start, look.span)
        anchor = "end" if x > look.width - 30 else "middle"
        yield f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="{anchor}" fill="{muted}">'
        yield f"{text}</text>"


def _ramps(look: Look, trace: Trace, bottom: int, muted: str) -> Iterable[str]:
    """Warm-up and drain under a light shade; their names where there is room."""
    for begin, steady, drain, end in ramps(trace):
        if drain < steady:
            continue
        for name, at, to in (("warm-up", begin, steady), ("drain", drain, end)):
            x, wide = look.x(look.start + at), look.x(to) - look.x(at)
            shade = mix(look.ink, look.page, 0.05)
            yield f'<rect x="{x:.1f}" y="{TOP - 4}" width="{wide:.1f}" '
            yield f'height="{bottom - TOP}" fill="{shade}"/>'
            if wide >= 6.2 * len(name):
                yield f'<text x="{x + wide / 2:.1f}" y="{TOP - 7}" text-anchor="middle" '
                yield f'font-size="9" fill="{muted}">{name}</text>'


def _bubble(look: Look, reading: Reading, muted: str) -> Iterable[str]:
    bubbles = reading.get("bubbles")
    if bubbles is None or isinstance(bubbles, dict):
        return
    yield f'<text x="{look.width - 16}" y="22" text-anchor="end" fill="{muted}">'
    yield f"{bubble_text(bubbles)}</text>"


def _labels(look: Look, ranks: int) -> Iterable[str]:
    track = mix(look.ink, look.page, 0.045)
    wide = look.width - LEFT - 16
    for rank in range(ranks):
        y = TOP + PITCH * rank
        yield f'<rect x="{LEFT}" y="{y}" width="{wide}" height="{CELL}" fill="{track}"/>'
        yield f'<text x="{LEFT - 12}" y="{y + 16}" text-anchor="end" font-weight="600" '
        yield f'fill="{look.ink}">rank {rank}</text>'


def _legend(
    look: Look, rows: Sequence[Span], found: Sequence[Wait], y: int, *, unsure: str = ""
) -> str:
    """Swatches of what is in the picture, in as many lines as they need."""
    used = {phase_of(span.op) for span in rows if span.op != Op.WAIT}
    causes = {wait.why for wait in found}
    words = [(look.fill(phase), PHASES[phase].meaning) for phase in PHASES if phase in used]
    words += [
        (f"url(#wait{list(HATCHES).index(hatch)})", f"waits: {why.value}")
        for why, hatch in HATCH_OF.items()
        if why in causes
    ]
    words += [(mix(look.ink, look.page, 0.22), unsure)] if unsure else []
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
