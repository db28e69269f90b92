"""The gather/free river: bytes of one rank by kind over a step, above the lanes that move them.

    bytes  ___/\\__/\\____  stacked: parameters, gradients, optimizer state
          |   predicted: dashed outline; measured: solid fill; the peak marked
    compute  F F F B B B O
    comm     G G G G S S       G gather, S scatter, R all-reduce

Both share the time axis. What is measured was read after every instruction; what is predicted
changes at each begin and end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from parallel_core.outline import KINDS, Held
from parallel_core.program import Lane, Op
from parallel_core.quantities import bytes_text, time_text
from parallel_core.trace import Span, Trace
from parallel_core.views.chart_frame import byte_ticks, colour, framed
from parallel_core.views.frame import PAGES, ink, safe
from parallel_core.views.marks import Mark, computed, draw, ms, origin_of, work
from parallel_core.views.palette import TENSORS, mix
from parallel_core.views.shards import readable
from parallel_core.views.shards_alive import Moment, peak

LETTERS = {Op.ALL_GATHER: "G", Op.REDUCE_SCATTER: "S", Op.ALL_REDUCE: "R", Op.ADD: "+"}
_RIVER, _LANES = [0.33, 1.0], [0.0, 0.23]
_THICK = 0.07  # share of the height a band needs for its own name
_LONG = 0.25  # share of the step that a name needs


@dataclass(frozen=True, kw_only=True)
class River:
    """One rank's step: predicted moments, and what was measured (nothing before a run).

    `trace` is one step, on whose clock both stand. `capacity` bytes are a line; `rival` is the
    total of a second plan's rank on its own clock, (milliseconds, bytes).
    """

    trace: Trace
    rank: int
    moments: Sequence[Moment]
    measured: Sequence[Held] = ()
    capacity: float | None = None
    rival: Sequence[tuple[float, int]] = ()
    rival_name: str = ""

    @property
    def origin(self) -> int:
        """When the rank began the step, nanoseconds."""
        return origin_of(self.trace, self.rank)

    @property
    def most(self) -> float:
        """The highest point that is drawn, bytes."""
        totals = [moment.total for moment in self.moments]
        totals += [sum(row[kind] for kind in KINDS) for row in self.measured]
        totals += [size for _, size in self.rival]
        return float(max([1, *totals, *([self.capacity] if self.capacity else [])]))


def river(shown: River, *, at: int | None = None, dark: bool = False) -> go.Figure:
    """The figure; `at` is the instruction whose moment the cursor marks, else the peak is marked.

    Points of the trace named "moments" carry the instruction's number as customdata.
    """
    figure = go.Figure()
    _lanes(figure, shown, dark)
    _areas(figure, shown, dark)
    if shown.measured:
        _predicted_over(figure, shown, dark)
    if shown.rival:
        line = {"color": ink(dark), "width": 2, "dash": "dot", "shape": "hv"}
        figure.add_scatter(
            x=[x for x, _ in shown.rival], y=[y for _, y in shown.rival], mode="lines",
            line=line, name=f"total of {safe(shown.rival_name)}", hoverinfo="name+y",
        )  # fmt: skip
    _moments(figure, shown, dark)
    _cursor(figure, shown, at, dark)
    if shown.capacity:
        figure.add_hline(y=shown.capacity, line={"color": ink(dark), "width": 3})
        figure.add_annotation(
            x=0, xref="paper", y=shown.capacity, text=f"capacity {bytes_text(shown.capacity)}",
            showarrow=False, xanchor="left", yanchor="bottom", bgcolor=PAGES[dark],
        )  # fmt: skip
    return _frame(figure, shown, dark)


def _areas(figure: go.Figure, shown: River, dark: bool) -> None:
    """The stacked bands: measured solid, or predicted pale under a dashed edge."""
    times, bands = _measured(shown) if shown.measured else _predicted(shown)
    for kind in KINDS:
        plain = colour(TENSORS[kind], dark)
        fill = plain if shown.measured else mix(plain, PAGES[dark], 0.6)
        edge = {"width": 0} if shown.measured else {"width": 1.5, "dash": "dash"}
        meaning = TENSORS[kind].meaning
        figure.add_scatter(
            x=times, y=bands[kind], stackgroup="state", mode="lines", fillcolor=fill,
            line={"color": ink(dark), "shape": "hv", **edge}, name=meaning,
            hovertemplate=f"{meaning}: %{{y:,}} bytes<extra></extra>",
        )  # fmt: skip
    _names(figure, shown, times, bands, dark)


def _measured(shown: River) -> tuple[list[float], dict[str, list[int]]]:
    rows = sorted(shown.measured, key=lambda row: row.t)
    first = shown.moments[0].bytes  # before the first reading: what stays
    times = [0.0, *(ms(row.t, shown.origin) for row in rows)]
    return times, {kind: [first[kind], *(row[kind] for row in rows)] for kind in KINDS}


def _predicted(shown: River) -> tuple[list[float], dict[str, list[int]]]:
    times = [ms(moment.time, shown.origin) for moment in shown.moments]
    return times, {kind: [m.bytes[kind] for m in shown.moments] for kind in KINDS}


def _predicted_over(figure: go.Figure, shown: River, dark: bool) -> None:
    """The prediction's edges as dashed lines, each the sum of the kinds up to it."""
    times, bands = _predicted(shown)
    below = [0] * len(times)
    for kind in KINDS:
        below = [low + band for low, band in zip(below, bands[kind], strict=True)]
        figure.add_scatter(
            x=times, y=below, mode="lines", name="predicted", hoverinfo="skip",
            line={"color": ink(dark), "width": 1.5, "dash": "dash", "shape": "hv"},
            showlegend=kind == KINDS[0],
        )  # fmt: skip


