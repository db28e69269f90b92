"""How sure the times of another node are, drawn to scale on a timeline.

At the head of each lane of another node's ranks stands a bar, twice its uncertainty long; both
ends of a message that crosses nodes have a shaded fringe as wide. On the first node's ranks
nothing is drawn: it is their clock that the picture shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from parallel_core.quantities import time_text
from parallel_core.trace import Provenance, Span
from parallel_core.views.palette import mix
from parallel_core.views.svg_cells import CELL, LANE, LEFT, PITCH, TOP, Look, box

LEAST = 1.0
"""Pixels to either side below which a fringe would not be seen."""


def fringes(
    look: Look,
    rows: Sequence[Span],
    ids: Sequence[int],
    *,
    begun: Sequence[int],
    source: Provenance,
) -> Iterable[str]:
    """A shaded strip around both ends of every message of another node's rank that crosses nodes.

    `ids` number the messages (causes.message_ids), `begun` is when each mark begins.
    """
    if not source.clocks:
        return
    ranks = defaultdict(set)
    for span, message in zip(rows, ids, strict=True):
        ranks[message].add(span.rank)
    for span, message, start in zip(rows, ids, begun, strict=True):
        clock = source.clock_of(span.rank)
        if clock is None or message < 0 or all(map(clock.ranks.__contains__, ranks[message])):
            continue
        wide = look.x(look.start + clock.unsure_ns) - LEFT
        if wide < LEAST:
            continue
        y, height = box(span)
        for moment in (start, span.t_done):
            yield (
                f'<rect class="fringe" x="{look.x(moment) - wide:.1f}" y="{y - 1}" '
                f'width="{2 * wide:.1f}" height="{height + 2}" fill="{look.ink}" '
                f'fill-opacity="0.22"/>'
            )


def bars(look: Look, ranks: int, source: Provenance) -> Iterable[str]:
    """A bar under the head of every lane of another node, and how long it is in words."""
    muted = mix(look.ink, look.page, 0.62)
    for rank in range(ranks):
        clock = source.clock_of(rank)
        if clock is None:
            continue
        y = TOP + PITCH * rank + CELL + LANE + 8
        end = min(look.x(look.start + 2 * clock.unsure_ns), look.width - 16)
        half = (LEFT + end) / 2
        yield (
            f'<path class="unsure" d="M{LEFT} {y}H{end:.1f}M{LEFT} {y - 3}v6M{half:.1f} {y - 2}v4'
            f'M{end:.1f} {y - 3}v6" stroke="{look.ink}"><title>{_told(source, rank)}</title></path>'
            f'<text x="{end + 5:.1f}" y="{y + 3}" font-size="9" fill="{muted}">'
            f"± {time_text(clock.unsure_ns)}</text>"
        )


def legend_words(source: Provenance) -> str:
    """What the bars and fringes are; empty where there are none.

    >>> from parallel_core.trace import Kind
    >>> legend_words(Provenance(kind=Kind.MEASURED))
    ''
    """
    if not source.clocks:
        return ""
    most = max(clock.unsure_ns for clock in source.clocks)
    sure = f"± {time_text(most)}" + " at most" * (len(source.clocks) > 1)
    return f"how sure another node's clock is, to scale ({sure}: ping-pong, half a round trip)"


def _told(source: Provenance, rank: int) -> str:
    clock = source.clock_of(rank)
    assert clock is not None
    sign = "-" if clock.off_ns < 0 else "+"
    return (
        f"rank {rank} is on node {clock.node}, whose clock was {sign}"
        f"{time_text(abs(clock.off_ns))}; its times are ± {time_text(clock.unsure_ns)}"
    )
