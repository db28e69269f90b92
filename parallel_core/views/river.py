"""The memory river: bytes of one rank by kind over a step, above the lanes that make them.

    bytes  ___/\\__/\\____  stacked: parameters, gradients, optimizer state, activations
          |   predicted: dashed outline; measured: solid fill; the peak marked
    host   ____/\\________  what offloading has put into the host's memory, on an axis of its own
    compute  F F F : R B   R, dotted: a forward run once more
    host       o o   f     copies out and back

All share the time axis. What is measured was read after every instruction, and inside a backward
where what it computes again is at its fullest; what is predicted changes at each begin and end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from parallel_core.outline import FOLLOWED, KINDS, Held
from parallel_core.quantities import bytes_text
from parallel_core.trace import Trace
from parallel_core.views.chart_frame import byte_ticks, colour, framed
from parallel_core.views.frame import PAGES, ink, safe
from parallel_core.views.marks import ms, origin_of
from parallel_core.views.palette import TENSORS, contrast, mix
from parallel_core.views.river_alive import HOST
from parallel_core.views.river_lanes import Again, draw_lanes, lanes
from parallel_core.views.river_moments import Moment, peak

_THICK = 0.07  # share of the height a band needs for its own name
_LONG = 0.25  # share of the step that a name needs
_PALE = 0.6  # share of its colour that a predicted band keeps

Bands = tuple[list[float], dict[str, list[int]]]
"""Milliseconds, and the bytes of each kind from each of them on."""


@dataclass(frozen=True, kw_only=True)
class River:
    """One rank's step: predicted moments, and what was measured (nothing before a run).

    `trace` is one step, on whose clock all stand; `again` are its recomputations. `capacity` bytes
    are a line; `rival` is the total of a second plan's rank on its own clock, (ms, bytes).
    """

    trace: Trace
    rank: int
    moments: Sequence[Moment]
    measured: Sequence[Held] = ()
    again: Sequence[Again] = ()
    capacity: float | None = None
    rival: Sequence[tuple[float, int]] = ()
    rival_name: str = ""

    @property
    def origin(self) -> int:
        """When the rank began the step, nanoseconds."""
        return origin_of(self.trace, self.rank)

    @property
    def top(self) -> Moment:
        """The moment with the most bytes, as predicted."""
        return peak(self.moments)

    @property
    def found(self) -> Held | None:
        """The reading with the most bytes on the device; None before a run."""
        return max(self.measured, key=total, default=None)

    @property
    def most(self) -> float:
        """The highest point that is drawn, bytes."""
        totals = [self.top.total, *(total(row) for row in self.measured)]
        totals += [size for _, size in self.rival]
        return float(max([1, *totals, *([self.capacity] if self.capacity else [])]))

    @property
    def at_host(self) -> int:
        """The most bytes in the host's memory."""
        return max([m.bytes[HOST] for m in self.moments] + [row.host for row in self.measured])

    @property
    def predicted_bands(self) -> Bands:
        """What the plan says, at the trace's times."""
        times = [ms(moment.time, self.origin) for moment in self.moments]
        return times, {kind: [m.bytes[kind] for m in self.moments] for kind in FOLLOWED}

    @property
    def measured_bands(self) -> Bands:
        """What was read."""
        rows = sorted(self.measured, key=lambda row: row.t)
        first = {**self.moments[0].bytes, "activations": 0, HOST: 0}  # what stays
        times = [0.0, *(ms(row.t, self.origin) for row in rows)]
        return times, {kind: [first[kind], *(row[kind] for row in rows)] for kind in FOLLOWED}


def total(row: Held) -> int:
    """Bytes on the device."""
    return sum(row[kind] for kind in KINDS)


def river(shown: River, *, at: int | None = None, dark: bool = False) -> go.Figure:
    """The figure; `at` is the instruction whose moment the cursor marks, else the peak is marked.

    Points of the trace named "moments" carry the instruction's number as customdata.
    """
    figure = go.Figure()
    rows = lanes(shown.trace, shown.rank, shown.again)
    draw_lanes(figure, rows, shown.trace.kind, dark)
    _areas(figure, shown, dark)
    if shown.at_host:
        _host(figure, shown, dark)
    if shown.measured:
        _outline(figure, shown, dark)
    if shown.rival:
        figure.add_scatter(
            x=[x for x, _ in shown.rival], y=[y for _, y in shown.rival], mode="lines",
            line={"color": ink(dark), "width": 2, "dash": "dot", "shape": "hv"},
            name=f"total of {safe(shown.rival_name)}", hoverinfo="name+y",
        )  # fmt: skip
    _dots(figure, shown, dark)
    _cursor(figure, shown, at, dark)
    _capacity(figure, shown, dark)
    return _frame(figure, shown, rows.names, dark)