def _names(
    figure: go.Figure,
    shown: River,
    times: Sequence[float],
    bands: dict[str, list[int]],
    dark: bool,
) -> None:
    """Each band's name inside it, in the longest stretch that has room for one.

    No box behind the letters: it would look like bytes.
    """
    if not times:
        return
    low = [0] * len(times)
    for kind in KINDS:
        high = [below + size for below, size in zip(low, bands[kind], strict=True)]
        left, right, y = _room(times, low, high, _THICK * shown.most)
        if right - left >= _LONG * (times[-1] - times[0]):
            plain = colour(TENSORS[kind], dark)
            fill = plain if shown.measured else mix(plain, PAGES[dark], 0.6)
            figure.add_annotation(
                x=(left + right) / 2, y=y, text=TENSORS[kind].meaning,
                showarrow=False, captureevents=False,
                font={"color": readable(fill), "size": 12},
            )  # fmt: skip
        low = high


def _room(
    times: Sequence[float], low: Sequence[int], high: Sequence[int], thick: float
) -> tuple[float, float, float]:
    """(left, right, middle height) of a strip inside a band, the longest that a sweep finds."""
    best = (times[0], times[0], 0.0)
    begun, floor, roof = 0, low[0], high[0]
    for i, (below, above) in enumerate(zip(low, high, strict=True)):
        if min(roof, above) - max(floor, below) < thick:
            begun, floor, roof = i, below, above
        floor, roof = max(floor, below), min(roof, above)
        until = times[min(i + 1, len(times) - 1)]  # a level holds until the next one
        if roof - floor >= thick and until - times[begun] > best[1] - best[0]:
            best = (times[begun], until, (floor + roof) / 2)
    return best


def _moments(figure: go.Figure, shown: River, dark: bool) -> None:
    """A point at the top of each begin of an instruction: what to click on."""
    begins = [moment for moment in shown.moments if not moment.over]
    figure.add_scatter(
        x=[ms(moment.time, shown.origin) for moment in begins],
        y=[moment.total for moment in begins],
        mode="markers", name="moments", showlegend=False,
        customdata=[moment.at for moment in begins],
        marker={"size": 7, "color": PAGES[dark], "line": {"color": ink(dark), "width": 1}},
        unselected={"marker": {"opacity": 1}},
        hovertext=[f"{m.words}: {bytes_text(m.total)}" for m in begins], hoverinfo="text",
    )  # fmt: skip


