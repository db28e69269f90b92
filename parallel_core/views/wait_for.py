"""The wait-for graph as SVG text: a box a rank on a circle, an arrow from who waits to whom.

Thick arrows are those of a circle of waits, thin ones lead to it or to a rank that has ended. How a
box is drawn says what its rank does, beside the words in it: solid waits for ever, plain waits and
may go on, dashed has ended.
"""

from __future__ import annotations

import math
import textwrap
from html import escape

from parallel_core.analysis.wait_for import Arrow, Stand, State, WaitFor
from parallel_core.views.palette import PHASES, mix

BOX = (196, 66)  # pixels of a rank's box
_TOP, _BELOW, _LETTER = 44, 26, 6.0


def wait_for(
    graph: WaitFor, *, width: int = 760, dark: bool = False, title: str = "", badge: str = ""
) -> str:
    """The graph as one `<svg>` element, `width` pixels wide; `badge` says where it comes from."""
    page, ink = ("#12161C", "#E6EAF0") if dark else ("#FFFFFF", "#16202C")
    spots, height = _spots(len(graph.stands), width)
    words = _wrapped(graph.sentence, width)
    whole = height + _TOP + 16 * len(words) + _BELOW
    stroke = PHASES["B"].dark if dark else PHASES["B"].light
    name = escape(title or "Who waits for whom")
    muted = mix(ink, page, 0.62)
    told = "".join(
        f'<text x="16" y="{_TOP + height + 16 * i + 4}" fill="{ink}">{escape(line)}</text>'
        for i, line in enumerate(words)
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{whole}" '
        f'viewBox="0 0 {width} {whole}" role="img" font-family="system-ui, sans-serif" '
        f'font-size="11"><title>{name}</title><desc>{escape(describe(graph))}</desc>',
        _heads(stroke, muted),
        f'<rect width="{width}" height="{whole}" fill="{page}"/>',
        f'<text x="16" y="22" font-size="14" font-weight="600" fill="{ink}">{name}</text>',
        *(_arrow(arrow, graph, spots, (stroke, muted)) for arrow in graph.arrows),
        *(_box(stand, graph, spots[stand.rank], (page, ink, stroke)) for stand in graph.stands),
        told,
        f'<text x="{width - 16}" y="{whole - 8}" text-anchor="end" fill="{muted}">'
        f"{escape(badge)}</text></svg>",
    ]
    return "\n".join(part for part in parts if part)


def describe(graph: WaitFor) -> str:
    """The picture in words: the finding, then every arrow."""
    arrows = (f"rank {a.waiter} waits for rank {a.peer}, which {a.why}" for a in graph.arrows)
    return ". ".join([graph.sentence, *arrows])


def _spots(ranks: int, width: int) -> tuple[list[tuple[float, float]], int]:
    """The middle of every rank's box, on an ellipse from the top round; and its height."""
    wide, tall = BOX
    across = (width - wide) / 2 - 24
    down = 0.0 if ranks <= 2 else max(110.0, ranks * 24.0)
    middle = _TOP + down + tall / 2 + 14
    # two stand side by side, four in the corners
    start = math.pi if ranks == 2 else -math.pi / 2 - math.pi / ranks
    angles = [start + 2 * math.pi * rank / max(ranks, 1) for rank in range(ranks)]
    spots = [(width / 2 + across * math.cos(a), middle + down * math.sin(a)) for a in angles]
    return spots, round(2 * down + tall + 44)


def _arrow(
    arrow: Arrow, graph: WaitFor, spots: list[tuple[float, float]], strokes: tuple[str, str]
) -> str:
    """A bent arrow, so that two in opposite directions do not lie on one another."""
    (x0, y0), (x1, y1) = spots[arrow.waiter], spots[arrow.peer]
    long = math.hypot(x1 - x0, y1 - y0) or 1.0
    away = (-(y1 - y0) / long, (x1 - x0) / long)
    bend = 34 if any(_opposite(other, arrow) for other in graph.arrows) else 14
    mx, my = (x0 + x1) / 2 + bend * away[0], (y0 + y1) / 2 + bend * away[1]
    (ax, ay), (bx, by) = _edge((x0, y0), (mx, my), 2), _edge((x1, y1), (mx, my), 7)
    held = _in_circle(arrow, graph.circle)
    stroke, wide, head = (strokes[0], 2.6, "held") if held else (strokes[1], 1.2, "waits")
    said = escape(f"rank {arrow.waiter} waits for rank {arrow.peer}, which {arrow.why}")
    return (
        f'<path d="M{ax:.1f} {ay:.1f}Q{mx:.1f} {my:.1f} {bx:.1f} {by:.1f}" fill="none" '
        f'stroke="{stroke}" stroke-width="{wide}" marker-end="url(#{head})">'
        f"<title>{said}</title></path>"
    )


def _opposite(one: Arrow, other: Arrow) -> bool:
    return (one.waiter, one.peer) == (other.peer, other.waiter)


def _in_circle(arrow: Arrow, circle: tuple[int, ...]) -> bool:
    return (arrow.waiter, arrow.peer) in zip(circle, (*circle[1:], *circle[:1]), strict=True)


def _edge(
    middle: tuple[float, float], toward: tuple[float, float], gap: float
) -> tuple[float, float]:
    """Where the way from a box's middle toward a point leaves the box, `gap` pixels on."""
    dx, dy = toward[0] - middle[0], toward[1] - middle[1]
    scale = min(
        (BOX[0] / 2 + gap) / abs(dx) if dx else math.inf,
        (BOX[1] / 2 + gap) / abs(dy) if dy else math.inf,
    )
    return middle[0] + dx * scale, middle[1] + dy * scale


def _box(
    stand: Stand, graph: WaitFor, spot: tuple[float, float], colours: tuple[str, str, str]
) -> str:
    page, ink, stroke = colours
    wide, tall = BOX
    x, y = spot[0] - wide / 2, spot[1] - tall / 2
    held = stand.rank in graph.deadlocked
    edge = f'stroke="{stroke}" stroke-width="2"' if held else f'stroke="{mix(ink, page, 0.5)}"'
    edge += ' stroke-dasharray="5 4"' if stand.state == State.ENDED else ""
    fill = mix(stroke, page, 0.1) if held else page
    lines = textwrap.wrap(stand.place, int((wide - 16) / _LETTER))[:3]
    text = "".join(
        f'<text x="{spot[0]:.1f}" y="{y + 33 + 13 * i:.1f}" text-anchor="middle" fill="{ink}">'
        f"{escape(line)}</text>"
        for i, line in enumerate(lines)
    )
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide}" height="{tall}" rx="6" fill="{fill}" '
        f'{edge}/><text x="{spot[0]:.1f}" y="{y + 17:.1f}" text-anchor="middle" '
        f'font-weight="600" fill="{ink}">rank {stand.rank}</text>{text}'
    )


def _heads(stroke: str, muted: str) -> str:
    def head(name: str, colour: str, size: int) -> str:
        return (
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="{size}" '
            f'markerHeight="{size}" orient="auto" markerUnits="userSpaceOnUse">'
            f'<path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
        )

    return f"<defs>{head('held', stroke, 12)}{head('waits', muted, 9)}</defs>"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, int((width - 32) / _LETTER))