def _fill(kind: str, shown: River, dark: bool) -> str:
    plain = colour(TENSORS["activations" if kind == HOST else kind], dark)
    return plain if shown.measured else mix(plain, PAGES[dark], _PALE)


def _areas(figure: go.Figure, shown: River, dark: bool) -> None:
    """The stacked bands: measured solid, or predicted pale under a dashed edge."""
    drawn = shown.measured_bands if shown.measured else shown.predicted_bands
    times, bands = drawn
    edge = {"width": 0} if shown.measured else {"width": 1.5, "dash": "dash"}
    for kind in KINDS:
        meaning = TENSORS[kind].meaning
        figure.add_scatter(
            x=times, y=bands[kind], stackgroup="state", mode="lines",
            fillcolor=_fill(kind, shown, dark), name=meaning, hoveron="fills", hoverinfo="name",
            line={"color": ink(dark), "shape": "hv", **edge},
        )  # fmt: skip
    _names(figure, shown, drawn, dark)


def _names(figure: go.Figure, shown: River, drawn: Bands, dark: bool) -> None:
    """Each band's name inside it, in the longest stretch that has room for one.

    No box behind the letters: it would look like bytes.
    """
    times, bands = drawn
    low = [0] * len(times)
    for kind in KINDS:
        high = [below + size for below, size in zip(low, bands[kind], strict=True)]
        left, right, y = _room(times, low, high, _THICK * shown.most)
        if right - left >= _LONG * (times[-1] - times[0]):
            fill = _fill(kind, shown, dark)
            letters = max(("#000000", "#FFFFFF"), key=lambda ink: contrast(ink, fill))
            figure.add_annotation(
                x=(left + right) / 2, y=y, text=TENSORS[kind].meaning, showarrow=False,
                captureevents=False, font={"color": letters, "size": 12},
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


def _outline(figure: go.Figure, shown: River, dark: bool) -> None:
    """The prediction's edges as dashed lines, each the sum of the kinds up to it."""
    times, bands = shown.predicted_bands
    below = [0] * len(times)
    for kind in KINDS:
        below = [low + band for low, band in zip(below, bands[kind], strict=True)]
        figure.add_scatter(
            x=times, y=below, mode="lines", name="predicted", hoverinfo="skip",
            line={"color": ink(dark), "width": 1.5, "dash": "dash", "shape": "hv"},
            showlegend=kind == KINDS[0],
        )  # fmt: skip


def _host(figure: go.Figure, shown: River, dark: bool) -> None:
    """The host's memory: hatched, so that it is not taken for the device's."""
    times, bands = shown.measured_bands if shown.measured else shown.predicted_bands
    edge = {"width": 0} if shown.measured else {"width": 1.5, "dash": "dash"}
    figure.add_scatter(
        x=times, y=bands[HOST], yaxis="y3", mode="lines", fill="tozeroy", name="on the host",
        fillcolor=_fill(HOST, shown, dark),
        fillpattern={"shape": "|", "fgcolor": ink(dark), "bgcolor": _fill(HOST, shown, dark)},
        line={"color": ink(dark), "shape": "hv", **edge},
        hovertemplate="on the host: %{y:,} bytes<extra></extra>",
    )  # fmt: skip
    if shown.measured:
        times, bands = shown.predicted_bands
        figure.add_scatter(
            x=times, y=bands[HOST], yaxis="y3", mode="lines", showlegend=False, hoverinfo="skip",
            name="predicted on the host",
            line={"color": ink(dark), "width": 1.5, "dash": "dash", "shape": "hv"},
        )  # fmt: skip


def _dots(figure: go.Figure, shown: River, dark: bool) -> None:
    """A point at the top of each begin of an instruction: what to click on."""
    begins = [moment for moment in shown.moments if not moment.over]
    after = {row.index: row for row in sorted(shown.measured, key=lambda row: row.t)}
    figure.add_scatter(
        x=[ms(moment.time, shown.origin) for moment in begins],
        y=[moment.total for moment in begins],
        mode="markers", name="moments", showlegend=False,
        customdata=[moment.at for moment in begins],
        marker={"size": 7, "color": PAGES[dark], "line": {"color": ink(dark), "width": 1}},
        unselected={"marker": {"opacity": 1}},
        hovertext=[_told(m, after.get(m.at)) for m in begins], hoverinfo="text",
    )  # fmt: skip


def _told(moment: Moment, after: Held | None) -> str:
    """A moment by kind, and what was read when its instruction was over."""
    parts = [f"{TENSORS[kind].meaning} {bytes_text(moment.bytes[kind])}" for kind in KINDS]
    lines = [f"{safe(moment.words)}: {bytes_text(moment.total)}", *parts]
    return "<br>".join(
        [*lines, *([f"measured after it: {bytes_text(total(after))}"] if after else [])]
    )


def _cursor(figure: go.Figure, shown: River, at: int | None, dark: bool) -> None:
    """The line through all parts at the moment looked at, and the flag of the peak."""
    top, found = shown.top, shown.found
    chosen = next((m for m in shown.moments if m.at == at and not m.over), top)
    x = ms(chosen.time, shown.origin)
    figure.add_shape(
        type="line", x0=x, x1=x, y0=0, y1=1, yref="paper",
        line={"color": ink(dark), "width": 1.5, "dash": "dot"},
    )  # fmt: skip
    share = ms(top.time, shown.origin) / max(shown.trace.makespan / 1e6, 1e-9)
    same = found is not None and total(found) == top.total
    ran = "" if found is None or same else f", measured {bytes_text(total(found))}"
    figure.add_annotation(
        x=ms(top.time, shown.origin), y=top.total, arrowhead=2, arrowcolor=ink(dark), ax=0, ay=-22,
        text=f"<b>peak {bytes_text(top.total)}{ran}</b><br>{safe(top.words)}", align="left",
        xanchor="left" if share < 1 / 3 else "center" if share < 2 / 3 else "right",
        bgcolor=PAGES[dark],
    )  # fmt: skip


def _capacity(figure: go.Figure, shown: River, dark: bool) -> None:
    if shown.capacity is None:
        return
    figure.add_shape(
        type="line", x0=0, x1=1, xref="paper", y0=shown.capacity, y1=shown.capacity,
        line={"color": ink(dark), "width": 3},
    )  # fmt: skip
    figure.add_annotation(
        x=0, xref="paper", y=shown.capacity, text=f"capacity {bytes_text(shown.capacity)}",
        showarrow=False, xanchor="left", yanchor="bottom", bgcolor=PAGES[dark],
    )  # fmt: skip


def _frame(figure: go.Figure, shown: River, names: Sequence[str], dark: bool) -> go.Figure:
    badge = f"rank {shown.rank}; {shown.trace.provenance.badge}"
    badges = [badge]
    if shown.measured:
        badges = [f"filled: {badge}", "dashed: predicted from the plan, at the run's own times"]
    low = 0.06 + 0.055 * len(names)  # share of the height the lanes take
    floor = low + (0.22 if shown.at_host else 0.08)
    framed(figure, badges, height=540 if shown.at_host else 500, dark=dark)
    grid = figure.layout.yaxis.gridcolor
    common = {
        "gridcolor": grid, "zeroline": False, "automargin": True, "ticklabelstandoff": 4,
    }  # fmt: skip
    figure.update_layout(
        barmode="overlay", hovermode="closest", uniformtext={"mode": "hide", "minsize": 9},
        dragmode=False, clickmode="event+select",
        yaxis={"domain": [floor, 1.0], "range": [0, 1.3 * shown.most], **byte_ticks(shown.most)},
        yaxis2={"domain": [0.0, low], "tickvals": [*range(len(names))], "ticktext": [*names],
                "range": [len(names) - 0.4, -0.6], **common},
    )  # fmt: skip
    if shown.at_host:
        ticks = [0, shown.at_host]
        figure.update_layout(
            yaxis3={"domain": [low + 0.05, floor - 0.05], "range": [0, 1.1 * shown.at_host],
                    "tickvals": ticks, "ticktext": ["host", bytes_text(ticks[1])], **common},
        )  # fmt: skip
    return figure.update_xaxes(
        title="ms since the step began", anchor="y2", rangemode="tozero", showspikes=True,
        spikemode="across", spikethickness=1, spikecolor=ink(dark),
    )  # fmt: skip