def _cursor(figure: go.Figure, shown: River, at: int | None, dark: bool) -> None:
    """The line through both halves at the moment looked at, and the peak's flag."""
    top = peak(shown.moments)
    chosen = next((m for m in shown.moments if m.at == at and not m.over), top)
    x = ms(chosen.time, shown.origin)
    figure.add_shape(
        type="line", x0=x, x1=x, y0=0, y1=1, yref="paper",
        line={"color": ink(dark), "width": 1.5, "dash": "dot"},
    )  # fmt: skip
    share = ms(top.time, shown.origin) / max(shown.trace.makespan / 1e6, 1e-9)
    figure.add_annotation(
        x=ms(top.time, shown.origin), y=top.total, arrowhead=2, arrowcolor=ink(dark), ax=0, ay=-22,
        text=f"<b>peak {bytes_text(top.total)}</b><br>{safe(top.words)}", align="left",
        xanchor="left" if share < 1 / 3 else "center" if share < 2 / 3 else "right",
    )  # fmt: skip


def _lanes(figure: go.Figure, shown: River, dark: bool) -> None:
    """Compute and messages of the rank, in the lower half."""
    before = len(figure.data)
    marks = [work(span, 0, shown.origin) for span in computed(shown.trace, shown.rank)]
    row = shown.trace.by_rank[shown.rank]
    marks += [_message(span, shown.origin) for span in row if span.lane == Lane.COMM]
    draw(figure, marks, shown.trace.kind, dark)
    for bar in figure.data[before:]:
        bar.update(yaxis="y2", showlegend=False)


def _message(span: Span, origin: int) -> Mark:
    left, right = ms(span.t_start, origin), ms(span.t_done, origin)
    look = "other" if span.op == Op.ADD else "collective"
    hover = f"{span.label}: {time_text(span.duration)}, {bytes_text(span.bytes)} handed over"
    letter = "" if span.where in ("loss", "tally") else LETTERS.get(Op(span.op), "")
    return Mark(1, left, right, look, hover, letter)


def _frame(figure: go.Figure, shown: River, dark: bool) -> go.Figure:
    badge = f"rank {shown.rank}; {shown.trace.provenance.badge}"
    badges = [badge]
    if shown.measured:
        badges = [f"filled: {badge}", "dashed: predicted from the plan, at the run's own times"]
    framed(figure, badges, height=520, dark=dark)
    figure.update_layout(
        barmode="overlay", hovermode="closest", uniformtext={"mode": "hide", "minsize": 9},
        dragmode=False, clickmode="event+select",
    )  # fmt: skip
    grid = figure.layout.yaxis.gridcolor
    figure.update_layout(
        yaxis={"domain": _RIVER, "range": [0, 1.3 * shown.most],
               **byte_ticks(shown.most)},
        yaxis2={"domain": _LANES, "tickvals": [0, 1], "ticktext": ["compute", "messages"],
                "range": [1.6, -0.6], "gridcolor": grid, "zeroline": False, "automargin": True},
    )  # fmt: skip
    return figure.update_xaxes(
        title="ms since the step began", anchor="y2", rangemode="tozero", showspikes=True,
        spikemode="across", spikethickness=1, spikecolor=ink(dark),
    )  # fmt: skip


def account(shown: River) -> str:
    """The river in words: where it stands, where it peaks, how far measured is from predicted."""
    top = peak(shown.moments)
    rest = min(moment.total for moment in shown.moments)
    parts = ", ".join(f"{TENSORS[kind].meaning} {bytes_text(top.bytes[kind])}" for kind in KINDS)
    lines = [
        f"Rank {shown.rank} holds {bytes_text(rest)} at the least and {bytes_text(top.total)} at "
        f"its peak, {top.words}: {parts}."
    ]
    if shown.measured:
        found = max(shown.measured, key=lambda row: sum(row[kind] for kind in KINDS))
        size = sum(found[kind] for kind in KINDS)
        lines.append(
            f"Read after every instruction, the most was {bytes_text(size)}. Where the dashed line "
            "stands above the fill, something exists only while an instruction runs: no reading "
            "falls inside, but the run's peak above counts it."
        )
    if shown.capacity and top.total > shown.capacity:
        lines.append(f"That is more than the capacity of {bytes_text(shown.capacity)}.")
    return " ".join(lines)
